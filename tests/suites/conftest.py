"""Volumes for programs that know nothing of blobs: mounted, unmounted, mounted again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.fuse.driving import driver, volume_spec

#: Enter it to mount the volume: gives a directory of the test's own, the same one each time.
Mount = Callable[[], AbstractContextManager[Path]]


@pytest.fixture
def blob(storage, blob_container, short_path) -> Mount:
    """A container, to be mounted as often as the test likes."""
    spec = volume_spec("blob", storage, blob_container, None)

    @contextlib.contextmanager
    def mount() -> Iterator[Path]:
        with driver(spec, short_path) as running:
            yield running.path

    return mount


@pytest.fixture
def share(storage, share_folder, short_path) -> Mount:
    """A folder of the share, to be mounted as often as the test likes."""
    spec = volume_spec("share", storage, None, None)

    @contextlib.contextmanager
    def mount() -> Iterator[Path]:
        with driver(spec, short_path) as running:
            yield running.path / share_folder

    return mount


@pytest.fixture(params=["blob", "share"])
def volume(request) -> Mount:
    """Either kind of volume."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def top(blob) -> Iterator[Path]:
    """A mounted container."""
    with blob() as directory:
        yield directory
