"""CPython's own tests in a directory of one's choice, and what is known of them in a container.

The tests are those of the system's Python (Debian: libpython3-testsuite), run by its own runner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.suites.programs import execute

PYTHON = "/usr/bin/python3"

MODULES = (
    "test_dbm_dumb",
    "test_fileio",
    "test_glob",
    "test_largefile",
    "test_mailbox",
    "test_mmap",
    "test_os",
    "test_pathlib",
    "test_shutil",
    "test_tarfile",
    "test_tempfile",
    "test_zipfile",
)

_NO_HARD_LINKS = "hard links: a blob has one name (EPERM, link(2))"
_UNICODE_NAMES = "names of blobs are Unicode: other bytes are EILSEQ"

#: Tests that pass in a local directory and must not pass in a container, with the reason.
EXPECTED: Mapping[str, str] = {
    "test_os.Pep383Tests.test_listdir": _UNICODE_NAMES,
    "test_os.Pep383Tests.test_open": _UNICODE_NAMES,
    "test_os.Pep383Tests.test_stat": _UNICODE_NAMES,
    "test_os.Pep383Tests.test_statvfs": _UNICODE_NAMES,
    "test_pathlib.PathTest.test_hardlink_to": _NO_HARD_LINKS,
    "test_pathlib.PosixPathTest.test_hardlink_to": _NO_HARD_LINKS,
}

_ZEROS = "uploads gigabytes of zeros; test_around_2GB and CLargeFileTest do enough"
_LISTINGS = "lists a few directories thousands of times; test_fwalk and test_selflink do enough"

#: Tests (patterns: fnmatch(3)) that are not run: they would pass, and take a minute each without
#: showing more.
LEFT_OUT: Mapping[str, str] = {
    "test_glob.GlobTests.test_glob_many_open_files": _LISTINGS,
    "test_largefile.PyLargeFileTest.*": _ZEROS,
    "test_largefile.TestCopyfile.test_it": _ZEROS,
    "test_largefile.TestSocketSendfile.test_it": _ZEROS,
    "test_mmap.LargeMmapTests.test_around_4GB": _ZEROS,
    "test_mmap.LargeMmapTests.test_large_filesize": _ZEROS,
    "test_mmap.LargeMmapTests.test_large_offset": _ZEROS,
    "test_os.BytesFwalkTests.test_fd_leak": _LISTINGS,
    "test_os.BytesWalkTests.test_walk_many_open_files": _LISTINGS,
    "test_os.WalkTests.test_walk_many_open_files": _LISTINGS,
    "test_pathlib.PathTest.test_glob_many_open_files": _LISTINGS,
    "test_pathlib.PosixPathTest.test_glob_many_open_files": _LISTINGS,
}


@dataclass(frozen=True)
class Outcome:
    """What one module's tests came to: names without the leading ``test.``.

    Attributes:
        passed: Tests that ran and passed.
        skipped: Tests that said that they cannot run here.
        failed: Test → the last line of why.
        log: What the runner printed.
    """

    passed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    log: str = ""


def run_module(module: str, directory: Path, report: Path, *, timeout: float) -> Outcome:
    """Run one module's tests with their working and temporary directory in ``directory``."""
    left_out = [f"--ignore=test.{name}" for name in LEFT_OUT if name.startswith(f"{module}.")]
    done = execute(
        *(PYTHON, "-m", "test", "--tempdir", directory, "--junit-xml", report),
        *(*left_out, module),
        cwd=directory,
        environment={"TMPDIR": str(directory)},
        timeout=timeout,
    )
    outcome = Outcome(log=done.stdout)
    if not report.exists():
        raise AssertionError(f"{module}: scripts/setup --with-tests? {done.stdout}")
    for case in ET.parse(report).iter("testcase"):
        name = case.get("name", "").removeprefix("test.")
        problems = [part for part in case if part.tag in {"error", "failure"}]
        if problems:
            lines = (problems[0].get("message") or problems[0].text or "?").strip().splitlines()
            outcome.failed[name] = lines[-1]
        elif case.find("skipped") is not None:
            outcome.skipped.add(name)
        else:
            outcome.passed.add(name)
    return outcome
