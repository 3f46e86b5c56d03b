"""The parser of mountinfo, against lines as proc(5) has them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.mounts import mountinfo

SAMPLE = r"""22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
91 28 0:45 / /mnt/with\040space\134and\011tab rw,nosuid - fuse.batchai-blob acct/data rw,user_id=0
92 91 0:46 /sub /mnt/with\040space\134and\011tab/in rw master:3 propagate_from:2 - fuse x\040y rw
93 28 0:47 / /mnt/with rw - fuseblk /dev/sdb1 rw
"""


def test_parses_fields() -> None:
    mounts = mountinfo.parse(SAMPLE)
    assert [m.mount_id for m in mounts] == [22, 28, 91, 92, 93]
    blob = mounts[2]
    assert blob.mountpoint == "/mnt/with space\\and\ttab"
    assert (blob.major, blob.minor, blob.parent_id) == (0, 45, 28)
    assert blob.source == "acct/data"
    assert blob.options == {"rw", "nosuid"}
    assert [m.is_fuse for m in mounts] == [False, False, True, True, False]
    assert mounts[3].source == "x y"
    assert mounts[3].root == "/sub"


def test_at_and_below_do_not_confuse_prefixes() -> None:
    mounts = mountinfo.parse(SAMPLE)
    assert [m.mount_id for m in mountinfo.at(mounts, "/mnt/with")] == [93]
    assert [m.mount_id for m in mountinfo.below(mounts, "/mnt/with")] == [93]
    inner = mountinfo.below(mounts, "/mnt/with space\\and\ttab")
    assert [m.mount_id for m in inner] == [92, 91]
    assert len(mountinfo.below(mounts, "/")) == 5


def test_malformed_lines_are_left_out() -> None:
    assert mountinfo.parse("") == []
    assert mountinfo.parse("nonsense\n1 2 3 - x\n22 28 0:x / /sys rw - sysfs sysfs rw\n") == []


def test_reads_this_process() -> None:
    assert any(mount.mountpoint == "/proc" for mount in mountinfo.read())


def _escape(text: str) -> str:
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in text)


@given(
    st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
)
def test_every_mountpoint_survives(name: str) -> None:
    line = f"91 28 0:45 / /{_escape(name)} rw - fuse.batchai {_escape(name)} rw\n"
    (mount,) = mountinfo.parse(line)
    assert mount.mountpoint == "/" + name
    assert mount.source == name
