"""Benchmark of reading one block: bytes, requests, CPU time, memory, wall time.

Writes a local archive of full-size scenes once (10980 x 10980 px, deflate, 1024 px blocks, two
MGRS tiles, both sensors; several GB), serves it with and without latency, and reads a block
of 2000 px covered by both tiles, each method in a separate process:

    download    `download_sentinel2` and `download_sentinel1`, files written
    read        only the reads: each asset of the download, on the grid of the block
    odc         the same with plain `odc.stac.load` and xarray, file written
    rasterio    only decoding, with rasterio alone: the blocks of the files that the block of
                the region intersects, from the disk and from the server

    python benchmarks/ingest.py --dates 12 --archive /scratch/ingest

Dates share their pixel files (links): this does not change the cost of reading.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tessera_flow.archives.providers import PROVIDERS
from tessera_flow.config.configuration import load_config
from tessera_flow.config.sections import Download
from tessera_flow.dates import Slice
from tessera_flow.ingest.download import download_sentinel1, download_sentinel2
from tessera_flow.region.grid import Window
from tessera_flow.region.mask import read_mask
from tessera_flow.scenes.search import Manifest, SourceItem
from tessera_flow.sensors.sentinel1 import CHANNELS, ORBITS
from tessera_flow.sensors.sentinel2 import BANDS, SCL

CRS = "EPSG:32631"
SIZE = 10980
TILES = {"31UFT": (600_000, 5_700_000), "31UGT": (699_960, 5_700_000)}
BLOCK = (695_000, 5_660_000)
"""Upper left corner of the block: each tile covers a part of it, a strip is in both."""
PIXELS = {**dict.fromkeys(BANDS, 20), "B04": 10, "B02": 10, "B03": 10, "B08": 10, "SCL": 20}
PROVIDER = PROVIDERS["mpc"]


# The archive


def texture(size: int, seed: int) -> np.ndarray:
    """Return fields and noise that compress like reflectance (to about two thirds)."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (size // 40 + 1, size // 40 + 1)).astype(np.float32)
    image = np.kron(coarse, np.ones((40, 40), np.float32))[:size, :size]
    image += 0.05 * rng.standard_normal((size, size), np.float32)
    return image


def write(path: Path, image: np.ndarray, pixel: int, origin: tuple[int, int], **tags: Any) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part.tif")
    with rasterio.open(
        temporary, "w", driver="COG", height=image.shape[0], width=image.shape[1], count=1,
        dtype=image.dtype, crs=CRS, transform=Affine(pixel, 0, origin[0], 0, -pixel, origin[1]),
        compress="deflate", predictor="yes", blocksize=1024, overviews="NONE",
        num_threads="ALL_CPUS", **tags,
    ) as dataset:  # fmt: skip
        dataset.write(image, 1)
    temporary.rename(path)


