"""cluster.json: the volumes that every job on the node may use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.schema.across import check_volumes
from agent.schema.faults import path
from agent.schema.mounts import MountVolumes
from agent.schema.parse import twice, unwrap, validated


def parse_cluster(document: object, *, known_placeholders: Mapping[str, str]) -> MountVolumes:
    """The volumes of a cluster: ``mountVolumes``, or Batch AI's ``nodeSetup.mountVolumes``.

    What else a Batch AI cluster has (VM size, scale settings, user account) was for whoever made
    the machines, and is passed over.

    Raises:
        ValidationFailed: With every fault and its JSON path.
    """

    def parse(known: Mapping[str, str]) -> MountVolumes:
        properties, prefix, faults = unwrap(
            document, known, code="InvalidCluster", what="the cluster"
        )
        setup = properties.get("nodeSetup")
        if isinstance(setup, dict) and "mountVolumes" in setup:
            volumes: Any = setup["mountVolumes"]
            prefix = path(("nodeSetup", "mountVolumes"), prefix)
        else:
            volumes = properties.get("mountVolumes", {})
            prefix = path(("mountVolumes",), prefix)
        faults += check_volumes(volumes, prefix)
        return validated(
            MountVolumes, volumes, prefix, faults, code="InvalidCluster", what="the cluster"
        )

    return twice(parse, known_placeholders)[1]
