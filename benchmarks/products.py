"""Measure the Zarr store's writing speed, and time and memory of all products of a large region.

    python -m benchmarks.products FOLDER [--edge 10000] [--products zarr,arrays]
    python -m benchmarks.products FOLDER --zarr-edge 0 --products cog --cog-dtype int8 --keep
    python -m benchmarks.products FOLDER --read FOLDER/products/embeddings_codes.tif

Simulates the embeddings of a region of blocks of 2000 px with 128 int8 dimensions (all blocks are
equal), then

- writes the Zarr store and, as a baseline, the same chunks from the same block files, compressed by
  the same codec on as many threads and written to plain files, one per shard. The two alternate,
  and the fastest run of each counts. "bytes alone" writes the compressed bytes from memory;
- writes every product, each in a separate process, and prints its time and peak memory.

With `--read` it serves a GeoTIFF by HTTP ranges on loopback instead, and counts the requests and
bytes of GDAL: opening it, three bands of the smallest overview, and three bands of 512 x 512 px.

Requires disk space below FOLDER of about twice the codes (edge x edge x 128 bytes); products are
deleted after they are measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Zstd
from tests.support.products_region import WEIGHTS, cut, make_config
from tests.support.servers import serve_files

from tessera_flow.block_file import create_block_file
from tessera_flow.jobs.resources import NEEDS
from tessera_flow.products.blocks import RegionBlocks
from tessera_flow.products.provenance import build_provenance
from tessera_flow.region.grid import RegionGrid, tiling

BLOCK, PATCH, DIM = 2000, 500, 128
NOISE = 0.3
"""Standard deviation; zstd then reduces the codes to about four fifths."""


def region(folder: Path, edge: int) -> dict[str, Any]:
    """Return grid, blocks and provenance of a square region; write missing block files."""
    grid = cut((edge, edge), np.ones((edge, edge), bool), BLOCK)
    blocks = {block.id: folder / "blocks" / f"{block.id}.zip" for block in grid.blocks}
    first = folder / "block.zip"
    if not first.exists():
        write_first(first)
    for path in blocks.values():
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.hardlink_to(first)
    provenance = build_provenance(grid, make_config(DIM, "int8"), "field", "y2023", WEIGHTS)
    return {"grid": grid, "blocks": blocks, "provenance": provenance}


def write_mask(grid: RegionGrid, path: Path) -> Path:
    """Write the mask of a region that fills its grid."""
    import rasterio

    height, width = (int(n) for n in grid.geobox.shape)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        path, "w", crs=str(grid.geobox.crs), transform=grid.geobox.affine, **profile
    ) as file:
        file.write(np.ones((1, height, width), np.uint8))
    return path


def write_first(path: Path, noise: float = NOISE) -> None:
    """A block of smooth fields with noise; a seventh of its pixels have no embedding."""
    from tessera_flow.inference.block_embeddings import create_outputs

    random = np.random.default_rng(0)
    y, x = np.mgrid[0:PATCH, 0:PATCH].astype(np.float32)
    outside = (y - PATCH // 2) ** 2 + (x - PATCH // 2) ** 2 < (0.21 * PATCH) ** 2
    fields = np.stack([np.sin(x / 40), np.cos(y / 23), np.sin(x * y / 5000), np.cos(x / 8)], -1)
    with create_block_file(path, {}) as group:
        arrays = create_outputs(group, (BLOCK, BLOCK), PATCH, DIM, "int8", months=12)
        for window in tiling(BLOCK, BLOCK, PATCH):
            values = fields @ random.standard_normal((4, DIM), np.float32)
            if noise:
                values += noise * random.standard_normal(values.shape, np.float32)
            scales = np.abs(values).max(axis=-1) / 127
            codes = np.rint(values / scales[..., None]).astype(np.int8)
            codes[outside], scales[outside] = 0, np.nan
            arrays["embeddings"][window.slices] = codes
            arrays["scales"][window.slices] = scales
            arrays["counts"][window.slices] = random.integers(1, 70, (PATCH, PATCH, 3), np.uint16)
            arrays["months"][window.slices] = random.integers(
                0, 2**12, (PATCH, PATCH, 3), np.uint16
            )


# Zarr against plain files


def shards(source: RegionBlocks) -> Iterator[tuple[int, np.ndarray]]:
    """Yield chunk edge and pixels (h, w, ...) of each shard of all arrays of the store."""
    from tessera_flow.products.stores.zarr_grid import shard_edges

    for name in source.names:
        shard, chunk = shard_edges(source.edge, 100, source.pixel_bytes(name))
        for window in tiling(*source.shape, shard):
            data = source.read_region(name, window)
            assert data is not None
            yield chunk, data


def compressed(pool: ThreadPoolExecutor, chunk: int, data: np.ndarray) -> list[bytes]:
    """Compress the chunks of a shard as the store does."""
    codec = Zstd(level=3)

    def compress(chunk_slices: tuple[slice, slice]) -> bytes:
        return bytes(
            codec.encode(np.ascontiguousarray(np.moveaxis(data[chunk_slices], (0, 1), (-2, -1))))
        )

    return list(pool.map(compress, [window.slices for window in tiling(*data.shape[:2], chunk)]))


def write_plain(folder: Path, inputs: dict[str, Any], threads: int) -> None:
    """Write the chunks of all arrays, one file per shard, one shard after another."""
    folder.mkdir()
    with (
        RegionBlocks(inputs["grid"], inputs["blocks"], inputs["provenance"]) as source,
        ThreadPoolExecutor(threads) as pool,
    ):
        for number, (chunk, data) in enumerate(shards(source)):
            with (folder / str(number)).open("wb") as file:
                file.writelines(compressed(pool, chunk, data))


def write_again(folder: Path, plain: Path) -> float:
    """Return the seconds to write only the compressed bytes, from memory."""
    folder.mkdir()
    seconds = 0.0
    for path in sorted(plain.iterdir()):
        content = path.read_bytes()
        start = time.monotonic()
        (folder / path.name).write_bytes(content)
        seconds += time.monotonic() - start
    return seconds


def write_store(
    folder: Path, inputs: dict[str, Any], threads: int, preview_stretch: float | None = None
) -> None:
    from tessera_flow.products.stores.zarr_store import write_zarr

    write_zarr(folder, **inputs, threads=threads, preview_stretch=preview_stretch)


def timed(call: Callable[..., None], target: Path, *arguments: Any) -> tuple[float, int]:
    """Return the seconds of a call that writes a folder, and the bytes in it."""
    start = time.monotonic()
    call(target, *arguments)
    seconds = time.monotonic() - start
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return seconds, size


def compare(folder: Path, edge: int, turns: int = 3) -> None:
    """Print the writing speed of the store and of plain files."""
    inputs = region(folder, edge)
    raw = edge * edge * DIM
    print(f"Zarr store of {edge} x {edge} px, {raw / 1e9:.2f} GB of codes")
    print(f"{'threads':>8}{'way':>18}{'s':>8}{'MB/s of codes':>15}{'GB written':>12}{'share':>8}")
    for threads in sorted({1, os.cpu_count() or 1}):
        best: dict[str, tuple[float, int]] = {}
        for _ in range(turns):
            for name, call in (("plain files", write_plain), ("Zarr store", write_store)):
                target = folder / "out"
                measured = timed(call, target, inputs, threads)
                if name == "plain files":
                    alone = write_again(folder / "again", target)
                    shutil.rmtree(folder / "again")
                    least = best.get("bytes alone", (alone, 0))[0]
                    best["bytes alone"] = (min(alone, least), measured[1])
                shutil.rmtree(target)
                best[name] = min(best.get(name, measured), measured)
        for name, (seconds, size) in best.items():
            share = best["plain files"][0] / seconds
            print(
                f"{threads:>8}{name:>18}{seconds:>8.1f}{raw / 1e6 / seconds:>15.0f}"
                f"{size / 1e9:>12.2f}{share:>8.2f}"
            )


# Every product in a separate process


def make(product: str, out: Path, inputs: dict[str, Any], cog_dtype: str) -> None:
    """Write one product below `out`."""
    if product == "zarr":
        write_store(out / "embeddings.zarr", inputs, NEEDS["stitch_zarr"].threads, 2.0)
    elif product == "arrays":
        from tessera_flow.products.arrays import write_arrays

        names = ("values.npy", "scales.npy", "counts.npy", "record.json")
        write_arrays(*(out / name for name in names), **inputs)
    elif product == "preview":
        from tessera_flow.products.geotiff.preview import write_preview

        write_preview(out / "preview.tif", out / "preview.png", **inputs)
    elif product == "cog":
        from tessera_flow.products.geotiff.cog import write_cogs

        codes, scales = out / "embeddings_codes.tif", out / "embeddings_scales.tif"
        files = (codes, scales) if cog_dtype == "int8" else (out / "embeddings.tif", None)
        write_cogs(*files, **inputs, threads=NEEDS["cog"].threads)
    elif product == "counts":
        from tessera_flow.products.geotiff.counts import write_counts

        mask = write_mask(inputs["grid"], out / "mask.tif")
        write_counts(out / "counts.tif", **inputs, mask=mask)
    elif product == "geotessera":
        from tessera_flow.products.stores.geotessera import write_geotessera

        write_geotessera(out / "geotessera", **inputs)
    elif product == "checks":
        from tessera_flow.products.checks.embeddings import write_checks

        mask = write_mask(inputs["grid"], out / "mask.tif")
        write_checks(
            out / "checks.json", **inputs, mask=mask, manifests=[], max_seam=1.5, max_saturated=10.0
        )
    elif product == "report":
        from tessera_flow.products.report.page import write_report

        write_report(
            out / "report.html", **inputs, checks=out / "checks.json",
            preview=out / "preview.png", manifests=[], products={}, logs=out / "logs",
        )  # fmt: skip


def peak_mib() -> float:
    """Return the peak resident memory of this process (`ru_maxrss` starts at its parent's)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


PRODUCTS = ("zarr", "arrays", "counts", "geotessera", "preview", "checks", "report")
"""Of `--products`; `cog` can be added, which takes minutes."""
_INPUTS = ("checks.json", "preview.png")


def measure(
    folder: Path, edge: int, products: list[str], cog_dtype: str = "float32", keep: bool = False
) -> dict[str, float]:
    """Print time, written bytes and peak memory of each product; return the peaks in MiB.

    Times and peaks are those of a process that does what the script of the job does, from its
    start to its end. Products are deleted unless `keep`.
    """
    out = folder / "products"
    out.mkdir(exist_ok=True)
    region(folder, edge)
    peaks = {}
    print(f"{'product':>12}{'s':>8}{'CPU s':>8}{'GB':>8}{'peak MiB':>10}")
    for product in products:
        start = time.monotonic()
        command = [sys.executable, "-m", "benchmarks.products", str(folder), "--edge", str(edge)]
        done = subprocess.run(
            [*command, "--make", product, "--cog-dtype", cog_dtype],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        cpu, peaks[product] = map(float, done.stdout.split()[-2:])
        seconds = time.monotonic() - start
        print(
            f"{product:>12}{seconds:>8.0f}{cpu:>8.0f}{size / 1e9:>8.2f}{peaks[product]:>10.0f}",
            flush=True,
        )
        for path in () if keep else out.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in _INPUTS:
                path.unlink()
    return peaks


READS = {
    "open": "",
    "three bands, all of it": "file.read([1, 2, 3], out_shape=(3, edge, edge))",
    "three bands, 512 x 512 px": "file.read([1, 2, 3], window=window)",
}


def read_ranges(path: Path) -> dict[str, tuple[int, int]]:
    """Print and return the requests and bytes of each kind of read, each in a new process that
    opens the file first; those of opening are not counted again."""
    counts: dict[str, tuple[int, int]] = {}
    with serve_files(path.parent) as server:
        for name, call in READS.items():
            before, sent = len(server.requests), server.sent
            quiet = "GDAL_DISABLE_READDIR_ON_OPEN='EMPTY_DIR', GDAL_PAM_ENABLED='NO'"
            script = (
                "import rasterio; from rasterio.windows import Window\n"
                f"with rasterio.Env({quiet}),"
                f" rasterio.open('/vsicurl/{server.url}/{path.name}') as file:\n"
                "    last = file.overviews(1)[-1] if file.overviews(1) else 1\n"
                "    edge = -(-max(file.shape) // last)\n"
                "    x, y = file.width // 1024 * 512, file.height // 1024 * 512\n"
                "    window = Window(x, y, 512, 512)\n"
                f"    {call or 'pass'}\n"
            )
            subprocess.run([sys.executable, "-c", script], check=True)
            made, size = len(server.requests) - before, server.sent - sent
            opened = counts.get("open", (0, 0))
            counts[name] = made - opened[0], size - opened[1]
    print(f"{path.name}, {path.stat().st_size / 1e9:.2f} GB")
    for name, (made, size) in counts.items():
        print(f"{name:>28}{made:>5} requests{size / 1e6:>10.3f} MB")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--edge", type=int, default=10_000)
    parser.add_argument("--zarr-edge", type=int, default=4000)
    parser.add_argument("--products", default=",".join(PRODUCTS))
    parser.add_argument("--cog-dtype", choices=("float32", "int8"), default="float32")
    parser.add_argument("--keep", action="store_true", help="do not delete the products")
    parser.add_argument("--read", type=Path, metavar="FILE", help="count bytes read from FILE")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.make:
        inputs = region(folder, arguments.edge)
        make(arguments.make, folder / "products", inputs, arguments.cog_dtype)
        times = os.times()
        print(times.user + times.system, peak_mib())
        return
    if arguments.read:
        read_ranges(arguments.read.resolve())
        return
    if arguments.zarr_edge:
        compare(folder, arguments.zarr_edge)
    products = [name for name in arguments.products.split(",") if name]
    measure(folder, arguments.edge, products, arguments.cog_dtype, arguments.keep)


if __name__ == "__main__":
    main()
