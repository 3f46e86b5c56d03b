"""Fills credentials into a job the way `az batchai job create` did.

Names of accounts come from the URLs of the shares, placeholders are replaced, and a key that the
user gave goes to the volumes that bring none. What is not known here is left for the agent, which
has accounts of its own.
"""

import copy
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.cli.errors import usage_error

ACCOUNT_PLACEHOLDER = "<AZURE_BATCHAI_STORAGE_ACCOUNT>"
KEY_PLACEHOLDER = "<AZURE_BATCHAI_STORAGE_KEY>"
ACCOUNT_VARIABLE = "AZURE_BATCHAI_STORAGE_ACCOUNT"
KEY_VARIABLE = "AZURE_BATCHAI_STORAGE_KEY"


@dataclass(frozen=True, slots=True, repr=False)
class StorageAccount:
    """What the user said of storage; either may be unknown."""

    name: str | None
    key: str | None


def storage_account(name: str | None, key: str | None, key_file: Path | None) -> StorageAccount:
    """The account and key of flags and environment; flags win.

    Raises:
        BatchError: two keys are given, or the key's file cannot be read.
    """
    if key is not None and key_file is not None:
        raise usage_error("give --storage-account-key or --storage-account-key-file, not both")
    if key_file is not None:
        try:
            key = key_file.read_text("utf-8").strip()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise usage_error(f"cannot read the key file {key_file}: {reason}") from None
        if not key:
            raise usage_error(f"the key file {key_file} is empty")
    environment = os.environ
    return StorageAccount(
        name or environment.get(ACCOUNT_VARIABLE) or None,
        key or environment.get(KEY_VARIABLE) or None,
    )


def fill(document: Any, account: StorageAccount) -> Any:
    """The document with placeholders replaced and credentials filled in; the given one is kept.

    Raises:
        BatchError: the one key given would go to several accounts.
    """
    filled = _replace(copy.deepcopy(document), account)
    if not isinstance(filled, dict):
        return filled  # the agent says what is wrong with it
    properties = filled.get("properties", filled)
    volumes = properties.get("mountVolumes") if isinstance(properties, dict) else None
    if not isinstance(volumes, dict):
        return filled
    bare = []
    for kind in ("azureFileShares", "azureBlobFileSystems"):
        for volume in volumes.get(kind) or ():
            if isinstance(volume, dict):
                if kind == "azureFileShares":
                    _name_from_url(volume)
                if not volume.get("credentials"):
                    bare.append(volume)
    _fill_keys(bare, account)
    return filled


def _fill_keys(volumes: list[dict[str, Any]], account: StorageAccount) -> None:
    if account.key is None:
        return
    if account.name is None:
        names = sorted({str(volume.get("accountName")) for volume in volumes})
        if len(names) > 1:
            raise usage_error(
                f"the job uses several storage accounts ({', '.join(names)}), "
                "and the given key belongs to one of them",
                hint="say which with --storage-account-name; for the others put credentials into "
                "job.json, or configure them at the agent ([[storage.accounts]])",
            )
    for volume in volumes:
        # A key is never sent to an account that it was not given for.
        if account.name is None or volume.get("accountName") in {account.name, None}:
            volume["credentials"] = {"accountKey": account.key}


def _name_from_url(volume: dict[str, Any]) -> None:
    url = volume.get("azureFileUrl")
    if "accountName" in volume or not isinstance(url, str):
        return
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return  # the agent says what is wrong with it
    name = host.partition(".")[0]
    if re.fullmatch(r"[a-z0-9]{3,24}", name):
        volume["accountName"] = name


def _replace(value: Any, account: StorageAccount) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, account) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, account) for item in value]
    if isinstance(value, str):
        if account.name is not None:
            value = value.replace(ACCOUNT_PLACEHOLDER, account.name)
        if account.key is not None:
            value = value.replace(KEY_PLACEHOLDER, account.key)
    return value
