"""Renames: complete or undone, whatever fails, and nobody else's work is touched."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import subprocess

import pytest
import trio
import trio.testing
from azure.storage.blob import ContentSettings, StandardBlobTier

import fuse.blob.volume
from fuse.blob import unsettled
from fuse.blob.copies import Copies
from fuse.intents import Intents
from fuse.places import Places
from fuse.volume import Changes, Kind
from tests.fuse.blob_volume import content, listing, opened, sdk
from tests.fuse.driving import driver, volume_spec
from tests.support.fault_proxy import FaultProxy, answer, lose_answer, stall_before

pytestmark = pytest.mark.integration


@pytest.fixture
def client(storage, blob_container):
    with sdk(storage, blob_container) as found:
        yield found


@pytest.fixture
async def volume(storage, blob_container, tmp_path):
    async with opened(storage, blob_container, tmp_path) as found:
        yield found


@pytest.fixture
def intents(volume, tmp_path):
    """Where its intents are."""
    return Places(tmp_path, volume.identity).intents


class CrashError(BaseException):
    """The process ends here: nobody catches it, and nothing after it is done."""


class Faults:
    """Ends, or fails, the requests of a volume at the chosen one.

    Args:
        volume: Whose.
        at: Which request (0: the first) fails; reads are not counted.
        error: What it raises; a crash by default.
        after: Whether the store carries it out first.
        for_ever: Whether all later ones fail too.
        matching: Which requests count, by method and name.
    """

    def __init__(
        self,
        volume,
        monkeypatch,
        *,
        at,
        error=None,
        after=False,
        for_ever=False,
        matching=lambda m, n: True,
    ):
        self.count = 0
        request = volume._store.request

        async def faulty(method, name, **arguments):
            if method in {"GET", "HEAD"} or not matching(method, name):
                return await request(method, name, **arguments)
            number = self.count
            self.count += 1
            if number >= at and error is None:
                if number == at and after:
                    await request(method, name, **arguments)
                raise CrashError
            if number == at or (for_ever and number > at):
                if after:
                    await request(method, name, **arguments)
                raise error
            return await request(method, name, **arguments)

        monkeypatch.setattr(volume._store, "request", faulty)


def contents(client):
    return {blob.name: client.download_blob(blob.name).readall() for blob in client.list_blobs()}


def no_intents(intents):
    return not intents.exists() or os.listdir(intents) == []


@contextlib.asynccontextmanager
async def settling(volume):
    """What fails in here is completed or undone by the volume itself."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(volume.settle)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def until(condition):
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.02)


# -- files --------------------------------------------------------------------------------------


async def test_a_file_keeps_everything_but_its_name(volume, client):
    client.upload_blob(
        "a",
        b"content",
        metadata={"ProJect": "x"},
        content_settings=ContentSettings(
            content_type="text/plain", content_encoding="gzip", cache_control="no-store"
        ),
        standard_blob_tier=StandardBlobTier.COOL,
    )
    before = await volume.stat("a")
    renamed = await volume.rename("a", "d e/ü%", before, replace=True)
    after = await volume.stat("d e/ü%")
    assert renamed.version == after.version
    assert renamed.mtime_ns == after.mtime_ns == before.mtime_ns
    properties = client.get_blob_client("d e/ü%").get_blob_properties()
    assert properties.content_settings.content_type == "text/plain"
    assert properties.content_settings.content_encoding == "gzip"
    assert properties.content_settings.cache_control == "no-store"
    assert properties.metadata["ProJect"] == "x"
    assert properties.blob_tier == "Cool"
    with pytest.raises(FileNotFoundError):
        await volume.stat("a")


async def test_a_rename_costs_two_requests(volume):
    attributes = await volume.create("a", Changes())
    before = volume.statistics()["requests"]
    await volume.rename("a", "b", attributes, replace=True)
    assert volume.statistics()["requests"] - before == 2


async def test_what_has_the_name_by_now_is_renamed(volume, client):
    client.upload_blob("a", b"old")
    seen = await volume.stat("a")
    client.upload_blob("a", b"new content", overwrite=True)
    renamed = await volume.rename("a", "b", seen, replace=False)
    assert renamed.size == 11
    assert contents(client) == {"b": b"new content"}


