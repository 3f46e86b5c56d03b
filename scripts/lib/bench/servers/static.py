"""nginx as a Blob service that costs next to nothing: files by sendfile, listings prepared.

The headers-more module puts ``x-ms-range`` into ``Range`` before nginx looks at it. Nothing can be
written and nobody has to sign.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from agent.dev import ports
from bench import usage
from bench.errors import BenchError
from bench.servers import Service, Traffic
from bench.servers.certificate import self_signed
from bench.servers.listing import Blob, answers
from bench.waiting import wait_until

ACCOUNT = "benchaccount"

#: Looks like one, and is not looked at.
_SAS = "sv=2021-12-02&sr=c&sp=rl&sig=c3RhdGlj"

_MODULE = Path("/usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so")

_CONFIGURATION = """\
load_module {module};
daemon off;
{user}
worker_processes {workers};
worker_rlimit_nofile 65536;
pid {base}/nginx.pid;
error_log {base}/error.log;
events {{ worker_connections 8192; }}
http {{
    client_body_temp_path {base}/temporary/body;
    proxy_temp_path {base}/temporary/proxy;
    fastcgi_temp_path {base}/temporary/fastcgi;
    uwsgi_temp_path {base}/temporary/uwsgi;
    scgi_temp_path {base}/temporary/scgi;
    log_format wire "$status $bytes_sent $request_length $arg_comp";
    access_log {base}/access.log wire;
    sendfile on;
    sendfile_max_chunk 2m;
    tcp_nopush on;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    open_file_cache max=65536 inactive=600s;
    open_file_cache_valid 600s;
    types {{}}
    map $http_x_ms_range $wanted {{ "" $http_range; default $http_x_ms_range; }}
    map $arg_maxresults $kind {{ default one; "" full; ~^[0-9][0-9][0-9] full; }}
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        ssl_protocols TLSv1.3;
        ssl_session_cache shared:tls:1m;
        root {base}/blobs;
        more_set_input_headers "Range: $wanted";
        more_set_headers "x-ms-version: 2021-12-02" "x-ms-request-id: static";
        location ~ ^/{account}/([^/]+)/?$ {{
            set $container $1;
            default_type application/xml;
            if ($arg_comp = "") {{ return 200; }}
            root {base}/listings;
            try_files /$container/$kind~$arg_delimiter~$arg_prefix~$arg_marker /empty =404;
        }}
        location ~ /$ {{ more_set_headers "x-ms-error-code: BlobNotFound"; return 404; }}
        location / {{
            default_type application/octet-stream;
            try_files $uri =404;  # a directory is no blob
            more_set_headers -s "200 206" "x-ms-blob-type: BlockBlob";
            error_page 404 = @missing;
            error_page 412 = @changed;
        }}
        location @missing {{ more_set_headers "x-ms-error-code: BlobNotFound"; return 404; }}
        location @changed {{ more_set_headers "x-ms-error-code: ConditionNotMet"; return 412; }}
    }}
}}
"""


class StaticServer:
    """A running nginx. Only :func:`running` makes them.

    Attributes:
        directory: Holds blobs, listings and logs.
    """

    def __init__(
        self, directory: Path, process: subprocess.Popen[bytes], port: int, tls: int
    ) -> None:
        self.directory = directory
        self._process = process
        self._port = port
        self._tls = tls
        self._log = (directory / "access.log").open("rb")
        self._traffic = Traffic()

    def service(self, *, tls: bool = False) -> Service:
        """The account, in clear or over TLS 1.3."""
        scheme, port = ("https", self._tls) if tls else ("http", self._port)
        return Service(
            name="static+tls" if tls else "static",
            endpoint=f"{scheme}://127.0.0.1:{port}/{ACCOUNT}",
            account=ACCOUNT,
            sas=_SAS,
            authority=self.directory / "server.pem" if tls else None,
            traffic=self.traffic,
            pids=self.pids,
        )

    def container(self, name: str) -> Path:
        """The directory whose files are a container's blobs; fill it, then :meth:`index` it."""
        path = self.directory / "blobs" / ACCOUNT / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def index(self, name: str) -> None:
        """Prepare the listings of a container. Its files may not change after that."""
        root = self.container(name)
        blobs = []
        for parent, _, files in os.walk(root):
            for file in files:
                path = Path(parent, file)
                found = path.stat()
                blobs.append(
                    Blob(path.relative_to(root).as_posix(), found.st_size, int(found.st_mtime))
                )
        target = self.directory / "listings" / name
        target.mkdir(parents=True, exist_ok=True)
        for file, document in answers(blobs):
            (target / file).write_bytes(document)

    def traffic(self) -> Traffic:
        """What the access log has so far."""
        requests, listings, count = 0, 0, 0
        for line in self._log:
            _status, sent, received, comp = line.split()
            requests += 1
            listings += comp == b"list"
            count += int(sent) + int(received)
        before = self._traffic
        self._traffic = Traffic(
            before.requests + requests, before.listings + listings, before.wire_bytes + count
        )
        return self._traffic

    def pids(self) -> list[int]:
        """The workers."""
        return usage.children(self._process.pid)

    def close(self) -> None:
        """Stop reading its log."""
        self._log.close()


@contextlib.contextmanager
def running(directory: Path) -> Iterator[StaticServer]:
    """Start nginx; stop it at the end.

    Raises:
        BenchError: It is not installed, or does not start.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if program is None or not _MODULE.is_file():
        raise BenchError("nginx or its headers-more module is missing: scripts/setup --with-bench")
    for name in ("blobs", "listings", "temporary"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    empty = b'<?xml version="1.0"?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>'
    (directory / "listings" / "empty").write_bytes(empty)
    (directory / "access.log").touch()
    certificate = self_signed(directory)
    port, tls_port = ports.free_port(), ports.free_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            module=_MODULE,
            user="user root;" if os.geteuid() == 0 else "",
            workers=os.cpu_count() or 1,
            base=directory,
            port=port,
            tls_port=tls_port,
            certificate=certificate,
            account=ACCOUNT,
        )
    )
    errors = directory / "error.log"
    process = subprocess.Popen(
        [program, "-c", os.fspath(configuration), "-e", os.fspath(errors)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            wait_until(
                lambda: ports.listens(port) or process.poll() is not None, 10, "nginx's start"
            )
            if process.poll() is not None:
                raise BenchError(f"nginx did not start: {errors.read_text()[-500:]}")
            with contextlib.closing(StaticServer(directory, process, port, tls_port)) as server:
                yield server
        finally:
            # Not SIGKILL: the master ends its workers.
            process.terminate()
