"""The data that is read, and how much of it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import xxhash

MIB = 1024 * 1024
_CHUNK = 4 * MIB


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything.

    Attributes:
        large: Bytes of the large file.
        stream: Bytes of each of the files that are read side by side.
        small_files: How many small files.
        small_size: Bytes of each.
        directories: In how many directories they are.
        scattered: Bytes of the file that is read at random.
        random_reads: Reads of 4 KiB of each reader.
        firsts: Files whose first bytes are read.
        names: Blobs that are listed.
        written_files: Small files that are written.
        idle: Seconds in which nothing happens.
        rounds: How often everything is measured, unless told otherwise.
    """

    large: int = 1024 * MIB
    stream: int = 256 * MIB
    small_files: int = 10_000
    small_size: int = 100_000
    directories: int = 100
    scattered: int = 1024 * MIB
    random_reads: int = 64
    firsts: int = 32
    names: int = 100_000
    written_files: int = 2_000
    idle: float = 60.0
    rounds: int = 5


FULL = Scale()

QUICK = Scale(
    large=256 * MIB,
    stream=64 * MIB,
    small_files=2_000,
    directories=20,
    random_reads=25,
    firsts=16,
    names=20_000,
    written_files=300,
    idle=15.0,
    rounds=3,
)

#: For tests of the benchmark itself: it says nothing about anything.
TINY = Scale(
    large=4 * MIB,
    stream=MIB,
    small_files=20,
    small_size=1_000,
    directories=2,
    scattered=4 * MIB,
    random_reads=5,
    firsts=2,
    names=20,
    written_files=5,
    idle=0.1,
    rounds=1,
)


def write_noise(path: Path, size: int) -> None:
    """A file of bytes that nothing can compress or guess."""
    with path.open("wb") as file:
        left = size
        while left:
            left -= file.write(os.urandom(min(_CHUNK, left)))


def write_sparse(path: Path, size: int, *, noise: int) -> None:
    """A file that takes next to no disk: noise at its front, then a hole."""
    write_noise(path, min(noise, size))
    os.truncate(path, size)


def write_small(root: Path, scale: Scale) -> list[str]:
    """Small files in directories; their names below ``root``."""
    names = []
    for number in range(scale.small_files):
        directory = f"d{number % scale.directories:04}"
        if number < scale.directories:
            (root / directory).mkdir(parents=True, exist_ok=True)
        name = f"{directory}/f{number:06}.bin"
        write_noise(root / name, scale.small_size)
        names.append(name)
    return names


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """In an order that is the same for everybody in a round."""
    result = list(names)
    random.Random(seed).shuffle(result)  # noqa: S311 -- no secret
    return result


def offsets(count: int, size: int, block: int, seed: int) -> list[int]:
    """Offsets of whole blocks of a file, any of them."""
    generator = random.Random(seed)  # noqa: S311 -- no secret
    return [generator.randrange(size // block) * block for _ in range(count)]


def words(size: int) -> str:
    """A number of bytes for people: ``64 KiB``, ``4 MiB``."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


def digest(path: Path, *, offset: int = 0, size: int | None = None) -> str:
    """Of a file's content, or of a part of it, as the readers make it."""
    hasher = xxhash.xxh3_64()
    left = path.stat().st_size - offset if size is None else size
    with path.open("rb") as file:
        file.seek(offset)
        while left and (chunk := file.read(min(_CHUNK, left))):
            hasher.update(chunk)
            left -= len(chunk)
    return hasher.hexdigest()
