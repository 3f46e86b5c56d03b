"""A fake of the endpoint that a managed identity's tokens come from, as App Service has it.

The tokens are real in form and signed with nothing that anybody trusts: Azurite's `--oauth basic`
looks at issuer, audience and times only.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt

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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = FakeIdentity(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
