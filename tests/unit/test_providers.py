"""Providers: BOA offset, asset keys, duplicate acquisitions, signing."""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planetary_computer import sas

from tessera_flow.archives.earth_search import EarthSearch
from tessera_flow.archives.mpc import Mpc
from tessera_flow.archives.providers import PROVIDERS, find_provider
from tessera_flow.archives.sentinel2_names import mgrs_tile
from tessera_flow.config.configuration import Config
from tessera_flow.errors import ConfigError, ItemError
from tessera_flow.sensors.sentinel2 import BANDS

from ..support.archives import earth_search_item
from ..support.internet import internet
from ..support.pipeline import ORIGIN, configuration, ingest, manifest, stacked, write_box
from ..support.scenes import optical
from ..support.servers import Server, serve_stac

ITEMS = Path(__file__).parents[3] / "shared" / "items"
LEFT, TOP = ORIGIN
SHAPE = (40, 50)
BAND = np.arange(10, dtype=np.uint16)
START, END = "2022-02-01", "2022-02-28"

# Offset in the pixels of the recorded items, by collection and bucket of the bands. All items have
# baseline 04.00 or later.
REAL_OFFSETS = {
    ("earth-search", "sentinel-2-l2a", "sentinel-cogs"): 0,
    ("earth-search", "sentinel-2-l2a", "sentinel-s2-l2a"): 1000,
    ("earth-search", "sentinel-2-c1-l2a", "e84-earth-search-sentinel-data"): 1000,
    ("mpc", "sentinel-2-l2a", "sentinel2l2a01"): 1000,
}


def real_items() -> list[Any]:
    """Return (provider, item) of every recorded Sentinel-2 item."""
    parameters = []
    for path in sorted(ITEMS.glob("*.json")) if ITEMS.is_dir() else []:
        document = json.loads(path.read_text())
        items = document.get("features") or [document]
        name = "earth-search" if path.name.startswith("es_") else "mpc"
        parameters += [
            pytest.param(name, item, id=f"{path.name}-{item['id']}")
            for item in items
            if item.get("type") == "Feature" and "sentinel-2" in item["collection"]
        ]
    return parameters or [
        pytest.param("", {}, marks=pytest.mark.skip(reason=f"no recorded items at {ITEMS}"))
    ]


@pytest.mark.parametrize(("name", "item"), real_items())
def test_offset_of_every_recorded_item(name: str, item: dict[str, Any]) -> None:
    provider = PROVIDERS[name]
    href = item["assets"][provider.s2_assets["B04"]]["href"]
    bucket = href.split("/")[2].split(".")[0]
    expected = REAL_OFFSETS[(name, item["collection"], bucket)]
    assert float(item["properties"]["s2:processing_baseline"]) >= 4
    rule = provider.offset_rule(item, "corrected")
    assert rule.bands == (set(BANDS) if expected else set())
    assert not rule.doubt
    # The published pipeline corrected Planetary Computer's scenes only, from 26 January 2022.
    published = provider.offset_rule(item, "as_published")
    assert published.bands == (set(BANDS) if name == "mpc" else set())
    early = copy.deepcopy(item)
    early["properties"]["s2:processing_baseline"] = "03.01"
    early["properties"].pop("s2:product_uri", None)
    assert not provider.offset_rule(early, "corrected").bands


@pytest.mark.parametrize(("name", "item"), real_items())
def test_keys_tile_and_acquisition_of_every_recorded_item(name: str, item: dict[str, Any]) -> None:
    provider = PROVIDERS[name]
    for band in (*BANDS, "SCL"):
        asset = item["assets"][provider.s2_assets[band]]
        file = asset["href"].rsplit("/", 1)[1]
        assert file.endswith((".tif", ".jp2"))
        assert f"_{band}_" in file or file.rsplit(".", 1)[0] == band
    tile = mgrs_tile(item)
    assert tile is not None
    if "s2:product_uri" in item["properties"]:
        assert f"_T{tile}_" in item["properties"]["s2:product_uri"]
    else:
        assert f"{tile}_" in item["id"]
    satellite, start, *_ = item["properties"]["s2:datatake_id"].removeprefix("G").split("_")
    assert provider.acquisition(item) == (satellite, start, tile)
    unnamed = copy.deepcopy(item)
    del unnamed["properties"]["s2:datatake_id"]
    if "s2:product_uri" in item["properties"]:
        assert provider.acquisition(unnamed) == (satellite, start, tile)


