"""Archives that name files of this machine, never end, or answer without end: all end in a message.

What people do with their own archives (links, several disks, services on this machine) works.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import rasterio

from tessera_flow.archives.places import REFUSED, Places
from tessera_flow.archives.signing import Access
from tessera_flow.demo.archive import write_item_collection
from tessera_flow.errors import ConfigError, ItemError, ReadError
from tessera_flow.raster.reader import Asset, Reader
from tessera_flow.raster.retry import RetryPolicy

from ..support.pipeline import ingest
from ..support.search_run import Items, assert_same, ids, located, outcome, relocated, search
from ..support.servers import Answer, Server, running, serve_files, serve_stac
from ..support.static_catalog import write_static_catalog

WEB = "http://archive.example.org/api/"


@pytest.mark.parametrize(
    ("href", "base", "problem"),
    [
        ("file:///etc/passwd", WEB, "which a service may not name"),
        ("file:///data/secret.tif", "http://127.0.0.1:8080/", "which a service may not name"),
        ("/vsizip//data/a.zip/B04.tif", "/data/archive/items.json", "unpack archives"),
        ("/vsicurl/file:///etc/passwd", WEB, "which a service may not name"),
        ("ftp://host/a.tif", "/data/archive/items.json", "ftp: is not supported"),
        ("gs://bucket/a.tif", WEB, "gs: is not supported"),
        ("zip+s3://bucket/a.zip!b.tif", WEB, r"zip\+s3: is not supported"),
        ("abfs://user:pw@host/a.tif", "/data/archive/items.json", "abfs: is not supported"),
        ("/etc/passwd", "/data/archive/lists/items.json", "outside of the archive"),
        ("../../../etc/passwd", "/data/archive/lists/items.json", "outside of the archive"),
        ("/data/archive/../secret.tif", "/data/archive/lists/items.json", "outside of the archive"),
        ("/etc/passwd", WEB, "which a service may not name"),
        ("/dev/zero", "/data/archive/lists/items.json", "outside of the archive"),
        ("a\0.tif", "/data/archive/lists/items.json", "not the path of a file"),
    ],
)
def test_places_that_items_may_not_name(href: str, base: str, problem: str) -> None:
    assert re.search(problem, Places(base).find(href, base)[1])


def test_a_catalog_at_the_root_of_the_file_system_has_none_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A file that the root of this machine has, in place of catalog.json.
    monkeypatch.setattr("tessera_flow.archives.places.CATALOGS", ("etc/passwd",))
    assert Places("/items.json").folders == ["/"]


def test_places_that_items_may_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, other = tmp_path / "data", tmp_path / "other"
    for folder in (data / "archive" / "lists", other / "s2"):
        folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    (data / "archive" / "s2").symlink_to(other / "s2")
    (other / "s2" / "a.tif").touch()
    items = str(data / "archive" / "lists" / "items.json")
    local, by_link = Places(items), Places(items.replace("/data/", "/link/"))
    allowed = [
        (local, "http://h/a.tif", items),
        (local, "s3://bucket/a.tif", items),
        (local, "/vsis3/bucket/a.tif", items),
        (local, "../s2/a.tif", items),  # a link to another disk
        (local, str(data / "archive" / "a.tif"), items),
        (local, f"file://{data}/archive/a.tif", items),
        (by_link, str(data / "archive" / "a.tif"), items),
        (Places(items, [str(other)]), str(other / "b.tif"), items),
        (Places(items, ["other"]), str(other / "b.tif"), items),
        (Places(WEB, [str(other)]), str(other / "s2" / "a.tif"), WEB),
        (Places(WEB, [str(other)]), f"file://{other}/b.tif", WEB),
        (Places("http://localhost/"), str(other / "s2" / "a.tif"), "http://localhost/search"),
    ]
    for places, href, base in allowed:
        assert places.find(href, base)[1] == "", href
    assert local.find(str(other / "b.tif"), items)[1]
    assert Places(os.path.expanduser("~/items.json")).folders == [os.path.expanduser("~")]


def test_items_that_name_files_elsewhere_are_refused_if_they_are_used(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, expected: dict[str, Any]
) -> None:
    """Also of a service, which cannot set the key of the refusal itself."""
    away = tmp_path / "elsewhere" / "disk" / "scenes"
    away.parent.mkdir(parents=True)
    scenes.rename(away)
    moved = relocated(archive, scenes, f"file://{away}/")
    moved[0]["assets"]["B02"][REFUSED] = ""
    local = tmp_path / "project" / "data" / "items.json"
    write_item_collection(local, moved)
    none: dict[str, Any] = {"asset_folders": []}
    with pytest.raises(
        ItemError, match=r"asset B02 has the href file:/.* outside .*asset_folders.*exclude"
    ):
        search(tmp_path / "a", roi, local, sentinel2=none)
    folders = {"asset_folders": [str(away.parent)]}
    both = {"sentinel2": folders, "sentinel1": folders}
    assert_same(outcome(ingest(located(tmp_path / "b", roi, local, **both))), expected)
    with serve_stac(moved, page_size=50) as api:
        with pytest.raises(ItemError, match="which a service may not name"):
            search(tmp_path / "c", roi, api.url, sentinel2=none)
        excluded = none | {"exclude": [item["id"] for item in moved[:6]]}
        with pytest.raises(ItemError, match="No Sentinel-2 scene"):
            search(tmp_path / "d", roi, api.url, sentinel2=excluded)
        assert ids(search(tmp_path / "e", roi, api.url, sentinel2=folders))


def test_catalog_of_a_service_does_not_link_to_files(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path
) -> None:
    catalog = write_static_catalog(scenes / "catalog", archive)
    document = json.loads(catalog.read_text())
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(archive[0]))
    document["links"].append({"rel": "item", "href": f"file://{secret}"})
    catalog.write_text(json.dumps(document))
    with (
        serve_files(scenes) as server,
        pytest.raises(ItemError, match="may link to http and https URLs only"),
    ):
        search(tmp_path / "x", roi, f"{server.url}/catalog/catalog.json")


def test_virtual_raster_is_not_opened(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path
) -> None:
    """GDAL would read the file that it names as pixels."""
    for path in scenes.rglob("*.tif"):
        if path.name.startswith("T") and "_B04_" in path.name:
            secret = path.with_suffix(".secret.tif")
            path.rename(secret)
            with rasterio.open(secret) as dataset:
                vrt = rasterio.shutil.copy(dataset, path, driver="VRT")
            assert vrt is None and path.read_bytes().startswith(b"<VRTDataset")
    items = scenes / "items.json"
    write_item_collection(items, archive)
    with pytest.raises(ReadError, match=r"it is a GDAL virtual raster \(VRT\) file, not a GeoTIFF"):
        ingest(located(tmp_path / "x", roi, items, sentinel1={"enabled": False}))


LIMITS = {"attempts": 3, "timeout": 2.0, "deadline": 0.25}
"""A search may take 1 s."""
LONGER = {**LIMITS, "deadline": 5.0}
"""A search may take 20 s, and ends for another reason."""


@dataclass
class Endless(Server):
    """A service whose pages, catalogs or answers have no end.

    Attributes:
        form: `pages`: of new items; `catalogs`: each links to another; `later`: asks to wait;
            `bomb`: an answer of 600 MB in 600 kB.
    """

    form: str = ""
    item: Mapping[str, Any] = field(default_factory=dict)
    pages: int = 0

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Answer:
        self.pages += 1
        json_type = {"Content-Type": "application/json"}
        if self.form == "later":
            return 503, {"Retry-After": "7200"}, b"busy"
        if self.form == "bomb":
            content = gzip.compress(b'{"a": "') + 600 * gzip.compress(bytes(1_000_000))
            return 200, json_type | {"Content-Encoding": "gzip"}, content
        links = [{"rel": "search", "href": f"{self.url}/search"}]
        document: dict[str, Any] = {"type": "Catalog", "id": "c", "stac_version": "1.0.0"}
        if self.form == "catalogs":
            links = [{"rel": "child", "href": f"{self.url}/{self.pages}.json"}]
        elif path.startswith("/search"):
            name = f"scene-{self.pages}"
            links = [{"rel": "next", "href": f"{self.url}/search?page={self.pages}"}]
            document = {"type": "FeatureCollection", "features": [{**self.item, "id": name}]}
        else:
            document["conformsTo"] = []
        return 200, json_type, json.dumps(document | {"links": links}).encode()


def assert_ends(call: Callable[[], Any], words: str, seconds: float = 12.0) -> None:
    start = time.monotonic()
    with pytest.raises(ItemError, match=words):
        call()
    assert time.monotonic() - start < seconds


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("pages", "took more than 1 s"),
        ("catalogs", "it took more than 1 s"),
        ("later", "asks to wait 7200 s, longer than the time limit of 20 s"),
        ("bomb", "an answer has more than 268 MB"),
    ],
)
def test_search_without_end_ends(
    tmp_path: Path, roi: Path, archive: Items, form: str, words: str
) -> None:
    item = json.loads(json.dumps(archive[0]))
    for asset in item["assets"].values():
        asset["href"] = "http://127.0.0.1/a.tif"
    state = Endless(form=form, item=item)
    limits = LONGER if form in ("later", "bomb") else LIMITS
    with running(state):
        assert_ends(lambda: search(tmp_path, roi, f"{state.url}/", download=limits), words)


@contextmanager
def dripping(text: bytes, pause: float) -> Iterator[str]:
    """Serve an answer that begins with `text` and continues byte by byte."""
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(60)
            connection.recv(65536)
            try:
                connection.sendall(text)
                while not ended.wait(pause):
                    connection.sendall(b"x")
            except OSError:
                pass

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        ended.set()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "text",
    [HEAD + b"X-Long: ", HEAD + b"\r\n{", HEAD + b"Content-Length: 99999\r\n\r\n{"],
    ids=["in its headers", "without a length", "with a length"],
)
@pytest.mark.parametrize("provider", ["local", "opera"])
def test_dripping_search_ends(tmp_path: Path, roi: Path, text: bytes, provider: str) -> None:
    with dripping(text, 0.1) as url:
        sections: dict[str, Any] = {"download": LIMITS}
        if provider == "opera":
            sections |= {"sentinel1": {"provider": "opera"}, "sentinel2": {"enabled": False}}
            sections["model"] = {"min_observations": {"s2": 0, "s1": 1}}
        assert_ends(lambda: search(tmp_path, roi, url, **sections), "it took more than 1 s")


def test_dripping_scene_ends() -> None:
    with dripping(HEAD + b"X-Long: ", 0.1) as url:
        policy = RetryPolicy(attempts=3, timeout=5.0, deadline=1.0)
        asset = Asset("item", "B04", f"{url}a.tif")
        start = time.monotonic()
        with (
            Reader(lambda href, fresh=False: Access(href), policy) as reader,
            pytest.raises(ReadError, match="no answer in time"),
        ):
            reader.overview(asset)
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("resolution", [0.0001, 1e-300, 0, -10])
def test_tiny_pixels_are_refused(tmp_path: Path, roi: Path, resolution: float) -> None:
    with pytest.raises(ConfigError, match=r"grid\.resolution is .* must be at least 1"):
        located(tmp_path, roi, "items.json", grid={"resolution": resolution})


def test_endless_table_at_a_url_ends(tmp_path: Path, roi: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\nPAR1"
    with dripping(head, 0.1) as url:
        location = f"{url}items.parquet"
        assert_ends(lambda: search(tmp_path, roi, location, download=LIMITS), "more than 1 s")


@pytest.mark.parametrize("where", ["the location", "a file of a folder", "a linked file"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_not_read(
    tmp_path: Path, roi: Path, archive: Items, where: str, kind: str
) -> None:
    folder = tmp_path / "archive" / "items"
    folder.mkdir(parents=True)
    path = folder / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    location = {"the location": path, "a file of a folder": folder}.get(where)
    if location is None:
        location = folder / "catalog.json"
        link = {"rel": "item", "href": "./a.json"}
        location.write_text(json.dumps({"type": "Catalog", "id": "c", "links": [link]}))
    assert_ends(lambda: search(tmp_path, roi, location), "a device, pipe or socket", 5.0)


def test_file_that_is_too_large_is_not_read(tmp_path: Path, roi: Path) -> None:
    path = tmp_path / "items.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ItemError, match=r"has 1099\.5 GB, more than the limit of 1\.1 GB"):
        search(tmp_path / "x", roi, path)