async def test_nothing_is_replaced_unasked(volume, client):
    client.upload_blob("a", b"1")
    client.upload_blob("b", b"2")
    with pytest.raises(FileExistsError):
        await volume.rename("a", "b", await volume.stat("a"), replace=False)
    await volume.rename("a", "b", await volume.stat("a"), replace=True)
    assert contents(client) == {"b": b"1"}
    with pytest.raises(FileNotFoundError):
        await volume.rename("a", "c", await volume.stat("b"), replace=True)


async def test_a_write_between_copy_and_deletion_is_taken_along(volume, client, monkeypatch):
    client.upload_blob("a", b"old")
    seen = await volume.stat("a")
    copy = Copies.copy
    writes = iter([b"newer", b"newest"])

    async def raced(self, source, target, condition):
        done = await copy(self, source, target, condition)
        data = next(writes, None)
        if data is not None:
            client.upload_blob("a", data, overwrite=True)
        return done

    monkeypatch.setattr(Copies, "copy", raced)
    await volume.rename("a", "b", seen, replace=False)
    assert contents(client) == {"b": b"newest"}


@pytest.mark.parametrize("replace", [True, False])
async def test_an_answer_that_was_lost_is_recognised(volume, client, monkeypatch, replace):
    """The store copied; asked again, it says that the target exists."""
    client.upload_blob("a", b"1")
    seen = await volume.stat("a")
    request = volume._store.request
    seen_requests = []

    async def twice(method, name, **arguments):
        answer = await request(method, name, **arguments)
        if method in {"PUT", "DELETE"}:
            seen_requests.append(method)
            try:
                return await request(method, name, **arguments)
            except OSError as error:
                error.uncertain = True
                raise
        return answer

    monkeypatch.setattr(volume._store, "request", twice)
    renamed = await volume.rename("a", "b", seen, replace=replace)
    assert seen_requests == ["PUT", "DELETE"]
    assert (await volume.stat("b")).version == renamed.version
    await volume.unlink("b")
    assert contents(client) == {}


async def test_a_refused_deletion_leaves_the_old_name_only(volume, client, monkeypatch):
    client.upload_blob("a", b"1")
    seen = await volume.stat("a")
    refused = PermissionError(errno.EACCES, "no")
    Faults(
        volume, monkeypatch, at=0, error=refused, matching=lambda m, n: (m, n) == ("DELETE", "a")
    )
    with pytest.raises(PermissionError):
        await volume.rename("a", "b", seen, replace=False)
    assert contents(client) == {"a": b"1"}


@pytest.mark.parametrize("replace", [True, False])
async def test_a_deletion_that_may_have_been_done_is_not_undone(
    volume, client, monkeypatch, replace
):
    """The copy may be all that is left: deleting it would lose the file."""
    client.upload_blob("a", b"1")
    seen = await volume.stat("a")
    unknown = OSError(errno.ETIMEDOUT, "no answer")
    unknown.uncertain = True
    Faults(
        volume, monkeypatch, at=0, after=True, error=unknown, matching=lambda m, n: m == "DELETE"
    )
    with pytest.raises(TimeoutError):
        await volume.rename("a", "b", seen, replace=replace)
    assert contents(client) == {"b": b"1"}


async def crash_in_move(volume, monkeypatch, at, *, after, replace):
    with monkeypatch.context() as faulty:
        Faults(volume, faulty, at=at, after=after)
        try:
            await volume.rename("a", "b", await volume.stat("a"), replace=replace)
        except CrashError:
            return True
    return False


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_in_the_rename_of_a_file_leaves_one_name(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch, replace, after
):
    for step in itertools.count():
        client.upload_blob("a", b"new", overwrite=True)
        if replace:
            client.upload_blob("b", b"replaced", overwrite=True)
        crashed = await crash_in_move(volume, monkeypatch, step, after=after, replace=replace)
        if crashed:
            async with opened(storage, blob_container, tmp_path) as next_mount:
                await next_mount.recover()
        assert no_intents(intents)
        before = {"a": b"new"} | ({"b": b"replaced"} if replace else {})
        begun = step > 0 or after
        assert contents(client) == ({"b": b"new"} if begun or not crashed else before), step
        client.delete_blob("b") if begun else None
        if not crashed:
            break
    assert step == 2


