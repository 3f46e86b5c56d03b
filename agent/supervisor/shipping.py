"""The supervisor's side of the shipper: starts it, wakes it, restarts it, gives it up.

Nothing here touches the log directory, so nothing here can hang with the share.
"""

import contextlib
import json
import os
import selectors
import signal
from collections.abc import Sequence

from agent.supervisor import kernel
from agent.supervisor.ledger import Cursor, StreamLedger
from agent.supervisor.log import log
from agent.supervisor.processes import look_up, send
from agent.supervisor.shipper import FINISH, WAKE, Shipper, Stream, run_and_exit
from agent.supervisor.spec import Spec
from agent.supervisor.spool import Spool

_RESTART_FIRST = 0.2
_RESTART_LAST = 15.0
_STALL_SECONDS = 30.0
"""Silence with work to do before a shipper is killed: it may hold a file of a dead mount."""
_STALL_LEAST = 10.0
"""Longer than a shipper's own pause between two attempts."""
_STALL_LAST = 480.0
_REPORT_LIMIT = 1 << 20
_ERROR_LIMIT = 500


class Shipping:
    """At most one shipper at a time: a second one beside one that hangs would hang as well."""

    def __init__(
        self, spec: Spec, spools: Sequence[Spool], selector: selectors.BaseSelector
    ) -> None:
        self._spec = spec
        self._spools = spools
        self._selector = selector
        self.ledgers = [StreamLedger(spool.name) for spool in spools]
        self.finishing_reported = False
        self._pid: int | None = None
        self._wake = -1
        self._reports = -1
        self._buffer = b""
        self._wake_outstanding = False
        self._finish = False
        self._closed = False
        self._killed = False
        self._restart_at: float | None = None
        self._restarts = 0
        self._stalls = 0
        self._heard_at = 0.0
        self._now = 0.0
        self._stall_limit: float | None = None

    @property
    def pids(self) -> set[int]:
        """Shippers that are not reaped: they descend from us, but are not of the job."""
        return set() if self._pid is None else {self._pid}

    def start(self, now: float) -> None:
        """Fork a shipper; failing that, try later."""
        self._now = self._heard_at = now
        self._restart_at = None
        opened: list[int] = []
        try:
            opened.extend(os.pipe())
            opened.extend(os.pipe())
            wake_read, self._wake, self._reports, report_write = opened
            pid = self._fork(wake_read, report_write)
        except OSError as error:
            for descriptor in opened:
                os.close(descriptor)
            self._wake = self._reports = -1
            self._plan_restart(now, f"cannot fork: {error}")
            return
        os.close(wake_read)
        os.close(report_write)
        self._pid = pid
        self._killed = False
        self._buffer = b""
        self._wake_outstanding = True  # it looks at the spools without being told
        self.finishing_reported = False
        os.set_blocking(self._wake, False)
        os.set_blocking(self._reports, False)
        self._selector.register(self._reports, selectors.EVENT_READ, self._on_report)
        if self._finish:
            self._order(FINISH)

    def _fork(self, wake: int, reports: int) -> int:
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._child(wake, reports)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _child(self, wake: int, reports: int) -> None:
        """Never returns."""
        try:
            kernel.reset_signals()
            # A stop of the whole unit signals us too; the end of the wake pipe is what ends us.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            kernel.close_all_but({0, 1, 2, wake, reports, *(s.reader for s in self._spools)})
            kernel.become(self._spec.user)
            kernel.set_undumpable()  # the change of user has reset it
            kernel.set_name("batchai-shipper")
            os.umask(0o022)
            streams = [
                Stream(
                    name=spool.name,
                    source=spool.reader,
                    cursor=Cursor(confirmed=ledger.shipped, owned=ledger.owned),
                )
                for spool, ledger in zip(self._spools, self.ledgers, strict=True)
            ]
            run_and_exit(Shipper(self._spec.log_directory, streams, wake, reports))
        except BaseException as error:  # noqa: BLE001 - must not unwind into the parent's frames
            log("error", "shipper.failed", error=f"{type(error).__name__}: {error}")
        finally:
            os._exit(1)

    def spooled(self) -> None:
        """The spools have grown: wake the shipper, once."""
        news = False
        for spool, ledger in zip(self._spools, self.ledgers, strict=True):
            ledger.spooled = spool.written
            news = news or ledger.spooled > ledger.seen
        if news and not self._wake_outstanding:
            self._heard_at = self._now
            self._order(WAKE)
            self._wake_outstanding = True

    def finish(self, now: float, timeout: float) -> None:
        """The spools are complete: what is missing is to be brought over now."""
        self.spooled()
        self._finish = True
        self._heard_at = self._now = now
        self._stall_limit = max(_STALL_LEAST, timeout / 2)
        self._order(FINISH)
        if self._pid is None:
            self._restart_at = now

    def _order(self, order: bytes) -> None:
        if self._wake >= 0:
            # When it is dead, its successor looks at the spools without being told.
            with contextlib.suppress(OSError):
                os.write(self._wake, order)

    def _on_report(self, _events: int) -> None:
        self._read_reports()

    def _read_reports(self) -> bool:
        if self._reports < 0:
            return False
        try:
            data = os.read(self._reports, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._close_pipes()
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > _REPORT_LIMIT:
            self._buffer = b""
        for line in lines:
            self._take(line)
        self._wake_outstanding = False
        self._heard_at = self._now
        self.spooled()
        return True

    def _take(self, line: bytes) -> None:
        """One report. It comes from a process with the job's rights: believe its form only."""
        try:
            record = json.loads(line)
            streams = record["streams"]
            for ledger, stream in zip(self.ledgers, streams, strict=True):
                shipped = int(stream["shipped"])
                if shipped > ledger.shipped:
                    self._stalls = self._restarts = 0
                ledger.shipped = max(0, min(shipped, ledger.spooled))
                ledger.seen = int(stream["seen"])
                ledger.owned = bool(stream["owned"])
                error = stream["error"]
                words = None if error is None else str(error)[:_ERROR_LIMIT]
                if words is not None and words != ledger.error:
                    log("warning", "shipper.retry", stream=ledger.name, error=words)
                ledger.error = words
                ledger.hopeless = bool(stream["hopeless"])
                ledger.complete = bool(stream["complete"])
            self.finishing_reported = bool(record["finishing"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            log("error", "shipper.bad-report", error=type(error).__name__)

    def _close_pipes(self) -> None:
        if self._reports >= 0:
            self._selector.unregister(self._reports)
            os.close(self._reports)
            os.close(self._wake)
            self._reports = self._wake = -1

    def exited(self, pid: int, status: int, now: float) -> bool:
        """A child was reaped; True when it was the shipper."""
        if pid != self._pid:
            return False
        while self._read_reports():  # what it said before it died
            pass
        self._close_pipes()
        self._pid = None
        code = os.waitstatus_to_exitcode(status)
        if not self._closed and not (self._finish and code == 0):
            self._plan_restart(now, f"ended with {code}")
        return True

    def stopped(self, pid: int) -> None:
        """A child was stopped. A stopped shipper is of no use, and the job's user can stop it."""
        if pid == self._pid:
            self._kill("stopped by a signal")

    def _kill(self, why: str) -> None:
        if self._pid is None or self._killed:
            return
        process = look_up(self._pid)
        state = process.state if process else "gone"
        log("warning", "shipper.killed", pid=self._pid, why=why, state=state)
        self._killed = True
        if process is not None:
            send(process, signal.SIGKILL)

    def _plan_restart(self, now: float, why: str) -> None:
        delay = min(_RESTART_LAST, _RESTART_FIRST * 2.0 ** min(self._restarts, 16))
        self._restarts += 1
        self._restart_at = now + delay
        log("warning", "shipper.restart", why=why, delaySeconds=delay)
        for ledger in self.ledgers:
            if not ledger.done:
                ledger.complete = False
                ledger.error = ledger.error or f"the shipper {why}"

    def tick(self, now: float) -> float | None:
        """Restart or kill what is due; returns when to call again."""
        self._now = now
        if self._closed:
            return None
        if self._pid is None:
            if self._restart_at is not None and now >= self._restart_at:
                self.start(now)
            return self._restart_at
        behind = any(ledger.spooled > ledger.seen for ledger in self.ledgers)
        if self._killed or not (self._wake_outstanding or behind or self._finish):
            return None
        limit = min(_STALL_LAST, _STALL_SECONDS * 2.0**self._stalls)
        if self._stall_limit is not None:
            limit = min(limit, self._stall_limit)
        if now >= self._heard_at + limit:
            self._stalls = min(self._stalls + 1, 8)
            self._kill(f"silent for {limit:g} s")
            return None
        return self._heard_at + limit

    def close(self) -> None:
        """All is shipped: it ends by itself."""
        self._closed = True
        self._restart_at = None
        self._close_pipes()

    def abandon(self) -> None:
        """No more waiting: kill it, and do not wait for its death either."""
        self._kill("the wait for the far end is over")
        self.close()
