"""Tokens are sent only to the host they are valid for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tessera_flow.archives.signing import Access
from tessera_flow.errors import ReadError
from tessera_flow.raster import retry
from tessera_flow.raster.reader import Asset, Reader
from tessera_flow.raster.resample import ReadOptions
from tessera_flow.region.mask import mask_geobox

from ..support.fault_archive import Archive, one_asset
from ..support.servers import Fault, serve_files


class BearerAccess:
    """Access to an archive with a bearer token."""

    def __init__(self, host: str) -> None:
        self.host = host

    def __call__(self, href: str, fresh: bool = False) -> Access:
        assert self.host in href
        return Access(href, {"GDAL_HTTP_HEADERS": "Authorization: Bearer B3arer-secret\r\nX-A: 1"})


def test_bearer_token_is_sent_to_its_host_and_not_to_the_target_of_a_redirect(
    archive: Archive,
) -> None:
    _, path = one_asset(archive)
    geobox = mask_geobox(archive.mask)
    asset = Asset("x", "B05", "")
    with serve_files(archive.scenes) as store, serve_files(archive.scenes) as front:
        front.redirect = f"http://localhost:{store.port}"
        asset = dataclasses.replace(asset, href=f"{front.url}{path}")
        access = BearerAccess(front.url)
        with Reader(access) as reader:
            reader.read(asset, geobox, "uint16", ReadOptions("nearest", True))
        assert len(front.requests) == len(store.requests) > 0
        assert {r.headers["authorization"] for r in front.requests} == {"Bearer B3arer-secret"}
        assert {r.headers["x-a"] for r in front.requests} == {"1"}
        assert not any("authorization" in r.headers for r in store.requests)
        front.redirect, front.faults = "", [Fault("status", count=None, value=401)]
        with (
            Reader(access, retry.RetryPolicy(attempts=2)) as reader,
            pytest.raises(ReadError, match="HTTP 401") as raised,
        ):
            reader.read(asset, geobox, "uint16", ReadOptions("nearest", True))
    assert "B3arer" not in str(raised.value)
    assert "B3arer" not in repr(access("x" + front.url))


def test_token_is_not_replaced_by_a_password_file(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default requests replaces the given header by an entry of ~/.netrc for the host."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    _, path = one_asset(archive)
    with serve_files(archive.scenes) as server, Reader(BearerAccess(server.url)) as reader:
        asset = Asset("x", "B05", f"{server.url}{path}")
        reader.read(asset, mask_geobox(archive.mask), "uint16", ReadOptions("nearest", True))
    assert {r.headers["authorization"] for r in server.requests} == {"Bearer B3arer-secret"}


@pytest.mark.parametrize(
    ("entry", "signature", "sent"),
    [
        ("machine 127.0.0.1", "", True),
        ("machine 127.0.0.1", "?sig=x", False),
        ("default", "", False),
    ],
)
def test_password_of_a_file_is_sent_to_named_hosts_without_a_signature(
    archive: Archive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    entry: str,
    signature: str,
    sent: bool,
) -> None:
    """S3 and Azure refuse a request with a password that they did not ask for."""
    (tmp_path / ".netrc").write_text(f"{entry} login me password other\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    _, path = one_asset(archive)

    def access(href: str, fresh: bool = False) -> Access:
        return Access(href + signature)

    with serve_files(archive.scenes) as server, Reader(access) as reader:
        asset = Asset("x", "B05", f"{server.url}{path}")
        reader.read(asset, mask_geobox(archive.mask), "uint16", ReadOptions("nearest", True))
    assert {"authorization" in r.headers for r in server.requests} == {sent}