def earth_search(**changes: Any) -> dict[str, Any]:
    href = changes.pop("href", "/data/{}.tif")
    keys = EarthSearch().s2_assets
    return {
        "id": "x",
        "collection": changes.pop("collection", "sentinel-2-l2a"),
        "assets": {key: {"href": href.format(band)} for band, key in keys.items()},
        "properties": {
            "datetime": "2023-06-05T10:00:00Z",
            "s2:processing_baseline": "05.11",
            **changes,
        },
    }


@pytest.mark.parametrize(
    ("item", "offset"),
    [
        (earth_search(href="https://sentinel-cogs.s3.us-west-2.amazonaws.com/a/{}.tif"), 0),
        (earth_search(href="https://sentinel-cogs.s3.amazonaws.com/a/{}.tif"), 0),
        (earth_search(href="https://s3.us-west-2.amazonaws.com/sentinel-cogs/a/{}.tif"), 0),
        (earth_search(href="s3://sentinel-cogs/a/{}.tif"), 0),
        (earth_search(href="https://sentinel-s2-l2a.s3.amazonaws.com/a/{}.tif"), 1000),
        (earth_search(href="s3://sentinel-s2-l2a/a/{}.tif"), 1000),
        (earth_search(href="s3://e84-earth-search-sentinel-data/a/{}.tif"), 1000),
        # The files of this bucket are ESA's own, whatever the properties state.
        (earth_search(href="s3://sentinel-s2-l2a/{}", **{"earthsearch:boa_offset_applied": True}),
         1000),
        (earth_search(href="s3://sentinel-s2-l2a/{}", **{"s2:processing_baseline": "03.01"}), 0),
        # Local files.
        (earth_search(**{"earthsearch:s3_path": "s3://sentinel-cogs/a/x"}), 0),
        (earth_search(**{"earthsearch:s3_path": "s3://sentinel-s2-l2a/a/x"}), 1000),
        (earth_search(collection="sentinel-2-c1-l2a"), 1000),
        (earth_search(**{"s2:processing_baseline": "02.14"}), 0),
    ],
)  # fmt: skip
def test_offset_follows_the_bucket(item: dict[str, Any], offset: int) -> None:
    rule = EarthSearch().offset_rule(item, "corrected")
    assert rule.bands == (set(BANDS) if offset else set())
    assert not rule.doubt
    assert rule.by in ("bucket", "collection", "baseline")


COGS = {"earthsearch:s3_path": "s3://sentinel-cogs/a/x"}


@pytest.mark.parametrize(
    ("item", "offset", "doubt"),
    [
        (earth_search(**COGS, **{"earthsearch:boa_offset_applied": False}), 0,
         "boa_offset_applied is false, but the bucket is sentinel-cogs"),
        (earth_search(**COGS, **{"earthsearch:boa_offset_applied": "false"}), 0,
         "boa_offset_applied is false, but the bucket is sentinel-cogs"),
        (earth_search(**COGS, datetime="2022-02-05T10:00:00Z"), 0, "first products of baseline"),
        (earth_search(**COGS, datetime="2022-02-05T10:00:00Z",
                      **{"earthsearch:boa_offset_applied": True}), 0, "first products of baseline"),
        (earth_search(href="s3://e84-earth-search-sentinel-data/{}",
                      **{"earthsearch:boa_offset_applied": True}), 1000,
         "boa_offset_applied is true, but the bucket is e84-earth-search-sentinel-data"),
        (earth_search(**{"earthsearch:boa_offset_applied": True}), 0, "only earthsearch:boa"),
        (earth_search(**{"earthsearch:boa_offset_applied": False}), 1000, "only earthsearch:boa"),
        (earth_search(), 1000, "neither a bucket"),
    ],
)  # fmt: skip
def test_contradictions_of_bucket_flag_and_date_are_doubts(
    item: dict[str, Any], offset: int, doubt: str
) -> None:
    rule = EarthSearch().offset_rule(item, "corrected")
    assert rule.bands == (set(BANDS) if offset else set())
    assert doubt in rule.doubt
    assert rule.doubtful == set(BANDS)
    assert not EarthSearch().offset_rule(item, "as_published").doubt
    for stated in ("present", "removed"):
        by_user = EarthSearch().offset_rule(item, "corrected", stated)
        assert (by_user.by, by_user.doubt) == ("configuration", "")
        assert by_user.bands == (set(BANDS) if stated == "present" else set())


