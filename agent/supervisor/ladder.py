"""TERM, grace, KILL over all processes of a job. Sans-I/O but for the roster; clock passed in."""

import signal
from typing import Protocol

from agent.supervisor.processes import Process

_WATCH_SECONDS = 0.25
"""How often a grace period looks whether all are gone (a SIGCHLD makes it look at once)."""
_KILL_ROUND_SECONDS = 0.02
_KILL_PATIENCE_SECONDS = 10.0
"""How long a process may survive SIGKILL (state D) before the job goes on without it."""


class Group(Protocol):
    """What the ladder acts on."""

    def members(self) -> dict[int, Process]:
        """Who is alive."""
        ...

    def signal(self, members: dict[int, Process], number: int) -> None:
        """Send `number` to each."""
        ...


class Ladder:
    """Ends one command and all that it left behind."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._kill_at: float | None = None
        self._give_up_at: float | None = None
        self._next: float | None = None
        self._clear_looks = 0
        self.gone = False
        """Nobody is left, or those who are left cannot be killed."""
        self.survivors: dict[int, Process] = {}
        """Who outlived SIGKILL: processes in uninterruptible sleep."""

    def terminate(self, grace: float, now: float) -> None:
        """Send TERM; after `grace` seconds KILL. Asked again, the earlier end holds."""
        if self._give_up_at is not None:
            return
        if self._kill_at is None:
            self._kill_at = now + grace
            if grace > 0:
                members = self._group.members()
                self._group.signal(members, signal.SIGTERM)
                # a stopped process would sleep through its grace
                self._group.signal(members, signal.SIGCONT)
        else:
            self._kill_at = min(self._kill_at, now + grace)
        self._next = now

    def kill(self, now: float) -> None:
        """Send KILL, unless a grace period is running: that one is left to its end."""
        if self._kill_at is None:
            self._kill_at = now
            self._next = now

    def step(self, now: float, *, prompt: bool = False) -> float | None:
        """Do what is due; `prompt` when a child has just died.

        Returns:
            When to call again, None when there is nothing to wait for.
        """
        if self._next is None or self._kill_at is None or self.gone:
            return None
        if now < self._next and not prompt:
            return self._next
        members = self._group.members()
        # Two looks in a row: /proc is no snapshot, and a fork can hide behind one reading of it.
        self._clear_looks = 0 if members else self._clear_looks + 1
        if self._clear_looks >= 2:
            self.gone = True
            return None
        if not members:
            self._next = now
            return self._next
        if now < self._kill_at:
            self._next = min(self._kill_at, now + _WATCH_SECONDS)
            return self._next
        if self._give_up_at is None:
            self._give_up_at = now + _KILL_PATIENCE_SECONDS
        elif now >= self._give_up_at:
            self.survivors = members
            self.gone = True
            return None
        self._group.signal(members, signal.SIGKILL)
        self._next = now + _KILL_ROUND_SECONDS
        return self._next
