"""What the kernel is asked for directly: prctl(2) options and the drop to a job's user."""

import ctypes
import os
import signal

from agent.supervisor.spec import User

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int | bytes) -> None:
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), argument, zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"prctl({option})")


def set_undumpable() -> None:
    """No core file and no ptrace by the job's user: this process has held the job's secrets."""
    _prctl(_PR_SET_DUMPABLE, 0)


def set_subreaper() -> None:
    """Orphans among the descendants become children of this process, not of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_name(name: str) -> None:
    """Name this process for ps and top (15 bytes are shown)."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def die_with_parent() -> None:
    """SIGKILL when the parent dies. The kernel forgets it on a change of user: call it after."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def become(user: User | None) -> None:
    """Drop to `user` for good (real, effective and saved ids); None keeps the present one.

    Raises:
        PermissionError: this process has no right to become `user`.
    """
    if user is None:
        return
    if os.geteuid() != 0 and (user.uid, user.gid) == (os.geteuid(), os.getegid()):
        return  # a supervisor without privileges runs jobs as itself
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def reset_signals() -> None:
    """Give a forked child the signal state that a program expects.

    Call it with all signals blocked: a handler of the parent's must not run in the child.
    Python ignores SIGPIPE and SIGXFSZ, and ignored signals survive exec.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor that is not in `keep`."""
    low = 0
    for descriptor in sorted(keep):
        if low < descriptor:  # an empty range would be taken for "up to the last one"
            os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, max(os.sysconf("SC_OPEN_MAX"), low + 1))
