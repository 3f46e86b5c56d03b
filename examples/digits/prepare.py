"""Put the digits data set and the training script where the job expects them.

Writes scikit-learn's bundled handwritten digits (1,797 images of 8x8 pixels) as PNG files
``digits/{train,test}/<label>/<number>.png`` into a blob container, and ``scripts/train.py`` onto
a file share: over the storage services' own protocols (REST and SMB), as with a real account.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

TEST_EVERY = 5  # of each digit's images, every fifth is kept for testing
HERE = Path(__file__).resolve().parent


def images() -> Iterator[tuple[str, bytes]]:
    """The name below the container and the PNG bytes of every image."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    seen: Counter[int] = Counter()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "test" if seen[label] % TEST_EVERY == 0 else "train"
        seen[label] += 1
        pixels = np.rint(image * (255 / 16)).astype(np.uint8)  # the set counts from 0 to 16
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="PNG")
        yield f"digits/{split}/{label}/{number:04}.png", png.getvalue()


class ProgressLine:
    """One line that counts: rewritten on a terminal, a few lines anywhere else."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._begun = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._step = 1 + total // (100 if self._terminal else 4)

    def show(self, done: int) -> None:
        """Say how far it is, when that is news."""
        last = done == self._total
        if not last and done % self._step:
            return
        seconds = time.monotonic() - self._begun
        line = f"{self._what}: {done}/{self._total}" + (f" in {seconds:.1f} s" if last else "")
        print(
            f"\r{line}" if self._terminal else line, end="" if self._terminal and not last else "\n"
        )
        sys.stdout.flush()


def upload_images(
    endpoint: str, account: str, key: str, container: str, *, limit: int | None
) -> None:
    """Upload the images, or the first ``limit`` of them, to the container."""
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob import ContainerClient, ContentSettings

    content = list(islice(images(), limit))
    progress = ProgressLine(f"images to container {container!r}", len(content))
    png = ContentSettings(content_type="image/png")
    with (
        ContainerClient(
            endpoint,
            container,
            credential={"account_name": account, "account_key": key},
            max_single_put_size=1 << 20,
        ) as client,
        ThreadPoolExecutor(4) as threads,
    ):
        with contextlib.suppress(ResourceExistsError):
            client.create_container()
        uploads = [
            threads.submit(client.upload_blob, name, data, overwrite=True, content_settings=png)
            for name, data in content
        ]
        for done, upload in enumerate(as_completed(uploads), start=1):
            upload.result()
            progress.show(done)


def upload_script(endpoint: str, account: str, key: str, share: str, script: Path) -> str:
    """Copy the training script onto the share; returns its path there."""
    import smbclient

    host, _, port = endpoint.rpartition(":")
    login = {"username": account, "password": key, "port": int(port), "encrypt": True}
    connections: dict[str, object] = {}
    folder = rf"\\{host}\{share}\scripts"
    try:
        smbclient.makedirs(folder, exist_ok=True, connection_cache=connections, **login)
        with smbclient.open_file(
            rf"{folder}\{script.name}", mode="wb", connection_cache=connections, **login
        ) as file:
            file.write(script.read_bytes())
    finally:
        smbclient.reset_connection_cache(connection_cache=connections)
    return f"scripts/{script.name}"


def arguments() -> argparse.Namespace:
    """The command line. The key comes by the environment: an argument would show in ``ps``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--account", default=os.environ.get("AZURE_BATCHAI_STORAGE_ACCOUNT"))
    parser.add_argument("--blob-endpoint", help="default: https://<account>.blob.core.windows.net")
    parser.add_argument("--file-endpoint", help="default: <account>.file.core.windows.net:445")
    parser.add_argument("--container", default="data")
    parser.add_argument("--share", default="share")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--script", type=Path, default=HERE / "train.py")
    given = parser.parse_args()
    if not given.account:
        parser.error("give --account or set AZURE_BATCHAI_STORAGE_ACCOUNT")
    if not os.environ.get("AZURE_BATCHAI_STORAGE_KEY"):
        parser.error("set AZURE_BATCHAI_STORAGE_KEY to the account's key")
    return given


def main() -> None:
    """Upload the images and the script."""
    given = arguments()
    key = os.environ["AZURE_BATCHAI_STORAGE_KEY"]
    blob = given.blob_endpoint or f"https://{given.account}.blob.core.windows.net"
    file = given.file_endpoint or f"{given.account}.file.core.windows.net:445"
    upload_images(blob, given.account, key, given.container, limit=given.images)
    path = upload_script(file, given.account, key, given.share, given.script)
    print(f"script to share {given.share!r}: {path}")


if __name__ == "__main__":
    main()
