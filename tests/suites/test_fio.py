"""fio writes blocks that each carry their own checksum, and reads them back: now and remounted."""

from __future__ import annotations

import os

import pytest

from tests.suites.programs import run

pytestmark = pytest.mark.integration

MIB = 1024 * 1024

COMMON = """
[global]
verify=crc32c
verify_fatal=1
verify_state_save=0
randrepeat=1
thread=1
"""

#: Each is one workload. `stonewall` in none of them: the jobs of one workload run side by side.
WORKLOADS = {
    "sequential": """
[stream]
rw=write
bs=64k
size=12m
numjobs=3
""",
    "random": """
[blocks]
rw=randwrite
bs=4k
size=3m
numjobs=2
[odd]
rw=randwrite
bsrange=512-40k
blockalign=512
size=4m
""",
    # Larger than what is sent in one request: block lists, of which later commits keep parts.
    "large": """
[large]
rw=randwrite
bs=256k
size=40m
io_size=16m
fsync=16
""",
    "holes": """
[holes]
rw=randwrite
bs=16k
size=24m
io_size=1m
[strides]
rw=write:48k
bs=16k
size=8m
""",
    "mapped": """
[mapped]
ioengine=mmap
rw=randwrite
bs=4k
size=4m
[mapped-stream]
ioengine=mmap
rw=write
bs=16k
size=8m
""",
    "synced": """
[synced]
rw=randwrite
bs=8k
size=1m
fsync=8
[direct-sync]
ioengine=pvsync
rw=write
bs=32k
size=1m
sync=1
[asynchronous]
ioengine=libaio
iodepth=8
rw=randwrite
bs=8k
size=2m
""",
    # What was written is read back while the next one is written.
    "read-back": """
[read-back]
rw=randwrite
bs=8k
size=3m
verify_backlog=32
""",
}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_block_that_fio_wrote_is_read_back(blob, short_path, workload):
    (short_path / "jobs.fio").write_text(COMMON + WORKLOADS[workload])
    command = ["fio", "--eta=never", f"--directory={short_path / 'm'}", short_path / "jobs.fio"]
    with blob() as top:
        if workload == "holes":
            for name, size in (("holes.0.0", 24 * MIB), ("strides.0.0", 8 * MIB)):
                (top / name).touch()
                os.truncate(top / name, size)
        run(*command, cwd=top)
        assert any(top.iterdir())
    with blob() as top:
        run(*command, "--verify_only", cwd=top)


def test_a_share_keeps_what_fio_wrote(share, short_path):
    jobs = short_path / "jobs.fio"
    jobs.write_text(COMMON + WORKLOADS["random"])
    for option in ([], ["--verify_only"]):
        with share() as top:
            run(
                "fio",
                "--eta=never",
                f"--directory={top}",
                *option,
                short_path / "jobs.fio",
                cwd=top,
            )


def test_fio_notices_a_byte_that_changed(blob, short_path):
    (short_path / "jobs.fio").write_text(COMMON + WORKLOADS["sequential"])
    command = ["fio", "--eta=never", f"--directory={short_path / 'm'}", short_path / "jobs.fio"]
    with blob() as top:
        run(*command, cwd=top)
        with next(top.iterdir()).open("r+b") as file:
            file.seek(5_000_000)
            file.write(b"?")
    with blob() as top, pytest.raises(AssertionError, match="verify"):
        run(*command, "--verify_only", cwd=top)
