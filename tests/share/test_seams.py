"""What is relied on of smbprotocol beyond its documentation (pinned to 1.17)."""

import inspect
import socket
import threading
from importlib.metadata import version

import pytest
from cryptography.hazmat.primitives.ciphers import aead
from smbprotocol.connection import Ciphers, Connection
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from fuse.share.handshake import HandshakeConnection, HandshakeTransport, _tune


def test_version():
    assert version("smbprotocol").startswith("1.17.")


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_the_connection_takes_our_transport(pair):
    transport = HandshakeTransport(pair[0])
    connection = HandshakeConnection("host", 445, transport)
    source = inspect.getsource(Connection.connect)
    assert "self.transport = Tcp(self.server_name, self.port, timeout)" in source
    connection.transport = object()
    assert connection.transport is transport
    assert connection.sequence_window == {"low": 0, "high": 1}
    transport.dispose()


def test_the_transport_is_used_through_five_names_only():
    source = inspect.getsource(Connection)
    used = {part.split("(")[0].split()[0].rstrip(":,)") for part in
            source.split("self.transport.")[1:]}  # fmt: skip
    assert used == {"connect", "send", "recv", "close", "connected"}


def test_the_reading_thread_ends_on_hand_over(pair):
    connection = HandshakeConnection("host", 445, HandshakeTransport(pair[0]))
    connection._t_worker = threading.Thread(target=connection._process_message_thread)
    connection._t_worker.start()
    connection.hand_over()
    assert not connection._t_worker.is_alive()
    assert connection._t_exc is None
    pair[1].send(b"still")
    assert pair[0].recv(5) == b"still"


def test_the_reading_thread_ends_when_the_socket_is_shut_down(pair):
    transport = HandshakeTransport(pair[0])
    connection = HandshakeConnection("host", 445, transport)
    connection._t_worker = threading.Thread(target=connection._process_message_thread)
    connection._t_worker.start()
    transport.close()
    connection._t_worker.join(5)
    assert not connection._t_worker.is_alive()
    connection.hand_over()


def test_keys_and_names_are_where_they_are_read(pair):
    connection = HandshakeConnection("host", 445, HandshakeTransport(pair[0]))
    session = Session(connection, "user", "password", require_encryption=True)
    assert session.require_encryption
    for name in ("encryption_key", "decryption_key", "session_id"):
        assert hasattr(session, name)
    assert hasattr(TreeConnect(session, r"\\host\share"), "tree_connect_id")
    for name in ("cipher_id", "max_read_size", "max_write_size", "max_transact_size"):
        assert hasattr(connection, name)
    assert (Ciphers.AES_128_CCM, Ciphers.AES_256_CCM) == (1, 3)
    connection.transport.dispose()


def test_ciphers_encrypt_in_place():
    for cipher, nonce in ((aead.AESGCM(bytes(16)), bytes(12)), (aead.AESCCM(bytes(16)), bytes(11))):
        buffer = bytearray(4 + 16)
        cipher.encrypt_into(nonce, b"data", b"more", memoryview(buffer))
        assert cipher.decrypt(nonce, memoryview(buffer), b"more") == b"data"


def test_socket_options_exist(pair):
    with socket.socket() as sock:
        from fuse.share.handshake import Timeouts

        _tune(sock, Timeouts())
