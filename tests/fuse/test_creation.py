"""Who owns what is made in a mounted container, and since when it is there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from fuse import clock
from tests.fuse.driving import driver, volume_spec

pytestmark = pytest.mark.integration

USER, GROUP = 12345, 23456

MAKE = """
import os, sys
os.umask(0o022)
os.mkdir("directory")
open("directory/file", "w").close()
os.symlink("file", "directory/link")
"""


@pytest.fixture
def mount(storage, blob_container, short_path):
    os.chmod(short_path, 0o755)  # another user is to come by
    return lambda: driver(volume_spec("blob", storage, blob_container, None), short_path)


def made_by_another_user(place):
    subprocess.run(
        [sys.executable, "-c", MAKE], cwd=place, user=USER, group=GROUP, extra_groups=[], check=True
    )
    return {name: (place / name).lstat() for name in ("directory", *BELOW)}


BELOW = ("directory/file", "directory/link")


def test_who_makes_something_owns_it_also_after_a_remount(mount):
    with mount() as running:
        running.path.chmod(0o777)
        made = made_by_another_user(running.path)
        assert {(one.st_uid, one.st_gid) for one in made.values()} == {(USER, GROUP)}
    with mount() as running:
        for name, before in made.items():
            after = (running.path / name).lstat()
            assert (after.st_uid, after.st_gid, after.st_mode) == (USER, GROUP, before.st_mode)


def test_a_set_group_id_directory_passes_its_group_and_bit_on(mount):
    with mount() as running:
        running.path.chmod(0o2777)
        os.chown(running.path, 0, 777)
        made = made_by_another_user(running.path)
        assert {(one.st_uid, one.st_gid) for one in made.values()} == {(USER, 777)}
        assert made["directory"].st_mode & stat.S_ISGID
        assert not made["directory/file"].st_mode & stat.S_ISGID


def until_the_clock_ticks():
    """Files are stamped with the time of the kernel's last tick."""
    now = clock.now_ns()
    while clock.now_ns() == now:
        pass


def test_times_are_finer_than_the_stores_and_the_same_after_a_remount(mount):
    times = {}
    with mount() as running:
        for name in ("one", "other"):
            (running.path / name).touch()
            until_the_clock_ticks()
            times[name] = (running.path / name).stat().st_mtime_ns
        (running.path / "d").mkdir()
        until_the_clock_ticks()
        times["d"] = (running.path / "d").stat().st_mtime_ns
        os.symlink("one", running.path / "link")
        times["link"] = (running.path / "link").lstat().st_mtime_ns
        assert times["one"] < times["other"] < times["d"] < times["link"]
    with mount() as running:
        assert times == {name: (running.path / name).lstat().st_mtime_ns for name in times}


def test_a_change_of_attributes_shows_in_the_time_of_change(mount):
    with mount() as running:
        path = running.path / "f"
        path.write_bytes(b"content")
        for change in (
            lambda: path.chmod(0o600),
            lambda: os.setxattr(path, "user.a", b"1"),
            lambda: os.truncate(path, 3),
            lambda: os.utime(path, (1, 1)),
        ):
            before = path.stat().st_ctime_ns
            until_the_clock_ticks()
            change()
            assert path.stat().st_ctime_ns > before


def test_times_never_go_back_whoever_says_what_time_it_is(mount):
    """utimensat(2) without times takes the kernel's time, a write takes the driver's."""
    with mount() as running:
        path = running.path / "f"
        for _ in range(50):
            with path.open("wb") as file:
                moments = [os.fstat(file.fileno()).st_mtime_ns]
                for _ in range(3):
                    os.utime(file.fileno())
                    moments.append(os.fstat(file.fileno()).st_mtime_ns)
                    file.write(b"x")
                    file.flush()
                    moments.append(os.fstat(file.fileno()).st_mtime_ns)
            assert moments == sorted(moments)
            path.unlink()


def test_a_stamp_of_the_kernel_s_may_be_ahead_of_its_tick():
    now = clock.now_ns()
    ahead = now + clock.AHEAD // 2
    assert clock.now_ns(ahead) == ahead
    for other in (0, now - 1, now + 10**9):  # a program may have said any time
        assert clock.now_ns(other) != other
