"""The driver's instructions: one JSON document on standard input, so that no key is in argv."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from fuse.errors import MountError
from fuse.options import MIB, MountOptions

#: Version of the document that this driver reads.
VERSION = 1


class _Model(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


class Identity(_Model):
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

    kind: Literal["managed", "servicePrincipal", "workload", "cli", "default"]
    client_id: str | None = None
    tenant_id: str | None = None
    client_secret: SecretStr | None = None
    certificate_path: Path | None = None
    certificate_password: SecretStr | None = None
    token_file: Path | None = None
    authority: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "servicePrincipal":
            if self.client_id is None or self.tenant_id is None:
                raise ValueError("a service principal needs clientId and tenantId")
            if (self.client_secret is None) == (self.certificate_path is None):
                raise ValueError("a service principal needs clientSecret or certificatePath")
        elif self.client_secret is not None or self.certificate_path is not None:
            raise ValueError(f"clientSecret and certificatePath are not for kind {self.kind}")
        return self


class Credential(_Model):
    """How to prove who we are: exactly one of these.

    Attributes:
        account_key: The account's key, base64.
        sas_token: A SAS of the account or the container, with or without ``?``.
        connection_string: As the portal shows it.
        anonymous: Read what the container shows to everybody.
        identity: Tokens of Microsoft Entra ID.
    """

    account_key: SecretStr | None = None
    sas_token: SecretStr | None = None
    connection_string: SecretStr | None = None
    anonymous: Literal[True] | None = None
    identity: Identity | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            known = ", ".join(to_camel(name) for name in type(self).model_fields)
            raise ValueError(f"give exactly one of {known}")
        return self


class NewCredential(_Model):
    """Arguments of the control operation ``credential``."""

    credential: Credential


class _Common(_Model):
    version: Literal[1]
    id: str = Field(default="manual", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    account: str = Field(min_length=1)
    credential: Credential
    mountpoint: Path = Path("/")
    read_only: bool = False
    uid: int = Field(default=0, ge=0)
    gid: int = Field(default=0, ge=0)
    file_mode: str = Field(default="0777", pattern=r"^0?[0-7]{3}$")
    directory_mode: str = Field(default="0777", pattern=r"^0?[0-7]{3}$")
    mount_options: str | None = None
    allow_other: bool = True
    attribute_timeout: float | None = Field(default=None, ge=0)
    flush_timeout: float = Field(default=120.0, ge=0, le=86400)
    run_dir: Path | None = None
    cache_dir: Path | None = None
    memory_budget: int | None = Field(default=None, ge=16 * MIB)
    disk_budget: int | None = Field(default=None, ge=0)
    path: str = ""
    offset: int = Field(default=0, ge=0)
    length: int | None = Field(default=None, ge=0)

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

    kind: Literal["blob"]
    container: str = Field(min_length=1)
    endpoint: str | None = Field(default=None, pattern=r"^https?://[^/?#@]+(/[^?#]*)?$")
    cloud: Literal["public", "china", "usGovernment"] = "public"
    endpoint_suffix: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]+(:\d+)?$")
    proxy: SecretStr | None = None
    ca_bundle: Path | None = None
    retry_deadline: float = Field(default=120.0, ge=1, le=86400)

    @property
    def source(self) -> str:
        """What mountinfo shows."""
        return f"{self.account}/{self.container}"


class ShareSpec(_Common):
    """A file share; ``endpoint`` is ``host:port``."""

    kind: Literal["share"]
    share: str = Field(min_length=1)
    endpoint: str = Field(min_length=1)

    @field_validator("credential")
    @classmethod
    def _key_only(cls, credential: Credential) -> Credential:
        if credential.account_key is None:
            raise ValueError("a file share takes accountKey only")
        return credential

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


class _Document(BaseModel):
    spec: Annotated[VolumeSpec, Field(discriminator="kind")]


def parse(text: str | bytes) -> VolumeSpec:
    """Read the document.

    Raises:
        MountError: InvalidOption, with the place of the first fault; never with a value in it.
    """
    try:
        return _Document.model_validate_json(b'{"spec":' + _bytes(text) + b"}").spec
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"][2:]) or "the document"
        said = first["msg"].removeprefix("Value error, ")
        raise MountError("InvalidOption", f"{place}: {said}") from None


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
