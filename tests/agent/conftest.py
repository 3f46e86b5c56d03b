"""A node in a directory; see :mod:`tests.agent.rig`."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent import config as configuration
from agent.config import Config
from tests.agent.rig import Rig, agent_on


@pytest.fixture
def node_config(tmp_path: Path) -> Config:
    # Short: unix sockets are below it.
    base = tmp_path
    user = pwd.getpwuid(os.geteuid()).pw_name
    return configuration.load(
        None,
        {
            "node": {
                "mount_root": base / "mounts",
                "jobs_root": base / "jobs",
                "state_dir": base / "state",
                "run_dir": base / "r",
                "cache_dir": base / "cache",
            },
            "jobs": {
                "user": user,
                "allow_root": True,
                "terminate_grace_s": 1,
                "drain_timeout_s": 5,
                "mount_timeout_s": 10,
                "unmount_timeout_s": 5,
            },
            "storage": {"accounts": [{"name": "acct", "key": "a2V5LW9mLWFjY3Q="}]},
            "api": {"socket": base / "r" / "agent.sock"},
        },
    )


@pytest.fixture
async def rig(node_config: Config) -> AsyncIterator[Rig]:
    async with agent_on(node_config) as made:
        yield made
