"""A program that writes at random into a directory, and says what it does, before and after.

Run as ``python crash_workload.py DIRECTORY SEED``. Each line of its output is a JSON list: a step
about to be made, or ``["ok"]`` once it is acknowledged. It ends when the directory's file system
does.

Names are relative to a descriptor of the directory: a path would lead to what lies below the mount
point once it is unmounted.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import sys


def say(*words):
    os.write(1, json.dumps(words).encode() + b"\n")


def there(root, name):
    try:
        os.stat(name, dir_fd=root)
    except FileNotFoundError:
        return False
    return True


def main(directory, seed):
    chance = random.Random(seed)
    opened: dict[str, int] = {}
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    names = [f"f{number}" for number in range(4)]
    while True:
        name = chance.choice(names)
        step = chance.choices(
            ["write", "append", "truncate", "fsync", "close", "rename", "unlink"],
            [8, 4, 2, 2, 3, 1, 1],
        )[0]
        if name not in opened and step in {"write", "append", "truncate", "fsync"}:
            say("open", name)
            opened[name] = os.open(name, os.O_RDWR | os.O_CREAT, 0o644, dir_fd=root)
            say("ok")
        if step in {"write", "append"}:
            data = chance.randbytes(chance.choice([1, 50, 4096, 20_000]))
            offset = chance.randrange(60_000) if step == "write" else os.fstat(opened[name]).st_size
            say("write", name, offset, base64.b64encode(data).decode())
            written = os.pwrite(opened[name], data, offset)
            assert written == len(data)
        elif step == "truncate":
            size = chance.randrange(60_000)
            say("truncate", name, size)
            os.ftruncate(opened[name], size)
        elif step == "fsync":
            say("fsync", name)
            os.fsync(opened[name])
        elif step == "close" and name in opened:
            say("close", name)
            os.close(opened.pop(name))
        elif step == "rename":
            target = chance.choice(names)
            if {name, target} & set(opened) or name == target or not there(root, name):
                continue
            say("rename", name, target)
            os.rename(name, target, src_dir_fd=root, dst_dir_fd=root)
        elif step == "unlink":
            if name in opened or not there(root, name):
                continue
            say("unlink", name)
            os.unlink(name, dir_fd=root)
        else:
            continue
        say("ok")


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        main(sys.argv[1], int(sys.argv[2]))