def make_archive(folder: Path, dates: int) -> None:
    """Write one optical and one radar scene per tile, linked for each date (so that caches of the
    readers do not identify them)."""
    for day in days(dates):
        (folder / str(day)).mkdir(parents=True, exist_ok=True)
        for tile in TILES:
            link = folder / str(day) / tile
            if not link.is_symlink():
                link.symlink_to(Path("..") / tile)
    for number, (tile, origin) in enumerate(TILES.items()):
        for index, (key, pixel) in enumerate(PIXELS.items()):
            path = folder / tile / f"{key}.tif"
            if path.exists():
                continue
            image = texture(SIZE * 10 // pixel, 100 * number + index)
            if key == SCL:
                data = np.where(image > 0.9, 9, np.where(image > 0, 4, 5)).astype(np.uint8)
            else:
                data = (2500 + 500 * image).clip(1, 10000).astype(np.uint16)
            print(f"making {path}", file=sys.stderr)
            write(path, data, pixel, origin)
        for index, key in enumerate(CHANNELS):
            path = folder / tile / f"{key}.tif"
            if not path.exists():
                print(f"making {path}", file=sys.stderr)
                power = np.exp(texture(SIZE, 100 * number + 50 + index) - 3).astype(np.float32)
                write(path, power, 10, origin, nodata=-32768)


def days(count: int) -> list[dt.date]:
    return [dt.date(2023, 6, 1) + dt.timedelta(days=5 * n) for n in range(count)]


def items(base: str, sensor: str, dates: int) -> list[SourceItem]:
    keys = list(CHANNELS) if sensor == "sentinel1" else [*BANDS, SCL]
    result = []
    for number, day in enumerate(days(dates)):
        for tile, (left, top) in TILES.items():
            name = f"{sensor}_{day}_{tile}"
            result.append(
                SourceItem(
                    id=name,
                    date=day,
                    extent=(left, top - 10 * SIZE, left + 10 * SIZE, top),
                    boa_offset=1000 if sensor == "sentinel2" else 0,
                    orbit=ORBITS[number % 2] if sensor == "sentinel1" else None,
                    stac={
                        "id": name,
                        "collection": sensor,
                        "properties": {"datetime": f"{day}T10:00:00Z", "proj:code": CRS},
                        "assets": {k: {"href": f"{base}/{day}/{tile}/{k}.tif"} for k in keys},
                    },
                )
            )
    return result


# Measurements


def grid(size: int) -> GeoBox:
    return GeoBox((size, size), Affine(10, 0, BLOCK[0], 0, -10, BLOCK[1]), CRS)


def task(arguments: argparse.Namespace) -> None:
    """Run one method in this process; print its cost."""
    folder = Path(tempfile.mkdtemp(dir=arguments.archive))
    sensor, size = arguments.sensor, arguments.size
    mask = folder / "roi.tif"
    geobox = grid(size)
    with rasterio.open(
        mask, "w", driver="GTiff", height=size, width=size, count=1, dtype="uint8", crs=CRS,
        transform=geobox.affine,
    ) as dataset:  # fmt: skip
        dataset.write(np.ones((size, size), np.uint8), 1)
    manifest = folder / "items.json"
    Manifest(sensor, tuple(items(arguments.base, sensor, arguments.dates)), ()).write(manifest)
    run = {"download": download, "read": read, "odc": odc, "rasterio": decode}[arguments.task]
    used = resource.getrusage(resource.RUSAGE_SELF)
    start, cpu = time.perf_counter(), used.ru_utime + used.ru_stime
    count = run(sensor, manifest, mask, folder / "slice.zip", arguments)
    wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "wall_s": wall,
        "cpu_s": used.ru_utime + used.ru_stime - cpu,
        "peak_mb": used.ru_maxrss / 1024,
        "assets": count,
    }
    subprocess.run(["rm", "-r", str(folder)], check=True)
    print(json.dumps(result))


def download(
    sensor: str, manifest: Path, mask: Path, output: Path, arguments: argparse.Namespace
) -> int:
    source = {"provider": "local", "location": "x"}
    config = load_config(
        {
            "regions": {"a": {"roi": "a"}},
            "periods": {"a": {"start": "2023-06-01", "end": "2023-06-30"}},
            "model": {"weights": "v2-nano"},
            "sentinel2": source,
            "sentinel1": source,
            "download": {"threads": arguments.threads},
        }
    )
    common: dict[str, Any] = {
        "manifest_path": manifest,
        "roi_path": mask,
        "window": Window(0, 0, arguments.size, arguments.size),
        "time_slice": Slice(dt.date(2023, 1, 1), dt.date(2023, 12, 31)),
        "output": output,
        "settings": config.download,
    }
    if sensor == "sentinel2":
        download_sentinel2(**common, source=config.sentinel2, preprocessing="corrected")
    else:
        download_sentinel1(**common, source=config.sentinel1)
    return 0


def assets(sensor: str, manifest: Path) -> Iterator[tuple[SourceItem, str, str]]:
    """Yield (item, asset key, dtype) of all assets that a download of this archive reads."""
    for item in Manifest.read(manifest).items:
        for key in item.stac["assets"]:
            dtype = "float32" if sensor == "sentinel1" else "uint8" if key == SCL else "uint16"
            yield item, key, dtype


