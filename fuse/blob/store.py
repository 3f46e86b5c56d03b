"""Requests to one container: bulk bytes over our transport, everything else through the SDK."""

from __future__ import annotations

import base64
import errno
import functools
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import tenacity
import trio
from azure.core.exceptions import AzureError
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.storage.blob import ContainerClient, ExponentialRetry
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy

from fuse.blob.errors import RETRIED, from_sdk, mount_error, to_oserror
from fuse.blob.transport import Pool, Response, TransportError
from fuse.volume import Progress

Result = TypeVar("Result")

#: Service version of our own requests: any since 2019-12-12 has what they use.
SERVICE_VERSION = "2021-12-02"

#: Seconds after which an operation that keeps failing is given up.
DEADLINE = 120.0


class RetryableStatusError(Exception):
    """The service asked for another try."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"HTTP {response.status}")
        self.response = response


class BlobStore:
    """One container.

    Args:
        account: Storage account's name.
        endpoint: Blob endpoint of the account, without a trailing slash.
        container: The container's name.
        key: Account key, base64.
        connections: Most concurrent bulk requests.
    """

    def __init__(
        self, *, account: str, endpoint: str, container: str, key: str, connections: int = 32
    ) -> None:
        self.account = account
        self.endpoint = endpoint.rstrip("/")
        self.container = container
        self.counters: Counter[str] = Counter(
            requests=0, retries=0, errors=0, bytes_received=0, bytes_sent=0
        )
        self._base_path = f"{urlsplit(self.endpoint).path}/{quote(container)}"
        self._signer = SharedKeyCredentialPolicy(account, key)  # type: ignore[no-untyped-call]
        self._pool = Pool(self.endpoint, limit=connections)
        self._threads = trio.CapacityLimiter(16)
        # The SDK's first retry waits 15 s by default; a file system is not that patient.
        self.client = ContainerClient(
            self.endpoint,
            container,
            credential={"account_name": account, "account_key": key},
            retry_policy=ExponentialRetry(
                initial_backoff=1, increment_base=2, retry_total=5, random_jitter_range=1
            ),
            connection_timeout=10,
            read_timeout=60,
            # Copy sources and large listings are ours to check, not the SDK's to log.
            logging_enable=False,
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BlobStore]:
        """Check that the container can be used; close connections at the end.

        Raises:
            MountError: It cannot, and why.
        """
        try:
            await self._check()
            yield self
        finally:
            self._pool.close()
            await trio.to_thread.run_sync(self.client.close)

    async def _check(self) -> None:
        try:
            await trio.to_thread.run_sync(
                functools.partial(
                    self.client.get_container_properties,
                    # Somebody waits for this answer: a short patience, not that of a transfer.
                    retry_total=1,
                    connection_timeout=5,
                    read_timeout=8,
                    timeout=8,
                ),
                abandon_on_cancel=True,
                limiter=self._threads,
            )
        except AzureError as error:
            raise mount_error(
                error, account=self.account, container=self.container, endpoint=self.endpoint
            ) from error

    async def call(
        self, path: str, function: Callable[..., Result], *args: Any, **kwargs: Any
    ) -> Result:
        """Call the SDK in a thread; its errors become OSErrors about ``path``."""
        self.counters["requests"] += 1
        try:
            return await trio.to_thread.run_sync(
                functools.partial(function, *args, **kwargs),
                abandon_on_cancel=True,
                limiter=self._threads,
            )
        except AzureError as error:
            translated = from_sdk(error, path)
            if translated.errno not in {errno.ENOENT, errno.EEXIST}:
                self.counters["errors"] += 1
            raise translated from error

    async def get_range(
        self, path: str, etag: str, offset: int, buffer: memoryview, progress: Progress
    ) -> None:
        """Fill ``buffer`` from ``offset`` of the version ``etag``; resumes after a broken body."""
        done = 0
        received = 0

        def note(filled: int) -> None:
            nonlocal received
            received = filled
            progress(done + filled)

        async def attempt() -> None:
            nonlocal done, received
            received = 0
            wanted = len(buffer) - done
            headers = {
                "x-ms-range": f"bytes={offset + done}-{offset + len(buffer) - 1}",
                "If-Match": etag,
            }
            try:
                response = await self._once("GET", path, headers, into=buffer[done:], progress=note)
            except TransportError:
                done += received
                raise
            done += response.received
            self.counters["bytes_received"] += response.received
            if response.received != wanted:
                raise TransportError(errno.EIO, f"{response.received} of {wanted} bytes came")

        await self._retried(path, attempt)

    async def head(self, path: str) -> Response:
        """A blob's properties (Get Blob Properties)."""

        async def attempt() -> Response:
            return await self._once("HEAD", path, {})

        return await self._retried(path, attempt)

    async def put_blob(
        self, path: str, body: bytes | memoryview, headers: Mapping[str, str]
    ) -> Response:
        """Replace a blob's content in one request (Put Blob)."""
        return await self._put(path, "", body, {"x-ms-blob-type": "BlockBlob", **headers})

    async def put_block(self, path: str, identifier: str, body: bytes | memoryview) -> None:
        """Send one block (Put Block); it counts when a block list names it."""
        query = f"?blockid={quote(identifier, safe='')}&comp=block"
        await self._put(path, query, body, {})

    async def _put(
        self, path: str, query: str, body: bytes | memoryview, headers: Mapping[str, str]
    ) -> Response:
        # MD5 is what the service checks on arrival; it guards the wire, not against malice.
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        complete = {**headers, "Content-MD5": base64.b64encode(digest).decode()}

        async def attempt() -> Response:
            return await self._once("PUT", path, complete, body=body, query=query)

        response = await self._retried(path, attempt)
        self.counters["bytes_sent"] += len(body)
        return response

    async def _once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        query: str = "",
        body: bytes | memoryview = b"",
        into: memoryview | None = None,
        progress: Progress | None = None,
    ) -> Response:
        target = f"{self._base_path}/{quote(path)}{query}"
        signed = self._sign(method, target, headers, len(body))
        self.counters["requests"] += 1
        response = await self._pool.request(
            method, target, signed, body, into=into, progress=progress
        )
        if response.status in RETRIED:
            raise RetryableStatusError(response)
        if response.status >= 300:
            raise to_oserror(
                response.status,
                response.headers.get("x-ms-error-code"),
                path,
                response.headers.get("x-ms-request-id"),
            )
        return response

    def _sign(
        self, method: str, target: str, headers: Mapping[str, str], length: int
    ) -> dict[str, str]:
        parts = urlsplit(self.endpoint)
        request = HttpRequest(method, f"{parts.scheme}://{parts.netloc}{target}")
        request.headers.update(headers)
        request.headers["x-ms-version"] = SERVICE_VERSION
        request.headers["x-ms-date"] = formatdate(usegmt=True)
        if method == "PUT":
            request.headers["Content-Length"] = str(length)
        signing = PipelineRequest(request, PipelineContext(None))
        self._signer.on_request(signing)  # type: ignore[no-untyped-call]
        return dict(request.headers)

    async def _retried(self, path: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Try again, with backoff and jitter, what may go better another time."""

        def count(_state: tenacity.RetryCallState) -> None:
            self.counters["retries"] += 1

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type((TransportError, RetryableStatusError)),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
            stop=tenacity.stop_after_delay(DEADLINE),
            before_sleep=count,
            sleep=trio.sleep,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except RetryableStatusError as error:
            self.counters["errors"] += 1
            raise to_oserror(
                error.response.status,
                error.response.headers.get("x-ms-error-code"),
                path,
                error.response.headers.get("x-ms-request-id"),
            ) from error
        except TransportError as error:
            self.counters["errors"] += 1
            number = errno.ETIMEDOUT if error.errno == errno.ETIMEDOUT else errno.EIO
            raise OSError(number, error.strerror, path) from error
