"""The driver's instructions: one JSON document on standard input, so that no key is in argv."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.alias_generators import to_camel

from fuse.errors import MountError
from fuse.options import MountOptions

#: Version of the document that this driver reads.
VERSION = 1


class _Model(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


class Credential(_Model):
    """How to prove who we are."""

    account_key: SecretStr


class _Common(_Model):
    version: Literal[1]
    id: str = Field(default="manual", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    account: str = Field(min_length=1)
    credential: Credential
    endpoint: str = Field(min_length=1)
    mountpoint: Path = Path("/")
    read_only: bool = False
    uid: int = Field(default=0, ge=0)
    gid: int = Field(default=0, ge=0)
    file_mode: str = Field(default="0777", pattern=r"^0?[0-7]{3}$")
    directory_mode: str = Field(default="0777", pattern=r"^0?[0-7]{3}$")
    mount_options: str | None = None
    allow_other: bool = True
    attribute_timeout: float | None = Field(default=None, ge=0)
    run_dir: Path | None = None
    cache_dir: Path | None = None
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
        )


class BlobSpec(_Common):
    """A container."""

    kind: Literal["blob"]
    container: str = Field(min_length=1)

    @property
    def source(self) -> str:
        """What mountinfo shows."""
        return f"{self.account}/{self.container}"


class ShareSpec(_Common):
    """A file share; ``endpoint`` is ``host:port``."""

    kind: Literal["share"]
    share: str = Field(min_length=1)

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
        raise MountError("InvalidOption", f"{place}: {first['msg']}") from None


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