def read(
    sensor: str, manifest: Path, mask: Path, output: Path, arguments: argparse.Namespace
) -> int:
    from concurrent.futures import ThreadPoolExecutor

    from tessera_flow.archives.signing import Access
    from tessera_flow.raster.reader import Asset, Reader
    from tessera_flow.raster.resample import ReadOptions

    geobox = read_mask(mask, Window(0, 0, arguments.size, arguments.size))[1]
    gdal = {option.name: option.value for option in PROVIDER.gdal_options}
    with (
        ThreadPoolExecutor(arguments.threads) as pool,
        Reader(
            lambda href, fresh=False: Access(href), gdal=gdal, connections=arguments.threads
        ) as reader,
    ):

        def one(asset: tuple[SourceItem, str, str]) -> int:
            item, key, dtype = asset
            nearest = key == SCL or sensor == "sentinel1"
            options = ReadOptions("nearest" if nearest else "bilinear", True)
            source = Asset(item.id, key, item.stac["assets"][key]["href"])
            reader.read(source, geobox, dtype, options)
            return 1

        return sum(pool.map(one, assets(sensor, manifest)))


def windows(dataset: rasterio.DatasetReader, geobox: GeoBox) -> Iterator[tuple[int, int]]:
    """Yield (row, column) of the blocks of a file that the grid intersects."""
    box = geobox.boundingbox
    window = dataset.window(box.left, box.bottom, box.right, box.top)
    edge = dataset.block_shapes[0][0]
    (top, bottom), (left, right) = window.toranges()
    first_row, last_row = max(0, top), min(dataset.height, bottom)
    first, last = max(0, left), min(dataset.width, right)
    for row in range(int(first_row // edge), int(np.ceil(last_row / edge))):
        for column in range(int(first // edge), int(np.ceil(last / edge))):
            yield row, column


def decode(
    sensor: str, manifest: Path, mask: Path, output: Path, arguments: argparse.Namespace
) -> int:
    from concurrent.futures import ThreadPoolExecutor

    geobox = grid(arguments.size)

    def one(asset: tuple[SourceItem, str, str]) -> int:
        item, key, _ = asset
        with (
            rasterio.Env(GDAL_NUM_THREADS="1", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
            rasterio.open(item.stac["assets"][key]["href"]) as dataset,
        ):
            for row, column in windows(dataset, geobox):
                dataset.read(1, window=dataset.block_window(1, row, column))
        return 1

    # One thread per core: two threads on one core would increase their CPU times.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return sum(pool.map(one, assets(sensor, manifest)))


def least_bytes(folder: Path, sensor: str, dates: int, size: int) -> int:
    """Return the compressed size of the blocks that the block intersects, of all assets."""
    total = 0
    manifest = folder / "least.json"
    Manifest(sensor, tuple(items(str(folder), sensor, 1)), ()).write(manifest)
    for item, key, _ in assets(sensor, manifest):
        with rasterio.open(item.stac["assets"][key]["href"]) as dataset:
            for row, column in windows(dataset, grid(size)):
                total += int(dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1))
    manifest.unlink()
    return total * dates


def odc(
    sensor: str, manifest: Path, mask: Path, output: Path, arguments: argparse.Namespace
) -> int:
    from benchmarks.plain_odc import read_with_odc  # the import is included, as in a user's script

    return read_with_odc(sensor, manifest, mask, output, arguments.size, arguments.threads)


# The table


def serve(folder: Path, delay: float, pipe: Any) -> None:
    from tests.support.servers import serve_files

    with serve_files(folder, delay=delay) as server:
        pipe.send(server.port)
        while pipe.recv() == "count":
            pipe.send((len(server.paths), server.sent))


@contextmanager
def server(folder: Path, delay: float) -> Iterator[tuple[str, Any]]:
    """Run a range server in a separate process; yield its URL and a function that returns its
    counters."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(folder, delay, theirs), daemon=True)
    process.start()
    port = ours.recv()

    def counters() -> tuple[int, int]:
        ours.send("count")
        result: tuple[int, int] = ours.recv()
        return result

    try:
        yield f"http://127.0.0.1:{port}", counters
    finally:
        ours.send("end")
        process.join()


def measure(name: str, sensor: str, delay: float | None, options: argparse.Namespace) -> dict:
    """Return one line of the table. `delay` None: from the disk."""

    def child(base: str) -> dict[str, Any]:
        command = [
            sys.executable, __file__, "--task", name, "--sensor", sensor, "--base", base,
            "--dates", str(options.dates), "--size", str(options.size),
            "--threads", str(options.threads), "--archive", str(options.archive),
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    if delay is None:
        return {"task": name, "sensor": sensor, "latency_ms": None, **child(str(options.archive))}
    with server(options.archive, delay) as (base, counters):
        result = child(base)
        requests, sent = counters()
    speed = sent / 1e6 / result["wall_s"]
    return {"task": name, "sensor": sensor, "latency_ms": 1000 * delay, **result,
            "requests": requests, "mb": sent / 1e6, "mb_per_s": speed}  # fmt: skip


def summary(lines: list[dict], least: dict[str, int]) -> dict[str, dict[str, float]]:
    """Return the ratios with targets, for each sensor."""

    def of(task: str, sensor: str, latency: float | None, key: str) -> float:
        return next(
            float(line[key]) for line in lines
            if (line["task"], line["sensor"], line["latency_ms"]) == (task, sensor, latency)
        )  # fmt: skip

    return {
        sensor: {
            "bytes / least possible": of("download", sensor, 0.0, "mb") * 1e6 / least[sensor],
            "wall at 50 ms / at 0 ms": of("download", sensor, 50.0, "wall_s")
            / of("download", sensor, 0.0, "wall_s"),
            "cpu of reading / rasterio": of("read", sensor, 0.0, "cpu_s")
            / of("rasterio", sensor, 0.0, "cpu_s"),
            "cpu of reading / rasterio, disk": of("read", sensor, None, "cpu_s")
            / of("rasterio", sensor, None, "cpu_s"),
            "cpu of the whole job / rasterio": of("download", sensor, 0.0, "cpu_s")
            / of("rasterio", sensor, 0.0, "cpu_s"),
            "peak memory, MB": of("download", sensor, 50.0, "peak_mb"),
            "odc wall / ours, 0 ms": of("odc", sensor, 0.0, "wall_s")
            / of("download", sensor, 0.0, "wall_s"),
            "odc wall / ours, 50 ms": of("odc", sensor, 50.0, "wall_s")
            / of("download", sensor, 50.0, "wall_s"),
        }
        for sensor in least
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("TMPDIR", "/tmp")) / "tessera-flow-ingest"
    parser.add_argument("--archive", type=Path, default=default, help="where scenes are kept")
    parser.add_argument("--dates", type=int, default=12)
    parser.add_argument("--size", type=int, default=2000, help="edge of the block in pixels")
    parser.add_argument("--threads", type=int, default=Download().threads)
    parser.add_argument("--sensors", nargs="+", default=["sentinel2", "sentinel1"])
    parser.add_argument("--output", type=Path, default=Path("ingest.json"))
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--sensor", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        return task(options)
    make_archive(options.archive, options.dates)
    lines, least = [], {}
    print(f"{'task':9} {'sensor':9} {'ms':>4} {'wall s':>7} {'cpu s':>7} {'peak MB':>8} "
          f"{'MB':>8} {'requests':>8} {'MB/s':>6}")  # fmt: skip
    for sensor in options.sensors:
        least[sensor] = least_bytes(options.archive, sensor, options.dates, options.size)
        for name, delay in (
            ("rasterio", None), ("rasterio", 0.0), ("read", None), ("read", 0.0),
            ("download", 0.0), ("download", 0.05),
            ("odc", 0.0), ("odc", 0.05),
        ):  # fmt: skip
            line = measure(name, sensor, delay, options)
            lines.append(line)
            latency = "disk" if delay is None else f"{1000 * delay:.0f}"
            print(f"{name:9} {sensor:9} {latency:>4} {line['wall_s']:7.2f} {line['cpu_s']:7.2f} "
                  f"{line['peak_mb']:8.0f} {line.get('mb', 0):8.1f} {line.get('requests', 0):8d} "
                  f"{line.get('mb_per_s', 0):6.1f}", flush=True)  # fmt: skip
    ratios = summary(lines, least)
    for sensor, values in ratios.items():
        print(f"\n{sensor}: least possible {least[sensor] / 1e6:.1f} MB")
        for name, value in values.items():
            print(f"  {name:33} {value:8.2f}")
    document = {"dates": options.dates, "size": options.size, "threads": options.threads,
                "least_bytes": least, "lines": lines, "ratios": ratios}  # fmt: skip
    options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