def test_bands_in_several_buckets_have_an_offset_each() -> None:
    mixed = earth_search(href="s3://sentinel-cogs/{}")
    mixed["assets"]["nir"]["href"] = "s3://sentinel-s2-l2a/nir"
    rule = EarthSearch().offset_rule(mixed, "corrected")
    assert (rule.bands, rule.by, rule.doubt) == ({"B08"}, "bucket", "")
    mixed["properties"]["datetime"] = "2022-02-05T10:00:00Z"
    rule = EarthSearch().offset_rule(mixed, "corrected")
    assert rule.doubtful == set(BANDS) - {"B08"}


def test_every_gdal_option_has_a_reason_and_is_set_once() -> None:
    for provider in PROVIDERS.values():
        names = [option.name for option in provider.gdal_options]
        assert len(set(names)) == len(names)
        assert all(len(option.reason) > 10 for option in provider.gdal_options)


def test_unknown_provider_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"provider 'aws': choose one of mpc, earth-search, opera"
    ):
        find_provider("aws", "mpc")
    assert find_provider("local", "opera").name == "opera"


def test_public_buckets_are_opened_by_https() -> None:
    access = EarthSearch().access
    assert access("s3://sentinel-cogs/a/B04.tif").href == (
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/a/B04.tif"
    )
    assert access("s3://own-bucket/B04.tif").href == "s3://own-bucket/B04.tif"


# Earth Search end to end


@pytest.fixture
def roi(tmp_path: Path) -> Path:
    return write_box(tmp_path / "roi.geojson", LEFT, TOP - 400, LEFT + 500, TOP)


def with_file_uris(item: dict[str, Any]) -> dict[str, Any]:
    """Return the item with file URLs instead of paths, as in a response of a service."""
    assets = {
        key: asset | {"href": Path(asset["href"]).as_uri() if asset["href"][0] == "/"
                      else asset["href"]}
        for key, asset in item["assets"].items()
    }  # fmt: skip
    return item | {"assets": assets}


def local_earth_search(folder: Path, roi: Path, items: Any, **source: Any) -> Config:
    return configuration(
        folder, roi, items, START, END, sentinel1={"enabled": False},
        sentinel2={"item_format": "earth-search", **source},
    )  # fmt: skip


def test_offset_is_removed_only_where_present_on_a_mixed_day(tmp_path: Path, roi: Path) -> None:
    """One item corrected at the archive and one not, on the same day and block: both sides must
    have the same numbers for the same reflectance."""
    west = np.full(SHAPE, 4, np.uint8)
    west[:, 25:] = 9
    corrected = np.broadcast_to(2000 + BAND, (*SHAPE, 10)).copy()
    plain = np.broadcast_to(3000 + BAND, (*SHAPE, 10)).copy()
    corrected[0, :6, :] = np.array([0, 1, 2, 999, 1000, 1001])[:, None]
    plain[0, 30:36, :] = np.array([0, 1, 999, 1000, 1001, 1002])[:, None]
    first = optical(tmp_path / "a", "2022-02-03T10:00:00", corrected, west, baseline="05.10")
    second = optical(
        tmp_path / "a", "2022-02-03T10:00:20", plain, baseline="05.10", mgrs_tile="31UFU"
    )
    items = [
        earth_search_item(first, "sentinel-cogs"),
        earth_search_item(second, "sentinel-s2-l2a"),
    ]
    run_files = ingest(local_earth_search(tmp_path, roi, items))
    assert [i.boa_offset for i in manifest(run_files, "sentinel2").items] == [0, 1000]
    bands = stacked(run_files, "sentinel2")["bands"][0]
    np.testing.assert_array_equal(bands[1:], np.broadcast_to(2000 + BAND, (39, 50, 10)))
    for band in range(10):
        assert bands[0, :6, band].tolist() == [0, 1, 2, 999, 1000, 1001]
        assert bands[0, 30:36, band].tolist() == [0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("bucket", "collection", "offset"),
    [
        ("sentinel-cogs", None, 0),
        ("sentinel-s2-l2a", None, 1000),
        ("e84-earth-search-sentinel-data", "sentinel-2-c1-l2a", 1000),
    ],
)
def test_local_archive_in_the_format_of_earth_search(
    tmp_path: Path, roi: Path, bucket: str, collection: str | None, offset: int
) -> None:
    rng = np.random.default_rng(3)
    dn = rng.integers(1 + offset, 9000, (*SHAPE, 10)).astype(np.uint16)
    scl = rng.choice([4, 9], SHAPE).astype(np.uint8)
    scene = optical(tmp_path / "a", "2022-02-03T10:00:00", dn, scl, baseline="04.00")
    item = with_file_uris(earth_search_item(scene, bucket, collection or "sentinel-2-l2a"))
    with serve_stac([item]) as api:
        config = local_earth_search(tmp_path, roi, [], location=api.url, collection=collection)
        run_files = ingest(config)
    stack = stacked(run_files, "sentinel2")
    np.testing.assert_array_equal(stack["bands"][0], dn - offset)
    np.testing.assert_array_equal(stack["masks"][0], scl == 4)
    (manifest_item,) = manifest(run_files, "sentinel2").items
    # The date is in the time of products that were copied uncorrected, so the pixels decided.
    assert manifest_item.boa_offset_from == ("pixels" if bucket == "sentinel-cogs" else "bucket")
    assert not [key for key in manifest_item.stac["assets"] if key.endswith("-jp2")]


