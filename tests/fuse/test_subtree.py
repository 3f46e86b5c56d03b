"""A directory of a volume as a volume."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager

import pytest

from fuse.errors import MountError
from fuse.subtree import Subtree, opened
from fuse.volume import Attributes, Kind, Volume


class Recording:
    """A volume that notes the paths it is asked for."""

    source = "account/container"
    identity = "blob:https://account/container"
    keeps_xattrs = True

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        member = inspect.getattr_static(Volume, name, None)
        if member is None:
            return f"<{name}>"  # a plain attribute, as annotated

        def noted(*arguments, **named):
            self.calls.append((name, *[one for one in arguments if isinstance(one, str)]))
            return f"<{name}>"

        async def awaited(*arguments, **named):
            return noted(*arguments, **named)

        return awaited if inspect.iscoroutinefunction(member) else noted


def members():
    return {name for name in {*vars(Volume), *Volume.__annotations__} if not name.startswith("_")}


async def test_everything_that_a_volume_has_is_there_and_reaches_the_directory():
    whole = Recording()
    part = Subtree(whole, "a/b")
    called = 0
    for name in sorted(members()):
        member = inspect.getattr_static(Volume, name, None)
        assert hasattr(part, name), name
        if not inspect.isfunction(member):
            continue
        parameters = list(inspect.signature(member).parameters.values())[1:]
        paths = [one.name for one in parameters if one.annotation == "str"]
        arguments = {one.name: "x" if one.annotation == "str" else object() for one in parameters}
        if name == "readlink":
            assert paths == ["path"]
        if name == "symlink":
            paths.remove("target")  # the target of a link is its own business
        keywords = {
            one.name: arguments.pop(one.name)
            for one in parameters
            if one.kind is inspect.Parameter.KEYWORD_ONLY
        }
        result = getattr(part, name)(*arguments.values(), **keywords)
        if inspect.isawaitable(result):
            result = await result
        assert result in {f"<{name}>", None}, name
        assert whole.calls[-1][0] == name
        got = list(whole.calls[-1][1:])
        assert got[: len(paths)] == ["a/b/x"] * len(paths), name
        called += 1
    assert called > 15
    assert await part.stat("") == "<stat>"
    assert whole.calls[-1] == ("stat", "a/b")


def test_it_is_another_volume_to_caches_and_to_people():
    part = Subtree(Recording(), "a/b")
    assert part.identity == "blob:https://account/container/a/b"
    assert part.source == "account/container/a/b"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (FileNotFoundError(2, "No such file"), "has no directory"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (Attributes(Kind.FILE), "is not a directory"),
    ],
)
async def test_what_is_no_directory_cannot_be_mounted(found, said):
    class Whole(Recording):
        async def stat(self, path):
            assert path == "d"
            if isinstance(found, Exception):
                raise found
            return found

    @asynccontextmanager
    async def volume():
        yield Whole()

    with pytest.raises(MountError) as caught:
        async with opened(volume(), "d"):
            pytest.fail("it was opened")
    assert said in caught.value.message


async def test_without_a_directory_it_is_the_volume_itself():
    whole = Recording()

    @asynccontextmanager
    async def volume():
        yield whole

    async with opened(volume(), "") as found:
        assert found is whole
