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
_NO_FIFOS = "fifos: a blob holds bytes (EPERM, mkfifo(3))"
_NO_TRUSTED = "they try trusted.*, which a store cannot keep from others (EOPNOTSUPP, as on NFS)"
_NO_SOCKETS = "sockets: a blob holds bytes (EPERM, bind(2))"
_UNICODE_NAMES = "names of blobs are Unicode: other bytes are EILSEQ"

#: Tests that pass in a local directory and must not pass (some skip themselves) in a container.
EXPECTED: Mapping[str, str] = {
    "test_os.LinkTests.test_link": _NO_HARD_LINKS,
    "test_os.LinkTests.test_link_bytes": _NO_HARD_LINKS,
    "test_os.LinkTests.test_unicode_name": _NO_HARD_LINKS,
    "test_os.Pep383Tests.test_listdir": _UNICODE_NAMES,
    "test_os.Pep383Tests.test_open": _UNICODE_NAMES,
    "test_os.Pep383Tests.test_stat": _UNICODE_NAMES,
    "test_os.Pep383Tests.test_statvfs": _UNICODE_NAMES,
    "test_os.TestScandir.test_attributes": _NO_HARD_LINKS,
    "test_pathlib.PathTest.test_hardlink_to": _NO_HARD_LINKS,
    "test_pathlib.PathTest.test_is_fifo_true": _NO_FIFOS,
    "test_pathlib.PathTest.test_is_socket_true": _NO_SOCKETS,
    "test_pathlib.PathTest.test_link_to": _NO_HARD_LINKS,
    "test_pathlib.PosixPathTest.test_hardlink_to": _NO_HARD_LINKS,
    "test_pathlib.PosixPathTest.test_is_fifo_true": _NO_FIFOS,
    "test_pathlib.PosixPathTest.test_is_socket_true": _NO_SOCKETS,
    "test_pathlib.PosixPathTest.test_link_to": _NO_HARD_LINKS,
    "test_shutil.TestCopy.test_copy2_xattr": _NO_TRUSTED,
    "test_shutil.TestCopy.test_copyxattr": _NO_TRUSTED,
    "test_shutil.TestCopy.test_copyxattr_symlinks": _NO_TRUSTED,
    "test_shutil.TestCopy.test_copyfile_named_pipe": _NO_FIFOS,
    "test_shutil.TestCopy.test_dont_copy_file_onto_link_to_itself": _NO_HARD_LINKS,
    "test_shutil.TestCopyTree.test_copytree_named_pipe": _NO_FIFOS,
    "test_tarfile.Bz2WriteTest.test_link_size": _NO_HARD_LINKS,
    "test_tarfile.GzipWriteTest.test_link_size": _NO_HARD_LINKS,
    "test_tarfile.HardlinkTest.test_add_hardlink": _NO_HARD_LINKS,
    "test_tarfile.HardlinkTest.test_add_twice": _NO_HARD_LINKS,
    "test_tarfile.HardlinkTest.test_dereference_hardlink": _NO_HARD_LINKS,
    "test_tarfile.LzmaWriteTest.test_link_size": _NO_HARD_LINKS,
    "test_tarfile.WriteTest.test_link_size": _NO_HARD_LINKS,
}

_ZEROS = "uploads gigabytes of zeros; test_around_2GB and CLargeFileTest do enough"
_LISTINGS = "lists a few directories thousands of times; test_fwalk and test_selflink do enough"

#: Tests (patterns: fnmatch(3)) that are not run in CI: they take a minute each.
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
