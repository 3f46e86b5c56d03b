"""Who may use the API, and over which sockets."""

import os
import socket
import stat
import subprocess
import sys

import pytest
import trio

from agent.errors import BatchError
from agent.rest.links import LinkSigner
from agent.rest.listeners import read_token, tcp_listener, unix_listener
from agent.rest.peers import Peer, PeerPolicy, peer_of
from tests.rest.conftest import BASE, DOCUMENT, KEY, TOKEN, VERSION, serving

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


async def test_socket_is_private_and_goes_away(tmp_path):
    async with serving(tmp_path) as server:
        path = server.addresses.socket
        status = path.lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o660
    assert os.listdir(tmp_path) == []


async def test_stale_socket_is_replaced_live_one_is_not(tmp_path):
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(tmp_path) as server:
        assert (await server.client().get("/node/health")).status_code == 200
        with pytest.raises(BatchError) as refused, unix_listener(path, mode=0o660, group=None):
            pass
        assert refused.value.code == "AgentAlreadyRunning"
        assert (await server.client().get("/node/health")).status_code == 200


def test_other_files_are_not_touched(tmp_path):
    path = tmp_path / "agent.sock"
    path.write_text("precious")
    with pytest.raises(BatchError, match="no socket"), unix_listener(path, mode=0o660, group=None):
        pass
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "group", "code"),
    [
        ("/nonexistent/agent.sock", None, "SocketUnavailable"),
        ("/tmp/" + "x" * 120, None, "InvalidSocketPath"),
    ],
)
def test_bad_socket_paths(path, group, code):
    from pathlib import Path

    with pytest.raises(BatchError) as refused, unix_listener(Path(path), mode=0o600, group=group):
        pass
    assert refused.value.code == code


def test_unknown_group_leaves_nothing_behind(tmp_path):
    path = tmp_path / "agent.sock"
    with pytest.raises(BatchError) as refused:
        with unix_listener(path, mode=0o660, group="no-such-group"):
            pass
    assert refused.value.code == "UnknownGroup"
    assert os.listdir(tmp_path) == []


def test_peer_credentials_are_the_kernels():
    left, right = socket.socketpair()
    with left, right:
        peer = peer_of(left)
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())


def test_policy():
    policy = PeerPolicy(frozenset({0, 1000}), frozenset({50}))
    assert policy.permits(Peer(1, 0, 0, frozenset()))
    assert policy.permits(Peer(1, 1000, 7, frozenset()))
    assert policy.permits(Peer(1, 7, 50, frozenset()))
    assert policy.permits(Peer(1, 7, 7, frozenset({50})))
    assert not policy.permits(Peer(1, 7, 7, frozenset({51})))


_AS_NOBODY = """
import os, socket, sys
os.setgroups([int(g) for g in sys.argv[2].split(",") if g]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"GET /node/health HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
print(s.makefile("rb").readline().decode().split()[1])
"""


@root
@pytest.mark.parametrize(
    ("api", "groups", "status"),
    [
        ({}, "", "403"),
        ({"allowed_users": ("nobody",)}, "", "200"),
        ({"socket_group": "1"}, "", "403"),
        ({"socket_group": "1"}, "1", "200"),
    ],
)
async def test_local_users(tmp_path_factory, api, groups, status):
    import shutil
    import tempfile
    from pathlib import Path

    # Not tmp_path: pytest's directories are closed to other users.
    directory = Path(tempfile.mkdtemp())
    try:
        directory.chmod(0o755)
        async with serving(directory, socket_mode=0o666, **api) as server:
            command = [sys.executable, "-c", _AS_NOBODY, str(server.addresses.socket), groups]
            done = await trio.run_process(command, capture_stdout=True)
    finally:
        shutil.rmtree(directory)
    assert done.stdout.decode().strip() == status


async def test_tcp_needs_the_token(tcp_server):
    client = tcp_server.tcp_client()
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        answer = await client.get("/node/health", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert TOKEN not in answer.text
    assert (await client.get("/node/health", headers=AUTHORIZED)).status_code == 200
    # over the unix socket the peer's credentials decide
    assert (await tcp_server.client().get("/node/health")).status_code == 200


async def test_download_links_carry_their_permission(tcp_server):
    client = tcp_server.tcp_client()
    created = await client.put(f"{BASE}/j", params=VERSION, json=DOCUMENT, headers=AUTHORIZED)
    assert created.status_code == 200
    key = type(KEY)("ws", "exp", "j")
    tcp_server.service.write(key, "stdout.txt", b"hello")
    tcp_server.service.write(key, "other.txt", b"secret")
    listed = await client.post(
        f"{BASE}/j/listOutputFiles", params=VERSION | {"outputdirectoryid": "stdouterr"},
        headers=AUTHORIZED,
    )  # fmt: skip
    link = next(f["downloadUrl"] for f in listed.json()["value"] if f["name"] == "stdout.txt")
    assert TOKEN not in link
    assert (await client.get(link)).content == b"hello"
    assert (await client.get(link.replace("stdout.txt", "other.txt"))).status_code == 401
    assert (await client.get(link[:-1] + "x")).status_code == 401
    assert (await client.put(link)).status_code == 401


def test_links_expire():
    now = [1000.0]
    signer = LinkSigner(b"k" * 32, clock=lambda: now[0])
    query = dict(part.split("=") for part in signer.sign("/a", minutes=5).split("?")[1].split("&"))
    assert signer.permits("/a", query["se"], query["sig"])
    later = str(int(query["se"]) + 60)
    assert not signer.permits("/a", later, query["sig"])
    now[0] += 301
    assert not signer.permits("/a", query["se"], query["sig"])
    assert not LinkSigner(None).permits("/a", query["se"], query["sig"])


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        (None, 0, "TokenUnavailable"),
        (TOKEN, 0o640, "TokenNotPrivate"),
        (TOKEN, 0o604, "TokenNotPrivate"),
        ("short", 0o600, "TokenTooShort"),
    ],
)
def test_token_files_that_are_refused(tmp_path, content, mode, code):
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(BatchError) as refused:
        read_token(path)
    assert refused.value.code == code
    assert refused.value.hint


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:99999", ":1"])
def test_bad_tcp_addresses(address):
    with pytest.raises(BatchError), tcp_listener(address):
        pass


def test_taken_tcp_address():
    with tcp_listener("127.0.0.1:0") as first:
        port = first.getsockname()[1]
        with pytest.raises(BatchError) as refused, tcp_listener(f"127.0.0.1:{port}"):
            pass
    assert refused.value.code == "AddressUnavailable"


def test_rest_does_not_import_the_command_line():
    code = (
        "import sys, agent.rest.server\n"
        "sys.exit(any(name.startswith('agent.cli') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
