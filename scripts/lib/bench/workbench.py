"""What experiments share: servers, data and places, made when somebody first needs them."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from bench.contenders import RCLONES, Contender, Ours
from bench.data import Scale
from bench.errors import BenchError
from bench.servers import Service, azurite, static
from bench.servers.delay import delayed

Result = TypeVar("Result")


class Workbench:
    """See the module. Leaving it ends the servers and removes the data.

    Args:
        directory: An empty one for everything; its path must be short (unix sockets).
        scale: How much data.
        peers: Beside rclone.

    Attributes:
        scale: How much data.
        ours: Our contender.
        peers: All others.
    """

    def __init__(self, directory: Path, scale: Scale, peers: Sequence[Contender] = ()) -> None:
        self.scale = scale
        self.ours: Contender = Ours()
        self.peers: tuple[Contender, ...] = (*RCLONES, *peers)
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._static: static.StaticServer | None = None
        self._azurite: azurite.AzuriteServer | None = None
        self._services: dict[str, Service] = {}
        self._published: dict[str, object] = {}
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def static(self) -> static.StaticServer:
        """nginx, in clear and over TLS."""
        if self._static is None:
            self._static = self._stack.enter_context(static.running(self._directory / "static"))
        return self._static

    @property
    def azurite(self) -> azurite.AzuriteServer:
        """Azurite."""
        if self._azurite is None:
            self._azurite = self._stack.enter_context(azurite.running(self._directory / "azurite"))
        return self._azurite

    def service(self, name: str) -> Service:
        """``static``, ``static+tls``, ``azurite``; any with ``+20ms`` behind a proxy that delays.

        ``azurite+0ms`` is Azurite behind a proxy that only counts.
        """
        if name not in self._services:
            self._services[name] = self._made(name)
        return self._services[name]

    def _made(self, name: str) -> Service:
        base, _, delay = name.rpartition("+") if name.endswith("ms") else (name, "", "")
        if delay:
            milliseconds = float(delay.removesuffix("ms"))
            return self._stack.enter_context(
                delayed(self.service(base), milliseconds, self._directory)
            )
        match base:
            case "static" | "static+tls":
                return self.static.service(tls=base == "static+tls")
            case "azurite":
                return self.azurite.service()
        raise BenchError(f"there is no service {name}")

    def published(self, container: str, build: Callable[[Path], Result]) -> Result:
        """A container of the static server, filled by ``build`` when it is first asked for.

        Args:
            container: Its name.
            build: Gets the directory; what it returns is remembered.
        """
        if container not in self._published:
            self._published[container] = build(self.static.container(container))
            self.static.index(container)
        result: Result = self._published[container]  # type: ignore[assignment]
        return result

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        """A directory for one cold mount: nothing of an earlier one is in it, or stays."""
        path = self._directory / f"p{next(self._numbers)}"
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path)
