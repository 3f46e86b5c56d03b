"""The agent's configuration: agent.toml, environment variables ``BATCHAI_…``, flags.

Later sources win: built-in defaults, the file, the environment (``BATCHAI_API__TCP`` is ``tcp`` of
section ``[api]``), and what the command line hands over.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from agent.errors import BatchError, Fault

DEFAULT_FILE = Path("/etc/batchai/agent.toml")
LS_ROOT = Path("/mnt/batch/tasks/shared/LS_root")

# Names of ARM resources (BatchAI.json 2018-05-01); resource groups may hold dots too.
_Name = Annotated[str, Field(pattern=r"^[-\w]{1,64}$")]
_Group = Annotated[str, Field(pattern=r"^[-\w.]{1,90}$")]
_ACCOUNT = re.compile(r"^[a-z0-9]{3,24}$")
# A unix socket's path (108 bytes, unix(7)) must hold run_dir, "/mounts/<12 hex>/control.sock".
_RUN_DIR_MOST = 70


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeConfig(_Section):
    """[node]: who this node is, and where it keeps things."""

    subscription: _Name = "00000000-0000-0000-0000-000000000000"
    resource_group: _Group = "local"
    workspace: _Name = "default"
    experiment: _Name = "default"
    cluster: _Name = "local"
    mount_root: Path = LS_ROOT / "mounts"
    """AZ_BATCHAI_MOUNT_ROOT: the cluster's volumes."""
    jobs_root: Path = LS_ROOT / "jobs"
    """Below it ``<workspace>/<experiment>/<job>/{mounts,wd,tmp}``."""
    state_dir: Path = Path("/var/lib/batchai")
    run_dir: Path = Path("/run/batchai")
    cache_dir: Path = Path("/var/cache/batchai")
    cluster_file: Path | None = None
    """cluster.json: volumes that are mounted as long as the agent is up."""

    @field_validator("mount_root", "jobs_root", "state_dir", "run_dir", "cache_dir", "cluster_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        if not value.is_absolute() or ".." in value.parts:
            raise ValueError('must be an absolute path without ".."')
        return value

    @field_validator("run_dir")
    @classmethod
    def _short(cls, value: Path) -> Path:
        if len(os.fsencode(value)) > _RUN_DIR_MOST:
            raise ValueError(
                f"must not be longer than {_RUN_DIR_MOST} bytes: it holds unix sockets"
            )
        return value


class ApiConfig(_Section):
    """[api]: where the REST API listens, and for whom."""

    socket: Path = Path("/run/batchai/agent.sock")
    socket_mode: Annotated[int, Field(ge=0, le=0o777)] = 0o660
    socket_group: str | None = None
    allowed_users: tuple[str, ...] = ()
    """Users who may use the socket besides root, the agent's own, and the group's members."""
    tcp: str | None = None
    """``host:port``; needs a token file."""
    token_file: Path | None = None

    @field_validator("socket_mode", mode="before")
    @classmethod
    def _octal(cls, value: object) -> object:
        # TOML has 0o660 for numbers; a string is what environment variables and people give.
        return int(value, 8) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _token(self) -> ApiConfig:
        if self.tcp is not None and self.token_file is None:
            raise ValueError("tcp needs a token_file: whoever reaches the port could run jobs")
        return self


class JobsConfig(_Section):
    """[jobs]: as whom jobs run, how many, and how patiently they are ended."""

    user: str = "batchai-job"
    allow_root: bool = False
    """Let ``user`` be root (a laptop, a container of one's own)."""
    max_running: Annotated[int, Field(ge=1, le=1024)] = 1
    shell: Path = Path("/bin/bash")
    terminate_grace_s: Annotated[float, Field(ge=0, le=3600)] = 10
    """Seconds between SIGTERM and SIGKILL."""
    drain_timeout_s: Annotated[float, Field(ge=0, le=86400)] = 60
    """Seconds without progress after which the rest of the logs is given up, and reported."""
    spool_quota_bytes: Annotated[int, Field(ge=4096)] | None = None
    """Most bytes kept of all output of a job together; None is no limit."""
    mount_timeout_s: Annotated[float, Field(gt=0, le=600)] = 30
    unmount_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 150
    """Seconds that a driver gets to commit what was written; it gives up by itself after 120."""


class AccountConfig(_Section):
    """[[storage.accounts]]: a storage account that jobs may use without bringing its key."""

    name: str
    key: SecretStr | None = None
    key_file: Path | None = None
    """A file that only root can read, with the key and nothing else."""
    blob_endpoint: str | None = None
    """In place of ``https://<name>.blob.core.windows.net``."""
    file_endpoint: str | None = None
    """``host:port`` in place of ``<host of azureFileUrl>:445``."""

    @field_validator("name")
    @classmethod
    def _valid_name(cls, value: str) -> str:
        if not _ACCOUNT.fullmatch(value):
            raise ValueError("must be 3 to 24 lower-case letters and digits")
        return value

    @field_validator("blob_endpoint")
    @classmethod
    def _valid_blob(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s?#@]+", value):
            raise ValueError("must be an address like https://host/path, without credentials")
        return value.rstrip("/") if value else value

    @field_validator("file_endpoint")
    @classmethod
    def _valid_file(cls, value: str | None) -> str | None:
        if value is not None:
            host, colon, port = value.rpartition(":")
            if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError('must be "host:port"')
        return value

    @model_validator(mode="after")
    def _one_key(self) -> AccountConfig:
        if self.key is not None and self.key_file is not None:
            raise ValueError("give key or key_file, not both")
        return self

    def read_key(self) -> str | None:
        """The account's key; read from its file at every use, so that a rotated key counts.

        Raises:
            BatchError: The file cannot be read.
        """
        if self.key is not None:
            return self.key.get_secret_value()
        if self.key_file is None:
            return None
        try:
            return self.key_file.read_text("utf-8").strip()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BatchError(
                "KeyFileUnreadable",
                f"cannot read the key of account {self.name} from {self.key_file}: {reason}",
                hint="check key_file in agent.toml, section [[storage.accounts]]",
            ) from error


class StorageConfig(_Section):
    """[storage]: accounts, and the one that ``<AZURE_BATCHAI_STORAGE_ACCOUNT>`` stands for."""

    default_account: str | None = None
    accounts: tuple[AccountConfig, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> StorageConfig:
        names = [account.name for account in self.accounts]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the account {name} is configured twice")
        return self

    def account(self, name: str) -> AccountConfig | None:
        """The account of that name, if it is configured."""
        return next((account for account in self.accounts if account.name == name), None)


class LogConfig(_Section):
    """[log]: the agent's own log, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix="BATCHAI_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    node: NodeConfig = NodeConfig()
    api: ApiConfig = ApiConfig()
    jobs: JobsConfig = JobsConfig()
    storage: StorageConfig = StorageConfig()
    log: LogConfig = LogConfig()


def load(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read the configuration.

    Args:
        file: agent.toml; None is /etc/batchai/agent.toml, if it exists.
        overrides: Nested as the file, ``{"log": {"level": "debug"}}``; they win.

    Raises:
        BatchError: The file is missing or malformed, or a value cannot be used: every fault listed,
            exit code 2.
    """
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE

    class Sourced(Config):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings
            if file is None:
                return init_settings, env_settings
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    source = str(file) if file is not None else "the environment"
    if file is not None and not file.is_file():
        raise _invalid(f"there is no configuration file {file}", (), hint="see --config")
    try:
        return Sourced(**dict(overrides or {}))
    except ValidationError as error:
        faults = tuple(
            Fault(
                "InvalidConfiguration",
                f"{'.'.join(map(str, item['loc'])) or 'configuration'}: {_words(item)}",
                ".".join(map(str, item["loc"])),
            )
            # input values may be keys: they are left out
            for item in error.errors(include_url=False, include_input=False)
        )
        lines = "; ".join(fault.message for fault in faults)
        raise _invalid(f"the configuration in {source} cannot be used: {lines}", faults) from None
    except (ValueError, OSError) as error:  # tomllib's errors are ValueErrors
        raise _invalid(f"cannot read the configuration in {source}: {error}", ()) from error


def _words(item: Mapping[str, Any]) -> str:
    if item["type"] == "extra_forbidden":
        return "there is no such setting"
    message: str = item["msg"]
    return message.removeprefix("Value error, ")


def _invalid(message: str, faults: tuple[Fault, ...], hint: str | None = None) -> BatchError:
    return BatchError("InvalidConfiguration", message, hint=hint, exit_code=2, details=faults)


class JobUser(_Section):
    """The user that jobs run as, resolved."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve_user(config: JobsConfig) -> JobUser:
    """Look the configured user up.

    Raises:
        BatchError: There is no such user, it is root without ``allow_root``, or the agent is not
            root and could not become it.
    """
    try:
        entry = pwd.getpwnam(config.user)
    except KeyError:
        raise BatchError(
            "UnknownUser",
            f"jobs are to run as the user {config.user!r}, who does not exist on this node",
            hint=f"useradd --system {config.user}, or set jobs.user in agent.toml",
            exit_code=2,
        ) from None
    if entry.pw_uid == 0 and not config.allow_root:
        raise BatchError(
            "RootRefused",
            "jobs are to run as root, which is refused unless it is asked for twice",
            hint="set jobs.user to another user, or jobs.allow_root = true",
            exit_code=2,
        )
    if os.geteuid() not in {0, entry.pw_uid}:
        raise BatchError(
            "NotPermitted",
            f"the agent does not run as root, so it cannot run jobs as {config.user!r}",
            hint="start the agent as root, or set jobs.user to your own name",
            exit_code=2,
        )
    return JobUser(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)),
        home=entry.pw_dir,
    )