def test_duplicates_of_an_acquisition_are_listed_in_order(tmp_path: Path, roi: Path) -> None:
    """Newest baseline first, then newest processing; each duplicate with its own offset."""
    times = [dt.datetime(2022, 2, day, tzinfo=dt.UTC) for day in (4, 5, 20)]
    scenes = [
        optical(tmp_path / "a", "2022-02-03T10:00:00", 2000, baseline="04.00", generation=times[1]),
        optical(tmp_path / "a", "2022-02-03T10:00:00", 3000, baseline="03.01", generation=times[2]),
        optical(tmp_path / "a", "2022-02-03T10:00:00", 4000, baseline="04.00", generation=times[0]),
    ]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        config = configuration(
            tmp_path / str(order), roi, [scenes[i] for i in order], START, END,
            sentinel1={"enabled": False},
        )  # fmt: skip
        listed = manifest(ingest(config, until="items"), "sentinel2")
        (item,) = listed.items
        assert item.id == scenes[0]["id"]
        assert [other.id for other in item.duplicates] == [scenes[2]["id"], scenes[1]["id"]]
        assert [other.boa_offset for other in item.duplicates] == [1000, 0]
        assert all(set(other.stac["assets"]) == {*BANDS, "SCL"} for other in item.duplicates)
        assert dict(listed.left_out) == {
            scene["id"]: f"older duplicate of {item.id}" for scene in scenes[1:]
        }


def test_manifest_does_not_depend_on_the_order_of_a_search(tmp_path: Path, roi: Path) -> None:
    scenes = [
        with_file_uris(optical(tmp_path / "a", f"2022-02-0{day}T10:00:00", 2000, mgrs_tile=tile))
        for day in (3, 4)
        for tile in ("31UFT", "31UFU")
    ]
    texts = set()
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0, 0, 1]):
        with serve_stac([scenes[i] for i in order]) as api:
            config = configuration(
                tmp_path / str(order), roi, [], START, END,
                sentinel1={"enabled": False}, sentinel2={"location": api.url},
            )  # fmt: skip
            run_files = ingest(config, until="items")
        path = run_files.paths.items.format(region="here", period="then", sensor="sentinel2")
        texts.add(Path(path).read_text())
    assert len(texts) == 1


def test_choice_between_documents_with_one_id_does_not_depend_on_order(
    tmp_path: Path, roi: Path
) -> None:
    scene = with_file_uris(optical(tmp_path / "a", "2022-02-03T10:00:00", 2000, cloud_cover=10.0))
    later = copy.deepcopy(scene)
    later["properties"]["eo:cloud_cover"] = 20.0
    results = []
    for order in ([scene, later], [later, scene], [later, scene, later]):
        config = configuration(
            tmp_path / str(len(results)), roi, order, START, END, sentinel1={"enabled": False}
        )
        results.append(manifest(ingest(config, until="items"), "sentinel2").items)
    assert len(results[0]) == 1 and results[0] == results[1] == results[2]


