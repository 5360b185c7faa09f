"""Inference of a block: any division into patches, and any interruption."""

import dataclasses
import logging
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from tessera_flow.atomic import atomic_output
from tessera_flow.block_file import create_array, create_block_file, open_block_file
from tessera_flow.errors import Stopped, TileError, ToleranceError
from tessera_flow.inference import block
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import InferenceOptions, embed_tile
from tessera_flow.inference.model import ModelSpec
from tessera_flow.inference.tile import ARRAYS, TileArrays
from tessera_flow.signals import StopRequest, stop_requests

from ..support import golden
from ..support.golden import packed, tile

pytestmark = pytest.mark.usefixtures("one_thread")


def spec(variant: str) -> ModelSpec:
    return ModelSpec(golden.checkpoint(f"v2_student_{variant}"), device="cpu")


def write_patches(path: Path, arrays: TileArrays, size: int, roi: np.ndarray) -> None:
    height, width = arrays.shape
    windows = [
        [y, x, min(size, height - y), min(size, width - x)]
        for y in range(0, height, size)
        for x in range(0, width, size)
        if roi[y : y + size, x : x + size].any()
    ]
    with create_block_file(
        path, {"shape": [height, width], "patch_size": size, "patches": windows}
    ) as group:
        for y, x, h, w in windows:
            patch = group.create_group(f"{y}_{x}")
            rows, columns = slice(y, y + h), slice(x, x + w)
            stacks = {key: getattr(arrays, key) for key in ARRAYS}
            cut = {k: a[:, rows, columns] if a.ndim > 2 else a for k, a in stacks.items()}
            for key, data in (cut | {"roi": roi[rows, columns]}).items():
                array = create_array(patch, key, data.shape, data.shape, data.dtype)
                if data.size:
                    array[...] = data


