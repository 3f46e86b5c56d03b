"""Fixtures for all tests: local storage, short directories, and the check for leftovers.

A test marked `integration` runs against real Azurite, Samba and FUSE. It fails, and is not skipped,
where one of them is missing: a green run must mean that all of it was tried.
"""

import contextlib
import gc
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import leftovers as leftover
from tests.support.kernel import mounts_below
from tests.support.waiting import eventually as _eventually
from tests.support.waiting import eventually_async as _eventually_async

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile(
    "ci", deadline=None, print_blob=True, derandomize=True, max_examples=200
)
hypothesis.settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=5000)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default")
)


def pytest_configure() -> None:
    """Programs under test get SIGINT, also where a shell runs all of this in the background.

    There it is ignored from the start, and children inherit that (signal(7)).
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def missing_parts() -> list[str]:
    """What this machine lacks of what integration tests need."""
    from agent.dev import azurite, samba

    missing = []
    if os.geteuid() != 0:
        missing.append("root's rights")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        missing.append("/dev/fuse")
    if shutil.which("fusermount3") is None:
        missing.append("fusermount3")
    if azurite.find() is None:
        missing.append("Azurite")
    if samba.find() is None:
        missing.append("Samba")
    return missing


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("integration") and (missing := missing_parts()):
        pytest.fail(f"missing here: {', '.join(missing)} (run scripts/setup, as root)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker("integration")
    ):
        report.outcome = "failed"
        report.longrepr = f"an integration test must not be skipped: {report.longrepr}"
    return report


@pytest.fixture
def eventually():
    """`eventually(condition, deadline=10)`: call it until it is true; for tests without trio."""
    return _eventually


@pytest.fixture
def eventually_async():
    """`await eventually_async(condition, deadline=10)`, on trio's clock."""
    return _eventually_async


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty directory with a short path: a unix socket's address holds 107 bytes (unix(7))."""
    directory = Path(tempfile.mkdtemp(prefix="b-", dir="/tmp"))
    yield directory
    if not mounts_below(directory):
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    """After an integration test: no mount, no process and no socket below its directories."""
    if not request.node.get_closest_marker("integration"):
        yield
        return
    # Asked for here, they are torn down after this check.
    directories = [
        request.getfixturevalue(name).resolve()
        for name in ("tmp_path", "short_path")
        if name == "tmp_path" or name in request.fixturenames
    ]
    yield
    gc.collect()  # a resource that nobody closed gives its warning in the test that opened it
    found = leftover.settle(directories)
    if found:
        text = found.describe()
        leftover.clean(directories)
        pytest.fail(f"left behind:\n{text}", pytrace=False)


@pytest.fixture(scope="session")
def storage():
    """A storage account (`agent.dev.storage.DevStorage`), up for the whole run.

    Tests share it: take names of your own for what you make in it (`blob_container`,
    `share_folder`). A test that stops a server brings up its own with `private_storage`.
    """
    with _running_storage() as running:
        yield running


@pytest.fixture
def private_storage():
    """A storage account of the test's own, which it may stop and start as it likes."""
    with _running_storage() as running:
        yield running


@pytest.fixture
def blob_container(storage) -> Iterator[str]:
    """The name of a new, empty container of `storage`."""
    from azure.storage.blob import BlobServiceClient

    name = f"t-{uuid.uuid4().hex[:12]}"
    with BlobServiceClient(
        storage.blob_endpoint,
        credential={"account_name": storage.account, "account_key": storage.key},
    ) as service:
        service.create_container(name)
        yield name
        service.delete_container(name)


@pytest.fixture
def share_folder(storage) -> Iterator[str]:
    """The name of a new, empty folder in the share of `storage`."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    folder = storage.share_directory / name
    folder.mkdir()
    yield name
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running_storage():
    from agent.dev import storage

    directory = Path(tempfile.mkdtemp(prefix="bs-", dir="/tmp"))
    try:
        yield storage.up(directory)
    finally:
        storage.down(directory)
        shutil.rmtree(directory, ignore_errors=True)
