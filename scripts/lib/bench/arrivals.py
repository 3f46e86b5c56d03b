"""Waits until the store has what was written, and compares it.

Some mounts say that a file is closed before it is there.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping

from azure.core.exceptions import AzureError
from azure.storage.blob import ContainerClient

from bench.errors import BenchError

#: Seconds between two looks at many names, and at one.
_PAUSE_MANY, _PAUSE_ONE = 0.2, 0.02

_PATIENCE = 300.0


def one(client: ContainerClient, name: str, size: int) -> None:
    """Wait until a blob has its whole length.

    Raises:
        BenchError: It never had.
    """

    def there() -> bool:
        try:
            return client.get_blob_client(name).get_blob_properties().size == size
        except AzureError:
            return False

    _until(there, _PAUSE_ONE, f"{name} never arrived")


def exactly(client: ContainerClient, prefix: str, wanted: Mapping[str, int]) -> None:
    """Wait until the blobs below ``prefix`` are those, with these sizes, and no others.

    Directories' markers, which only some mounts make, do not count.

    Raises:
        BenchError: They never were.
    """
    _until(lambda: _sizes(client, prefix) == wanted, _PAUSE_MANY, _never(prefix))


def all_of(client: ContainerClient, prefix: str, wanted: Mapping[str, int]) -> None:
    """Wait until those blobs are below ``prefix``, with these sizes; there may be others.

    Raises:
        BenchError: They never were.
    """
    _until(
        lambda: wanted.items() <= _sizes(client, prefix).items(), _PAUSE_MANY, _never(prefix)
    )  # fmt: skip


def compare(client: ContainerClient, name: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Read a blob past every mount, and compare it with what was written.

    Raises:
        BenchError: It has other bytes.
    """
    with tempfile.TemporaryFile() as file:
        client.download_blob(name).readinto(file)
        file.seek(0)
        for piece in pieces:
            if file.read(len(piece)) != piece:
                raise BenchError(f"{name} has other bytes than were written, before {file.tell()}")
        if file.read(1):
            raise BenchError(f"{name} has more bytes than were written")


def unzip(client: ContainerClient, name: str) -> None:
    """Read a zip archive past every mount, and compare each record with its checksum.

    Raises:
        BenchError: It is damaged.
    """
    with tempfile.TemporaryFile() as file:
        client.download_blob(name).readinto(file)
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except zipfile.BadZipFile as error:
            raise BenchError(f"{name} is no archive: {error}") from error
        if damaged:
            raise BenchError(f"{name} is damaged at {damaged}")


def _until(condition: Callable[[], bool], pause: float, why: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{why} within {_PATIENCE:g} s")
        time.sleep(pause)


def _sizes(client: ContainerClient, prefix: str) -> dict[str, int]:
    found = client.list_blobs(name_starts_with=prefix)
    return {blob.name.removeprefix(prefix): blob.size for blob in found}


def _never(prefix: str) -> str:
    return f"what is below {prefix} never became what it should"
