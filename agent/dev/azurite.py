"""Azurite, the blob service: where it is installed, how it starts, when it is ready."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path("node_modules/azurite/dist/src/blob/main.js")


def find() -> list[str] | None:
    """The command that starts Azurite's blob service, or None where it is not installed.

    `BATCHAI_AZURITE` names another prefix than the one that scripts/setup fills.
    """
    node = shutil.which("node") or shutil.which("nodejs")
    prefix = Path(os.environ.get("BATCHAI_AZURITE") or ROOT / ".build/azurite")
    program = prefix / PROGRAM
    if node and program.is_file():
        return [node, os.fspath(program)]
    installed = shutil.which("azurite-blob")
    return [installed] if installed else None


def arguments(*, data: Path, port: int) -> list[str]:
    """Loopback only; strict on what it does not support, lenient on the service version.

    The version check is off because the storage client in the lock names a newer service version
    than any released emulator knows, and differs from it in nothing that is used here.
    """
    return [
        "--blobHost", "127.0.0.1",
        "--blobPort", str(port),
        "--location", os.fspath(data),
        "--silent",
        "--skipApiVersionCheck",
        "--disableTelemetry",
    ]  # fmt: skip


def environment(base: Mapping[str, str], *, account: str, key: str) -> dict[str, str]:
    """The key travels in the environment: a command line can be read by every user."""
    return {
        **{name: base[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in base},
        "AZURITE_ACCOUNTS": f"{account}:{key}",
    }


def prepare(*, endpoint: str, account: str, key: str, container: str) -> None:
    """Create the container through the API: proof that service, account and key are in order.

    Raises:
        azure.core.exceptions.AzureError: not ready yet, or not ours.
    """
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob import BlobServiceClient

    credential = {"account_name": account, "account_key": key}
    with BlobServiceClient(
        endpoint, credential=credential, retry_total=0, connection_timeout=5, read_timeout=5
    ) as service:
        try:
            service.create_container(container)
        except ResourceExistsError:
            return
