"""Serve the real host names of services from this machine.

A proxy on 127.0.0.1 accepts every `CONNECT host:443`, uses TLS with a certificate created for the
test, and forwards the request to the test server of that host. So the code under test uses the
real URLs, and tests can assert which host receives a token. Clients find the proxy and the
certificate through the usual environment variables, also in other processes.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .servers import Server, _Handler


@contextmanager
def internet(folder: Path, hosts: Mapping[str, Server]) -> Iterator[dict[str, str]]:
    """Serve `hosts` within the `with` block; yield the environment variables for clients.

    Requests to other hosts are rejected, so no request leaves this machine.
    """
    certificate = _certificate(folder, sorted(hosts))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    handler = type("Handler", (_Proxy,), {"hosts": dict(hosts), "context": context})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    proxy = f"http://127.0.0.1:{server.server_address[1]}"
    trusted = str(certificate)
    try:
        yield {
            "HTTPS_PROXY": proxy,
            "https_proxy": proxy,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "REQUESTS_CA_BUNDLE": trusted,
            "GDAL_CURL_CA_BUNDLE": trusted,
        }
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
        assert not thread.is_alive(), "the server does not end"


class _Proxy(_Handler):
    hosts: Mapping[str, Server]
    context: ssl.SSLContext

    def do_CONNECT(self) -> None:
        host = self.path.rpartition(":")[0]
        state = self.hosts.get(host)
        if state is None:
            self.send_error(502, f"{host} has no test server")
            return
        self.send_response(200)
        self.end_headers()
        inner = type("Inner", (_Handler,), {"server_state": state})
        try:
            with self.context.wrap_socket(self.connection, server_side=True) as secured:
                inner(secured, self.client_address, self.server)
        except (OSError, ssl.SSLError):
            pass  # the client closed the connection
        self.close_connection = True


def _certificate(folder: Path, hosts: list[str]) -> Path:
    """Return a PEM file with a key and a certificate for `hosts`; skip without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; it is needed to create a certificate")
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = ",".join(f"DNS:{host}" for host in hosts)
    command: list[Any] = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={names}",
        "-keyout", key, "-out", certificate,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    certificate.write_bytes(key.read_bytes() + certificate.read_bytes())
    return certificate
