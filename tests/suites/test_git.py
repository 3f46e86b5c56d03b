"""git keeps a repository in a container: it clones, commits, packs, and finds nothing broken."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.suites.programs import run

pytestmark = pytest.mark.integration

FILES, COMMITS = 120, 3

IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(directory: Path, *arguments: str | Path) -> str:
    return run("git", *arguments, cwd=directory, environment=IDENTITY).strip()


def change_files(directory: Path, seed: int) -> None:
    """Write, and from the second time on rewrite, some of the files."""
    generator = random.Random(seed)
    for index in range(FILES):
        if seed == 0 or generator.random() < 0.1:
            path = directory / f"part{index % 12}" / f"file{index}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(str(generator.random()) for _ in range(60)))


@pytest.fixture
def origin(tmp_path) -> Path:
    directory = tmp_path / "origin"
    directory.mkdir()
    git(directory, "init", "--quiet", "--initial-branch=main")
    for seed in range(COMMITS):
        change_files(directory, seed)
        git(directory, "add", "--all")
        git(directory, "commit", "--quiet", "--message", f"change {seed}")
    return directory


@pytest.mark.timeout(400)
def test_a_clone_is_whole_clean_and_packed_and_stays_so(blob, origin, tmp_path):
    with blob() as top:
        git(top, "clone", "--quiet", f"file://{origin}", "copy")
        copy = top / "copy"
        assert git(copy, "status", "--porcelain") == ""
        change_files(copy, COMMITS)
        git(copy, "mv", "part0", "moved")
        git(copy, "add", "--all")
        git(copy, "commit", "--quiet", "--message", "made in the mount")
        git(copy, "branch", "side", "HEAD~1")
        git(copy, "checkout", "--quiet", "side")
        git(copy, "checkout", "--quiet", "main")
        git(copy, "gc", "--quiet", "--prune=now")
        git(copy, "fsck", "--strict", "--full", "--no-dangling")
        assert git(copy, "count-objects") == "0 objects, 0 kilobytes"
        head = git(copy, "rev-parse", "HEAD^{tree}")
    with blob() as top:
        copy = top / "copy"
        assert git(copy, "status", "--porcelain") == ""
        git(copy, "fsck", "--strict", "--full", "--no-dangling")
        git(tmp_path, "clone", "--quiet", f"file://{copy}", "back")
    assert git(tmp_path / "back", "rev-parse", "HEAD^{tree}") == head


def test_a_push_into_a_bare_repository(top, origin):
    git(top, "init", "--quiet", "--bare", "store.git")
    git(origin, "push", "--quiet", top / "store.git", "main:main")
    git(top / "store.git", "fsck", "--strict", "--full")
    assert git(top / "store.git", "rev-parse", "main") == git(origin, "rev-parse", "main")