@pytest.mark.parametrize("which", ["a", "b"])
async def test_what_changed_after_a_crash_keeps_both_names(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch, which
):
    client.upload_blob("a", b"old")
    assert await crash_in_move(volume, monkeypatch, 0, after=True, replace=False)
    client.upload_blob(which, b"changed since", overwrite=True)
    async with opened(storage, blob_container, tmp_path) as next_mount:
        await next_mount.recover()
    assert contents(client) == {"a": b"old", "b": b"old"} | {which: b"changed since"}
    assert no_intents(intents)


@pytest.mark.parametrize("change", [b"other", b"older"])
async def test_an_older_copy_is_not_taken_for_the_one_that_was_not_made(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch, change
):
    client.upload_blob("a", b"older")
    await volume.rename("a", "b", await volume.stat("a"), replace=True)
    client.upload_blob("a", change, metadata={"its": "own"})
    assert await crash_in_move(volume, monkeypatch, 0, after=False, replace=True)
    async with opened(storage, blob_container, tmp_path) as next_mount:
        await next_mount.recover()
    assert contents(client) == {"a": change, "b": b"older"}
    assert no_intents(intents)


async def test_the_note_of_a_file_waits_for_no_disk_and_needs_none(
    volume, client, intents, monkeypatch
):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for target, source in itertools.pairwise("cba"):
        client.upload_blob(source, b"1", overwrite=True)
        await volume.rename(source, target, await volume.stat(source), replace=True)
        assert contents(client) == {target: b"1"}
        assert no_intents(intents)
        client.delete_blob(target)
        monkeypatch.setattr(os, "write", full)


async def test_a_deletion_of_which_nobody_knows_is_done_again_while_mounted(
    volume, client, intents, monkeypatch
):
    client.upload_blob("a", b"1")
    seen = await volume.stat("a")
    unknown = OSError(errno.ETIMEDOUT, "no answer")
    unknown.uncertain = True
    async with settling(volume):
        with monkeypatch.context() as faulty:
            Faults(volume, faulty, at=0, error=unknown, matching=lambda m, n: m == "DELETE")
            with pytest.raises(TimeoutError):
                await volume.rename("a", "b", seen, replace=True)
        assert contents(client) == {"a": b"1", "b": b"1"}
        await until(lambda: no_intents(intents))
    assert contents(client) == {"b": b"1"}


# -- directories --------------------------------------------------------------------------------

TREE = {"x": b"1", "y z": b"22", "e/f": b"333", "e/g/h": b"4", "_%": b""}


async def plant(volume, client, root="d"):
    await volume.make_directory(root, Changes(mode=0o750))
    for name, data in TREE.items():
        client.upload_blob(f"{root}/{name}", data)
    return {f"{root}/{name}" if name else root: data for name, data in {**TREE, "": b""}.items()}


async def test_a_directory_with_all_that_is_below(volume, client, intents):
    await plant(volume, client)
    await volume.rename("d", "new", await volume.stat("d"), replace=False)
    assert contents(client) == {"new": b"", **{f"new/{name}": data for name, data in TREE.items()}}
    assert (await volume.stat("new")).mode == 0o750
    assert no_intents(intents)


