"""Giving up requests of callers that are to end."""

from __future__ import annotations

import errno
import os
import signal

import pytest
import trio

from fuse.interrupts import INTERVAL, Interrupts, is_ending


def pretend(proc, pid, *, private=0, shared=0, blocked=0):
    """A process in a made-up /proc, with signal sets as bit masks."""
    directory = proc / str(pid)
    directory.mkdir(exist_ok=True)
    (directory / "status").write_text(
        f"Name:\tcat\nSigPnd:\t{private:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n"
    )


def bit(number):
    return 1 << (number - 1)


@pytest.mark.parametrize(
    ("signals", "ending"),
    [
        ({}, False),
        ({"private": bit(signal.SIGKILL)}, True),
        ({"shared": bit(signal.SIGINT)}, True),
        ({"shared": bit(signal.SIGTERM), "blocked": bit(signal.SIGTERM)}, False),
        ({"shared": bit(signal.SIGALRM)}, False),
        ({"shared": bit(signal.SIGCHLD) | bit(signal.SIGWINCH)}, False),
    ],
)
def test_who_is_to_end(tmp_path, signals, ending):
    pretend(tmp_path, 7, **signals)
    assert is_ending(7, tmp_path) is ending


def test_a_thread_that_is_gone_says_nothing(tmp_path):
    assert not is_ending(7, tmp_path)


def test_we_are_not_to_end_ourselves():
    assert not is_ending(os.getpid())


async def test_a_request_is_given_up_once_its_caller_is_to_end(tmp_path, autojump_clock):
    interrupts = Interrupts(tmp_path)
    pretend(tmp_path, 7)
    found = []

    async def request(pid):
        try:
            with interrupts.watched(pid):
                await trio.sleep(100 * INTERVAL)
        except OSError as error:
            found.append((pid, error.errno))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(interrupts.watch)
        nursery.start_soon(request, 7)
        nursery.start_soon(request, 0)
        await trio.sleep(10 * INTERVAL)
        assert not found
        pretend(tmp_path, 7, private=bit(signal.SIGKILL))
        await trio.sleep(2 * INTERVAL)
        assert found == [(7, errno.EINTR)]
        assert interrupts.interrupted == 1
        await trio.sleep(100 * INTERVAL)
        assert found == [(7, errno.EINTR)]
        nursery.cancel_scope.cancel()


async def test_a_request_that_ends_in_time_is_left_alone(tmp_path, autojump_clock):
    interrupts = Interrupts(tmp_path)
    pretend(tmp_path, 7, private=bit(signal.SIGKILL))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interrupts.watch)
        for _ in range(10):
            with interrupts.watched(7):
                await trio.sleep(INTERVAL / 4)
        nursery.cancel_scope.cancel()
    assert interrupts.interrupted == 0


async def test_an_outer_cancellation_is_no_interrupt():
    interrupts = Interrupts()
    with trio.move_on_after(0) as scope:
        with interrupts.watched(0):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert interrupts.interrupted == 0


async def test_nothing_wakes_up_while_nobody_waits(nursery):
    interrupts = Interrupts()
    nursery.start_soon(interrupts.watch)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 1000
    with interrupts.watched(0):
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline <= INTERVAL
