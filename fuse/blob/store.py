"""Requests to one container, over our own transport.

Each is signed with the credential of the moment, tried again under one
deadline (:mod:`fuse.blob.retrying`), counted, and its failure becomes one log line and one
:class:`fuse.blob.errors.StoreError`.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote, urlsplit

import trio

from fuse.blob import checks, errors
from fuse.blob.connection import STALL_TIMEOUT
from fuse.blob.credentials import Credential, Keyring, SharedKey
from fuse.blob.errors import StoreError, mount_error, store_error, to_oserror
from fuse.blob.express import Express
from fuse.blob.requests import SAFE, Request, new_id, signed
from fuse.blob.retrying import DEADLINE, Failure, Operation, Patience, Retrier, retry_after
from fuse.blob.routes import Route
from fuse.blob.transport import (
    CertificateError,
    Pool,
    Response,
    TransportError,
)
from fuse.volume import Progress

MIB = 1024 * 1024

#: Bodies from this size on are hashed in a thread: it takes milliseconds, and lets go of the lock.
_HASH_ELSEWHERE = MIB

#: Seconds, and tries, for the check at the start: somebody waits for its answer.
_CHECK_DEADLINE = 15.0
_CHECK_TRIES = 3

#: A name that no one uses, to see whether blobs can be asked for at all.
_PROBE = ".batchai-mount-probe"

#: Bytes of a range that are new progress, so that the deadline starts anew.
_PROGRESS = 64 * 1024


class BlobStore:
    """One container.

    Args:
        account: Storage account's name.
        endpoint: Blob endpoint of the account.
        container: The container's name.
        credential: How requests are signed.
        key: In its place, the account's key in base64.
        connections: Most concurrent bulk requests.
        deadline: Seconds after which an operation that gets nowhere is given up.
        route: How the endpoint is reached; straight when None.
    """

    def __init__(
        self,
        *,
        account: str,
        endpoint: str,
        container: str,
        credential: Credential | None = None,
        key: str | None = None,
        connections: int = 32,
        deadline: float = DEADLINE,
        route: Route | None = None,
    ) -> None:
        if credential is None:
            assert key is not None, "a credential or a key"
            credential = SharedKey(account, key)
        self.account = account
        self.endpoint = endpoint.rstrip("/")
        self.container = container
        self.counters: Counter[str] = Counter(
            requests=0, retries=0, errors=0, bytes_received=0, bytes_sent=0
        )
        route = route or Route()
        stall = min(STALL_TIMEOUT, max(1.0, deadline / 2))
        parts = urlsplit(self.endpoint)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._encrypted = parts.scheme == "https"
        self._base_path = f"{parts.path}/{quote(container)}"
        self._keyring = Keyring(credential)
        self._retrier = Retrier(self.counters, deadline)
        self._pool = Pool(self.endpoint, limit=connections, route=route, stall=stall)
        #: Ranges that go the short way while it runs.
        self.express = Express(self._pool, self._keyring, self._base_path, self.counters)

    # -- life ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BlobStore]:
        """Check that the container can be used; close connections at the end.

        Raises:
            MountError: It cannot, and why.
        """
        try:
            await self._check(self._keyring)
            yield self
        finally:
            self._pool.close()

    @property
    def round_trip(self) -> float:
        """The shortest time until an answer began, in seconds; infinity before the first."""
        return self._pool.answering.least

    @property
    def credential(self) -> str:
        """Which kind of credential is in use, in words."""
        return self._keyring.current.description

    @property
    def read_only(self) -> bool:
        """Whether the credential is known to be good for reading only."""
        return self._keyring.current.read_only

    def statistics(self) -> dict[str, int | float]:
        """Counters, connections, and how long the store takes to answer."""
        return {
            **self.counters,
            "connections_opened": self._pool.opened,
            "ranges_given_up": self.express.given_up,
            **self._pool.answering.figures("first_byte"),
        }

    async def replace_credential(self, credential: Credential) -> None:
        """Go on with another credential, if the store takes it; else with the one that is there.

        Raises:
            MountError: The store refuses it, or does not answer.
        """
        await self._check(Keyring(credential))
        self._keyring.replace(credential)

    async def _check(self, keyring: Keyring) -> None:
        try:
            await self._look(keyring)
        except StoreError as error:
            raise mount_error(
                error,
                account=self.account,
                container=self.container,
                endpoint=self.endpoint,
                credential=keyring.current.description,
                hint=keyring.current.fault(),
            ) from error

    async def _look(self, keyring: Keyring) -> None:
        """List a name; a credential that may not list can ask for one, which need not be there."""
        listing = Request(method="GET", path="", query="restype=container&comp=list&maxresults=1")
        try:
            await self._send(listing, keyring=keyring, short=True)
        except PermissionError:
            try:
                await self._send(Request(method="HEAD", path=_PROBE), keyring=keyring, short=True)
            except StoreError as error:
                if error.status != 404 or error.code not in {"BlobNotFound", ""}:
                    raise

    # -- requests -----------------------------------------------------------------------------

    def url(self, path: str) -> str:
        """A blob as the source of a copy inside the store."""
        plain = f"{self._origin}{self._base_path}/{quote(path)}"
        return self._keyring.current.copy_source(plain)

    async def get_range(
        self, path: str, etag: str, offset: int, buffer: memoryview, progress: Progress
    ) -> None:
        """Fill ``buffer`` from ``offset`` of the version ``etag``; resumes after a broken body."""
        done = 0
        received = 0
        small = len(buffer) <= checks.LARGEST_CHECKED
        digests = checks.Digests()

        def note(filled: int) -> None:
            nonlocal received
            received = filled
            if not small:  # what will be checked as a whole is nobody's before that
                progress(done + filled)

        async def attempt(patience: Patience) -> None:
            nonlocal done, received
            received = 0
            start, end = offset + done, offset + len(buffer) - 1
            headers = {"x-ms-range": f"bytes={start}-{end}", "If-Match": etag}
            try:
                response = await self._try(
                    Request(method="GET", path=path, headers=headers),
                    patience,
                    into=buffer[done:],
                    progress=note,
                    check=functools.partial(checks.check_range, etag=etag, start=start, end=end),
                )
                if response.received != end - start + 1:
                    raise _again(
                        f"{response.received} of {end - start + 1} bytes came", path, "protocol"
                    )
                if small and not digests.agree(response, buffer):
                    done = received = 0
                    raise _again("the bytes are not those of the checksum", path, "protocol")
            finally:
                done += received
                self.counters["bytes_received"] += received
                if received >= _PROGRESS:
                    patience.renew()

        if buffer:
            await self._retrier.run(Operation(name="GET", path=path), attempt)
            progress(len(buffer))

    async def head(self, path: str) -> Response:
        """A blob's properties (Get Blob Properties)."""
        return await self._send(
            Request(method="HEAD", path=path, needs=("etag", "last-modified", "content-length"))
        )

    async def put_blob(
        self, path: str, body: bytes | memoryview, headers: Mapping[str, str]
    ) -> Response:
        """Replace a blob's content in one request (Put Blob)."""
        return await self._send(
            Request(
                method="PUT",
                path=path,
                headers={"x-ms-blob-type": "BlockBlob", **headers},
                body=body,
                needs=("etag", "last-modified"),
            )
        )

    async def put_block(self, path: str, identifier: str, body: bytes | memoryview) -> None:
        """Send one block (Put Block); it counts when a block list names it.

        Nothing is damaged on its way in TLS, and hashing takes longer than all else that is done
        to a block. The service keeps no checksum of one.
        """
        query = f"blockid={quote(identifier, safe='')}&comp=block"
        request = Request(method="PUT", path=path, query=query, body=body)
        await self._send(request, checked=not self._encrypted)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
        limit: int = 64 * MIB,
    ) -> Response:
        """Any other request to a blob, or to the container where ``path`` is "".

        Args:
            method: GET, HEAD, PUT or DELETE.
            path: The blob's name.
            query: Of the URL, quoted.
            headers: Without those that sign, and those that every request has.
            body: What to send; its MD5 goes with it.
            limit: Most bytes of an answer.

        Raises:
            StoreError: See :mod:`fuse.blob.errors`.
        """
        return await self._send(
            Request(
                method=method,
                path=path,
                query=query.removeprefix("?"),
                headers=headers or {},
                body=body,
                limit=limit,
            )
        )

    async def _send(
        self,
        request: Request,
        *,
        keyring: Keyring | None = None,
        short: bool = False,
        checked: bool = True,
    ) -> Response:
        if checked and request.method == "PUT" and "Content-MD5" not in request.headers:
            headers = {**request.headers, "Content-MD5": await _digest(request.body)}
            request = dataclasses.replace(request, headers=headers)
        operation = Operation(
            name=" ".join(filter(None, (request.method, request.query.partition("&blockid")[0]))),
            path=request.path,
            changes=request.method not in SAFE,
            repeatable=request.repeatable,
            deadline=min(_CHECK_DEADLINE, self._retrier.deadline) if short else None,
            tries=_CHECK_TRIES if short else None,
        )

        async def attempt(patience: Patience) -> Response:
            return await self._try(request, patience, keyring=keyring)

        response = await self._retrier.run(operation, attempt)
        self.counters["bytes_sent"] += len(request.body)
        return response

    async def _try(
        self,
        request: Request,
        patience: Patience,
        *,
        keyring: Keyring | None = None,
        into: memoryview | None = None,
        progress: Progress | None = None,
        check: Callable[[Response], None] | None = None,
    ) -> Response:
        keyring = keyring or self._keyring
        generation = keyring.generation
        await keyring.current.ready()
        client_request_id = patience.client_request_id = new_id()
        target, headers = signed(request, keyring.current, self._base_path, client_request_id)
        self.counters["requests"] += 1
        try:
            response = await self._pool.request(
                request.method,
                target,
                headers,
                request.body,
                into=into,
                progress=progress,
                check=check,
                watch=patience,
                limit=request.limit,
                patience=patience.seconds,
            )
            if response.status < 300:
                checks.check_headers(response, request.needs)
                return response
        except TransportError as error:
            timed_out = error.errno == errno.ETIMEDOUT
            raise Failure(
                store_error(
                    errno.ETIMEDOUT if timed_out else errno.EIO, str(error.strerror), request.path
                ),
                kind=error.kind,
                again=not isinstance(error, CertificateError),
                maybe_done=error.sent,
                client_request_id=client_request_id,
            ) from error
        raise await self._refused(
            to_oserror(
                response.status,
                errors.code_of(response.headers, response.body),
                request.path,
                response.headers.get("x-ms-request-id"),
            ),
            keyring,
            generation,
            asked=retry_after(response.headers.get("retry-after")),
            client_request_id=client_request_id,
        )

    async def _refused(
        self,
        error: StoreError,
        keyring: Keyring,
        generation: int,
        *,
        asked: float | None = None,
        client_request_id: str = "",
    ) -> Failure:
        """What an answer that is an error means for the operation."""
        again = error.status in errors.RETRIED or error.code in errors.RETRIED_CODES
        if error.refused:
            again = await keyring.renewed_since(generation)
            if not again and (fault := keyring.current.fault()) is not None:
                error.strerror = f"{error.strerror}: {fault}"
        return Failure(
            error,
            again=again,
            maybe_done=again and errors.may_be_done(error.status),
            retry_after=asked,
            client_request_id=client_request_id,
        )


def _again(reason: str, path: str, kind: str) -> Failure:
    return Failure(store_error(errno.EIO, reason, path), kind=kind, again=True)


async def _digest(body: bytes | memoryview) -> str:
    """MD5, which the service checks on arrival; it guards the wire, not against malice."""
    if len(body) >= _HASH_ELSEWHERE:
        return await trio.to_thread.run_sync(checks.md5, body)
    return checks.md5(body)
