"""A container that its owner deletes while it is mounted, and makes again."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid

import pytest
from azure.storage.blob import BlobServiceClient

from tests.fuse.driving import driver, volume_spec

pytestmark = pytest.mark.integration


def number(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "no error"


def test_a_deleted_container_is_no_empty_directory_and_nothing_is_lost(storage, short_path):
    credential = {"account_name": storage.account, "account_key": storage.key}
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(
            BlobServiceClient(storage.blob_endpoint, credential=credential)
        )
        name = f"gone-{uuid.uuid4().hex}"
        service.create_container(name).upload_blob("d/old", b"x")
        spec = volume_spec("blob", storage, name, None)
        mounted = stack.enter_context(driver(spec, short_path, attributeTimeout=0))
        writer = os.open(mounted.path / "new", os.O_WRONLY | os.O_CREAT)
        os.write(writer, b"acknowledged")

        service.delete_container(name)
        assert number(lambda: os.listdir(mounted.path)) == "EIO"
        assert number(lambda: os.stat(mounted.path / "d" / "old")) == "ENOENT"
        assert number(lambda: os.mkdir(mounted.path / "e")) == "ENOENT"
        assert number((mounted.path / "other").touch) == "ENOENT"
        assert number(lambda: os.fsync(writer)) == "ENOENT"
        os.close(writer)
        kept = mounted.ask("recovery")["result"]["entries"]
        assert [(one["path"], one["dirty_bytes"]) for one in kept] == [("new", 12)]

        service.create_container(name)
        stack.callback(service.delete_container, name)
        assert os.listdir(mounted.path) == []
        (mounted.path / "again").write_bytes(b"goes on")
        assert (mounted.path / "again").read_bytes() == b"goes on"
        assert os.listdir(mounted.path) == ["again"]