def test_page_that_is_always_refused_is_searched_in_shorter_periods(
    tmp_path: Path, roi: Path
) -> None:
    """Earth Search can return 502 for one page of a query for hours."""
    days = (1, 7, 13, 21, 28)
    scenes = [optical(tmp_path / "a", f"2022-02-{day:02d}T10:00:00", 2000) for day in days]
    with serve_stac(scenes, page_size=2) as api:
        respond = api.respond

        def broken(method: str, path: str, headers: Any, body: Any) -> Any:
            full_period = body and body.get("datetime", "").startswith(
                "2022-02-01T00:00:00Z/2022-03-02"
            )
            if full_period and body.get("token") == "2":
                return 502, {}, b"<html>Bad Gateway</html>"
            return respond(method, path, headers, body)

        api.respond = broken  # type: ignore[method-assign]
        config = configuration(
            tmp_path, roi, [], START, END,
            sentinel1={"enabled": False}, sentinel2={"location": api.url},
        )  # fmt: skip
        listed = manifest(ingest(config, until="items"), "sentinel2")
        assert 502 in [r.status for r in api.requests]
    assert [item.date.day for item in listed.items] == list(days)


def test_error_of_a_search_that_is_always_refused_has_the_query(tmp_path: Path, roi: Path) -> None:
    with serve_stac([]) as api:
        respond = api.respond
        api.respond = lambda method, path, *rest: (  # type: ignore[method-assign]
            (502, {}, b"Bad Gateway")
            if path.startswith("/search")
            else respond(method, path, *rest)
        )
        config = configuration(
            tmp_path, roi, [], START, END,
            sentinel1={"enabled": False}, sentinel2={"location": api.url},
        )  # fmt: skip
        with pytest.raises(
            ItemError,
            match=r"for 2022-02-01 to 2022-02-01 in the box 4\.4.* was refused: HTTP status 502",
        ):
            ingest(config, until="items")
        assert len([r for r in api.requests if r.path.startswith("/search")]) <= 8


# Signatures of Planetary Computer


@dataclass
class SigningServer(Server):
    """Token service of Planetary Computer."""

    tokens: list[str] = field(default_factory=list)
    status: int = 200

    def respond(self, method: str, path: str, headers: Any, body: Any) -> Any:
        if self.status != 200:
            return self.status, {}, b"{}"
        self.tokens.append(f"sig={len(self.tokens)}&se=2099")
        expiry = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat()
        document = {"msft:expiry": expiry.replace("+00:00", "Z"), "token": self.tokens[-1]}
        return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


@pytest.fixture
def signing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SigningServer]:
    sas.TOKEN_CACHE.clear()
    state = SigningServer()
    with internet(tmp_path / "tls", {"planetarycomputer.microsoft.com": state}) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield state
    sas.TOKEN_CACHE.clear()


BLOB = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/13/T/B04.tif"


def test_concurrent_reads_share_one_signature(signing: SigningServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        hrefs = set(pool.map(lambda _: Mpc().access(BLOB).href, range(40)))
    assert hrefs == {f"{BLOB}?sig=0&se=2099"}
    assert [r.path for r in signing.requests] == ["/api/sas/v1/token/sentinel2l2a01/sentinel2-l2"]
    other = "https://sentinel1euwestrtc.blob.core.windows.net/sentinel1-grd-rtc/vv.tif"
    assert Mpc().access(other).href == f"{other}?sig=1&se=2099"


def test_rejected_signature_is_replaced(signing: SigningServer) -> None:
    assert Mpc().access(BLOB).href.endswith("sig=0&se=2099")
    assert Mpc().access(BLOB, fresh=True).href.endswith("sig=1&se=2099")
    assert Mpc().access(BLOB).href.endswith("sig=1&se=2099")


@pytest.mark.parametrize(
    "href",
    [
        "/data/B04.tif",
        "http://127.0.0.1:1/B04.tif",
        "https://evilblob.core.windows.net/a/B04.tif",
        "https://x.blob.core.windows.net.example.org/a/B04.tif",
    ],
)
def test_other_urls_are_not_signed(signing: SigningServer, href: str) -> None:
    assert Mpc().access(href).href == href
    assert not signing.requests


def test_storage_account_of_someone_else_is_opened_unsigned(signing: SigningServer) -> None:
    signing.status = 404
    assert Mpc().access(BLOB).href == BLOB
