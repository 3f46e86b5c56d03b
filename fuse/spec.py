"""The driver's instructions: one JSON document on standard input, so that no key is in argv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from fuse import fields
from fuse.errors import MountError
from fuse.fields import Fault, Fields, Secret
from fuse.options import MIB, MountOptions

#: Version of the document that this driver reads.
VERSION = 1

IdentityKind = Literal["managed", "servicePrincipal", "workload", "cli", "default"]
Cloud = Literal["public", "china", "usGovernment"]

_KINDS: tuple[IdentityKind, ...] = ("managed", "servicePrincipal", "workload", "cli", "default")
_CLOUDS: tuple[Cloud, ...] = ("public", "china", "usGovernment")

_TEXT = fields.text()
_NAME = fields.text(least=1)
_MODE = fields.text(pattern="0?[0-7]{3}")


# Nobody compares these, and each method that dataclass makes is compiled at every start.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Identity:
    """An identity of Microsoft Entra ID.

    Attributes:
        kind: ``managed`` (of this machine), ``servicePrincipal`` (secret or certificate),
            ``workload`` (a federated token in a file), ``cli`` (az login), or ``default``: the
            first of all these that is there.
        client_id: Of a user-assigned managed identity, a service principal, a workload.
        tenant_id: Where the service principal or the workload is at home.
        client_secret: Of a service principal.
        certificate_path: In its place: PEM or PKCS #12, with the private key.
        certificate_password: Of that file.
        token_file: Of a workload; as the environment says when None.
        authority: Where tokens are issued; as the cloud has it when None.
    """

    kind: IdentityKind
    client_id: str | None = None
    tenant_id: str | None = None
    client_secret: Secret | None = None
    certificate_path: Path | None = None
    certificate_password: Secret | None = None
    token_file: Path | None = None
    authority: str | None = None

    @classmethod
    def read(cls, given: Fields) -> Identity:
        """Of its JSON.

        Raises:
            Fault: It is none, or not complete.
        """
        identity = cls(
            kind=given.must("kind", fields.choice(_KINDS)),
            client_id=given.may("clientId", _TEXT, None),
            tenant_id=given.may("tenantId", _TEXT, None),
            client_secret=given.may("clientSecret", fields.secret, None),
            certificate_path=given.may("certificatePath", fields.path, None),
            certificate_password=given.may("certificatePassword", fields.secret, None),
            token_file=given.may("tokenFile", fields.path, None),
            authority=given.may("authority", _TEXT, None),
        )
        if identity.kind == "servicePrincipal":
            if identity.client_id is None or identity.tenant_id is None:
                raise Fault("a service principal needs clientId and tenantId")
            if (identity.client_secret is None) == (identity.certificate_path is None):
                raise Fault("a service principal needs clientSecret or certificatePath")
        elif identity.client_secret is not None or identity.certificate_path is not None:
            raise Fault(f"clientSecret and certificatePath are not for kind {identity.kind}")
        return identity


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Credential:
    """How to prove who we are: exactly one of these.

    Attributes:
        account_key: The account's key, base64.
        sas_token: A SAS of the account or the container, with or without ``?``.
        connection_string: As the portal shows it.
        anonymous: Read what the container shows to everybody.
        identity: Tokens of Microsoft Entra ID.
    """

    account_key: Secret | None = None
    sas_token: Secret | None = None
    connection_string: Secret | None = None
    anonymous: Literal[True] | None = None
    identity: Identity | None = None

    @classmethod
    def read(cls, given: Fields) -> Credential:
        """Of its JSON.

        Raises:
            Fault: It is none, or more than one.
        """
        found: dict[str, Any] = {
            "accountKey": given.may("accountKey", fields.secret, None),
            "sasToken": given.may("sasToken", fields.secret, None),
            "connectionString": given.may("connectionString", fields.secret, None),
            "anonymous": given.may("anonymous", fields.choice((True,)), None),
            "identity": given.may("identity", fields.record(Identity.read), None),
        }
        given.end()  # a name that is not known is the better explanation
        if sum(value is not None for value in found.values()) != 1:
            raise Fault(f"give exactly one of {', '.join(found)}")
        return cls(
            account_key=found["accountKey"],
            sas_token=found["sasToken"],
            connection_string=found["connectionString"],
            anonymous=found["anonymous"],
            identity=found["identity"],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewCredential:
    """Arguments of the control operation ``credential``."""

    credential: Credential

    @classmethod
    def read(cls, given: Fields) -> NewCredential:
        """Of its JSON.

        Raises:
            Fault: It is none.
        """
        return cls(credential=given.must("credential", fields.record(Credential.read)))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Common:
    id: str = "manual"
    account: str
    credential: Credential
    mountpoint: Path = Path("/")
    read_only: bool = False
    uid: int = 0
    gid: int = 0
    file_mode: str = "0777"
    directory_mode: str = "0777"
    mount_options: str | None = None
    allow_other: bool = True
    attribute_timeout: float | None = None
    flush_timeout: float = 120.0
    run_dir: Path | None = None
    cache_dir: Path | None = None
    memory_budget: int | None = None
    disk_budget: int | None = None
    path: str = ""
    offset: int = 0
    length: int | None = None

    def options(self) -> MountOptions:
        """Options of the file system core."""
        if self.cache_dir is None:
            raise MountError("InvalidOption", "cacheDir is missing")
        return MountOptions(
            mountpoint=self.mountpoint,
            cache_directory=self.cache_dir,
            read_only=self.read_only,
            uid=self.uid,
            gid=self.gid,
            file_mode=int(self.file_mode, 8),
            directory_mode=int(self.directory_mode, 8),
            allow_other=self.allow_other,
            attribute_timeout=self.attribute_timeout,
            disk_budget=self.disk_budget,
            **({} if self.memory_budget is None else {"memory_budget": self.memory_budget}),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class BlobSpec(_Common):
    """A container.

    Attributes:
        container: Its name.
        endpoint: The account's blob endpoint; as the connection string or the cloud says when None.
        cloud: Which cloud the account is in.
        endpoint_suffix: In place of the cloud's own, such as ``core.windows.net``.
        proxy: ``http://[user:password@]host[:port]``; as the environment says when None.
        ca_bundle: File with the authorities to trust in place of the system's.
        retry_deadline: Seconds after which an operation that gets nowhere is given up.
    """

    kind: ClassVar[Literal["blob"]] = "blob"
    container: str
    endpoint: str | None = None
    cloud: Cloud = "public"
    endpoint_suffix: str | None = None
    proxy: Secret | None = None
    ca_bundle: Path | None = None
    retry_deadline: float = 120.0

    @classmethod
    def read(cls, given: Fields) -> BlobSpec:
        """Of its JSON, without ``kind``.

        Raises:
            Fault: It is none.
        """
        return cls(
            **_common(given),
            container=given.must("container", _NAME),
            endpoint=given.may(
                "endpoint", fields.text(pattern="https?://[^/?#@]+(/[^?#]*)?"), None
            ),
            cloud=given.may("cloud", fields.choice(_CLOUDS), "public"),
            endpoint_suffix=given.may(
                "endpointSuffix", fields.text(pattern=r"[A-Za-z0-9.-]+(:\d+)?"), None
            ),
            proxy=given.may("proxy", fields.secret, None),
            ca_bundle=given.may("caBundle", fields.path, None),
            retry_deadline=given.may("retryDeadline", fields.seconds(least=1, most=86400), 120.0),
        )

    @property
    def source(self) -> str:
        """What mountinfo shows."""
        return f"{self.account}/{self.container}"


@dataclass(frozen=True, kw_only=True, eq=False)
class ShareSpec(_Common):
    """A file share; ``endpoint`` is ``host:port``."""

    kind: ClassVar[Literal["share"]] = "share"
    share: str
    endpoint: str

    @classmethod
    def read(cls, given: Fields) -> ShareSpec:
        """Of its JSON, without ``kind``.

        Raises:
            Fault: It is none.
        """
        spec = cls(
            **_common(given),
            share=given.must("share", _NAME),
            endpoint=given.must("endpoint", _NAME),
        )
        if spec.credential.account_key is None:
            raise Fault("a file share takes accountKey only", "credential")
        return spec

    @property
    def key(self) -> str:
        """The account's key."""
        assert self.credential.account_key is not None
        return self.credential.account_key.get_secret_value()

    @property
    def source(self) -> str:
        """What mountinfo shows."""
        return f"//{self.account}/{self.share}"


