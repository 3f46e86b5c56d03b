"""Write-back against a store and a disk at their worst: nothing acknowledged is lost or mixed.

Programs of one node open, write, cut, sync and close files while another node commits versions of
its own, the store refuses, throttles and loses answers, the process ends at any step of the journal
or of a request, and the machine loses its power. What is checked after every step:

- A read gives what this node wrote over the version that was opened, or fails: never other bytes.
- ``fsync`` that succeeds: that very content is a version in the store. One that fails with ESTALE:
  it is kept in the recovery directory, and stays there.
- After the end of the process: what was acknowledged is a version in the store, or is kept.
- After a power loss: nothing is in the store that nobody wrote, and no other node's version is
  replaced by what was not written over it.
"""

from __future__ import annotations

import errno
import itertools
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from fuse import content as content_module
from fuse import contents as contents_module
from fuse import journal as journal_module
from fuse import leftover as leftover_module
from fuse import recovery, unmade
from fuse.cache import MemoryCache
from fuse.contents import Contents
from fuse.diskcache import DiskCache
from fuse.inodes import InodeTable
from fuse.journal import Journal
from fuse.namespace import Namespace
from fuse.places import Places
from fuse.volume import Attributes, Changes, Kind
from tests.fuse.store_model import Archive, CrashError, CrashingOs, Platter, StoreModel
from tests.fuse.test_journal import acceptable, apply, kill

NAMES = ("a", "b")

#: A name that is free at first: who opens it makes a file.
NEW = "new"
DATA = st.binary(min_size=1, max_size=60)
OFFSETS = st.integers(0, 150) | st.integers(0, 60)

#: What is done with a file, one after the other: where and what only some of them say.
CHANGES = st.lists(
    st.tuples(st.sampled_from(["write", "write", "append", "truncate"]), OFFSETS, DATA),
    min_size=1,
    max_size=4,
)

#: Which of the open handles.
HANDLES = st.integers(0, 5)

#: Faults are worth their time only where something could be lost.
with_dirty = precondition(lambda self: any(one.modified for one in self.models))


class Opened:
    """A handle, as the kernel has one."""

    def __init__(self, name, node, content):
        self.name = name
        self.node = node
        self.content = content


class Loop:
    """A trio loop in a thread, for a state machine's rules to run steps on."""

    def __init__(self):
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._ready.wait()

    async def _main(self):
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with trio.open_nursery() as self.nursery:
            self._ready.set()
            await self._end.wait()
            self.nursery.cancel_scope.cancel()

    def run(self, step, *arguments):
        return trio.from_thread.run(step, *arguments, trio_token=self._token)

    def close(self):
        trio.from_thread.run_sync(self._end.set, trio_token=self._token)
        self._thread.join()


