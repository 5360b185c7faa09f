"""Run the steps of the workflow in this process, on small archives, without Snakemake."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
import yaml

from tessera_flow.block_file import open_block_file
from tessera_flow.config.configuration import Config, load_config
from tessera_flow.dates import Slice
from tessera_flow.demo.archive import write_item_collection
from tessera_flow.ingest.download import download_sentinel1, download_sentinel2
from tessera_flow.ingest.retile import retile
from tessera_flow.ingest.scene_list import list_scenes
from tessera_flow.ingest.stack import stack_sentinel1, stack_sentinel2
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.params import JobParams
from tessera_flow.region.mask import mask_geobox, write_mask
from tessera_flow.region.roi import read_roi
from tessera_flow.scenes.manifest import Manifest

ORIGIN = (600_000.0, 5_700_000.0)
CRS = "EPSG:32631"
MODEL = {"weights": str(Path(__file__).parents[1] / "golden" / "checkpoints" / "v2_student_qk.pt")}


def read_config(path: Path) -> Config:
    """Read a configuration file as Snakemake does."""
    return load_config(yaml.safe_load(path.read_text(encoding="utf-8")))


def write_box(path: Path, left: float, bottom: float, right: float, top: float) -> Path:
    """Write a rectangle of the grid CRS as a GeoJSON file with a `crs` member (the older form)."""
    return write_polygon(path, shapely.box(left, bottom, right, top))


def write_polygon(path: Path, polygon: shapely.Geometry, crs: str = CRS) -> Path:
    document = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": crs}},
        "features": [{"type": "Feature", "properties": {}, "geometry": polygon.__geo_interface__}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def to_lonlat(x: float, y: float, crs: str = CRS) -> tuple[float, float]:
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)


def configuration(
    folder: Path,
    roi: Path,
    items: Iterable[Mapping[str, Any]],
    start: str,
    end: str,
    **sections: Any,
) -> Config:
    """Write an item collection into `folder`; return a configuration that reads it."""
    collection = folder / "items.json"
    write_item_collection(collection, items)
    # Services of tests name files of the test.
    folders = [str(folder.parent)]
    source = {"provider": "local", "location": str(collection), "asset_folders": folders}
    document: dict[str, Any] = {
        "regions": {"here": {"roi": str(roi)}},
        "periods": {"then": {"start": start, "end": end}},
        "model": dict(MODEL),
        "sentinel2": dict(source),
        "sentinel1": dict(source),
        "paths": {
            "work": str(folder / "work"),
            "results": str(folder / "results"),
            "logs": str(folder / "logs"),
        },
        "download": {"attempts": 1, "threads": 2},
    }
    for name, keys in sections.items():
        if isinstance(keys, dict):
            document.setdefault(name, {}).update(keys)
        else:
            document[name] = keys
    return load_config(document)


def ingest(config: Config, until: str = "patches", published: str | None = None) -> RunFiles:
    """Run roi, items, download, stack and retile for every block of the first region and
    period; return the paths of its files.

    Args:
        config: the configuration.
        until: `items`, `stack` or `patches`.
        published: pattern of the files of published embeddings whose holes are computed.
    """
    layout = RunFiles(config)
    region, period = "here", "then"
    config = config.for_run(region, period)
    mask = Path(layout.paths.roi.format(region=region))
    source = config.regions[region]
    write_mask(read_roi(source.roi, source.layer), layout.grids[region].geobox, mask)
    for sensor in layout.sensors(region, period):
        list_scenes(
            getattr(config, sensor),
            region,
            mask_geobox(mask),
            config.periods[period],
            config.preprocessing,
            config.download,
            config.required(sensor),
        ).write(_items_path(layout, sensor))
    if until == "items":
        return layout
    for block in layout.grids[region].blocks:
        for sensor in layout.sensors(region, period):
            paths = [Path(p) for p in layout.slice_files(region, period, sensor, block.id)]
            holes = published and published.format(region=region, period=period, block=block.id)
            for path, part in zip(paths, layout.time_slices(period), strict=True):
                _download(config, layout, sensor, mask, block.window, part, path, holes)
            stack = Path(layout.stack_files(region, period, block.id)[sensor])
            stacker = stack_sentinel2 if sensor == "sentinel2" else stack_sentinel1
            stacker(paths, stack, config.grid.downsample_rate)
        if until == "stack":
            continue
        settings = JobParams(layout).retile(region, period, block.id)
        settings.pop("window")
        stacks = layout.stack_files(region, period, block.id)
        retile(
            *(Path(stacks[s]) if s in stacks else None for s in ("sentinel2", "sentinel1")),
            roi_path=mask,
            block=block.id,
            window=block.window,
            output=Path(layout.paths.patches.format(region=region, period=period, block=block.id)),
            on_empty_block=config.download.on_empty_block,
            published=published and published.format(region=region, period=period, block=block.id),
            all_values=config.all_values,
            **settings,
        )
    return layout


def _items_path(layout: RunFiles, sensor: str) -> Path:
    return Path(layout.paths.items.format(region="here", period="then", sensor=sensor))


def manifest(layout: RunFiles, sensor: str) -> Manifest:
    return Manifest.read(_items_path(layout, sensor))


def _download(
    config: Config,
    layout: RunFiles,
    sensor: str,
    mask: Path,
    window: Any,
    part: Slice,
    path: Path,
    published: str | None,
) -> None:
    common: dict[str, Any] = {
        "manifest_path": _items_path(layout, sensor),
        "roi_path": mask,
        "window": window,
        "time_slice": part,
        "output": path,
        "source": getattr(config, sensor),
        "settings": config.download,
        "published": published,
    }
    if sensor == "sentinel2":
        download_sentinel2(**common, preprocessing=config.preprocessing)
    else:
        download_sentinel1(**common)


def stacked(
    layout: RunFiles, sensor: str, region: str = "here", period: str = "then"
) -> dict[str, np.ndarray]:
    """Return the stacks of all blocks, put together on the product grid.

    Dates differ between blocks (each drops the days without a valid pixel), so arrays have the
    union of dates, which is under `dates` or `{orbit}_dates`.
    """
    grid = layout.grids[region]
    streams = (
        {"dates": ["bands", "masks"]}
        if sensor == "sentinel2"
        else {f"{o}_dates": [f"sar_{o}"] for o in ("ascending", "descending")}
    )
    files = {b.id: Path(layout.stack_files(region, period, b.id)[sensor]) for b in grid.blocks}
    result: dict[str, Any] = {}
    for key, names in streams.items():
        dates: set[str] = set()
        for path in files.values():
            with open_block_file(path) as group:
                dates |= set(group.attrs[key])
        ordered = sorted(dates)
        result[key] = ordered
        for block in grid.blocks:
            with open_block_file(files[block.id]) as group:
                window = grid.product_window(block)
                indices = [ordered.index(d) for d in group.attrs[key]]
                for name in names:
                    data = np.asarray(group[name][:])
                    mosaic = result.setdefault(
                        name,
                        np.zeros(
                            (len(ordered), *grid.product_geobox.shape, *data.shape[3:]), data.dtype
                        ),
                    )
                    for index, image in zip(indices, data, strict=True):
                        mosaic[(index, *window.slices)] = image
    return result


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