async def test_how_far_a_rename_is_can_be_seen(volume, client, monkeypatch):
    await plant(volume, client)
    left = []
    copy = Copies.copy

    async def noted(self, source, target, condition):
        left.append(volume.statistics()["rename_steps_left"])
        return await copy(self, source, target, condition)

    monkeypatch.setattr(Copies, "copy", noted)
    monkeypatch.setattr("fuse.blob.trees.CONCURRENCY", 1)
    await volume.rename("d", "new", await volume.stat("d"), replace=False)
    steps = 2 * (len(TREE) + 1)
    assert left == list(range(steps, steps // 2, -1))
    assert volume.statistics()["rename_steps_left"] == 0


@pytest.mark.parametrize("phase", ["copying", "deleting"])
async def test_completing_a_large_rename_costs_few_requests_more(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch, phase
):
    for number in range(40):
        client.upload_blob(f"d/{number}", b"")
    done = 10 if phase == "copying" else 50
    assert await crash_in_rename(volume, monkeypatch, done, after=True)
    async with opened(storage, blob_container, tmp_path) as next_mount:
        before = next_mount.statistics()["requests"]
        await next_mount.recover()
        requests = next_mount.statistics()["requests"] - before
    assert len([name for name in contents(client) if name.startswith("new/")]) == 40
    # What was copied already is found so, and copied anew.
    assert requests <= (80 + 2 * 40 + 5 if phase == "copying" else 40 + 5)


async def test_directories_without_markers_and_over_empty_ones(volume, client):
    client.upload_blob("v/x", b"1")
    await volume.make_directory("empty", Changes(mode=0o700))
    client.upload_blob("slash/", b"")
    await volume.rename("v", "empty", await volume.stat("v"), replace=True)
    assert set(await listing(volume)) == {"empty", "slash"}
    await volume.rename("empty", "slash", await volume.stat("empty"), replace=True)
    assert contents(client) == {"slash": b"", "slash/": b"", "slash/x": b"1"}
    client.upload_blob("full/y", b"")
    for replace, expected in [(True, errno.ENOTEMPTY), (False, errno.EEXIST)]:
        with pytest.raises(OSError) as caught:
            await volume.rename("slash", "full", await volume.stat("slash"), replace=replace)
        assert caught.value.errno == expected
    with pytest.raises(FileNotFoundError):
        await volume.rename("missing", "m", await volume.stat("full"), replace=True)


async def test_names_that_become_too_long_are_refused_before_anything_is_done(volume, client):
    client.upload_blob("d/" + "n" * 1000, b"1")
    with pytest.raises(OSError) as caught:
        await volume.rename("d", "m" * 100, await volume.stat("d"), replace=False)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert len(contents(client)) == 1


async def crash_in_rename(volume, monkeypatch, at, after):
    faults = Faults(volume, monkeypatch, at=at, after=after)
    with trio.CancelScope() as scope:
        try:
            await volume.rename("d", "new", await volume.stat("d"), replace=False)
        except BaseException as error:
            if not is_crash(error):
                raise
            scope.cancel()
            monkeypatch.undo()
            return True
    monkeypatch.undo()
    assert faults.count
    return False


def is_crash(error):
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_crash, error.exceptions))
    return isinstance(error, CrashError) or (
        error.__cause__ is not None and is_crash(error.__cause__)
    )


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_any_request_is_completed_by_the_next_mount(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch, after
):
    for step in itertools.count():
        for blob in client.list_blobs():
            client.delete_blob(blob.name)
        await plant(volume, client)
        crashed = await crash_in_rename(volume, monkeypatch, step, after)
        if crashed:
            async with opened(storage, blob_container, tmp_path) as next_mount:
                await next_mount.recover()
        expected = {"new": b"", **{f"new/{name}": data for name, data in TREE.items()}}
        assert contents(client) == expected, f"crash at request {step}"
        assert no_intents(intents)
        if not crashed:
            break
    assert step >= 2 * len(TREE)


async def test_a_crash_is_undone_where_the_source_has_changed(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch
):
    await plant(volume, client)
    assert await crash_in_rename(volume, monkeypatch, 3, after=True)
    client.upload_blob("d/x", b"changed since", overwrite=True)
    client.upload_blob("new/others", b"made by another node")
    async with opened(storage, blob_container, tmp_path) as next_mount:
        await next_mount.recover()
    found = contents(client)
    assert found.pop("d/x") == b"changed since"
    assert found.pop("new/others") == b"made by another node"
    expected = {f"d/{name}": data for name, data in TREE.items() if name != "x"}
    assert found == {"d": b"", **expected}
    assert no_intents(intents)


async def test_undoing_keeps_a_copy_whose_original_is_gone(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch
):
    await plant(volume, client)
    assert await crash_in_rename(volume, monkeypatch, len(TREE), after=True)
    copied = [name for name in contents(client) if name.startswith("new/")]
    client.delete_blob(copied[0].replace("new", "d", 1))
    async with opened(storage, blob_container, tmp_path) as next_mount:
        await next_mount.recover()
    assert [name for name in contents(client) if name.startswith("new")] == copied[:1]
    assert no_intents(intents)


async def test_while_deleting_what_changed_is_kept_under_both_names(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch
):
    await plant(volume, client)
    assert await crash_in_rename(volume, monkeypatch, len(TREE) + 2, after=True)
    left = [name for name in contents(client) if name.startswith("d/")]
    assert len(left) >= 2
    client.upload_blob(left[0], b"changed since", overwrite=True)
    client.delete_blob(f"new{left[1].removeprefix('d')}")
    kept = client.download_blob(left[1]).readall()
    async with opened(storage, blob_container, tmp_path) as next_mount:
        await next_mount.recover()
    found = contents(client)
    assert found[left[0]] == b"changed since"
    assert found[left[1]] == kept, "its only copy"
    assert sum(name.startswith("d/") for name in found) == 2


