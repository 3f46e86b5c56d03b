"""Waits until the store has what was written: some mounts say that a file is closed before that."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

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

    def there() -> bool:
        found = {
            blob.name.removeprefix(prefix): blob.size
            for blob in client.list_blobs(name_starts_with=prefix)
        }
        return found == wanted

    _until(there, _PAUSE_MANY, f"what is below {prefix} never became what it should")


def _until(condition: Callable[[], bool], pause: float, why: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{why} within {_PATIENCE:g} s")
        time.sleep(pause)
