"""An account whose key is rotated while one of its containers is mounted."""

from __future__ import annotations

import base64
import errno
import os

import pytest

from tests.fuse.commands import Commands
from tests.support.certificates import self_signed
from tests.support.kernel import mounts_below
from tests.support.token_azurite import azurite_with_tokens

pytestmark = pytest.mark.integration


def refused(action):
    with pytest.raises(OSError) as caught:
        action()
    assert caught.value.errno == errno.EACCES, caught.value


def test_what_is_refused_meanwhile_is_stored_as_soon_as_the_new_key_is_known(storage, short_path):
    self_signed(short_path)
    keys = [base64.b64encode(bytes([number]) * 64).decode() for number in (1, 2)]
    commands = Commands(short_path)
    mountpoint, place = short_path / "m", short_path / "azurite"
    mountpoint.mkdir()
    place.mkdir()
    (place / "server.pem").write_bytes((short_path / "server.pem").read_bytes())
    try:
        with azurite_with_tokens(place, storage.account, keys[0]) as endpoint:
            port = int(endpoint.split(":")[2].partition("/")[0])
            commands(
                *("blob", f"{endpoint}/data", mountpoint, *commands.places, "--key-stdin"),
                *("--ca-bundle", short_path / "server.pem", "-o", "attr_timeout=0"),
                feed=keys[0],
            )
            (mountpoint / "file").write_bytes(b"by the first key")
            writer = os.open(mountpoint / "file", os.O_WRONLY)
        with azurite_with_tokens(place, storage.account, keys[1], port=port):
            os.pwrite(writer, b"BY", 0)
            refused(lambda: os.fsync(writer))
            refused(lambda: os.listdir(mountpoint))
            commands("credential", mountpoint, "--key-stdin", feed=keys[0], code=5)
            commands("credential", mountpoint, "--key-stdin", feed=keys[1])
            os.fsync(writer)
            os.close(writer)
            assert (mountpoint / "file").read_bytes() == b"BY the first key"
            assert os.listdir(mountpoint) == ["file"]
            commands("unmount", mountpoint)
    finally:
        for mounted in mounts_below(short_path):
            commands("unmount", "--force", mounted)