async def test_a_live_rename_is_not_taken_for_a_crashed_one(
    storage, blob_container, volume, client, intents, tmp_path
):
    await plant(volume, client)
    with Intents(intents).begin("rename", {"source": "d", "target": "new", "blobs": []}):
        await volume.recover()
        assert not no_intents(intents)
    await volume.recover()
    assert no_intents(intents)


async def test_a_failure_while_mounted_is_undone(volume, client, intents, monkeypatch):
    before = await plant(volume, client)
    for step in itertools.count():
        refused = PermissionError(errno.EACCES, "no")
        matching = lambda m, n: m == "PUT" or n.startswith("d")  # noqa: E731
        Faults(volume, monkeypatch, at=step, error=refused, matching=matching)
        if step > len(before):
            break
        with pytest.raises(PermissionError):
            await volume.rename("d", "new", await volume.stat("d"), replace=False)
        monkeypatch.undo()
        assert contents(client) == before, f"request {step}"
        assert no_intents(intents)


async def test_a_failure_after_the_first_deletion_is_completed_by_the_next_mount(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch
):
    before = await plant(volume, client)
    refused = PermissionError(errno.EACCES, "no")
    Faults(volume, monkeypatch, at=2, error=refused, matching=lambda m, n: m == "DELETE")
    with pytest.raises(PermissionError):
        await volume.rename("d", "new", await volume.stat("d"), replace=False)
    monkeypatch.undo()
    assert not no_intents(intents)
    async with opened(storage, blob_container, tmp_path) as next_mount:
        await next_mount.recover()
    assert contents(client) == {name.replace("d", "new", 1): data for name, data in before.items()}
    assert no_intents(intents)


# -- settled while mounted ------------------------------------------------------------------------


UNREACHABLE = OSError(errno.EIO, "the store does not answer")


async def test_what_fails_while_copying_is_undone_while_mounted(
    volume, client, intents, monkeypatch
):
    """The program was told that it failed: it is not completed behind its back."""
    before = await plant(volume, client)
    attributes = await volume.stat("d")
    async with settling(volume):
        Faults(volume, monkeypatch, at=3, error=UNREACHABLE, for_ever=True)
        with pytest.raises(OSError, match="does not answer"):
            await volume.rename("d", "new", attributes, replace=False)
        (warning,) = volume.warnings()
        assert "d → new" in warning
        assert "does not answer" in warning
        assert volume.statistics()["unsettled"] == 1
        assert set(contents(client)) > set(before), "half a tree"
        monkeypatch.undo()
        await until(lambda: no_intents(intents))
        assert contents(client) == before
        await until(lambda: not volume.warnings())
        await volume.rename("d", "new", attributes, replace=False)
    assert "d" not in contents(client)


async def test_what_fails_while_deleting_is_completed_while_mounted(
    volume, client, intents, monkeypatch
):
    before = await plant(volume, client)
    async with settling(volume):
        refused = PermissionError(errno.EACCES, "no")
        Faults(
            volume,
            monkeypatch,
            at=2,
            error=refused,
            for_ever=True,
            matching=lambda m, n: m == "DELETE",
        )
        with pytest.raises(PermissionError):
            await volume.rename("d", "new", await volume.stat("d"), replace=False)
        monkeypatch.undo()
        await until(lambda: no_intents(intents))
    assert contents(client) == {name.replace("d", "new", 1): data for name, data in before.items()}


async def test_a_half_tree_is_not_renamed_and_what_asks_for_it_has_it_settled(
    volume, client, intents, monkeypatch
):
    before = await plant(volume, client)
    await volume.make_directory("elsewhere", Changes())
    attributes = await volume.stat("d")
    # Nobody but who asks has it tried again.
    monkeypatch.setattr(unsettled._Failed, "due", lambda self: 0 if self.wanted else math.inf)
    async with settling(volume):
        with monkeypatch.context() as faulty:
            Faults(volume, faulty, at=3, error=UNREACHABLE, for_ever=True)
            with pytest.raises(OSError, match="does not answer"):
                await volume.rename("d", "new", attributes, replace=False)
            for source, target in [("d/e", "elsewhere/e"), ("elsewhere", "new"), ("d", "x")]:
                with pytest.raises(OSError, match="incomplete") as caught:
                    await volume.rename(source, target, attributes, replace=False)
                assert caught.value.errno == errno.EBUSY
        with trio.fail_after(20):
            while True:
                try:
                    await volume.stat("new")
                except FileNotFoundError:
                    break
        assert contents(client) == {**before, "elsewhere": b""}
        assert no_intents(intents)