class WriteBack(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = Loop()
        self.directory = Path(tempfile.mkdtemp(prefix="w-"))
        self.store = StoreModel()
        self.places = Places(self.directory, self.store.identity)
        self.platter = Platter(self.directory)
        self.boots = 0
        self.alive = False
        self.left = 0
        self.patch = pytest.MonkeyPatch()
        crashing = CrashingOs(self.step)
        for module in (content_module, journal_module):
            self.patch.setattr(module, "os", crashing)
        self.patch.setattr(journal_module, "_to_disk", self.platter.to_disk)
        self.patch.setattr(contents_module, "RESERVE_AFTER", 0)
        self.patch.setattr(journal_module, "boot_id", lambda: f"boot {self.boots}")
        self.patch.setattr(leftover_module, "boot_id", lambda: f"boot {self.boots}")
        self.store.steps = self.crash_in_request
        #: What programs see of a content, and have been told is written.
        self.models: dict[object, bytearray] = {}
        #: Contents that something was done with since they were opened.
        self.touched: set[object] = set()
        self.births = 0
        #: What lost to another writer, and has to stay where a person finds it.
        self.aside: list[tuple[str, bytes]] = []
        #: All that programs made of a version.
        self.states: dict[tuple[str, str], list[bytes]] = {}

    def teardown(self):
        try:
            self.left = 0
            self.store.faults.clear()
            if self.alive:  # a check may have failed between two mounts
                self.loop.run(self.end, Step())
        finally:
            self.patch.undo()
            self.loop.close()
            shutil.rmtree(self.directory)

    # -- the machinery -------------------------------------------------------------------------

    def step(self):
        """Whether the process ends at this step."""
        self.left -= 1
        return self.left == 0

    def crash_in_request(self):
        if self.step():
            raise CrashError

    def die(self):
        self.alive = False
        kill(self.journal)

    def mount(self):
        self.inodes = InodeTable(Attributes(Kind.DIRECTORY))
        self.journal = Journal(self.places)
        names = Namespace(self.store, self.inodes, 1.0)
        self.contents = Contents(
            self.store,
            self.inodes,
            names,
            MemoryCache(200),
            self.loop.nursery,
            self.journal,
            DiskCache(self.directory / "blocks", 0),
        )

        async def names_to_disk():
            self.platter.names_to_disk()

        self.journal.sync_names = names_to_disk
        self.models = {}
        self.opened = []
        self.alive = True

    @initialize(contents=st.tuples(DATA, DATA))
    def first_mount(self, contents):
        for name, data in zip(NAMES, contents, strict=True):
            self.store.put(name, data)

        async def mount():
            self.mount()

        self.loop.run(mount)

    def perform(self, handle, step, action):
        """A step of a program: when the process ends in it, the next mount follows."""
        under_way = Step(handle, step)
        try:
            self.loop.run(action)
        except CrashError:
            self.loop.run(self.end, under_way)

    async def end(self, under_way):
        """The process ends, and the next one begins."""
        lost = dict(self.models)
        self.die()
        self.store.forget_attempts()
        self.left = 0
        await recovery.recover(self.store, self.places)
        for content, model in lost.items():
            settled = not content.modified or content.superseded
            if settled and under_way.content is not content:
                continue
            await self.assert_safe(content, model, under_way)
        self.mount()
        await self.check_aside()

    async def assert_safe(self, content, model, under_way):
        name = content.name
        if content.base.unmade and content not in self.touched:
            # It was only opened: it does not matter whose file it is.
            kept = [data async for data in self.kept(name)]
            assert name in self.store.files or b"" in kept or under_way.content is content
            return
        step = under_way.step if under_way.content is content else ("commit", 0, b"")
        found = [*self.store.contents_of(name), *[data async for data in self.kept(name)]]
        assert any(acceptable(one, model, step) for one in found), (
            f"{name}: {bytes(model)!r} is neither in the store nor kept: {found}"
        )

    async def kept(self, name):
        """The contents that a person can have exported."""
        for entry in recovery.kept(self.directory):
            if entry.path != name or entry.state == "damaged":
                continue
            target = self.directory / "exported"
            with recovery.held(entry) as leftover:
                done = await recovery.export(leftover, target, Archive(self.store))
            if not done.reason:
                yield target.read_bytes()
            target.unlink()

    async def check_aside(self):
        for name, data in self.aside:
            kept = [one async for one in self.kept(name)]
            assert data in kept, f"{name}: {data!r} was kept, and is gone: {kept}"

    async def lost(self, handle, error):
        """A commit failed: what was written must still be somewhere."""
        if not handle.content.superseded:
            assert error.errno in {errno.EIO, errno.ETIMEDOUT}, error
            assert handle.content.modified
            return
        model = bytes(self.models[handle.content])
        if (handle.name, model) not in self.aside:
            self.aside.append((handle.name, model))
        await self.check_aside()

    # -- what programs do ----------------------------------------------------------------------

    async def open(self, name):
        root, until = self.inodes.root, trio.current_time() + 60
        node = root.children.get(name)
        if name in self.store.files:
            node = self.inodes.remember(root, name, self.store.attributes(name), until)
        elif node is None:
            self.births += 1
            attributes = unmade.attributes(Changes(mode=0o644, mtime_ns=self.births))
            entry = self.journal.begin(name, attributes)
            node = self.inodes.remember(root, name, attributes, until)
            self.contents.conceive(node, entry)
        content = self.contents.current(node)
        content.name = name
        self.contents.opened(node, content)
        if content not in self.models:
            self.models[content] = bytearray(self.known(content))
        self.opened.append(Opened(name, node, content))

    def known(self, content):
        """The bytes of the version that a content rests on."""
        return self.store.history.get(content.name, {}).get(content.base.version, b"")

    def adopt(self):
        """Where somebody else made a file first, theirs is what was opened."""
        for content, model in self.models.items():
            if content not in self.touched:
                model[:] = self.known(content)

    def handle(self, which):
        """One that is open, or is opened for it."""
        if which >= len(self.opened):
            names = [*NAMES, NEW]
            name = names[which % len(names)]

            async def action():
                await self.open(name)

            self.perform(None, ("commit", 0, b""), action)
            if not self.opened:  # the process ended
                return self.handle(which)
            return self.opened[-1]
        return self.opened[which]

    @rule(which=HANDLES, changes=CHANGES)
    def write(self, which, changes):
        handle = self.handle(which)
        for how, offset, data in changes:
            if handle not in self.opened:  # the process ended
                return
            end = len(self.models[handle.content])
            self.change(
                handle,
                {
                    "write": ("write", offset, data),
                    "append": ("write", end, data),
                    "truncate": ("truncate", offset, b""),
                }[how],
            )

    def change(self, handle, step):
        async def action():
            name, offset, data = step
            after = bytearray(self.models[handle.content])
            apply(after, step)
            self.touched.add(handle.content)
            states = self.states.setdefault(
                (handle.name, self.store.origin(handle.content.base)), []
            )
            states += [bytes(self.models[handle.content]), bytes(after)]
            try:
                if name == "write":
                    await handle.content.write(offset, data)
                else:
                    await handle.content.truncate(offset)
            except OSError as error:
                assert error.errno == errno.ESTALE
                assert handle.content.superseded
            else:
                apply(self.models[handle.content], step)

        self.perform(handle, step, action)

    @rule(which=HANDLES, offset=OFFSETS, size=st.integers(1, 120) | st.just(300))
    def read(self, which, offset, size):
        handle = self.handle(which)

        async def action():
            expected = bytes(self.models[handle.content])[offset : offset + size]
            try:
                data = bytes(await handle.content.read(offset, size))
            except OSError as error:
                replaced = self.store.versions.get(handle.name) != handle.content.base.version
                assert error.errno != errno.ESTALE or replaced
            else:
                assert data == expected, "bytes that are not of this version"

        self.perform(handle, ("commit", 0, b""), action)

    async def commit(self, handle):
        try:
            await self.contents.commit(handle.node, handle.content)
        except OSError as error:
            await self.lost(handle, error)
        else:
            self.adopt()
            model = bytes(self.models[handle.content])
            assert model in self.store.contents_of(handle.name), "said to be in the store"

    @rule(which=HANDLES)
    def fsync(self, which):
        handle = self.handle(which)
        self.perform(handle, ("commit", 0, b""), lambda: self.commit(handle))

    @rule(which=HANDLES)
    def close(self, which):
        handle = self.handle(which)
        self.opened.remove(handle)

        async def action():
            await self.commit(handle)
            await self.contents.released(handle.node, handle.content)
            if handle.content.superseded:
                await self.lost(handle, OSError(errno.ESTALE, ""))

        self.perform(handle, ("commit", 0, b""), action)

    @with_dirty
    @rule(everything=st.booleans())
    def in_the_background(self, everything):
        async def action():
            await self.contents.commit_stale(everything=everything)
            self.adopt()
            for content in list(self.models):
                if content.superseded:
                    await self.lost(Opened(content.name, None, content), OSError(0, ""))

        self.perform(None, ("commit", 0, b""), action)

    # -- what goes wrong -----------------------------------------------------------------------

    @with_dirty
    @rule(name=st.sampled_from([*NAMES, NEW]), data=DATA)
    def another_node_commits(self, name, data):
        self.store.put(name, data)

    @rule(faults=st.lists(st.sampled_from([None, "refused", "throttled", "lost"]), max_size=4))
    def the_store_fails(self, faults):
        self.store.faults = list(faults)

    @with_dirty
    @rule(steps=st.integers(1, 12))
    def the_process_will_end(self, steps):
        self.left = steps

    @with_dirty
    @rule()
    def the_process_ends(self):
        self.loop.run(self.end, Step())

    @with_dirty
    @rule()
    def the_journal_is_synced(self):
        self.perform(None, ("commit", 0, b""), self.journal.sync)

    @with_dirty
    @rule(written=st.lists(st.booleans(), max_size=12), sync=st.booleans())
    def power_is_lost(self, written, sync):
        written = list(written)

        async def action():
            self.left = 0
            if sync:
                await self.journal.sync()
            before = dict(self.store.files), dict(self.store.versions)
            lost = dict(self.models)
            self.die()
            self.store.forget_attempts()
            self.store.faults.clear()
            self.platter.lose_power(lambda: bool(written) and written.pop())
            self.boots += 1
            await recovery.recover(self.store, self.places)
            for name in (*NAMES, NEW):
                self.assert_nothing_foreign(name, *before)
            if sync:
                for content, model in lost.items():
                    if content.modified and not content.superseded:
                        await self.assert_safe(content, model, Step())
            # What was set aside and not synced may be gone with the page cache.
            self.aside = []
            self.mount()

        self.loop.run(action)

    def assert_nothing_foreign(self, name, files, versions):
        """The store has what it had, or what programs of this node made of that version."""
        if self.store.versions.get(name) == versions.get(name):
            return
        found = self.store.files[name]
        old = files.get(name, b"")
        if name in versions:
            made = [self.states.get((name, self.store.origin_of(versions[name])), [])]
        else:  # any of the new files that were begun
            made = [known for (path, _), known in self.states.items() if path == name]
        states = [old, *itertools.chain(*made)]
        assert any(len(found) == len(state) for state in states)
        for index, byte in enumerate(found):
            known = {state[index] for state in states if index < len(state)}
            assert byte in known, f"{name}: {found!r} replaced {old!r}, of {states}"


class Step:
    """What was under way when the process ended."""

    def __init__(self, handle=None, step=("commit", 0, b"")):
        self.content = handle.content if handle else None
        self.step = step


TestWriteBack = WriteBack.TestCase
TestWriteBack.settings = settings(stateful_step_count=40)
