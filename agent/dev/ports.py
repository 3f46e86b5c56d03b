"""Free ports on loopback. A look at a port is no claim to it: who binds it may yet lose it."""

from __future__ import annotations

import random
import socket

from agent.dev.errors import DevStorageError

LOOPBACK = "127.0.0.1"
PORTS = range(20000, 32000)
"""Below the kernel's ephemeral ports (ip(7): 32768 and up): no outgoing connection takes one."""
ATTEMPTS = 200


def free_port() -> int:
    """A port that nobody listens on now.

    Raises:
        DevStorageError: all that were tried are taken.
    """
    for port in random.sample(PORTS, ATTEMPTS):
        if is_free(port):
            return port
    raise DevStorageError(
        "NoFreePort", f"{ATTEMPTS} ports from {PORTS.start} to {PORTS.stop - 1} are all taken"
    )


def is_free(port: int) -> bool:
    """Whether a server could bind it now."""
    with socket.socket() as probe:
        # As the servers do: connections that linger in TIME_WAIT do not make a port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def listens(port: int) -> bool:
    """Whether anybody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
