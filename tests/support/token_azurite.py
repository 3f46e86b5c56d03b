"""Azurite over TLS, as it has to be for bearer tokens (`--oauth basic`)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess

from azure.core.exceptions import ResourceExistsError, ServiceRequestError
from azure.storage.blob import BlobServiceClient

from agent.dev import azurite
from tests.support.waiting import eventually


@contextlib.contextmanager
def azurite_with_tokens(directory, account, key, port=None):
    """Its endpoint; a container `data` is made. The certificate is `directory/server.pem`."""
    server = directory / "server.pem"
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    command = [
        *azurite.find(),
        *azurite.arguments(data=directory / "data", port=port),
        *("--oauth", "basic", "--cert", os.fspath(server), "--key", os.fspath(server)),
    ]
    process = subprocess.Popen(
        command, env=azurite.environment(os.environ, account=account, key=key)
    )
    endpoint = f"https://localhost:{port}/{account}"
    try:
        with BlobServiceClient(
            endpoint,
            credential={"account_name": account, "account_key": key},
            retry_total=0,
            connection_verify=os.fspath(server),
        ) as service:

            def up():
                with contextlib.suppress(ResourceExistsError):
                    try:
                        service.create_container("data")
                    except ServiceRequestError:
                        return False
                return True

            eventually(up, deadline=30)
        yield endpoint
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