async def test_a_failed_exchange_of_directories_is_settled_while_mounted(
    volume, client, intents, monkeypatch
):
    client.upload_blob("a/1", b"of a")
    client.upload_blob("b/2", b"of b")
    async with settling(volume):
        for step in range(0, 9, 2):
            with monkeypatch.context() as faulty:
                Faults(volume, faulty, at=step, error=UNREACHABLE, for_ever=True)
                with contextlib.suppress(OSError):
                    await volume.exchange("a", "b")
            await until(lambda: no_intents(intents))
            assert contents(client) in (
                {"a/1": b"of a", "b/2": b"of b"},
                {"a/2": b"of b", "b/1": b"of a"},
            ), step


async def test_what_cannot_be_recovered_at_first_is_tried_again(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch
):
    before = await plant(volume, client)
    assert await crash_in_rename(volume, monkeypatch, 3, after=True)
    async with opened(storage, blob_container, tmp_path) as next_mount:
        with monkeypatch.context() as faulty:
            Faults(next_mount, faulty, at=0, error=UNREACHABLE, for_ever=True)
            await next_mount.recover()
        assert len(next_mount.warnings()) == 1
        async with settling(next_mount):
            await until(lambda: no_intents(intents))
    assert contents(client) == {name.replace("d", "new", 1): data for name, data in before.items()}


async def test_a_long_recovery_does_not_keep_the_mount_waiting(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch
):
    """What asks for its names waits for it instead."""
    before = await plant(volume, client)
    assert await crash_in_rename(volume, monkeypatch, 3, after=True)
    monkeypatch.setattr(fuse.blob.volume, "RECOVERY", 0.0)
    async with opened(storage, blob_container, tmp_path) as next_mount:
        await next_mount.recover()
        assert not no_intents(intents)
        async with settling(next_mount):
            assert (await next_mount.stat("new/e/g/h")).size == 1
            with pytest.raises(FileNotFoundError):
                await next_mount.stat("d")
    assert contents(client) == {name.replace("d", "new", 1): data for name, data in before.items()}
    assert no_intents(intents)


def test_a_rename_that_the_store_refuses_half_way_is_undone_while_mounted(
    storage, blob_container, client, short_path, eventually
):
    for number in range(20):
        client.upload_blob(f"tree/{number}", str(number).encode())
    with FaultProxy(storage.blob_endpoint) as proxy:
        spec = volume_spec("blob", storage, blob_container, None) | {
            "endpoint": proxy.endpoint,
            "retryDeadline": 2,
        }
        with driver(spec, short_path) as mounted:
            proxy.always(answer(503, "ServerBusy"), match="renamed/1")
            proxy.always(answer(503, "ServerBusy"), method="DELETE")
            with pytest.raises(OSError, match=r"error|timed out"):
                os.rename(mounted.path / "tree", mounted.path / "renamed")
            assert mounted.stats()["unsettled"] == 1
            (warning,) = mounted.ask("status")["result"]["warnings"]
            assert "tree → renamed" in warning
            assert (mounted.path / "tree" / "7").read_bytes() == b"7"
            proxy.clear()
            eventually(lambda: mounted.stats()["unsettled"] == 0)
            assert os.listdir(mounted.path) == ["tree"]
            os.rename(mounted.path / "tree", mounted.path / "renamed")
    assert {blob.name for blob in client.list_blobs()} == {f"renamed/{n}" for n in range(20)}


async def test_a_rename_that_is_interrupted_is_completed_later(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch
):
    before = await plant(volume, client)
    attributes = await volume.stat("d")
    copy = Copies.copy
    with trio.CancelScope() as scope:

        async def slow(self, source, target, condition):
            if target.endswith("/x"):
                scope.cancel()
            return await copy(self, source, target, condition)

        monkeypatch.setattr(Copies, "copy", slow)
        await volume.rename("d", "new", attributes, replace=False)
    assert scope.cancelled_caught
    monkeypatch.undo()
    await volume.recover()
    assert contents(client) == {name.replace("d", "new", 1): data for name, data in before.items()}


