"""Proving to the store who we are: account key, SAS, token, or nothing at all.

A credential signs requests one by one: that is what makes it possible to replace it under a running
mount.
"""

from __future__ import annotations

import binascii
import errno
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, urlsplit

import trio

from fuse.blob.errors import first_line, store_error
from fuse.blob.retrying import Failure
from fuse.blob.signing import Signer
from fuse.errors import MountError
from fuse.logs import log

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

#: What a token for blobs is asked for, in every cloud.
SCOPE = "https://storage.azure.com/.default"

#: A token is renewed when it has so many seconds left, and not used with less than the second.
AHEAD = 300.0
LEAST_LIFE = 15.0

#: Seconds that the issuer of tokens may take, and between two questions after a failure.
ISSUER_TIMEOUT = 60.0
ISSUER_PAUSE = 30.0


class Credential(Protocol):
    """How requests are signed.

    Attributes:
        description: Its kind, in words for people.
        read_only: It is known that nothing can be changed with it.
    """

    description: str
    read_only: bool

    @property
    def is_ready(self) -> bool:
        """Whether :meth:`sign` can be called now, and :meth:`ready` would have nothing to do."""

    async def ready(self) -> None:
        """Make sure that :meth:`sign` can be called now.

        Raises:
            Failure: No token was to be had.
        """

    async def renew(self) -> bool:
        """After the store refused it: whether there is something newer to try now."""

    def sign(self, method: str, target: str, headers: dict[str, str], /) -> str:
        """Add what proves who we are to the headers, or to the target. Any thread may call it.

        Args:
            method: GET, PUT, ...
            target: Path and query of the URL, quoted.
            headers: All that will be sent.

        Returns:
            The target as it is to be sent.
        """

    def copy_source(self, url: str) -> str:
        """The URL under which the store itself can read a blob of ours."""

    def fault(self) -> str | None:
        """What is known to be wrong with it, in a sentence."""


class _Static:
    """A credential that is what it is."""

    read_only = False
    is_ready = True

    async def ready(self) -> None:
        """Always."""

    async def renew(self) -> bool:
        """Never: it has to be replaced."""
        return False

    def copy_source(self, url: str) -> str:
        """As it is: the store knows the account's own blobs."""
        return url

    def fault(self) -> str | None:
        """Nothing that could be seen in it."""
        return None


class SharedKey(_Static):
    """The account's key.

    Args:
        account: The account's name.
        key: Base64.

    Raises:
        MountError: InvalidOption where it is no base64.
    """

    description = "account key"

    def __init__(self, account: str, key: str) -> None:
        try:
            b64decode(key, validate=True)
        except (binascii.Error, ValueError):
            raise MountError(
                "InvalidOption", "credential.accountKey is not base64", "copy it once more"
            ) from None
        self._signer = Signer(account, key)

    def sign(self, method: str, target: str, headers: dict[str, str]) -> str:
        """In a header (:mod:`fuse.blob.signing`)."""
        headers["Authorization"] = self._signer.authorization(method, target, headers)
        return target


