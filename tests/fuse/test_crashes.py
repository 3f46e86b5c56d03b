"""kill -9 of the driver at random points: the next mount has what programs were told is written."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuse.driving import driver, volume_spec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

WORKLOAD = Path(__file__).with_name("crash_workload.py")

#: How often the driver is killed, in all.
KILLS = 200
SEEDS = range(4)


class Model:
    """What the workload was told, and the one step that it was not told of."""

    def __init__(self):
        self.files: dict[str, bytearray] = {}
        self.under_way: list | None = None
        self.told: list[str] = []

    def note(self, step):
        self.told.append(" ".join(str(word)[:20] for word in step))
        if step == ["ok"]:
            if self.under_way is not None:
                apply(self.files, self.under_way)
            self.under_way = None
        else:
            self.under_way = step

    def check(self, found: dict[str, bytes]):
        """Every file is as acknowledged, but for what the last step may have done in part."""
        after = {name: bytearray(data) for name, data in self.files.items()}
        touched = set()
        if self.under_way is not None:
            apply(after, self.under_way)
            touched = (
                set(self.under_way[1:3]) if self.under_way[0] == "rename" else {self.under_way[1]}
            )
        for name in set(found) | set(self.files) | set(after):
            allowed = (
                [self.files.get(name), after.get(name)]
                if name in touched
                else [self.files.get(name)]
            )
            data = found.get(name)
            if data in [None if item is None else bytes(item) for item in allowed]:
                continue
            if (
                name in touched
                and self.under_way[0] == "write"
                and data is not None
                and partly(self.files.get(name, b""), after[name], data, self.under_way)
            ):
                continue
            history = [line for line in self.told if name in line.split()[1:]]
            raise AssertionError(describe(name, data, allowed, self.under_way), history)
        self.files = {name: bytearray(data) for name, data in found.items()}
        self.under_way = None
        self.told.clear()


def apply(files, step):
    name = step[1]
    if step[0] == "open":
        files.setdefault(name, bytearray())
    elif step[0] == "write":
        offset, data = step[2], base64.b64decode(step[3])
        content = files[name]
        content.extend(bytes(max(0, offset + len(data) - len(content))))
        content[offset : offset + len(data)] = data
    elif step[0] == "truncate":
        content = files[name]
        del content[step[2] :]
        content.extend(bytes(step[2] - len(content)))
    elif step[0] == "rename":
        files[step[2]] = files.pop(name)
    elif step[0] == "unlink":
        del files[name]


def partly(before, after, found, step):
    start = step[2]
    end = start + len(base64.b64decode(step[3]))
    # The kernel passes a write on in parts.
    if not len(before) <= len(found) <= len(after):
        return False
    old = bytes(before).ljust(len(after), b"\0")
    return all(
        byte == old[i] or (start <= i < end and byte == after[i]) for i, byte in enumerate(found)
    )


def describe(name, data, allowed, step):
    sizes = [None if item is None else len(item) for item in allowed]
    places = []
    for item in allowed:
        if item is not None and data is not None:
            wrong = [i for i, (a, b) in enumerate(zip(item, data, strict=False)) if a != b]
            places.append((wrong[0], wrong[-1], len(wrong)) if wrong else "a prefix")
    step = None if step is None else [str(word)[:20] for word in step]
    return (
        f"{name}: {None if data is None else len(data)} bytes found, allowed {sizes}, "
        f"differences {places}, under way {step}"
    )


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_random_points(storage, blob_container, short_path, seed):
    chance = random.Random(seed)
    spec = volume_spec("blob", storage, blob_container, None)
    model = Model()
    rounds = KILLS // len(SEEDS)
    kept = short_path / "c" / "recovery"
    told: list[str] = []

    def mounted_log():
        return (short_path / "driver.log").read_text()[-3000:]

    for number in range(rounds + 1):
        with contextlib.ExitStack() as stack:
            mounted = stack.enter_context(driver(spec, short_path))
            told = list(model.told)
            try:
                model.check(contents(mounted.path))
            except AssertionError:
                print(mounted.log.read_text()[-6000:])
                raise
            if number == rounds:
                break
            with subprocess.Popen(
                [sys.executable, WORKLOAD, mounted.path, str(chance.randrange(2**32))],
                stdout=subprocess.PIPE,
            ) as program:
                first = program.stdout.readline()
                assert first, mounted_log()
                # The one place where time is to be random: when the driver dies.
                time.sleep(chance.uniform(0, 0.25))
                os.kill(mounted.process.pid, signal.SIGKILL)
                mounted.process.wait()
                subprocess.run(["umount", "-l", mounted.path], check=True)
                for line in [first, *program.stdout]:
                    model.note(json.loads(line))
        if kept.exists():
            print(*told[-12:], mounted_log(), sep="\n")
        assert not kept.exists(), "nobody else wrote: there is no conflict"
    assert not list((short_path / "c" / "journal").glob("*/*"))