VolumeSpec = BlobSpec | ShareSpec


def parse(text: str | bytes) -> VolumeSpec:
    """Read the document.

    Raises:
        MountError: InvalidOption, with the place of the first fault; never with a value in it.
    """
    try:
        return fields.record(_read)(fields.parsed(text))
    except Fault as fault:
        place = ".".join(fault.place) or "the document"
        raise MountError("InvalidOption", f"{place}: {fault.said}") from None


def _read(given: Fields) -> VolumeSpec:
    given.must("version", fields.choice((VERSION,)))
    kind = given.must("kind", fields.choice((BlobSpec.kind, ShareSpec.kind)))
    return BlobSpec.read(given) if kind == BlobSpec.kind else ShareSpec.read(given)


def _common(given: Fields) -> dict[str, Any]:
    """What both kinds of volume have; a field that is not given keeps its default."""
    natural = fields.number(least=0)
    known: dict[str, tuple[str, fields.Reader[Any]]] = {
        "id": ("id", fields.text(pattern="[A-Za-z0-9_-]{1,64}")),
        "mountpoint": ("mountpoint", fields.path),
        "readOnly": ("read_only", fields.flag),
        "uid": ("uid", natural),
        "gid": ("gid", natural),
        "fileMode": ("file_mode", _MODE),
        "directoryMode": ("directory_mode", _MODE),
        "mountOptions": ("mount_options", _TEXT),
        "allowOther": ("allow_other", fields.flag),
        "attributeTimeout": ("attribute_timeout", fields.seconds(least=0)),
        "flushTimeout": ("flush_timeout", fields.seconds(least=0, most=86400)),
        "runDir": ("run_dir", fields.path),
        "cacheDir": ("cache_dir", fields.path),
        "memoryBudget": ("memory_budget", fields.number(least=16 * MIB)),
        "diskBudget": ("disk_budget", natural),
        "path": ("path", _TEXT),
        "offset": ("offset", natural),
        "length": ("length", natural),
    }
    values = {attribute: given.may(name, read, None) for name, (attribute, read) in known.items()}
    return {
        "account": given.must("account", _NAME),
        "credential": given.must("credential", fields.record(Credential.read)),
        **{attribute: value for attribute, value in values.items() if value is not None},
    }