class SharedAccessSignature(_Static):
    """A SAS of the account, of the container, or of a part of it.

    Args:
        token: Its query, with or without ``?``, or a whole URL that ends with it.
        clock: Seconds since the epoch.

    Raises:
        MountError: InvalidOption where it holds no signature.
    """

    description = "SAS"

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._query = token.strip().rpartition("?")[2].strip("&")
        self._clock = clock
        fields = parse_qs(self._query)
        if "sig" not in fields:
            raise MountError(
                "InvalidOption",
                "credential.sasToken holds no signature (sig=)",
                "copy it once more",
            )
        permissions = fields.get("sp", ["w"])[0]  # else a stored policy has them
        self.read_only = "w" not in permissions
        self._begin = _moment(fields.get("st", [""])[0])
        self._end = _moment(fields.get("se", [""])[0])

    def sign(self, _method: str, target: str, _headers: dict[str, str]) -> str:
        """The SAS is a part of the URL."""
        return f"{target}{'&' if '?' in target else '?'}{self._query}"

    def copy_source(self, url: str) -> str:
        """With the SAS: without another proof the store would not read it."""
        return f"{url}?{self._query}"

    def fault(self) -> str | None:
        """Whether it is out of its time."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        if self._end is not None and self._end <= now:
            return f"the SAS expired at {self._end.isoformat()}"
        if self._begin is not None and self._begin > now:
            return f"the SAS is not valid before {self._begin.isoformat()}"
        return None


class Anonymous(_Static):
    """No proof at all: what a container shows to everybody can be read."""

    description = "anonymous access"
    read_only = True

    def sign(self, _method: str, target: str, _headers: dict[str, str]) -> str:
        """Nothing to add."""
        return target

    def fault(self) -> str | None:
        """The usual reason."""
        return "the container does not allow anonymous access"


class Token:
    """A bearer token, renewed ahead of its end, by one request at a time.

    Args:
        description: In words for people.
        source: Makes the issuer's client; made anew when the store refuses a token, since clients
            keep tokens themselves.
        clock: Seconds since the epoch.
    """

    read_only = False

    def __init__(
        self,
        description: str,
        source: Callable[[], TokenCredential],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.description = description
        self._make = source
        self._source: TokenCredential | None = None
        self._clock = clock
        self._token: AccessToken | None = None
        self._asking = trio.Lock()
        self._not_before = 0.0
        self._renewed = float("-inf")

    @property
    def is_ready(self) -> bool:
        """Whether there is a token that need not be renewed yet."""
        return self._token is not None and self._left(self._token) >= AHEAD

    async def ready(self) -> None:
        """A token with some life left; the one that is there serves others while it is renewed."""
        token = self._token
        if token is None or self._left(token) < LEAST_LIFE:
            async with self._asking:
                if self._token is None or self._left(self._token) < LEAST_LIFE:
                    await self._fetch()
        elif (
            self._left(token) < AHEAD
            and not self._asking.locked()
            and self._clock() >= self._not_before
        ):
            async with self._asking:
                await self._fetch_ahead()

    async def renew(self) -> bool:
        """A new token, unless one was asked for a moment ago: then it is not the token's fault."""
        refused = self._token
        async with self._asking:
            if self._token is not refused:
                return True
            if self._clock() - self._renewed < ISSUER_PAUSE:
                return False
            self._renewed = self._clock()
            self._source = None
            await self._fetch()
            return True

    def sign(self, _method: str, target: str, headers: dict[str, str]) -> str:
        """RFC 6750 section 2.1."""
        assert self._token is not None, "ready() first"
        headers["Authorization"] = f"Bearer {self._token.token}"
        return target

    def copy_source(self, url: str) -> str:
        """As it is: source and target are in one account."""
        return url

    def fault(self) -> str | None:
        """The token itself tells nobody what it is good for; the store says it."""
        if self._token is None:
            return f"check the {self.description}: the store has not even been asked"
        return "has the identity a role on the storage account (Storage Blob Data Contributor)?"

    def _left(self, token: AccessToken) -> float:
        return token.expires_on - self._clock()

    async def _fetch_ahead(self) -> None:
        # It may fail, or bring the same token again; the one that is there is good for minutes.
        self._not_before = self._clock() + ISSUER_PAUSE
        try:
            await self._fetch()
        except Failure as failure:
            log.warning("the token could not be renewed ahead of its end", reason=str(failure))

    async def _fetch(self) -> None:
        # Imported where it is needed: most mounts have a key, and come up sooner without it.
        from azure.core.exceptions import AzureError, ClientAuthenticationError

        with trio.move_on_after(ISSUER_TIMEOUT):
            try:
                self._token = await trio.to_thread.run_sync(self._ask, abandon_on_cancel=True)
            except ClientAuthenticationError as error:
                reason = f"no token from {self.description}: {first_line(error)}"
                raise Failure(
                    store_error(errno.EACCES, reason, ""), kind="authentication"
                ) from error
            except AzureError as error:
                reason = f"no token from {self.description}: {first_line(error)}"
                raise Failure(
                    store_error(errno.EIO, reason, ""), kind="connection", again=True
                ) from error
            return
        reason = f"no token from {self.description} within {ISSUER_TIMEOUT:g} s"
        raise Failure(store_error(errno.ETIMEDOUT, reason, ""), again=True)

    def _ask(self) -> AccessToken:
        if self._source is None:
            self._source = self._make()
        return self._source.get_token(SCOPE)


class Keyring:
    """The credential of a store at this moment.

    Attributes:
        current: The credential.
        generation: How often it was replaced.
    """

    def __init__(self, credential: Credential) -> None:
        self.current = credential
        self.generation = 0

    def replace(self, credential: Credential) -> None:
        """New requests, and those between two tries, are signed by ``credential``."""
        self.current = credential
        self.generation += 1

    async def renewed_since(self, generation: int) -> bool:
        """Whether there is something newer than what was refused."""
        return self.generation != generation or await self.current.renew()


@dataclass(frozen=True, slots=True)
class Connected:
    """What a connection string says.

    Attributes:
        endpoint: Blob endpoint of the account.
        account: The account's name where it says so.
        credential: Key or SAS.
    """

    endpoint: str
    account: str | None
    credential: Credential


def from_connection_string(text: str) -> Connected:
    """Read a connection string, by the SDK's own parser.

    Raises:
        MountError: InvalidOption; never with a part of it in the text.
    """
    # A quarter of a second that other mounts do without.
    from azure.storage.blob import BlobServiceClient
    from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy

    try:
        client = BlobServiceClient.from_connection_string(text.strip())
    except (ValueError, KeyError, TypeError):
        raise MountError(
            "InvalidOption", "credential.connectionString is malformed", "copy it once more"
        ) from None
    with client:
        parts = urlsplit(client.url)
        endpoint = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
        policy = client.credential
        if isinstance(policy, SharedKeyCredentialPolicy):
            account = str(policy.account_name)
            return Connected(endpoint, account, SharedKey(account, str(policy.account_key)))
        if parts.query:
            return Connected(endpoint, None, SharedAccessSignature(parts.query))
    raise MountError(
        "InvalidOption",
        "credential.connectionString holds neither AccountKey nor SharedAccessSignature",
    )


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
