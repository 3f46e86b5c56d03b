"""stress-ng's file system stressors, each for a number of operations, with --verify."""

from __future__ import annotations

import pytest

from tests.suites.programs import execute

pytestmark = pytest.mark.integration

#: Stressor → how it is called here, beside its number of operations.
STRESSORS = {
    "access": "--access-ops 2",
    "aio": "--aio-ops 50",
    "aiol": "--aiol-ops 50",
    "chattr": "--chattr-ops 2",
    "chdir": "--chdir-ops 50 --chdir-dirs 64",
    "chmod": "--chmod-ops 1",
    "chown": "--chown-ops 10",
    "close": "--close-ops 50",
    "copy-file": "--copy-file-ops 2 --copy-file-bytes 128M",
    "dentry": "--dentry-ops 8 --dentries 8",
    "dir": "--dir-ops 16 --dir-dirs 64",
    "dirdeep": "--dirdeep-ops 32 --dirdeep-files 2 --dirdeep-inodes 64",
    "dirmany": "--dirmany-ops 32",
    "dnotify": "--dnotify-ops 2",
    "dup": "--dup-ops 20",
    "fallocate": "--fallocate-ops 4 --fallocate-bytes 1M",
    "fcntl": "--fcntl-ops 50",
    "fiemap": "--fiemap-ops 4 --fiemap-bytes 1M",
    "file-ioctl": "--file-ioctl-ops 20",
    "flock": "--flock-ops 50",
    "fsize": "--fsize-ops 2",
    "fstat": "--fstat-ops 50",
    "getdent": "--getdent-ops 50",
    "handle": "--handle-ops 16",
    "hdd": "--hdd-ops 64 --hdd-bytes 4M",
    "inotify": "--inotify-ops 2",
    "iomix": "--iomix-ops 64 --iomix-bytes 4M",
    "lease": "--lease-ops 10",
    "locka": "--locka-ops 50",
    "lockf": "--lockf-ops 50",
    "lockofd": "--lockofd-ops 50",
    "mknod": "--mknod-ops 2",
    "mmap": "--mmap-ops 1 --mmap-file --mmap-bytes 2M",
    "msync": "--msync-ops 16 --msync-bytes 1M",
    "open": "--open-ops 64",
    "readahead": "--readahead-ops 16 --readahead-bytes 8M",
    "rename": "--rename-ops 32",
    "revio": "--revio-ops 64 --revio-bytes 4M",
    "seek": "--seek-ops 64 --seek-size 4M",
    "sendfile": "--sendfile-ops 16 --sendfile-size 1M",
    "splice": "--splice-ops 16",
    "sync-file": "--sync-file-ops 4 --sync-file-bytes 1M",
    "touch": "--touch-ops 16",
    "utime": "--utime-ops 20",
    # One turn sets 4,096 attributes, a request each, as long as they fit: this one ends by time.
    "xattr": "--xattr-ops 1 --timeout 15",
}

#: What stress-ng counts among file systems and is not run here, with the reason.
LEFT_OUT = {
    "bind-mount": "mounts over the root directory; nothing of it is ours",
    "binderfs": "a file system of its own",
    "eventfd": "no file is touched",
    "fanotify": "watches every mount of the machine, and waits for events on all of them",
    "filename": "the names are control characters by the thousand, which the test storage's "
    "listings cannot carry; tests/fuse/test_names.py has the names that can be stored",
    "fpunch": "fallocate only, which is EOPNOTSUPP; runs until its time is over",
    "inode-flags": "flags of ext4 only; runs until its time is over",
    "io": "sync(2): waits for every disk of the machine",
    "ioprio": "priorities of processes; no file is touched",
    "link": "hard links only, 8,192 a turn: EPERM, see test_pathlib in cpython.py",
    "procfs": "reads /proc",
    "symlink": "8,192 links a turn, a blob each: minutes; the other suites make links enough",
    "verity": "fs-verity is a feature of ext4, f2fs and btrfs",
}

#: Seconds after which stress-ng ends a stressor that has not done its operations.
LIMIT = 60


@pytest.mark.parametrize("stressor", STRESSORS)
def test_stressor(top, stressor):
    done = execute(
        *("stress-ng", "--verify", "--temp-path", top, "--timeout", str(LIMIT), "--oomable"),
        *(f"--{stressor}", "1", *STRESSORS[stressor].split()),
        cwd=top,
    )
    problems = [line for line in done.stdout.splitlines() if _is_problem(line)]
    assert done.returncode == 0, done.stdout
    assert not problems, done.stdout
    assert not list(top.iterdir())


def test_every_file_system_stressor_is_run_or_left_out_for_a_reason(tmp_path):
    text = execute("stress-ng", "--class", "filesystem?", cwd=tmp_path).stdout
    known = set(text.partition("stressors:")[2].split())
    assert len(known) > 30
    assert known <= STRESSORS.keys() | LEFT_OUT.keys()
    assert not STRESSORS.keys() & LEFT_OUT.keys()


def _is_problem(line: str) -> bool:
    """Whether stress-ng says here that a check failed, or that it did nothing."""
    _, _, rest = line.partition("stress-ng: ")
    level, _, message = rest.partition(":")
    return level in {"fail", "error"} or "skipped" in message