async def test_files_made_meanwhile_go_along(volume, client, monkeypatch):
    before = await plant(volume, client)
    copy = Copies.copy

    async def raced(self, source, target, condition):
        if target == "new/x":
            client.upload_blob("d/late", b"late")
        return await copy(self, source, target, condition)

    monkeypatch.setattr(Copies, "copy", raced)
    await volume.rename("d", "new", await volume.stat("d"), replace=False)
    expected = {name.replace("d", "new", 1): data for name, data in before.items()}
    assert contents(client) == {**expected, "new/late": b"late"}


async def test_a_full_disk_refuses_the_rename_before_it_begins(
    volume, client, intents, monkeypatch
):
    before = await plant(volume, client)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        await volume.rename("d", "new", await volume.stat("d"), replace=False)
    monkeypatch.undo()
    assert contents(client) == before


# -- exchange -----------------------------------------------------------------------------------


async def test_two_files_change_places(volume, client, intents):
    client.upload_blob("a", b"of a", metadata={"k": "a"})
    client.upload_blob("d/b", b"of b!")
    await volume.exchange("a", "d/b")
    assert contents(client) == {"a": b"of b!", "d/b": b"of a"}
    assert (await volume.stat("d/b")).xattrs == (("user.k", b"a"),)
    assert no_intents(intents)
    with pytest.raises(FileNotFoundError):
        await volume.exchange("a", "missing")
    with pytest.raises(OSError) as caught:
        await volume.exchange("d", "d/b")
    assert caught.value.errno == errno.EINVAL


async def test_directories_change_places_and_a_file_with_one(volume, client, intents):
    await plant(volume, client)
    client.upload_blob("v/q", b"q")
    client.upload_blob("f", b"f")
    await volume.exchange("d", "v")
    assert await content(volume, "d/q") == b"q"
    assert await content(volume, "v/e/g/h") == b"4"
    assert (await volume.stat("v")).mode == 0o750
    await volume.exchange("f", "d")
    assert await content(volume, "f/q") == b"q"
    assert await content(volume, "d") == b"f"
    assert (await volume.stat("f")).kind is Kind.DIRECTORY
    assert no_intents(intents)


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_while_two_files_change_places(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch, after
):
    for step in itertools.count():
        client.upload_blob("a", b"of a", overwrite=True)
        client.upload_blob("b", b"of b!", overwrite=True)
        Faults(volume, monkeypatch, at=step, after=after)
        try:
            await volume.exchange("a", "b")
            crashed = False
        except CrashError:
            crashed = True
        monkeypatch.undo()
        if crashed:
            async with opened(storage, blob_container, tmp_path) as next_mount:
                await next_mount.recover()
        found = contents(client)
        assert found in ({"a": b"of a", "b": b"of b!"}, {"a": b"of b!", "b": b"of a"}), step
        assert no_intents(intents)
        if not crashed:
            break
    assert step == 4


async def test_a_crash_while_two_directories_change_places(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch
):
    for step in range(0, 40, 3):
        for blob in client.list_blobs():
            client.delete_blob(blob.name)
        client.upload_blob("a/1", b"of a")
        client.upload_blob("b/2", b"of b")
        Faults(volume, monkeypatch, at=step)
        try:
            await volume.exchange("a", "b")
            crashed = False
        except BaseException as error:
            if not is_crash(error):
                raise
            crashed = True
        monkeypatch.undo()
        if crashed:
            async with opened(storage, blob_container, tmp_path) as next_mount:
                await next_mount.recover()
        found = contents(client)
        assert found in (
            {"a/1": b"of a", "b/2": b"of b"},
            {"a/2": b"of b", "b/1": b"of a"},
        ), step
        assert no_intents(intents)
        if not crashed:
            break
    assert not crashed


async def test_a_failed_exchange_is_undone(volume, client, intents, monkeypatch):
    client.upload_blob("a", b"of a")
    client.upload_blob("b", b"of b")
    for step in range(3):
        refused = PermissionError(errno.EACCES, "no")
        Faults(volume, monkeypatch, at=step, error=refused)
        with pytest.raises(PermissionError):
            await volume.exchange("a", "b")
        monkeypatch.undo()
        assert contents(client) == {"a": b"of a", "b": b"of b"}, step
        assert no_intents(intents)


