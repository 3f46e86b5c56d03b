"""``mountVolumes``: the volumes of a job or of the cluster."""

from __future__ import annotations

import re
from typing import Annotated, Any, NoReturn
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from agent.schema.base import (
    AccountName,
    ContainerName,
    Model,
    OctalMode,
    RelativePath,
    SecretText,
    Text,
    account_name,
    is_share_name,
    quoted,
    refuse,
)

_URL_FORM = "https://<account>.file.core.windows.net/<share>"


def _unsupported(what: str) -> Any:
    def check(_value: Any) -> NoReturn:
        refuse("NotSupported", f"this node cannot honour {what}")

    return AfterValidator(check)


class Credentials(Model):
    """How to get at a storage account: its key."""

    account_key: SecretText | None = None
    account_key_secret_reference: Annotated[
        dict[str, Any] | None, _unsupported("Key Vault references; give accountKey")
    ] = None


def _share_url(value: str) -> str:
    # A signature or a password in it must not come back in a message.
    shown = quoted(re.sub(r"//.*@", "//", re.split(r"[?#]", value, maxsplit=1)[0]))
    try:
        parts = urlsplit(value)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        refuse("InvalidUrl", f"{shown} is no URL; it should look like {_URL_FORM}")
    share = unquote(parts.path.strip("/"))
    if parts.scheme != "https" or not parts.hostname or not port_is_valid:
        refuse("InvalidUrl", f"{shown} is no file share's URL; it should look like {_URL_FORM}")
    if parts.query or parts.fragment or parts.username or parts.password:
        refuse("InvalidUrl", "a file share's URL has no user, query or fragment")
    if not is_share_name(share):
        refuse(
            "InvalidUrl",
            f"{quoted(share)} is no share's name (3 to 63 lower-case letters, digits and single "
            f"'-'); the URL should look like {_URL_FORM}",
        )
    return value


class AzureFileShare(Model):
    """A file share.

    Attributes:
        account_name: Storage account; the first label of the URL's host when not given.
        azure_file_url: ``https://<account>.file.core.windows.net/<share>``.
        credentials: The account's key, unless the agent's configuration has it.
        relative_mount_path: Below the mount root.
        file_mode: Permission bits that files show, octal.
        directory_mode: The same of directories.
    """

    account_name: AccountName | None = None
    azure_file_url: Annotated[str, AfterValidator(_share_url)]
    credentials: Credentials | None = None
    relative_mount_path: RelativePath
    file_mode: OctalMode = "0777"
    directory_mode: OctalMode = "0777"

    @model_validator(mode="after")
    def _account_is_known(self) -> AzureFileShare:
        label = self.host.partition(".")[0]
        if self.account_name is None:
            account_name(label)
        elif self.host.startswith(f"{label}.file.") and label != self.account_name:
            refuse(
                "InvalidValue",
                f"accountName is {self.account_name!r}, but azureFileUrl is of the account "
                f"{quoted(label)}; they must agree (accountName can be left out)",
            )
        return self

    @property
    def host(self) -> str:
        """Host of the URL."""
        return urlsplit(self.azure_file_url).hostname or ""

    @property
    def port(self) -> int | None:
        """Port of the URL, where it has one."""
        return urlsplit(self.azure_file_url).port

    @property
    def account(self) -> str:
        """Storage account's name."""
        return self.account_name or self.host.partition(".")[0]

    @property
    def share(self) -> str:
        """Name of the share."""
        return unquote(urlsplit(self.azure_file_url).path.strip("/"))


class AzureBlobFileSystem(Model):
    """A blob container."""

    account_name: AccountName
    container_name: ContainerName
    credentials: Credentials | None = None
    relative_mount_path: RelativePath
    mount_options: Text | None = None

    @property
    def account(self) -> str:
        """Storage account's name."""
        return self.account_name


def _none_of(what: str) -> Any:
    def check(value: list[Any]) -> list[Any]:
        if value:
            refuse("NotSupported", f"this node cannot mount {what} yet; leave them out")
        return value

    return AfterValidator(check)


class MountVolumes(Model):
    """All volumes of a job or of the cluster."""

    azure_file_shares: list[AzureFileShare] = Field(default_factory=list)
    azure_blob_file_systems: list[AzureBlobFileSystem] = Field(default_factory=list)
    file_servers: Annotated[list[Any], _none_of("file servers")] = Field(default_factory=list)
    unmanaged_file_systems: Annotated[list[Any], _none_of("unmanaged file systems")] = Field(
        default_factory=list
    )

    @property
    def relative_mount_paths(self) -> list[str]:
        """Where the volumes are mounted, shares first."""
        return [volume.relative_mount_path for volume in self.volumes]

    @property
    def volumes(self) -> list[AzureFileShare | AzureBlobFileSystem]:
        """Shares, then containers: the service's order."""
        return [*self.azure_file_shares, *self.azure_blob_file_systems]
