"""Copies inside the store that take their time."""

from __future__ import annotations

import errno

import pytest
import trio

from fuse.blob.copies import IF_FREE, Copies
from fuse.blob.listing import Blob
from fuse.blob.transport import Response
from fuse.volume import Attributes, Kind

BLOB = Blob("big", '"1"', Attributes(Kind.FILE, size=10, version='"1"', mtime_ns=5))


class SlowStore:
    """A store whose copies are under way for some looks, and then end as they are told to."""

    def __init__(self, statuses):
        self.statuses = list(statuses)
        self.asked = []

    def url(self, name):
        return f"http://store/{name}?secret"

    async def request(self, method, name, *, query="", headers=None, body=b""):
        await trio.lowlevel.checkpoint()
        self.asked.append((method, name, query))
        if query:
            self.statuses = ["aborted"]
        return Response(202, {"etag": '"2"', "x-ms-copy-status": "pending", "x-ms-copy-id": "7"})

    async def head(self, name):
        await trio.lowlevel.checkpoint()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return Response(
            200,
            {
                "content-length": "10",
                "etag": '"3"',
                "last-modified": "Mon, 23 Nov 2026 03:00:46 GMT",
                "x-ms-copy-source": "http://store/big",
                "x-ms-copy-status": status,
                "x-ms-copy-status-description": "said so",
            },
        )


async def test_a_copy_that_is_under_way_is_waited_for(autojump_clock):
    store = SlowStore(["pending"] * 20 + ["success"])
    copied = await Copies(store).copy(BLOB, "copy", IF_FREE)
    assert (copied.etag, copied.attributes.size) == ('"3"', 10)
    assert Copies(store).is_copy(copied, "big")


@pytest.mark.parametrize("status", ["failed", "aborted"])
async def test_one_that_fails_leaves_no_empty_blob(autojump_clock, status):
    store = SlowStore(["pending", status])
    with pytest.raises(OSError, match="said so") as caught:
        await Copies(store).copy(BLOB, "copy", IF_FREE)
    assert caught.value.errno == errno.EIO
    assert store.asked[-1] == ("DELETE", "copy", "")


async def test_one_that_is_interrupted_is_called_off(autojump_clock):
    store = SlowStore(["pending"])
    with trio.move_on_after(60) as scope:
        await Copies(store).copy(BLOB, "copy", IF_FREE)
    assert scope.cancelled_caught
    assert store.asked[1] == ("PUT", "copy", "comp=copy&copyid=7")
    assert store.asked[-1] == ("DELETE", "copy", ""), "an aborted copy is an empty blob"
