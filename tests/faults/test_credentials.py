"""Tokens go to the host they belong to, and nowhere else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tessera_flow.archives.signing import Access
from tessera_flow.errors import ReadError
from tessera_flow.raster import retry
from tessera_flow.raster.reader import AssetAddress, Reader
from tessera_flow.raster.resample import ReadOptions
from tessera_flow.region.mask import mask_geobox

from ..support.fault_archive import Archive, one_asset
from ..support.servers import Fault, serve_files

# Credentials


class Sends:
    """Access with a header, as an archive with bearer tokens asks for."""

    def __init__(self, host: str) -> None:
        self.host = host

    def __call__(self, href: str, fresh: bool = False) -> Access:
        assert self.host in href
        return Access(href, {"GDAL_HTTP_HEADERS": "Authorization: Bearer B3arer-secret\r\nX-A: 1"})


def test_a_bearer_token_goes_to_its_host_and_not_along_with_a_redirect(archive: Archive) -> None:
    _, path = one_asset(archive)
    geobox = mask_geobox(archive.mask)
    asset = AssetAddress("x", "B05", "")
    with serve_files(archive.scenes) as store, serve_files(archive.scenes) as front:
        front.redirect = f"http://localhost:{store.port}"
        asset = dataclasses.replace(asset, href=f"{front.url}{path}")
        access = Sends(front.url)
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


def test_a_password_file_does_not_take_the_place_of_a_token(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests would send what ~/.netrc holds for a host instead of the header it is given."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    _, path = one_asset(archive)
    with serve_files(archive.scenes) as server, Reader(Sends(server.url)) as reader:
        reader.tags(AssetAddress("x", "B05", f"{server.url}{path}"))
    assert {r.headers["authorization"] for r in server.requests} == {"Bearer B3arer-secret"}