@pytest.mark.parametrize("size", [4, 5, 12])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_block_equals_its_tile_for_any_patches(
    tmp_path: Path, size: int, dtype: Any, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = tile("main")
    roi = np.ones((12, 10), np.uint8)
    roi[:5, :5] = 0
    roi[11, 9] = 0
    write_patches(tmp_path / "patches.zip", arrays, size, roi)
    options = InferenceOptions(dim=64, dtype=dtype)
    with caplog.at_level(logging.INFO, "tessera_flow"):
        infer_block(
            tmp_path / "patches.zip",
            tmp_path / "embeddings.zip",
            spec("qk"),
            options,
            {"model": "untrained"},
        )
    expected = embed_tile(dataclasses.replace(arrays, roi=roi), packed("v2_student_qk"), options)
    with open_block_file(tmp_path / "embeddings.zip") as group:
        assert group.attrs["model"] == "untrained"
        result = {key: array[...] for key, array in group.arrays()}
    assert np.array_equal(result["counts"], expected.counts)
    if dtype == "int8":
        assert expected.scales is not None
        assert set(result) == {"embeddings", "scales", "counts"}
        np.testing.assert_allclose(result["scales"], expected.scales, rtol=1e-5)
        assert np.abs(result["embeddings"].astype(int) - expected.values).max() <= 1
        assert np.mean(result["embeddings"] != expected.values) < 1e-3
    else:
        assert set(result) == {"embeddings", "counts"}
        np.testing.assert_allclose(result["embeddings"], expected.values, atol=5e-6)
    assert f"of {size**2}" in caplog.text or "of 120" in caplog.text


def test_block_of_one_clipped_corner_patch(tmp_path: Path) -> None:
    roi = np.zeros((12, 10), np.uint8)
    roi[11, 9] = 1
    write_patches(tmp_path / "patches.zip", tile("main"), 7, roi)
    infer_block(
        tmp_path / "patches.zip",
        tmp_path / "out.zip",
        spec("noqk"),
        InferenceOptions(),
        {},
    )
    with open_block_file(tmp_path / "out.zip") as group:
        scales, codes = group["scales"], group["embeddings"]
        assert isinstance(scales, zarr.Array) and isinstance(codes, zarr.Array)
        assert codes.chunks == (7, 7, 128)
        assert np.argwhere(np.isfinite(scales[...])).tolist() == [[11, 9]]
        assert np.argwhere(codes[...].any(-1)).tolist() == [[11, 9]]


def test_block_without_patches_is_nodata(tmp_path: Path) -> None:
    with create_block_file(tmp_path / "p.zip", {"shape": [6, 5], "patch_size": 6, "patches": []}):
        pass
    out = tmp_path / "e.zip"
    infer_block(tmp_path / "p.zip", out, spec("noqk"), InferenceOptions(), {})
    with open_block_file(out) as group:
        result = {key: array[...] for key, array in group.arrays()}
    assert result["embeddings"].shape == (6, 5, 128) and not result["embeddings"].any()
    assert np.isnan(result["scales"]).all() and not result["counts"].any()


def test_incomplete_patches_are_rejected_without_output(tmp_path: Path) -> None:
    path, out = tmp_path / "patches.zip", tmp_path / "out.zip"
    arguments = (out, spec("noqk"), InferenceOptions(), {})
    with pytest.raises(TileError, match="does not exist"):
        infer_block(path, *arguments)
    with create_block_file(path, {"shape": [6, 5]}):
        pass
    with pytest.raises(TileError, match="`patches`, `shape` and `patch_size`"):
        infer_block(path, *arguments)
    with create_block_file(path, {"shape": [6, 5], "patch_size": 4, "patches": [[0, 0, 4, 5]]}):
        pass  # a patch that is wider than the patch size
    with pytest.raises(TileError, match="`patch_size` are missing or wrong"):
        infer_block(path, *arguments)
    with create_block_file(path, {"shape": [6, 5], "patch_size": 6, "patches": [[0, 0, 6, 5]]}):
        pass
    with pytest.raises(TileError, match=r"0_0 of .* is missing"):
        infer_block(path, *arguments)
    with create_block_file(
        path, {"shape": [6, 5], "patch_size": 6, "patches": [[0, 0, 6, 5]]}
    ) as group:
        create_array(group.create_group("0_0"), "roi", (6, 5), (6, 5), np.uint8)
    with pytest.raises(TileError, match=r"bands, .*masks, doys.* missing"):
        infer_block(path, *arguments)
    with atomic_output(path) as part:
        part.write_bytes(b"PK half a file")
    with pytest.raises(TileError, match="not a complete block file"):
        infer_block(path, *arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["patches.zip"]


# Resuming


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    path = tmp_path / "patches.zip"
    write_patches(path, tile("main"), 5, np.ones((12, 10), np.uint8))  # 3 x 2 patches
    return path


def infer(patches: Path, output: Path, **changed: Any) -> None:
    arguments: dict[str, Any] = {"options": InferenceOptions(), "attributes": {}}
    infer_block(patches, output, spec("qk"), **(arguments | changed))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The block file of a job that was not stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_patches(folder / "patches.zip", tile("main"), 5, np.ones((12, 10), np.uint8))
    infer(folder / "patches.zip", folder / "out.zip")
    return (folder / "out.zip").read_bytes()


KILLED = """
import os, signal, sys
from tessera_flow.inference import block
from tests.unit.test_block_inference import Path, infer

original = block.Progress.add
def add(self, name, arrays):
    original(self, name, arrays)
    if name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
block.Progress.add = add
infer(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with patches, and what a job that was killed after three of six has left."""
    folder = tmp_path_factory.mktemp("killed")
    write_patches(folder / "patches.zip", tile("main"), 5, np.ones((12, 10), np.uint8))
    kill_after("5_0", folder / "patches.zip", folder / "embeddings.zip")
    return folder


@pytest.fixture
def left_by_killed(killed: Path, tmp_path: Path) -> Path:
    """A copy of the patches of `killed`, with the progress file beside it."""
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    return tmp_path / "patches.zip"


def kill_after(patch: str, patches: Path, output: Path) -> None:
    """Run inference in a separate process, which is killed when this patch is finished."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(patches), str(output), patch],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_job_resumes_with_identical_output(
    left_by_killed: Path, undisturbed: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patches, output = left_by_killed, tmp_path / "embeddings.zip"
    kill_after("10_0", patches, output)
    assert not output.exists()
    files = sorted(tmp_path.glob("embeddings.zip.*.progress"))
    assert len(files) == 2
    # The second job was killed while it wrote a record.
    larger = max(files, key=lambda path: path.stat().st_mtime)
    os.truncate(larger, larger.stat().st_size - 7)
    with caplog.at_level(logging.INFO, "tessera_flow"):
        infer(patches, output)
    assert "4 of 6 patches were finished before" in caplog.text
    assert caplog.text.count("pixels embedded in") == 2
    assert output.read_bytes() == undisturbed
    with zipfile.ZipFile(output) as archive:  # the time of writing would differ
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["embeddings.zip", "patches.zip"]


def test_preempted_job_finishes_its_patch(
    patches: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM arrives during the second patch: the patch is finished and kept, the job fails, and
    when it is run again it starts with the third."""
    output = tmp_path / "embeddings.zip"
    embedded = []

    def embed(*arguments: Any) -> Any:
        embedded.append(arguments)
        if len(embedded) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return embed_tile(*arguments)

    monkeypatch.setattr(block, "embed_tile", embed)
    message = "Stopped by SIGTERM; 2 of 6 patches are kept. Run again"
    with pytest.raises(Stopped, match=message), stop_requests() as stop:
        infer(patches, output, stop=stop)
    assert len(embedded) == 2 and not output.exists()
    infer(patches, output)
    assert len(embedded) == 6
    assert output.read_bytes() == undisturbed


@pytest.mark.parametrize("interval", [0, 60])
def test_stopped_job_next_to_a_gpu_keeps_its_patches(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: float
) -> None:
    """Also those that were to be saved later, with others."""
    monkeypatch.setattr(block, "_read_ahead", lambda _: 1)
    monkeypatch.setattr(block, "SAVE_SECONDS", interval)
    output = tmp_path / "embeddings.zip"
    infer(patches, tmp_path / "undisturbed.zip")
    checks: list[str] = []

    class Stop(StopRequest):
        def check(self, kept: str) -> None:
            checks.append(kept)
            assert interval == 0 or not list(tmp_path.glob("embeddings.zip.*.progress"))
            if len(checks) == 2:
                raise Stopped(kept)

    with pytest.raises(Stopped, match="2 of 6 patches are kept"):
        infer(patches, output, stop=Stop())
    embed_tiles, seen = block.embed_tiles, []

    def count(tiles: Any, *others: Any) -> Any:
        return embed_tiles((seen.append(tile) or tile for tile in tiles), *others)

    monkeypatch.setattr(block, "embed_tiles", count)
    infer(patches, output)
    assert len(seen) == 4
    assert output.read_bytes() == (tmp_path / "undisturbed.zip").read_bytes()
    assert not list(tmp_path.glob("*.progress"))


def test_sigterm_in_the_last_patch_completes_the_block(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return embed_tile(*arguments)

    write_patches(patches, tile("main"), 12, np.ones((12, 10), np.uint8))  # one patch
    monkeypatch.setattr(block, "embed_tile", embed)
    with stop_requests() as stop:
        infer(patches, tmp_path / "embeddings.zip", stop=stop)
    assert (tmp_path / "embeddings.zip").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"options": InferenceOptions(dim=64)},
        {"options": InferenceOptions(min_s2=2)},
        {"origin": (0, 5)},
        {"attributes": {"weights": "other"}},
    ],
)
def test_patches_of_other_settings_are_not_used(
    left_by_killed: Path, tmp_path: Path, changed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    patches = left_by_killed
    with caplog.at_level(logging.INFO, "tessera_flow"):
        infer(patches, tmp_path / "embeddings.zip", **changed)
    assert "has other inputs: not used" in caplog.text
    assert caplog.text.count("pixels embedded in") == 6
    infer(patches, tmp_path / "expected.zip", **changed)
    assert (tmp_path / "expected.zip").read_bytes() == (tmp_path / "embeddings.zip").read_bytes()


def test_finished_patches_of_other_pixels_are_not_used(
    left_by_killed: Path, tmp_path: Path
) -> None:
    patches = left_by_killed
    arrays = tile("main")
    brighter = dataclasses.replace(arrays, bands=arrays.bands + np.uint16(100))
    write_patches(patches, brighter, 5, np.ones((12, 10), np.uint8))
    infer(patches, tmp_path / "embeddings.zip")
    infer(patches, tmp_path / "expected.zip")
    assert (tmp_path / "expected.zip").read_bytes() == (tmp_path / "embeddings.zip").read_bytes()


def test_job_resumes_after_the_same_patches_were_written_again(
    left_by_killed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patches = left_by_killed
    write_patches(patches, tile("main"), 5, np.ones((12, 10), np.uint8))
    with caplog.at_level(logging.INFO, "tessera_flow"):
        infer(patches, tmp_path / "embeddings.zip", options=InferenceOptions(batch_size=7))
    assert "3 of 6 patches were finished before" in caplog.text


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_block_as_on_a_gpu_equals_that_on_a_cpu(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    """Patches are read and saved in the background, and the code for GPUs embeds them."""
    options = InferenceOptions(dtype=dtype)
    infer(patches, tmp_path / "cpu.zip", options=options)
    monkeypatch.setattr(block, "_read_ahead", lambda device: 1)
    infer(patches, tmp_path / "gpu.zip", options=options)
    files = []
    for name in ("cpu", "gpu"):
        with open_block_file(tmp_path / f"{name}.zip") as group:
            files.append({key: array[...] for key, array in group.arrays()})
    expected, result = files
    assert np.array_equal(result["counts"], expected["counts"])
    if dtype == "float32":
        np.testing.assert_allclose(result["embeddings"], expected["embeddings"], atol=5e-6)
        return
    np.testing.assert_allclose(result["scales"], expected["scales"], rtol=1e-5)
    off = np.abs(result["embeddings"].astype(int) - expected["embeddings"])
    assert off.max() <= 1 and np.mean(off != 0) < 1e-3


def test_error_of_saving_a_patch_is_raised(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise TileError("the disk is full")

    monkeypatch.setattr(block, "_read_ahead", lambda device: 1)
    monkeypatch.setattr(block.Progress, "add", full)
    with pytest.raises(TileError, match="the disk is full"):
        infer(patches, tmp_path / "embeddings.zip")


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("ahead", [0, 1], ids=["cpu", "as on a gpu"])
def test_embeddings_that_are_not_finite_are_an_error(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any, ahead: int
) -> None:
    """A scale of NaN would make them pixels without an embedding."""
    content = torch.load(golden.checkpoint("v2_student_qk"), weights_only=True)
    (name,) = [key for key in content["model"] if key.endswith("dim_reducer.4.bias")]
    content["model"][name][3] = 3e38
    (weight,) = [key for key in content["model"] if key.endswith("dim_reducer.4.weight")]
    content["model"][weight][3] = 3e38
    torch.save(content, tmp_path / "large.pt")
    monkeypatch.setattr(block, "_read_ahead", lambda device: ahead)
    output = tmp_path / "embeddings.zip"
    with pytest.raises(ToleranceError, match=r"In float32 on cpu .*large\.pt, the embeddings of "):
        infer_block(
            patches,
            output,
            ModelSpec(tmp_path / "large.pt", device="cpu"),
            InferenceOptions(dtype=dtype),
            {},
        )
    assert not output.exists()