async def test_an_exchange_does_not_overwrite_what_others_write(volume, client, monkeypatch):
    client.upload_blob("a", b"of a")
    client.upload_blob("b", b"of b")
    copy = Copies.copy

    async def raced(self, source, target, condition):
        if source.name.endswith(".exchange") and target == "b":
            client.upload_blob("b", b"others", overwrite=True)
        return await copy(self, source, target, condition)

    monkeypatch.setattr(Copies, "copy", raced)
    with pytest.raises(OSError) as caught:
        await volume.exchange("a", "b")
    assert caught.value.errno == errno.ESTALE
    assert contents(client) == {"a": b"of a", "b": b"others"}


# -- with the network in between ------------------------------------------------------------------


@pytest.fixture
def proxy(storage):
    with FaultProxy(storage.blob_endpoint) as running:
        yield running


@pytest.fixture
async def far(storage, blob_container, tmp_path, proxy):
    """The volume behind a proxy."""
    async with opened(storage, blob_container, tmp_path, endpoint=proxy.endpoint) as found:
        yield found


async def test_operations_whose_answers_are_lost_have_been_done(far, proxy, client):
    async def once(method, operation, match=""):
        proxy.clear()
        proxy.once(lose_answer(), method=method, match=match)
        done = await operation
        assert sum(request.fault is not None for request in proxy.requests) == 1
        proxy.requests.clear()
        return done

    made = await once("PUT", far.create("f", Changes(mode=0o600, uid=0, gid=0)))
    changed = await once("PUT", far.set_attributes("f", made, Changes(mode=0o640)), "comp=metadata")
    assert (await far.stat("f")).version == changed.version
    for replace in [False, True]:
        renamed = await once("PUT", far.rename("f", "g", changed, replace=replace))
        assert (await far.stat("g")).version == renamed.version
        changed = await once("DELETE", far.rename("g", "f", renamed, replace=replace))
    await once("PUT", far.make_directory("d", Changes(mode=0o700)))
    await once("PUT", far.rename("f", "d/f", changed, replace=False))
    directory = await far.stat("d")
    await once("PUT", far.rename("d", "e", directory, replace=False), "e/f")
    await once("DELETE", far.rename("e", "d", directory, replace=False))
    await once("DELETE", far.unlink("d/f"))
    await once("DELETE", far.remove_directory("d"))
    assert contents(client) == {}


async def test_a_rename_that_never_gets_an_answer_is_settled_by_the_next_mount(
    storage, blob_container, volume, client, intents, tmp_path, monkeypatch
):
    """The store is out of reach half-way: nothing can be undone, and nothing is forgotten."""
    before = await plant(volume, client)
    unreachable = OSError(errno.EIO, "the store does not answer")
    Faults(volume, monkeypatch, at=3, error=unreachable, for_ever=True)
    with pytest.raises(OSError, match="does not answer"):
        await volume.rename("d", "new", await volume.stat("d"), replace=False)
    monkeypatch.undo()
    assert not no_intents(intents)
    await volume.recover()
    assert contents(client) in (
        before,
        {name.replace("d", "new", 1): data for name, data in before.items()},
    )
    assert no_intents(intents)


def test_a_killed_driver_leaves_a_rename_that_the_next_one_completes(
    storage, blob_container, client, proxy, short_path, eventually
):
    for number in range(40):
        client.upload_blob(f"tree/{number % 4}/{number}", str(number).encode())
    spec = volume_spec("blob", storage, blob_container, None) | {"endpoint": proxy.endpoint}
    with driver(spec, short_path) as mounted:
        proxy.always(stall_before(), method="PUT", match="renamed/3/")
        renaming = subprocess.Popen(["mv", mounted.path / "tree", mounted.path / "renamed"])
        eventually(lambda: len(list(client.list_blob_names(name_starts_with="renamed/"))) >= 25)
        mounted.process.kill()
        mounted.process.wait()
        assert renaming.wait(30) != 0
        subprocess.run(["umount", "-l", mounted.path], check=True)
    proxy.clear()
    with driver(spec, short_path) as mounted:
        found = sorted((mounted.path / "renamed").glob("*/*"))
        assert [int(path.read_bytes()) for path in found] == [int(path.name) for path in found]
        assert len(found) == 40
        assert not (mounted.path / "tree").exists()
        assert "completed a rename that was interrupted" in mounted.log.read_text()
