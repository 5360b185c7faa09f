"""How fast embeddings are computed: this software against a plain baseline, same machine.

    python -m benchmarks.inference [--models v2-nano,v2-medium] [--out FILE.json]

For each model a tile folder is embedded into an int8 file by the baseline (`plain.py`) and
by this software in each precision the device has, in turns, `--rounds` times, each in a
process of its own; the fastest run of each counts, because others use the machine too. The
rate of the bare matrix product is measured in the same processes. Weights are untrained:
their values do not change the work.

Operations are counted as needed: two for each multiplication in the products of matrices,
no rows that only fill a bin (what a recurrent cell must repeat for them counts).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tessera_flow.inference.device import has_bf16, precision_name
from tessera_flow.inference.embed import InferenceOptions, embed_tile
from tessera_flow.inference.inputs import sentinel1_steps, sentinel2_steps
from tessera_flow.inference.model import ModelSpec, prepare_model
from tessera_flow.inference.tile import ARRAYS, TileArrays
from tessera_flow.models.checkpoint import load_model
from tessera_flow.models.family import Model
from tessera_flow.models.layers import AttentionPool, Encoder
from tessera_flow.models.linear import Linear
from tessera_flow.models.philox import Stream
from tessera_flow.tile_folders.format import read_tile_folder

from .plain import Plain, embed
from .tiles import MODELS, write_checkpoint, write_tile

_clock = time.perf_counter

EDGES = {
    "v2-nano": 72,
    "v2-small": 44,
    "v2-medium": 32,
    "v2-large": 24,
    "v1.0": 20,
    "v1.0-qat": 24,
    "v1.1": 20,
    "v2-teacher": 4,
}
"""Edge of the tile in pixels, for about ten seconds a run on two cores."""


def product_rate(dtype: torch.dtype, device: torch.device, seconds: float = 1.0) -> float:
    """Multiplications and additions a second of a bare matrix product, the best of several.

    On a CPU the faster of PyTorch's product and oneDNN's with packed weights.
    """
    best = 0.0
    with torch.inference_mode():
        for edge in (1024, 2048) if device.type == "cpu" else (4096, 8192):
            x = torch.randn(edge, edge, device=device, dtype=dtype)
            packed = Linear(edge, edge).to(device)
            packed.pack(dtype)
            for product in (lambda x=x: x @ x, lambda x=x, packed=packed: packed(x)):
                product()
                end, share = _clock() + seconds / 4, 0.0
                while _clock() < end:
                    began = _clock()
                    product()
                    if device.type != "cpu":
                        torch.cuda.synchronize()
                    share = max(share, 2 * edge**3 / (_clock() - began))
                best = max(best, share)
    return best


def operations(model: Model, tile: TileArrays) -> tuple[int, int]:
    """Needed operations of a tile, and the steps (different ones) of both sensors."""
    rows, rule = slice(0, tile.shape[0]), model.family.rule
    s2 = sentinel2_steps(tile, rows, model.statistics)
    s1 = sentinel1_steps(tile, rows, model.statistics, rule.empty_orbit_day)
    embeddable = rule.embeddable(s2.valid, s1.valid, partial(tile.has_value, rows))
    pixels = np.flatnonzero(s2.valid.any(1) & embeddable)
    origin = np.divmod(pixels, tile.shape[1])
    total, steps = 0, 0
    for number, (encoder, sensor) in enumerate(((model.s2, s2), (model.s1, s1))):
        stream = Stream(0, *origin, sensor=number)
        for group in rule.groups(sensor.valid[pixels], stream):
            count, once = group.steps.shape
            steps += count * once
            total += count * encoder_operations(encoder, once, group.sequences().shape[1])
    fusion = sum(
        2 * m.in_features * m.out_features
        for m in model.fusion.modules()
        if isinstance(m, torch.nn.Linear)
    )
    return total + len(pixels) * fusion, steps


def encoder_operations(encoder: Encoder, once: int, length: int) -> int:
    width = encoder.codes.shape[1]
    products = [m for m in encoder.modules() if isinstance(m, Linear)]
    recurrent = 0
    if type(encoder.pool) is not AttentionPool:
        recurrent = 2 * 3 * width * width * length
        pool = {m for m in encoder.pool.modules() if isinstance(m, Linear)}
        products = [m for m in products if m not in pool]
        recurrent += 2 * 3 * width * width * once
    linear = sum(2 * m.in_features * m.out_features for m in products) * once
    attention = len(encoder.layers) * 4 * once * once * width
    return linear + attention + recurrent


def use_processor_time() -> None:
    """Measure the processor time of all threads, which other programs hardly change."""
    global _clock
    _clock = time.process_time


def work(kind: str, name: str, folder: Path, tile_path: Path, out: Path, device: str) -> None:
    """Run once, in a separate process, and print a line of JSON."""
    checkpoint = write_checkpoint(name, folder)
    statistics = "mpc" if name == "v1.1" else None
    target = torch.device(device)
    torch.set_num_threads(torch.get_num_threads())
    result: dict[str, Any] = {}
    if kind == "plain":
        like = load_model(checkpoint, statistics=statistics)
        content = torch.load(checkpoint, weights_only=True, mmap=True)
        state = next(v for v in content.values() if isinstance(v, dict) and len(v) > 20)
        model = Plain(like.family.key, like.sizes)
        model.load_state_dict(state)
        model.eval().requires_grad_(False).to(target)
        _plain_run(tile_path, model, like, out, first=True)
        result |= _plain_run(tile_path, model, like, out)
    else:
        ours = prepare_model(
            ModelSpec(
                checkpoint,
                device=device,  # type: ignore[arg-type]
                statistics=statistics,
                precision=kind,  # type: ignore[arg-type]
            )
        )
        _our_run(tile_path, ours, out, first=True)
        result |= _our_run(tile_path, ours, out)
        result["operations"], result["steps"] = operations(ours, read_tile_folder(tile_path))
        result["prepare"] = _prepare_seconds(ours, read_tile_folder(tile_path))
        result["product_rate"] = product_rate(ours.dtype, target)
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


def _read(path: Path, first: bool) -> TileArrays:
    """A tile in memory; a corner of it to warm up."""
    tile = read_tile_folder(path)
    part = slice(0, 4) if first else slice(None)
    return TileArrays(
        **{
            name: np.array(array[:, part, part] if array.ndim > 2 else array)
            for name, array in ((name, getattr(tile, name)) for name in ARRAYS)
        }
    )


def _plain_run(path: Path, model: Plain, like: Model, out: Path, first: bool = False) -> Any:
    began = _clock()
    tile = _read(path, first)
    read = _clock()
    codes, scales = embed(tile, model, like)
    computed = _clock()
    shape = tile.shape
    np.savez(out, codes=codes.reshape(*shape, -1), scales=scales.reshape(shape))
    return {
        "read": read - began,
        "compute": computed - read,
        "write": _clock() - computed,
        "pixels": int((scales > 0).sum()),
    }


def _our_run(path: Path, model: Model, out: Path, first: bool = False) -> Any:
    began = _clock()
    tile = _read(path, first)
    read = _clock()
    embedding = embed_tile(tile, model, InferenceOptions())
    computed = _clock()
    np.savez(out, codes=embedding.values, scales=embedding.scales)
    return {
        "read": read - began,
        "compute": computed - read,
        "write": _clock() - computed,
        "pixels": embedding.pixels,
    }


def _prepare_seconds(model: Model, tile: TileArrays) -> float:
    """Choosing, gathering and standardising the steps, by itself; part of `compute`."""
    began = _clock()
    rows, rule = slice(0, tile.shape[0]), model.family.rule
    s2 = sentinel2_steps(tile, rows, model.statistics)
    s1 = sentinel1_steps(tile, rows, model.statistics, rule.empty_orbit_day)
    origin = np.divmod(np.arange(len(s2.valid)), tile.shape[1])
    for number, sensor in enumerate((s2, s1)):
        on_device = sensor.on(model.device)
        for group in rule.groups(sensor.valid, Stream(0, *origin, sensor=number)):
            on_device.sequences(torch.from_numpy(group.pixels), torch.from_numpy(group.steps))
    return _clock() - began


def run_benchmark(
    name: str, tile: Path, folder: Path, device: str, rounds: int, options: list[str]
) -> dict[str, Any]:
    """All kinds of one model on one tile; `options` are for the processes that measure."""
    kinds = ["plain", "float32"]
    if has_bf16(torch.device(device)):
        kinds.append("bf16")
    write_checkpoint(name, folder)
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            command = [sys.executable, "-m", "benchmarks.inference", "--worker", kind]
            command += ["--models", name, "--folder", str(folder), "--tile", str(tile)]
            command += ["--device", device, "--out", str(folder / f"{kind}.npz"), *options]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[kind].append(json.loads(done.stdout.splitlines()[-1]))
    result: dict[str, Any] = {"model": name, "tile": tile.name}
    rate = {kind: max(run.get("product_rate", 0.0) for run in runs[kind]) for kind in kinds}
    needed = runs["float32"][0]["operations"]
    for kind in kinds:
        best = min(runs[kind], key=_seconds)
        seconds = _seconds(best)
        result[kind] = best | {
            "pixels_per_s": best["pixels"] / seconds,
            "steps_per_s": runs["float32"][0]["steps"] / seconds,
            "gflop_per_s": needed / seconds / 1e9,
            "ratio": _seconds(min(runs["plain"], key=_seconds)) / seconds,
            "share_of_product_rate": needed / seconds / rate[kind] if rate[kind] else None,
            **_compare(folder, kind),
        }
    return result


def _seconds(run: dict[str, Any]) -> float:
    return float(run["read"] + run["compute"] + run["write"])


def _compare(folder: Path, kind: str) -> dict[str, float]:
    """Codes of a kind against those of the baseline."""
    with np.load(folder / "plain.npz") as plain, np.load(folder / f"{kind}.npz") as ours:
        there = np.nan_to_num(ours["scales"]) > 0
        off = np.abs(ours["codes"].astype(int) - plain["codes"])[there]
    return {"codes_equal": float(np.mean(off == 0)), "largest_difference": int(off.max())}


def report(results: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "model       tile              kind      px/s  ratio  GFLOP/s  of product  "
        "read+prepare+write  peak GB  codes equal (largest off)"
    ]
    for result in results:
        for kind in ("plain", "float32", "bf16"):
            if kind not in result:
                continue
            run = result[kind]
            share = run["share_of_product_rate"]
            other = (run["read"] + run["write"] + run.get("prepare", 0.0)) / _seconds(run)
            lines.append(
                f"{result['model']:<11} {result['tile'][:17]:<17} {kind:<8}"
                f"{run['pixels_per_s']:>7.1f} {run['ratio']:>6.2f} {run['gflop_per_s']:>8.0f}"
                f"{'' if share is None else format(share, '.0%'):>11}"
                f"{other:>19.1%} {run['peak_bytes'] / 1e9:>9.2f}"
                f"{run['codes_equal']:>10.2%} ({run['largest_difference']})"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", default=",".join(n for n in MODELS if n != "v2-teacher"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "xpu"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--edge", type=int, help="edge of the synthetic tile in pixels")
    parser.add_argument("--tile", type=Path, help="a tile folder instead of the synthetic tile")
    parser.add_argument("--folder", type=Path, help="folder for weights and tiles")
    parser.add_argument("--out", type=Path, default=Path("inference.json"))
    parser.add_argument(
        "--cpu-seconds",
        action="store_true",
        help="measure processor time instead of wall time, on a machine that others use; with "
        "OMP_NUM_THREADS=1, because waiting threads count",
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.gettempdir()) / "tessera-flow-benchmarks"
    if arguments.cpu_seconds:
        use_processor_time()
    if arguments.worker:
        work(
            arguments.worker, arguments.models, folder, arguments.tile, arguments.out,
            arguments.device,
        )  # fmt: skip
        return
    results = []
    for name in arguments.models.split(","):
        edge = arguments.edge or EDGES[name] * (1 if arguments.device == "cpu" else 8)
        tile = arguments.tile or write_tile(folder, edge, edge)
        options = ["--cpu-seconds"] if arguments.cpu_seconds else []
        results.append(
            run_benchmark(name, tile, folder, arguments.device, arguments.rounds, options)
        )
        print(report(results[-1:]), flush=True)
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.cpu.get_capabilities().get("cpu_name"),
        "device": arguments.device,
        "precisions": [precision_name(torch.float32), precision_name(torch.bfloat16)],
    }
    arguments.out.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    print("\n" + report(results))


if __name__ == "__main__":
    main()
