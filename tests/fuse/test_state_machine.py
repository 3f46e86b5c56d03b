"""A mounted container beside a local directory, and a second node beside both.

One state machine drives the same operations on a mount and on a local directory: results, bytes,
attributes and errnos are the same, with handles and mappings held open over all of it, and over
remounts. A second mount of the container, which always asks the store, sees at every close what
the first one left there, and is where some of the operations are done.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import stat
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fuse.driving import driver, volume_spec

pytestmark = pytest.mark.integration

NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"])
DIRECTORIES = st.sampled_from(["d", "d/e", "d2"])
ANY = st.one_of(NAMES, DIRECTORIES)
OFFSETS = st.integers(0, 9000)
DATA = st.binary(min_size=1, max_size=6000)
MODES = st.sampled_from([0o600, 0o644, 0o755, 0o400])
HANDLES = st.integers(0, 2)
OPEN_FLAGS = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_RDWR | os.O_CREAT | os.O_APPEND,
        os.O_RDWR | os.O_CREAT | os.O_TRUNC,
        os.O_RDONLY | os.O_CREAT,
        os.O_RDWR | os.O_TRUNC,
        os.O_RDONLY | os.O_TRUNC,
    ]
)


class Nodes:
    """Two mounts of one container; the first can be mounted anew."""

    def __init__(self, spec, directory):
        self._spec = spec
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._first = contextlib.ExitStack()

    def __enter__(self):
        self.first = self._mount(self._first, "1")
        self.second = self._mount(self._stack, "2", attributeTimeout=0)
        return self

    def __exit__(self, *problem):
        self._first.close()
        self._stack.close()

    def _mount(self, stack, name, **changes):
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        return stack.enter_context(driver(self._spec, directory, **changes)).path

    def remount(self):
        self._first.close()
        self.first = self._mount(self._first, "1")


def outcome(call):
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


def look(path):
    """What stat(2) says that is the same on any file system."""
    found = os.lstat(path)
    kind, mode = stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        return kind, mode
    if stat.S_ISLNK(found.st_mode):
        return kind, os.readlink(path)
    return kind, mode, found.st_size


def tree(root):
    """Everything below a directory, with the bytes of files."""
    found = {}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(directory, name)
            known = look(path)
            content = path.read_bytes() if stat.S_ISREG(known[0]) else None
            found[os.fspath(path.relative_to(root))] = known, content
    return found


class Machine(RuleBasedStateMachine):
    nodes: Nodes
    local_base: Path

    @initialize()
    def begin(self):
        self.name = uuid.uuid4().hex
        self.local = self.local_base / self.name
        self.local.mkdir()
        (self.nodes.first / self.name).mkdir()
        self.handles = {}
        self.dirty = False

    @property
    def ours(self):
        return self.nodes.first / self.name

    def both(self, call):
        """Do the same in both places; the results are the same."""
        ours, local = outcome(lambda: call(self.ours)), outcome(lambda: call(self.local))
        assert ours == local
        return ours

    def on_handle(self, which, call):
        if which in self.handles:
            ours, local = self.handles[which]
            one, other = outcome(lambda: call(ours)), outcome(lambda: call(local))
            assert one == other

    # -- names --------------------------------------------------------------------------------

    @rule(path=DIRECTORIES)
    def mkdir(self, path):
        self.both(lambda root: os.mkdir(root / path))

    @rule(path=ANY)
    def rmdir(self, path):
        self.both(lambda root: os.rmdir(root / path))

    @rule(path=ANY)
    def unlink(self, path):
        self.both(lambda root: os.unlink(root / path))

    @rule(old=ANY, new=ANY)
    def rename(self, old, new):
        self.both(lambda root: os.rename(root / old, root / new))

    @rule(path=NAMES, text=ANY)
    def symlink(self, path, text):
        self.both(lambda root: os.symlink(text, root / path))

    @rule(path=st.sampled_from([".", "d", "d/e", "d2"]))
    def listdir(self, path):
        self.both(lambda root: sorted(os.listdir(root / path)))

    @rule(path=ANY)
    def lstat(self, path):
        self.both(lambda root: look(root / path))

    # -- attributes -----------------------------------------------------------------------------

    @rule(path=ANY, mode=MODES)
    def chmod(self, path, mode):
        self.both(lambda root: os.chmod(root / path, mode | 0o100))

    @rule(path=NAMES, seconds=st.integers(1, 1 << 31))
    def utime(self, path, seconds):
        def set_and_get(root):
            os.utime(root / path, (seconds, seconds))
            return os.stat(root / path).st_mtime

        self.both(set_and_get)

    @rule(path=NAMES, key=st.sampled_from(["user.a", "user.B"]), value=st.binary(max_size=50))
    def setxattr(self, path, key, value):
        def set_and_get(root):
            os.setxattr(root / path, key, value)
            return os.getxattr(root / path, key)

        self.both(set_and_get)

    @rule(path=NAMES, key=st.sampled_from(["user.a", "user.B"]))
    def removexattr(self, path, key):
        self.both(lambda root: os.removexattr(root / path, key))

    @rule(path=NAMES)
    def listxattr(self, path):
        self.both(lambda root: sorted(os.listxattr(root / path)))

    # -- bytes ------------------------------------------------------------------------------------

    @rule(path=NAMES, data=DATA)
    def write_file(self, path, data):
        self.both(lambda root: (root / path).write_bytes(data))

    @rule(path=NAMES, data=DATA)
    def append(self, path, data):
        def write(root):
            with open(root / path, "ab") as file:
                return file.write(data)

        self.both(write)

    @rule(path=NAMES)
    def read_file(self, path):
        self.both(lambda root: (root / path).read_bytes())

    @rule(path=NAMES, size=OFFSETS)
    def truncate(self, path, size):
        self.both(lambda root: os.truncate(root / path, size))

    @rule(path=NAMES, offset=OFFSETS, data=DATA)
    def write_mapped(self, path, offset, data):
        def write(root):
            with open(root / path, "r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if not size:
                    return None
                with mmap.mmap(file.fileno(), size) as mapped:
                    piece = data[: max(0, size - offset)]
                    mapped[offset : offset + len(piece)] = piece
                    return bytes(mapped)

        self.both(write)

    # -- handles ----------------------------------------------------------------------------------

    @rule(which=HANDLES, path=NAMES, flags=OPEN_FLAGS)
    def open(self, which, path, flags):
        self.close(which)
        made = [outcome(lambda root=root: os.open(root / path, flags)) for root in self.places()]
        if isinstance(made[0], int) and isinstance(made[1], int):
            self.handles[which] = tuple(made)
            return
        for descriptor in made:
            if isinstance(descriptor, int):
                os.close(descriptor)
        assert made[0] == made[1]

    def places(self):
        return self.ours, self.local

    @rule(which=HANDLES, offset=OFFSETS, data=DATA)
    def pwrite(self, which, offset, data):
        # On Linux pwrite(2) to a handle opened with O_APPEND appends, here as there.
        self.on_handle(which, lambda handle: os.pwrite(handle, data, offset))

    @rule(which=HANDLES, offset=OFFSETS)
    def pread(self, which, offset):
        self.on_handle(which, lambda handle: os.pread(handle, 10_000, offset))

    @rule(which=HANDLES, size=OFFSETS)
    def ftruncate(self, which, size):
        self.on_handle(which, lambda handle: os.ftruncate(handle, size))

    @rule(which=HANDLES)
    def fsync(self, which):
        self.on_handle(which, os.fsync)

    @rule(which=HANDLES)
    def fstat(self, which):
        def known(handle):
            found = os.fstat(handle)
            return found.st_size, found.st_mode, found.st_nlink

        self.on_handle(which, known)

    @rule(which=HANDLES)
    def close(self, which):
        for descriptor in self.handles.pop(which, ()):
            os.close(descriptor)

    # -- nodes ----------------------------------------------------------------------------------

    @precondition(lambda self: not self.handles)
    @rule()
    def remount(self):
        self.nodes.remount()

    @precondition(lambda self: not self.handles)
    @rule()
    def agree(self):
        assert tree(self.ours) == tree(self.local)
        assert tree(self.nodes.second / self.name) == tree(self.local)

    @invariant()
    def same_names(self):
        if hasattr(self, "name"):
            assert sorted(os.listdir(self.ours)) == sorted(os.listdir(self.local))

    def teardown(self):
        if not hasattr(self, "name"):
            return
        for which in list(self.handles):
            self.close(which)
        self.agree()
        shutil.rmtree(self.local)
        shutil.rmtree(self.ours)


def test_any_sequence_of_operations(storage, blob_container, short_path):
    spec = volume_spec("blob", storage, blob_container, None)
    with (
        Nodes(spec, short_path) as nodes,
        tempfile.TemporaryDirectory(dir="/tmp") as local,
    ):

        class Bound(Machine):
            pass

        Bound.nodes, Bound.local_base = nodes, Path(local)
        run_state_machine_as_test(
            Bound,
            settings=settings(
                max_examples=max(1, settings().max_examples // 8),
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
