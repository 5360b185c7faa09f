"""Benchmark of a large search: time and memory.

python benchmarks/search.py [--items 20000] [--forms api cmr parquet]

Serves a year of items of a region of 300 km from another process, in pages (the last item of a
page is repeated on the next), creates and writes the manifest as the workflow does in a separate
process, and prints one row per form of archive. Items have the size of real ones (Earth Search:
about 30 kB). Target: 20,000 items in 60 s and 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import shapely
from odc.geo.geobox import GeoBox
from tests.support.cmr_server import granule, serve_cmr
from tests.support.servers import StacServer, matches, running

EDGE = 300_000
CRS, LEFT, TOP = "EPSG:32631", 400_000, 5_800_000
PERIOD = {"start": "2023-01-01", "end": "2023-12-31"}
TARGET_SECONDS, TARGET_MIB = 60.0, 1024.0
PAGE = 200


def _outline(column: int, row: int) -> tuple[list[float], shapely.Polygon]:
    """Return the affine of a scene's raster, and its footprint in degrees."""
    import pyproj

    left, top = LEFT - 50_000 + 75_000 * column, TOP + 50_000 - 75_000 * row
    to_degrees = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    box = to_degrees.transform_bounds(left, top - 109_800, left + 109_800, top)
    return [10, 0, left, 0, -10, top], shapely.box(*box)


