"""Fakes of what issues tokens: the endpoint of a managed identity, as App Service has it, a tenant
of Microsoft Entra ID, and the program `az`.

The tokens are real in form and signed with nothing that anybody trusts: Azurite's `--oauth basic`
looks at issuer, audience and times only.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import jwt

ROOT = Path(__file__).resolve().parents[2]
HEADER = "fake-identity-header"


def fake_token(life: float = 3600.0) -> str:
    """A token for storage, good for so many seconds."""
    now = int(time.time())
    claims = {
        "aud": "https://storage.azure.com",
        "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/",
        "iat": now - 60,
        "nbf": now - 60,
        "exp": int(now + life),
    }
    return jwt.encode(claims, "nobody trusts a key that is written here", algorithm="HS256")


class FakeIdentity:
    """Attributes: environment (for the driver), asked (tokens given out)."""

    def __init__(self, port: int) -> None:
        self.asked = 0
        self.environment = {
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{port}/fake/token",
            "IDENTITY_HEADER": HEADER,
        }


@contextlib.contextmanager
def fake_identity():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["X-IDENTITY-HEADER"] == HEADER
            running.asked += 1
            body = json.dumps(
                {
                    "access_token": fake_token(),
                    "expires_on": str(int(time.time()) + 3600),
                    "resource": "https://storage.azure.com",
                    "token_type": "Bearer",
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args):
            pass

    with serving(Handler) as port:
        running = FakeIdentity(port)
        yield running


@contextlib.contextmanager
def serving(handler, tls: ssl.SSLContext | None = None):
    """Serve on a port of its own, which it yields."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class FakeAuthority:
    """One tenant's authority.

    Attributes:
        url: Its address.
        asked: Bodies of the requests for tokens, parsed, in order.
        lives: Seconds that the next tokens are good for, first to last; then an hour.
        judge: Given a request's body, says what is wrong with its proof, or None.
    """

    def __init__(self, port: int) -> None:
        self.url = f"https://localhost:{port}"
        self.asked: list[dict[str, str]] = []
        self.lives: list[float] = []
        self.judge = lambda _body: None

    def configuration(self) -> dict[str, object]:
        """OpenID Connect Discovery 1.0, section 3, as much as clients look at."""
        return {
            "issuer": f"{self.url}/{TENANT}/v2.0",
            "authorization_endpoint": f"{self.url}/{TENANT}/oauth2/v2.0/authorize",
            "token_endpoint": f"{self.url}/{TENANT}/oauth2/v2.0/token",
            "device_authorization_endpoint": f"{self.url}/{TENANT}/oauth2/v2.0/devicecode",
        }

    def instance(self) -> dict[str, object]:
        """Instance discovery: the authority is one of the known ones."""
        place = f"{self.url}/{TENANT}/v2.0/.well-known/openid-configuration"
        return {"tenant_discovery_endpoint": place, "metadata": []}

    def answer(self, body: dict[str, str]) -> tuple[int, dict[str, object]]:
        """RFC 6749 sections 4.4, 5.1 and 5.2."""
        self.asked.append(body)
        wrong = self.judge(body)
        if body.get("grant_type") != "client_credentials" or body.get("client_id") != CLIENT:
            wrong = "AADSTS700016: no such application"
        if body.get("scope") != "https://storage.azure.com/.default":
            wrong = "AADSTS70011: no such scope"
        if wrong is not None:
            return 401, {"error": "invalid_client", "error_description": wrong}
        life = self.lives.pop(0) if self.lives else 3600.0
        token = {"access_token": fake_token(life), "expires_in": int(life)}
        return 200, {"token_type": "Bearer", "ext_expires_in": int(life), **token}


@contextlib.contextmanager
def fake_authority(tls: ssl.SSLContext):
    """Run one over TLS: clients accept no other."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/common/discovery/instance"):
                self.say(200, running.instance())
                return
            found = self.path.startswith(f"/{TENANT}/v2.0/.well-known/openid-configuration")
            self.say(*((200, running.configuration()) if found else (404, {})))

        def do_POST(self):
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if self.path.partition("?")[0] != f"/{TENANT}/oauth2/v2.0/token":
                self.say(404, {})
                return
            self.say(*running.answer({k: v[0] for k, v in parse_qs(text).items()}))

        def say(self, status, document):
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args):
            pass

    with serving(Handler, tls) as port:
        running = FakeAuthority(port)
        yield running


def fake_az(directory: Path) -> Path:
    """Write a program `az` into `directory`; it notes its arguments in `az.log` there.

    It is logged in as long as a file `logged-in` lies beside it, which has the token's life.
    """
    program = directory / "az"
    program.write_text(
        f"""#!{sys.executable}
import datetime, json, pathlib, sys
sys.path.insert(0, {os.fspath(ROOT)!r})
from tests.support.fake_identity import fake_token
here = pathlib.Path(__file__).parent
with (here / "az.log").open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + chr(10))
if not (here / "logged-in").exists():
    sys.exit("Please run 'az login' to setup account.")
life = float((here / "logged-in").read_text())
end = datetime.datetime.now() + datetime.timedelta(seconds=life)
print(json.dumps({{
    "accessToken": fake_token(life), "expiresOn": str(end), "expires_on": int(end.timestamp()),
    "tenant": {TENANT!r}, "tokenType": "Bearer",
}}))
"""
    )
    program.chmod(0o755)
    return program
