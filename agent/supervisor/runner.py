"""One job from its first command to the last byte of its logs: the loop and the state machine."""

# ruff: noqa: PTH102 - pathlib would cost start-up time

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from agent.supervisor import launch
from agent.supervisor.control import Control, grace_of
from agent.supervisor.ladder import Ladder
from agent.supervisor.ledger import Drain, Verdict
from agent.supervisor.log import log, timestamp
from agent.supervisor.processes import Roster, identity
from agent.supervisor.quote import QUOTE_BYTES, quote
from agent.supervisor.shipping import Shipping
from agent.supervisor.spec import Phase, Spec
from agent.supervisor.spool import Quota, Spool
from agent.supervisor.status import StatusFile

_READ_BYTES = 256 << 10
_LAST_SAVE_SECONDS = 30.0
"""How long the end waits for a full disk to take the last status."""
_UNKILLABLE = 128 + signal.SIGKILL


class _Activity(Enum):
    COMMAND = "a command runs"
    CLEARING = "it has ended: what it left behind is being killed"
    DRAINING = "all commands have ended: the far end is catching up"
    FINISHED = "the last status is being saved"


class Runner:
    """Runs the phases of `spec`. The process must be a subreaper with nothing else to do."""

    def __init__(self, spec: Spec, signals: int, clock: Callable[[], float]) -> None:
        """Open spools and socket.

        Args:
            spec: The job.
            signals: Read end of the pipe of `signal.set_wakeup_fd`.
            clock: Monotonic seconds.

        Raises:
            OSError: the state directory or the socket cannot be used.
        """
        self._spec = spec
        self._clock = clock
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        spool_directory = f"{spec.state_directory}/spool"
        with contextlib.suppress(FileExistsError):
            os.mkdir(spool_directory, 0o700)
        quota = Quota(spec.spool_quota_bytes)
        secrets = spec.secret_values()
        tail = QUOTE_BYTES + max((len(secret.encode()) for secret in secrets), default=0)
        names = [name for phase in spec.phases for name in (phase.stdout, phase.stderr)]
        self._spools = {name: Spool(spool_directory, name, quota, tail) for name in names}
        self._shipping = Shipping(spec, list(self._spools.values()), self._selector)
        self._status = StatusFile(spec.state_directory, self._first_status(), self._counters)
        self._roster = Roster(spec.cgroup, lambda: self._shipping.pids)
        self._ladder = Ladder(self._roster)
        self._activity = _Activity.CLEARING
        self._phase_index = -1
        self._command: launch.Command | None = None
        self._launch_answer = b""
        self._exit: int | None = None
        self._child_died = False
        self._reason: str | None = None
        self._wall_deadline: float | None = None
        self._drain: Drain | None = None
        self._give_up_save_at = 0.0
        self._control = Control(
            spec.socket,
            self._selector,
            {"status": lambda _: self._status.current(), "terminate": self._on_terminate},
            clock(),
        )

    def _first_status(self) -> dict[str, Any]:
        return {
            "version": 1,
            "jobId": self._spec.job_id,
            **(identity(os.getpid()) or {}),
            "state": "starting",
            "phase": self._spec.phases[0].name,
            "command": None,
            "startedAt": None,
            "endedAt": None,
            "exitCode": None,
            "signal": None,
            "reason": None,
            "launchError": None,
            "stderrTail": "",
        }

    def _counters(self) -> dict[str, Any]:
        streams = [
            {
                "name": ledger.name,
                "spooled": ledger.spooled,
                "shipped": ledger.shipped,
                "error": ledger.error or self._spool_error(self._spools[ledger.name]),
            }
            for ledger in self._shipping.ledgers
        ]
        shortfall = sum(ledger.shortfall for ledger in self._shipping.ledgers)
        return {"streams": streams, "shortfallBytes": shortfall}

    @staticmethod
    def _spool_error(spool: Spool) -> str | None:
        if not spool.dropped:
            return None
        cause = spool.error or "the spool quota is used up"
        return f"{spool.dropped} bytes of output dropped: {cause}"

    def run(self) -> bool:
        """Run everything; False when the last status could not be saved."""
        self._status.publish()
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signal)
        now = self._clock()
        if self._spec.max_wall_clock_seconds is not None:
            self._wall_deadline = now + self._spec.max_wall_clock_seconds
        self._shipping.start(now)
        # Signals and requests that came while we set up are heard before anything is launched.
        self._wait(0.0)
        self._next_phase(now)
        while True:
            due = self._tick(self._clock())
            if self._activity is _Activity.FINISHED and (
                self._status.saved or self._clock() >= self._give_up_save_at
            ):
                break
            self._wait(None if due is None else max(0.0, due - self._clock()))
        self._wait(0.0)  # who asked before the end is still answered
        self._control.close()
        return self._status.saved

    def _wait(self, timeout: float | None) -> None:
        for key, events in self._selector.select(timeout):
            # an earlier callback of this round may have closed it
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)

    def _tick(self, now: float) -> float | None:
        """Do what is due; returns when the next thing is."""
        due = [self._control.tick(now), self._shipping.tick(now), self._status.tick(now)]
        if self._activity is _Activity.COMMAND and self._wall_deadline is not None:
            if now >= self._wall_deadline:
                self._end("wall-clock", self._spec.terminate_grace_seconds, now)
            else:
                due.append(self._wall_deadline)
        if self._activity in {_Activity.COMMAND, _Activity.CLEARING}:
            due.append(self._ladder.step(now, prompt=self._child_died))
            self._child_died = False
            if self._ladder.gone:
                self._phase_ended(now)
                return now
        if self._activity is _Activity.DRAINING and self._drain is not None:
            verdict = self._drain.decide(now, finishing=self._shipping.finishing_reported)
            if verdict is not Verdict.WAIT:
                self._finished(verdict, now)
                return now
            due.append(self._drain.next_deadline())
        return min((at for at in due if at is not None), default=None)

    # -- requests to end -------------------------------------------------------------------

    def _on_terminate(self, request: dict[str, Any]) -> dict[str, Any]:
        grace = grace_of(request, self._spec.terminate_grace_seconds)
        self._end("terminated", grace, self._clock())
        return self._status.current()

    def _end(self, reason: str, grace: float, now: float) -> None:
        """End the job, whatever it is at."""
        if self._activity is _Activity.FINISHED:
            return
        if self._activity is _Activity.DRAINING:
            # The commands are over and their result stands; only the wait for the share ends.
            if self._drain is not None:
                self._drain.cap(now + grace)
            return
        last = self._phase_index == len(self._spec.phases) - 1
        if self._reason is None and not (last and self._activity is _Activity.CLEARING):
            self._reason = reason
            log("info", "job.ending", reason=reason, graceSeconds=grace)
            self._status.publish(reason=reason)
        if self._phase_index >= 0:
            self._ladder.terminate(grace, now)

    def _on_signal(self, _events: int) -> None:
        numbers = set(os.read(self._signals, 4096))
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._end("terminated", self._spec.terminate_grace_seconds, self._clock())
        if signal.SIGCHLD in numbers:
            self._reap()

    def _reap(self) -> None:
        now = self._clock()
        while True:
            try:
                # WUNTRACED: the job's user can stop the shipper; it has to be told
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._shipping.stopped(pid)
                continue
            self._child_died = True
            if self._shipping.exited(pid, status, now):
                continue
            if self._command is not None and pid == self._command.pid:
                self._exit = os.waitstatus_to_exitcode(status)
                self._activity = _Activity.CLEARING
                self._ladder.kill(now)

    # -- phases ----------------------------------------------------------------------------

    @property
    def _phase(self) -> Phase:
        return self._spec.phases[self._phase_index]

    def _next_phase(self, now: float) -> None:
        if self._reason is not None:  # ended before there was anything to end
            self._begin_drain(now)
            return
        self._phase_index += 1
        self._exit = None
        self._launch_answer = b""
        self._ladder = Ladder(self._roster)
        try:
            command = launch.prepare(self._spec, self._phase)
        except OSError as error:
            words = f"cannot start a process: {error.strerror}"
            self._begin_drain(now, reason="launch-failed", launchError=words)
            return
        self._command = command
        self._activity = _Activity.COMMAND
        # Known on disk before it runs: whoever finds this supervisor dead finds the job.
        changes: dict[str, object] = {
            "state": "running",
            "phase": self._phase.name,
            "command": command.identity,
        }
        if self._phase_index == 0:
            changes["startedAt"] = timestamp()
        self._status.publish(**changes)
        for descriptor, name in (
            (command.stdout, self._phase.stdout),
            (command.stderr, self._phase.stderr),
        ):
            self._selector.register(
                descriptor, selectors.EVENT_READ, self._reader(descriptor, name)
            )
        launch.release(command)
        log("info", "command.started", phase=self._phase.name, pid=command.pid)

    def _reader(self, descriptor: int, name: str) -> Callable[[int], None]:
        spool = self._spools[name]

        def read(_events: int) -> None:
            self._read(descriptor, spool)

        return read

    def _read(self, descriptor: int, spool: Spool) -> bool:
        """Move one piece from pipe to spool; False at the end, or when nothing is there."""
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(descriptor)
            return False
        spool.append(data, self._clock())
        self._shipping.spooled()
        return True

    def _phase_ended(self, now: float) -> None:
        """The command is gone, and all that came of it."""
        command = self._command
        if command is None:
            raise AssertionError("a phase without a command has ended")
        for process in self._ladder.survivors.values():
            log("error", "process.unkillable", pid=process.pid, state=process.state)
        for descriptor, name in (
            (command.stdout, self._phase.stdout),
            (command.stderr, self._phase.stderr),
        ):
            if descriptor in self._selector.get_map():
                while self._read(descriptor, self._spools[name]):
                    pass
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)  # held by somebody who cannot be killed
            os.close(descriptor)
            self._spools[name].finish(now)
        with contextlib.suppress(BlockingIOError):
            self._launch_answer = os.read(command.result, 4096)
        os.close(command.result)
        self._command = None
        self._shipping.spooled()
        self._conclude(now)

    def _conclude(self, now: float) -> None:
        """What the end of this phase means for the job."""
        code, number = self._exit, None
        if code is None:
            code, number = _UNKILLABLE, int(signal.SIGKILL)
        elif code < 0:
            code, number = 128 - code, -code
        last = self._phase_index == len(self._spec.phases) - 1
        log("info", "command.ended", phase=self._phase.name, exitCode=code, signal=number)
        if self._launch_answer:
            words = launch.explain(self._spec, self._launch_answer)
            # it was never more than a fork of ours: a terminate meanwhile changes nothing
            reason = "launch-failed"
            self._begin_drain(now, command=None, reason=reason, launchError=words)
        elif code == 0 and not last and self._reason is None:
            self._status.publish(command=None)
            self._next_phase(now)
        else:
            outcome = self._reason or (None if last else "prep-failed")
            tail = "" if code == 0 else self._stderr_tail()
            self._begin_drain(
                now, command=None, exitCode=code, signal=number, reason=outcome, stderrTail=tail
            )

    def _stderr_tail(self) -> str:
        spool = self._spools[self._phase.stderr]
        return quote(spool.tail, cut=spool.tail_cut, secrets=self._spec.secret_values())

    # -- the end ---------------------------------------------------------------------------

    def _begin_drain(self, now: float, **changes: object) -> None:
        self._activity = _Activity.DRAINING
        self._status.publish(state="draining", endedAt=timestamp(), **changes)
        timeout = self._spec.drain_timeout_seconds
        self._shipping.finish(now, timeout)
        self._drain = Drain(self._shipping.ledgers, timeout, now)

    def _finished(self, verdict: Verdict, now: float) -> None:
        self._activity = _Activity.FINISHED
        if verdict is Verdict.SHORTFALL:
            for ledger in self._shipping.ledgers:
                if not ledger.done and ledger.error is None:
                    ledger.error = "the log directory did not answer in time"
            log("error", "drain.shortfall", **self._counters())
            self._shipping.abandon()
        else:
            self._shipping.close()
        self._give_up_save_at = now + _LAST_SAVE_SECONDS
        self._status.publish(state="finished")


def run(spec: Spec, signals: int) -> bool:
    """Run the job; see `Runner`."""
    return Runner(spec, signals, time.monotonic).run()
