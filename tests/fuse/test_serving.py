"""Whose turn it is to read the kernel's next request, with tasks like pyfuse3's workers."""

import os

import pytest
import trio

from fuse.serving import _IN_A_ROW, Turn, _Trio


class Workers:
    """Tasks that read bytes from a pipe in turns, and serve each as ``serve`` says."""

    def __init__(self, turn, serve):
        self.source, self.sink = os.pipe()
        self.trio = _Trio(turn)
        self.lock = self.trio.Lock()
        self.serve = serve
        self.served = []

    def ask(self, requests):
        os.write(self.sink, requests)

    async def run(self):
        name = trio.lowlevel.current_task().name
        while True:
            async with self.lock:
                await self.trio.lowlevel.wait_readable(self.source)
            request = os.read(self.source, 1)
            self.served.append((name, request))
            await self.serve(request)

    def close(self):
        os.close(self.source)
        os.close(self.sink)

    async def until(self, count):
        while len(self.served) < count:
            await trio.lowlevel.checkpoint()


@pytest.fixture
async def turn():
    turn = Turn()
    trio.lowlevel.add_instrument(turn)
    yield turn
    trio.lowlevel.remove_instrument(turn)


@pytest.fixture
async def start(turn, nursery):
    made = []

    async def start(serve, count=3):
        workers = Workers(turn, serve)
        made.append(workers)
        for number in range(count):
            nursery.start_soon(workers.run, name=number)
        await trio.testing.wait_all_tasks_blocked()
        return workers

    yield start
    nursery.cancel_scope.cancel()
    for workers in made:
        workers.close()


async def at_once(_):
    """Serve without being suspended."""


async def test_what_is_answered_at_once_wakes_nobody(start):
    workers = await start(at_once)
    workers.ask(b"abcde")
    await workers.until(5)
    assert [request for _, request in workers.served] == [b"a", b"b", b"c", b"d", b"e"]
    assert len({name for name, _ in workers.served}) == 1


async def test_the_turn_passes_on_when_its_owner_is_suspended(start):
    gates = {b"a": trio.Event(), b"b": trio.Event()}
    ended = []

    async def serve(request):
        if request in gates:
            await gates[request].wait()
        ended.append(request)

    workers = await start(serve)
    workers.ask(b"abc")
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [b"c"]
    assert len({name for name, _ in workers.served}) == 3
    gates[b"b"].set()
    gates[b"a"].set()
    await trio.testing.wait_all_tasks_blocked()
    workers.ask(b"d")
    await workers.until(4)
    assert sorted(ended) == [b"a", b"b", b"c", b"d"]


async def test_when_all_are_suspended_the_first_to_come_back_reads_on(start):
    gate = trio.Event()

    async def serve(request):
        if request != b"z":
            await gate.wait()

    workers = await start(serve)
    workers.ask(b"abcz")
    await trio.testing.wait_all_tasks_blocked()
    assert len(workers.served) == 3
    gate.set()
    await workers.until(4)


async def test_others_have_their_turn_while_requests_keep_coming(start):
    steps = []

    async def serve(_):
        steps.append(None)

    workers = await start(serve)
    workers.ask(b"x" * 10 * _IN_A_ROW)
    seen = []
    while len(workers.served) < 10 * _IN_A_ROW:
        await trio.lowlevel.checkpoint()
        seen.append(len(steps))
    # Trio shuffles: between two steps of one task there may be two of another.
    assert max(b - a for a, b in zip([0, *seen], seen, strict=False)) <= 2 * _IN_A_ROW


@pytest.mark.parametrize("waits", [True, False], ids=["owner", "waiting"])
async def test_a_task_that_is_cancelled_leaves_the_line(turn, nursery, waits):
    workers = Workers(turn, at_once)
    scope = trio.CancelScope()

    async def cancellable():
        with scope:
            await workers.run()

    tasks = [cancellable, workers.run] if waits else [workers.run, cancellable]
    for task in tasks:
        nursery.start_soon(task)
        await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    workers.ask(b"a")
    await workers.until(1)
    nursery.cancel_scope.cancel()
    workers.close()


async def test_an_owner_that_fails_passes_the_turn_on(turn, nursery):
    async def serve(request):
        if request == b"a":
            raise LookupError

    workers = Workers(turn, serve)

    async def failing():
        with pytest.raises(LookupError):
            await workers.run()

    for task in (failing, workers.run):
        nursery.start_soon(task)
        await trio.testing.wait_all_tasks_blocked()
    workers.ask(b"ab")
    await workers.until(2)
    nursery.cancel_scope.cancel()
    workers.close()
