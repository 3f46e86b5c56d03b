"""Who is at the other end of the unix socket, and whether they may speak."""

import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

# SO_PEERGROUPS (Linux 4.13, asm-generic/socket.h); the socket module has no name for it.
_SO_PEERGROUPS = 59
_UCRED = struct.Struct("3i")
_GROUPS_BYTES = 1024  # the most that socket.getsockopt can fetch


@dataclass(frozen=True, slots=True)
class Peer:
    """Credentials of a unix socket's peer, as the kernel recorded them at connect(2)."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]
    """Supplementary groups; empty where the kernel cannot tell."""

    def __str__(self) -> str:
        try:
            return f"{pwd.getpwuid(self.uid).pw_name} (uid {self.uid})"
        except KeyError:
            return f"uid {self.uid}"


def peer_of(sock: socket.socket) -> Peer:
    """Credentials of the process that connected (SO_PEERCRED, SO_PEERGROUPS; unix(7))."""
    pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:  # more groups than fit, or an old kernel
        return Peer(pid, uid, gid, _groups_by_name(uid, gid))
    return Peer(pid, uid, gid, frozenset(group for (group,) in struct.iter_unpack("I", raw)))


def _groups_by_name(uid: int, gid: int) -> frozenset[int]:
    try:
        return frozenset(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    except (KeyError, OSError):
        return frozenset()


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """Which local users may use the API: root, the agent's own user, and those configured."""

    uids: frozenset[int]
    gids: frozenset[int]

    @classmethod
    def create(cls, users: Iterable[str], group: str | None) -> "PeerPolicy":
        """Resolve names (or numbers) of users, and of the socket's group.

        Raises:
            KeyError: with the name that the node does not know.
        """
        uids = {0, os.geteuid()}
        for user in users:
            uids.add(int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid)
        gids = frozenset({resolve_group(group)} if group else ())
        return cls(frozenset(uids), gids)

    def permits(self, peer: Peer) -> bool:
        """Whether this peer may use the API."""
        return peer.uid in self.uids or peer.gid in self.gids or bool(peer.groups & self.gids)


def resolve_group(group: str) -> int:
    """A group's number from its name or number.

    Raises:
        KeyError: for a name that the node does not know.
    """
    return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
