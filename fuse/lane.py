"""The short way of a request: answered where it is read, in front of pyfuse3.

pyfuse3 gives each request to one of several tasks, through a coroutine or two, into objects and out
of them: that is more than half of the time of a request that is answered from memory, and those are
nearly all that a mount gets. So what a request needs is looked at first. Look-ups, attributes,
opens, releases that need no waiting are answered at once, and reads, writes, and what is in
:mod:`fuse.errands`, by a task of their own where they have to wait. Everything else goes on to
pyfuse3, unchanged, and its answers come back the same way.

How they go on, :mod:`fuse.passage` says; what is known here of the protocol, :mod:`fuse.messages`.

Concurrency: an answer at once is given without an ``await``, so nothing changes meanwhile.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pyfuse3
import trio

from fuse import messages
from fuse.answers import errno_of
from fuse.errands import Errand, Errands
from fuse.filesystem import FileSystem
from fuse.handles import FileHandle
from fuse.immediate import Caller, Immediate
from fuse.interrupts import Waiting
from fuse.logs import log
from fuse.messages import Limits
from fuse.passage import LARGEST, Passage, between

#: Buffers for messages that are kept, where writes wait.
_SPARE: Final = 8

#: Requests that are answered before other tasks have a turn.
_IN_A_ROW: Final = 16

#: How often the device is looked at again, some 3 µs each time, before the event loop is asked to
#: wait for it, which takes ten times as long. Who was answered at once asks on within that time.
_LOOKS: Final = 24

#: Bytes; who asks for more has something to do first.
_SMALL: Final = 128 * 1024

#: What reading the device says of a request that was called back meanwhile (fuse(4)).
_CALLED_BACK: Final = {errno.ENOENT, errno.EINTR}

#: What writing an answer says where nobody waits for it any more.
_NOT_WANTED: Final = {errno.ENOENT, errno.ENODEV, errno.ECONNABORTED}

_Handler = Callable[[int, int, memoryview], bool]


@contextmanager
def opened(filesystem: FileSystem, limits: Limits) -> Iterator[Lane]:
    """Stand between the kernel and pyfuse3, which has mounted; close the device in the end."""
    with between(limits) as (device, passage):
        yield Lane(filesystem, device, passage)


class Lane:
    """Reads the kernel's requests; made by :func:`opened`.

    Args:
        filesystem: Who answers.
        device: The kernel's, non-blocking.
        passage: The way to pyfuse3.

    Attributes:
        answered: Requests that were answered here.
    """

    def __init__(self, filesystem: FileSystem, device: int, passage: Passage) -> None:
        self.answered = 0
        self._filesystem = filesystem
        self._immediate = Immediate(filesystem)
        self._device = device
        self._passage = passage
        self._nursery: trio.Nursery | None = None
        self._buffers = [bytearray(LARGEST)]
        self._waiting: set[int] = set()
        self._handlers: dict[int, _Handler] = {
            messages.LOOKUP: self._lookup,
            messages.FORGET: self._forget,
            messages.GETATTR: self._getattr,
            messages.GETXATTR: self._getxattr,
            messages.FLUSH: self._flush,
            messages.RELEASE: self._release,
            messages.INTERRUPT: self._interrupt,
            messages.IOCTL: self._ioctl,
            messages.BATCH_FORGET: self._forget_many,
        }
        self._errands: dict[int, Errand] = {}
        if self._immediate.untold is None:
            self._errands = Errands(filesystem, self._immediate).known
        else:
            self._handlers[messages.FSYNC] = self._nothing_to_sync
            self._handlers |= dict.fromkeys(messages.CHANGES, self._refuse)
        filesystem.more_figures = self.figures

    def figures(self) -> dict[str, int | float | str]:
        """Counters, for ``stats``."""
        found: dict[str, int | float | str] = {
            "kernel_requests_answered": self.answered,
            "kernel_requests_passed_on": self._passage.taken,
        }
        untold = self._immediate.untold
        if untold is not None:
            found["open_files"] = len(untold)
            found["read_ahead_window_bytes"] = max(
                (handle.window.window for handle in untold), default=0
            )
        return found

    async def serve(self) -> None:
        """Answer the kernel until the file system is unmounted."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._passage.hand_over)
                self._nursery.start_soon(self._passage.bring_back, self._send)
                await self._receive(self._nursery)
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None

    async def _receive(self, nursery: trio.Nursery) -> None:
        in_a_row = looks = 0
        buffer = self._buffers.pop()
        view = memoryview(buffer)
        device, header = self._device, messages.HEADER
        handlers, errands = self._handlers, self._errands
        while True:
            try:
                length = os.readv(device, (buffer,))
            except BlockingIOError:
                if looks and not self._waiting:  # else the store's answers are looked for
                    looks -= 1
                    os.sched_yield()  # to the one who was answered, if there is but one core
                    continue
                in_a_row = 0
                await trio.lowlevel.wait_readable(device)
                continue
            except OSError as error:
                if error.errno in _CALLED_BACK:
                    continue
                if error.errno in {errno.ENODEV, errno.ECONNABORTED}:  # unmounted, aborted
                    return
                raise
            _, opcode, unique, inode, uid, gid, pid = header.unpack_from(buffer)
            body = view[header.size : length]
            at_once = True
            if opcode == messages.READ:
                at_once = self._read(unique, inode, body, pid)
            elif opcode == messages.WRITE and self._immediate.untold is None:
                at_once = len(body) <= _SMALL and self._write_now(unique, body)
                if not at_once:
                    self._waiting.add(unique)
                    nursery.start_soon(self._write, unique, body, buffer)
                    buffer = self._buffers.pop() if self._buffers else bytearray(LARGEST)
                    view = memoryview(buffer)
            elif opcode == messages.OPEN:
                if not self._open(unique, inode, body, pid):
                    self._passage.take(unique, opcode, view[:length])
                    at_once = False
            elif opcode == messages.CREATE and self._immediate.untold is None:
                at_once = self._create(unique, inode, body, Caller(uid, gid, pid))
            else:
                handler = handlers.get(opcode)
                at_once = handler is not None and self._answered(handler, unique, inode, body)
                if not at_once and opcode in errands:
                    caller = Caller(uid, gid, pid)
                    self._run(errands[opcode], unique, inode, bytes(body), caller)
                elif not at_once:
                    self._passage.take(unique, opcode, view[:length])
            looks = _LOOKS if at_once else 0
            in_a_row += 1
            if in_a_row == _IN_A_ROW:
                in_a_row = 0
                await trio.lowlevel.checkpoint()

    def _answered(self, handler: _Handler, unique: int, inode: int, body: memoryview) -> bool:
        """Let a handler answer; False where it cannot at once."""
        try:
            return handler(unique, inode, body)
        except Exception as error:  # noqa: BLE001 -- errno_of logs what is a defect
            self._reply(messages.done(unique, errno_of(error, handler.__name__.strip("_"))))
            return True

    # -- answers at once --------------------------------------------------------------------------

    def _lookup(self, unique: int, inode: int, body: memoryview) -> bool:
        shown = self._immediate.lookup(inode, bytes(body[:-1]))  # it ends with a zero
        if shown is None:
            return False
        self._reply(messages.entry(unique, shown))
        return True

    def _getattr(self, unique: int, inode: int, _: memoryview) -> bool:
        shown = self._immediate.getattr(inode)
        if shown is None:
            return False
        self._reply(messages.attributes(unique, shown))
        return True

    def _open(self, unique: int, inode: int, body: memoryview, pid: int) -> bool:
        (flags,) = messages.OPEN_IN.unpack_from(body)
        try:
            found = self._immediate.open(inode, flags, pid)
        except Exception as error:  # noqa: BLE001 -- errno_of logs what is a defect
            self._reply(messages.done(unique, errno_of(error, "open")))
            return True
        if found is None:
            return False
        handle, keep, clean = found
        kernel = messages.KEEP_CACHE if keep else 0
        if clean:
            kernel |= messages.NO_FLUSH
        self._reply(messages.opened(unique, handle, kernel))
        return True

    def _create(self, unique: int, inode: int, body: memoryview, caller: Caller) -> bool:
        """Create a file, or begin to; whether it was answered at once."""
        flags, mode = messages.CREATE_IN.unpack_from(body)
        name = bytes(body[messages.CREATE_IN.size : -1])
        try:
            found = self._immediate.create(inode, name, mode, flags, caller)
        except Exception as error:  # noqa: BLE001 -- errno_of logs what is a defect
            self._reply(messages.done(unique, errno_of(error, "create")))
            return True
        if found is None:
            self._run(self._errands[messages.CREATE], unique, inode, bytes(body), caller)
            return False
        shown, handle, keep = found
        self._reply(messages.created(unique, shown, handle, messages.KEEP_CACHE if keep else 0))
        return True

    def _write_now(self, unique: int, body: memoryview) -> bool:
        number, offset, size = messages.WRITE_IN.unpack_from(body)
        start = messages.WRITE_IN.size
        try:
            count = self._filesystem.write_now(number, offset, body[start : start + size])
        except Exception as error:  # noqa: BLE001 -- errno_of logs what is a defect
            self._reply(messages.done(unique, errno_of(error, "write")))
            return True
        if count is None:
            return False
        self._reply(messages.written(unique, count))
        return True

    def _flush(self, unique: int, _: int, body: memoryview) -> bool:
        if not self._immediate.flush(*messages.HANDLE_IN.unpack_from(body)):
            return False
        self._reply(messages.done(unique))
        return True

    def _getxattr(self, unique: int, _: int, body: memoryview) -> bool:
        # As sought for every write of some programs: security.capability.
        if self._immediate.may_have(bytes(body[messages.GETXATTR_IN.size : -1])):
            return False
        self._reply(messages.done(unique, errno.EOPNOTSUPP))
        return True

    def _release(self, unique: int, _: int, body: memoryview) -> bool:
        if not self._immediate.release(*messages.HANDLE_IN.unpack_from(body)):
            return False
        self._reply(messages.done(unique))
        return True

    def _forget(self, _: int, inode: int, body: memoryview) -> bool:
        (lookups,) = messages.FORGET_IN.unpack_from(body)
        self._filesystem.inodes.forget(inode, lookups)
        return True  # the kernel wants no answer

    def _forget_many(self, _unique: int, _inode: int, body: memoryview) -> bool:
        (count,) = messages.BATCH_FORGET_IN.unpack_from(body)
        start = messages.BATCH_FORGET_IN.size
        end = start + count * messages.FORGET_ONE.size
        for inode, lookups in messages.FORGET_ONE.iter_unpack(body[start:end]):
            self._filesystem.inodes.forget(inode, lookups)
        return True

    def _interrupt(self, _unique: int, _inode: int, body: memoryview) -> bool:
        """Whoever waits is looked after by :mod:`fuse.interrupts`; libfuse knows only its own."""
        (interrupted,) = messages.INTERRUPT_IN.unpack_from(body)
        return interrupted in self._waiting

    def _ioctl(self, unique: int, _inode: int, _: memoryview) -> bool:
        """There are none. Python's ``open`` asks each time whether the file is a terminal."""
        self._reply(messages.done(unique, errno.ENOSYS))
        return True

    def _nothing_to_sync(self, unique: int, _inode: int, _: memoryview) -> bool:
        self._reply(messages.done(unique))
        return True

    def _refuse(self, unique: int, _inode: int, _: memoryview) -> bool:
        """The kernel refuses changes itself, unless root has remounted it behind our back."""
        self._reply(messages.done(unique, errno.EROFS))
        return True

    # -- answers that may have to wait -------------------------------------------------------------

    def _read(self, unique: int, inode: int, body: memoryview, pid: int) -> bool:
        """Answer a read or begin to; whether it was a small one, answered at once."""
        number, offset, size = messages.READ_IN.unpack_from(body)
        small: bool = size <= _SMALL
        try:
            handle = self._immediate.handle(number, inode, pid)
            there = handle.content.read_now(offset, size, handle.window)
            if there is not None:
                self._reply_data(unique, there)
                return small
            request = _Read(self, unique, handle, offset, size)
            begun = handle.content.fetch(offset, size, handle.window, request.resume)
        except Exception as error:  # noqa: BLE001 -- errno_of logs what is a defect
            self._reply(messages.done(unique, errno_of(error, "read")))
            return True
        if not begun:
            self._later(unique, handle, offset, size)
        elif not request.answered:
            handle.pending += 1
            self._waiting.add(unique)
            request.watched = self._filesystem.interrupts.add(handle.pid, request.give_up)
        return request.answered and small

    def read_again(self, unique: int, handle: FileHandle, offset: int, size: int) -> None:
        """Answer a read that has waited for bytes, from memory or as it takes."""
        if self._nursery is None:  # the mount is gone, and who waited got its error
            return
        try:
            there = handle.content.read_now(offset, size, handle.window, noted=True)
        except Exception as error:  # noqa: BLE001 -- errno_of logs what is a defect
            self._reply(messages.done(unique, errno_of(error, "read")))
            return
        if there is None:
            self._later(unique, handle, offset, size)
        else:
            self._reply_data(unique, there)

    def end_wait(self, unique: int, handle: FileHandle, watched: Waiting | None) -> None:
        """A read does not wait any more for what it had begun to fetch."""
        if watched is not None:
            handle.pending -= 1
            self._waiting.discard(unique)
            self._filesystem.interrupts.discard(watched)

    def interrupted(self, unique: int) -> None:
        """Whoever asked is to end."""
        self._filesystem.interrupts.interrupted += 1
        if self._nursery is not None:
            self._reply(messages.done(unique, errno.EINTR))

    def _later(self, unique: int, handle: FileHandle, offset: int, size: int) -> None:
        assert self._nursery is not None
        handle.pending += 1
        self._waiting.add(unique)
        self._nursery.start_soon(self._read_later, unique, handle, offset, size)

    async def _read_later(self, unique: int, handle: FileHandle, offset: int, size: int) -> None:
        """Read as it takes: from several places, with other tries, with an error in the end."""
        try:
            data = await self._filesystem.read_from(handle, offset, size)
        except pyfuse3.FUSEError as error:
            self._reply(messages.done(unique, error.errno))
        else:
            self._reply_data(unique, data)
        finally:
            handle.pending -= 1
            self._waiting.discard(unique)

    async def _write(self, unique: int, body: memoryview, buffer: bytearray) -> None:
        handle, offset, size = messages.WRITE_IN.unpack_from(body)
        start = messages.WRITE_IN.size
        try:
            count = await self._filesystem.write(
                pyfuse3.FileHandleT(handle), offset, body[start : start + size]
            )
        except pyfuse3.FUSEError as error:
            self._reply(messages.done(unique, error.errno))
        else:
            self._reply(messages.written(unique, count))
        finally:
            self._waiting.discard(unique)
        if len(self._buffers) < _SPARE:
            self._buffers.append(buffer)

    def _run(self, errand: Errand, unique: int, inode: int, body: bytes, caller: Caller) -> None:
        assert self._nursery is not None
        self._waiting.add(unique)
        self._nursery.start_soon(self._run_errand, errand, unique, inode, body, caller)

    async def _run_errand(
        self, errand: Errand, unique: int, inode: int, body: bytes, caller: Caller
    ) -> None:
        try:
            answer = await errand(unique, inode, body, caller)
        except pyfuse3.FUSEError as error:
            answer = messages.done(unique, error.errno)
        except Exception as error:  # noqa: BLE001 -- errno_of logs what is a defect
            answer = messages.done(unique, errno_of(error, errand.__name__.strip("_")))
        finally:
            self._waiting.discard(unique)
        self._reply(answer)

    # -- to and fro -------------------------------------------------------------------------------

    def _reply(self, answer: bytes) -> None:
        self.answered += 1
        self._send(answer)

    def _reply_data(self, unique: int, data: bytes | memoryview) -> None:
        self.answered += 1
        header = messages.REPLY.pack(messages.REPLY.size + len(data), 0, unique)
        try:
            os.writev(self._device, (header, data))
        except OSError as error:
            self._refused(error)

    def _send(self, answer: bytes | memoryview) -> None:
        try:
            os.write(self._device, answer)
        except OSError as error:
            self._refused(error)

    def _refused(self, error: OSError) -> None:
        if error.errno not in _NOT_WANTED:
            log.error("the kernel refused an answer", reason=error.strerror)


class _Read:
    """A read that waits for bytes to arrive.

    Attributes:
        answered: Whether it waits no more.
        watched: What looks after its caller.
    """

    __slots__ = ("_arguments", "_lane", "answered", "watched")

    def __init__(self, lane: Lane, unique: int, handle: FileHandle, offset: int, size: int) -> None:
        self.answered = False
        self.watched: Waiting | None = None
        self._lane = lane
        self._arguments = unique, handle, offset, size

    def resume(self) -> None:
        """The bytes are there, or will not come by themselves."""
        if self.answered:
            return
        self.answered = True
        self._lane.end_wait(*self._arguments[:2], self.watched)
        self._lane.read_again(*self._arguments)

    def give_up(self) -> None:
        """The bytes go on arriving, for others."""
        self.answered = True
        self._lane.end_wait(*self._arguments[:2], self.watched)
        self._lane.interrupted(self._arguments[0])