def optical_items(count: int) -> list[dict[str, Any]]:
    """Return items in Earth Search's form, padded to the size of real ones."""
    from tessera_flow.archives.earth_search import EarthSearch

    keys = list(EarthSearch().s2_assets.values())
    items = []
    for number in range(count):
        scene, pass_ = number % 25, number // 25
        transform, outline = _outline(scene % 5, scene // 5)
        day = 1 + pass_ * 365 // (count // 25 + 1)
        when = time.strftime("%Y-%m-%d", time.gmtime(1672531200 + 86400 * (day - 1)))
        tile, root = f"31U{'ABCDE'[scene % 5]}{'ABCDE'[scene // 5]}", "https://sentinel-cogs.s3"
        name = f"S2A_{tile}_{when.replace('-', '')}_{pass_}_L2A"
        asset = {"type": "image/tiff; application=geotiff", "proj:shape": [10980, 10980],
                 "proj:transform": transform, "raster:bands": [{"nodata": 0}]}  # fmt: skip
        folder = f"{root}.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/31/U/{tile}/2023/{name}"
        items.append({
            "type": "Feature", "stac_version": "1.0.0", "id": name,
            "collection": "sentinel-2-l2a",
            "geometry": json.loads(shapely.to_geojson(outline)), "bbox": list(outline.bounds),
            "properties": {
                "datetime": f"{when}T10:{pass_ % 60:02d}:00.000000Z", "proj:epsg": 32631,
                "eo:cloud_cover": number % 100, "s2:processing_baseline": "05.09",
                "s2:datatake_id": f"GS2A_{when.replace('-', '')}T100000_{pass_:06d}_N05.09",
                "grid:code": f"MGRS-{tile}", "s2:generation_time": f"{when}T20:00:00Z",
            },
            "links": [{"rel": "self", "href": "x" * 20_000}],  # other content of real items
            "assets": {key: asset | {"href": f"{folder}/{key}.tif"} for key in keys}
            | {f"{key}-jp2": {"href": f"s3://sentinel-s2-l2a/{name}/{key}.jp2"} for key in keys},
        })  # fmt: skip
    return items


def granules(count: int) -> list[dict[str, Any]]:
    """Return granules of CMR: bursts of 25 footprints."""
    result = []
    for number in range(count):
        scene, pass_ = number % 25, number // 25
        day = 1 + pass_ * 365 // (count // 25 + 1)
        when = time.strftime("%Y-%m-%dT05:30:00", time.gmtime(1672531200 + 86400 * (day - 1)))
        stamp = when.replace("-", "").replace(":", "")
        title = (f"OPERA_L2_RTC-S1_T{100 + scene:03d}-{pass_:06d}-IW1_{stamp}Z_"
                 "20240101T000000Z_S1A_30_v1.0")  # fmt: skip
        result.append(granule(title, f"{when}Z", _outline(scene % 5, scene // 5)[1]))
    return result


class Archive(StacServer):
    """Searches once per query, not once per page, because the client is measured."""

    def _page(self, query: Any, post: bool) -> dict[str, Any]:
        key = json.dumps([query.get(name) for name in ("collections", "bbox", "datetime")])
        if key not in _results:
            _results[key] = [item for item in self.items if matches(item, query)]
        start = int(query.get("token", 0))
        stop = start + PAGE
        link = {"rel": "next", "href": f"{self.url}/search", "method": "POST", "merge": True,
                "body": {"token": str(stop - 1)}}  # fmt: skip
        links = [link] if stop < len(_results[key]) else []
        return {"type": "FeatureCollection", "features": _results[key][start:stop], "links": links}


_results: dict[str, list[Any]] = {}


def _serve(form: str, count: int, folder: Path, pipe: Connection) -> None:
    """Serve an archive in a separate process until something is sent through the pipe."""
    if form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        items = optical_items(count)
        rows = [{k: v for k, v in item.items() if k != "properties"} | item["properties"]
                for item in items]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")
        pipe.send(str(folder / "items.parquet"))
        return
    if form == "cmr":
        with serve_cmr(granules(count), page_size=2000) as server:
            pipe.send(f"{server.url}/search/granules.umm_json")
            pipe.recv()
        return
    server = Archive(items=optical_items(count))
    with running(server):
        pipe.send(server.url)
        pipe.recv()


def _search(form: str, location: str, folder: Path, pipe: Connection) -> None:
    """Create the manifest in a separate process, as the rule items does."""
    from affine import Affine

    from tessera_flow.config.sections import Download, Period, Sentinel1, Sentinel2
    from tessera_flow.scenes.search import list_items

    source: Sentinel1 | Sentinel2
    if form == "cmr":
        source = Sentinel1.model_validate({"provider": "opera", "location": location})
    else:
        source = Sentinel2.model_validate(
            {"provider": "local", "item_format": "earth-search", "location": location}
        )
    geobox = GeoBox((EDGE // 10, EDGE // 10), Affine(10, 0, LEFT, 0, -10, TOP), CRS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    manifest = list_items(
        source, "here", geobox, Period.model_validate(PERIOD), "corrected", Download()
    )
    path = folder / f"{form}.json"
    manifest.write(path)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    type(manifest).read(path)
    pipe.send((
        len(manifest.items), len(manifest.left_out), seconds, before / 1024, peak / 1024,
        path.stat().st_size / 1e6, time.perf_counter() - start,
    ))  # fmt: skip


def main() -> int:
    """Print the table; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--forms", nargs="+", default=["api", "cmr", "parquet"])
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    missed = False
    print("| archive | items kept | left out | search s | peak MiB | manifest MB | reading it s |")
    print("|---|---|---|---|---|---|---|")
    for form in arguments.forms:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = context.Pipe()
            server = context.Process(
                target=_serve, args=(form, arguments.items, Path(folder), theirs), daemon=True
            )
            server.start()
            location = ours.recv()
            result, into = context.Pipe()
            worker = context.Process(target=_search, args=(form, location, Path(folder), into))
            worker.start()
            worker.join()
            kept, left_out, seconds, _, peak, size, reading = result.recv()
            print(f"| {form} | {kept} | {left_out} | {seconds:.1f} | {peak:.0f} | {size:.0f} | "
                  f"{reading:.1f} |", flush=True)  # fmt: skip
            missed |= seconds > TARGET_SECONDS or peak > TARGET_MIB
            if form != "parquet":
                ours.send("end")
            server.join()
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
