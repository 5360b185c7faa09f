"""Patches without the values under clouds: no embedding depends on what they leave out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tessera_flow.block_file import create_block_file, create_series, open_block_file
from tessera_flow.errors import TileError
from tessera_flow.inference import runs
from tessera_flow.inference.embed import embed_tile
from tessera_flow.inference.model import ModelSpec, PreparedModel
from tessera_flow.inference.series import summarise
from tessera_flow.inference.spot_check import Sample, check_patch, tolerance
from tessera_flow.inference.tile import ARRAYS, TileArrays, read_patch
from tessera_flow.ingest import retile
from tessera_flow.ingest.retile import write_needed
from tessera_flow.sensors.needed_values import NeededValues, kept_steps, pieces

from ..support import golden
from .test_feed import ALL, fed, model_of
from .test_tolerance import FAMILIES, source

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = ("main", "one", "none", "clouds", "black", "outside", "all")


def case(name: str) -> TileArrays:
    """Return a tile in which values under clouds differ from all others."""
    tile = golden.tile(name if name in ("one", "none") else "main")
    bands, masks = np.array(tile.bands), np.array(tile.masks)
    if name in ("clouds", "all"):  # pixels without a valid step, from which v1.0 draws
        masks[:, 2:6, 1:8] = 0
    if name in ("black", "all"):  # valid values are 0, others are not: v1.0 embeds these pixels
        bands[:, 3:5, 2:9] *= (masks == 0)[:, 3:5, 2:9, np.newaxis]
        bands[:, 7, 2:9] = 0
    roi = np.ones(tile.shape, np.uint8)
    if name in ("outside", "all"):
        roi[:3, :4] = roi[6, 3:] = 0
    return replace(tile, bands=bands, masks=masks, roi=roi)


def write(tile: TileArrays, path: Path, change: Any = None) -> None:
    with create_block_file(path, {}) as group:
        masks = np.asarray(tile.masks) != 0
        write_needed(group, len(masks), tile.roi != 0, masks.__getitem__, tile.bands.__getitem__)
        stored = {name: np.asarray(getattr(tile, name)) for name in (*ARRAYS[2:], "roi")}
        for name, values in {"masks": masks, **stored}.items():
            create_series(group, name, values.shape, (16, *values.shape[1:]), values.dtype)[...] = (
                values
            )
        if change is not None:
            change(group)


def read(path: Path) -> TileArrays:
    with open_block_file(path) as group:
        return read_patch(group, "the patch")


def needed(tile: TileArrays, folder: Path) -> TileArrays:
    write(tile, folder / "patch.zip")
    result = read(folder / "patch.zip")
    assert isinstance(result.bands, NeededValues)
    return result


def in_full(tile: TileArrays) -> np.ndarray:
    """Return the digital numbers that are kept, 0 elsewhere, by the words of the definition."""
    valid = tile.masks != 0
    kept = valid | ~valid.any(axis=0)
    return np.where((kept & (tile.roi != 0))[..., np.newaxis], tile.bands, 0)


@pytest.mark.parametrize("chunk", [1, 16])
@pytest.mark.parametrize("name", CASES)
def test_values_are_at_their_places(
    name: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retile, "TIME_CHUNK", chunk)
    tile = case(name)
    expected, found = in_full(tile), needed(tile, tmp_path)
    height, width = tile.shape
    if name != "none":
        assert len(found.bands.values) < 0.8 * tile.masks.size
    for rows in map(slice, (0, 3, height - 1, 2), (height, min(8, height), height, 2)):
        assert np.array_equal(found.bands_of(rows), expected[:, rows])
        number = found.bands.kept[:, rows].sum()
        assert sum(map(len, found.bands.parts(rows))) == number
    pixels = np.random.default_rng(0).permutation(height * width)[:37]
    flat = expected.reshape(len(expected), -1, 10)
    assert np.array_equal(found.bands_at(pixels), flat[:, pixels])
    has_value = (tile.bands != 0).any(axis=(0, 3))
    assert np.array_equal(found.has_value(slice(1, 4)), has_value[1:4].reshape(-1))
    assert np.array_equal(tile.has_value(slice(1, 4)), has_value[1:4].reshape(-1))


@pytest.mark.parametrize("shape", [(0, 2, 3), (1, 1, 1), (3, 1, 8), (5, 3, 7), (8, 4, 2)])
def test_places_of_any_number_of_values(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(sum(shape))
    for share in (0, 0.4, 1):
        kept = rng.random(shape) < share
        dense = rng.integers(1, 999, (*shape, 2)) * kept[..., np.newaxis]
        values = NeededValues(dense[kept], kept, np.ones(shape[1:], bool))
        for start in range(shape[1]):
            rows = slice(start, shape[1])
            assert np.array_equal(values.rows(rows), dense[:, rows])
        pixels = np.arange(shape[1] * shape[2])[::-1]
        assert np.array_equal(values.at(pixels), dense.reshape(shape[0], len(pixels), 2)[:, pixels])


@pytest.mark.parametrize("kind", [">u2", "F"])
def test_values_of_another_order_are_refused(kind: str) -> None:
    values = np.ones((4, 2), ">u2") if kind == ">u2" else np.ones((4, 2), np.uint16, order="F")
    with pytest.raises(ValueError, match="order"):
        NeededValues(values, np.ones((1, 2, 2), bool), np.ones((2, 2), bool))


@pytest.mark.parametrize("kept", [0, 30])
def test_values_after_the_last_kept_one_count(
    kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a pixel has any value is known only after the last date, which keeps none here."""
    monkeypatch.setattr(retile, "TIME_CHUNK", 2)
    bands = np.zeros((7, 5, 6, 10), np.uint16)
    bands[6, 2:] = 9
    masks = np.zeros((7, 5, 6), bool)
    masks[0] = kept > 0
    inside = np.full((5, 6), kept > 0)
    with create_block_file(tmp_path / "a.zip", {}) as group:
        write_needed(group, 7, inside, masks.__getitem__, bands.__getitem__)
        assert group["needed_bands"].shape == (kept, 10)
        assert np.array_equal(group["has_value"][...], bands[6, ..., 0] > 0)


def test_what_is_kept_of_masks() -> None:
    masks = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 1, 0]]], np.uint8)
    everywhere = np.array([[[1, 1, 0], [1, 1, 1]], [[0, 1, 1], [1, 1, 1]]], bool)
    inside = np.array([[1, 1, 1], [1, 0, 0]], bool)
    assert np.array_equal(kept_steps(masks, np.ones((2, 3), bool)), everywhere)
    some = masks.any(axis=0)
    assert np.array_equal(kept_steps(masks[:1], np.ones((2, 3), bool), some), everywhere[:1])
    assert np.array_equal(kept_steps(masks, inside), everywhere & inside)


def test_pieces_have_one_size_and_every_row() -> None:
    def parts() -> Iterator[np.ndarray]:
        start = 0
        for size in (0, 3, 9, 1, 0, 4):
            yield np.arange(start, start + size)[:, np.newaxis]
            start += size

    found = [piece[:, 0].tolist() for piece in pieces(parts(), 5)]
    assert found == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16]]
    assert list(pieces(iter([np.empty((0, 2))]), 5)) == []


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_are_those_of_all_values(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU and by the code for GPUs, in one run and in several: the same bits."""
    model = model_of(name)
    for title in ("all", "one", "none"):
        tile = case(title)
        small = needed(tile, tmp_path)
        expected = embed_tile(tile, model, ALL, (7, 1001))
        found = embed_tile(small, model, ALL, (7, 1001))
        assert found.values.tobytes() == expected.values.tobytes()
        assert np.array_equal(found.counts, expected.counts)
        if title == "all":
            assert np.isfinite(expected.values[..., 0]).any()
        for divide in (whole, halves):
            monkeypatch.setattr(runs.Stages, "runs", divide)
            a, b = fed(tile, model, ALL), fed(small, model, ALL)
            assert a.values.tobytes() == b.values.tobytes()
            assert np.array_equal(a.counts, b.counts)


def whole(_: runs.Stages, tile: TileArrays) -> list[slice]:
    return [slice(0, tile.shape[0])]


def halves(_: runs.Stages, tile: TileArrays) -> list[slice]:
    height = tile.shape[0]
    return [slice(0, height // 2), slice(height // 2, height)]


@pytest.mark.parametrize("name", CASES)
def test_summary_and_sample_are_those_of_all_values(name: str, tmp_path: Path) -> None:
    tile = case(name)
    small = needed(tile, tmp_path)
    dates = {
        stream: ["2021-03-01"] * len(days)
        for stream, days in (
            ("sentinel2", tile.doys),
            ("ascending", tile.sar_ascending_doy),
            ("descending", tile.sar_descending_doy),
        )
    }
    for step in (1, 3):
        expected = summarise(tile, dates, (5, 7), step)
        found = summarise(small, dates, (5, 7), step)
        assert expected.keys() == found.keys()
        for key, values in expected.items():
            assert values.tobytes() == found[key].tobytes(), key
    a, b = Sample.of(tile), Sample.of(small)
    assert np.array_equal(a.rows, b.rows)
    valid, row = a.tile.masks == 1, slice(0, 1)
    assert np.array_equal(a.tile.bands[valid], b.tile.bands_of(row)[valid])
    assert np.array_equal(a.tile.has_value(row), b.tile.has_value(row))


@pytest.mark.parametrize("name", FAMILIES)
def test_sample_of_any_family_has_the_embeddings_of_its_patch(name: str, tmp_path: Path) -> None:
    """Also of v1.0 where only values under clouds differ from 0, which embed such a pixel."""
    reference = model_of(name)
    spec = ModelSpec(golden.checkpoint(name), device="cpu", statistics=source(name))
    prepared = PreparedModel(spec, model_of(name), reference)
    for title in ("black", "all"):
        small = needed(case(title), tmp_path)
        embedding = embed_tile(small, prepared.model, ALL, (7, 1001))
        found = check_patch(Sample.of(small), embedding, prepared, ALL, (7, 1001))
        assert found.pixels >= 8
        assert not tolerance(reference).violations(found.agreement)


@pytest.mark.parametrize(
    ("drop", "message"),
    [("needed_bands", "needed_bands missing"), ("has_value", "has_value missing")],
)
def test_incomplete_patch_is_refused(drop: str, message: str, tmp_path: Path) -> None:
    write(case("main"), tmp_path / "a.zip")
    with (
        open_block_file(tmp_path / "a.zip") as source,
        create_block_file(tmp_path / "b.zip", {}) as target,
    ):
        copy(source, target, lambda name, values: None if name == drop else values)
    with pytest.raises(TileError, match=f"the patch is incomplete: {message}"):
        read(tmp_path / "b.zip")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("needed_bands", lambda values: values[:-1]),
        ("needed_bands", lambda values: values[:, :9]),
        ("needed_bands", lambda values: values.astype(np.int32)),
        ("has_value", lambda values: values[:-1]),
        ("roi", lambda values: np.zeros_like(values)),
        ("has_value", lambda values: values.astype(np.uint8)),
    ],
)
def test_patch_that_does_not_fit_is_refused(name: str, change: Any, tmp_path: Path) -> None:
    write(case("main"), tmp_path / "a.zip")
    with (
        open_block_file(tmp_path / "a.zip") as source,
        create_block_file(tmp_path / "b.zip", {}) as target,
    ):
        copy(source, target, lambda key, values: change(values) if key == name else values)
    stated = "needed_bands" if name == "roi" else name
    shape = rf"{stated} of the patch has shape .* masks require"
    kind = rf"{stated} of the patch is \w+, but should be \w+"
    with pytest.raises(TileError, match=f"{shape}|{kind}"):
        read(tmp_path / "b.zip")


def copy(source: zarr.Group, target: zarr.Group, change: Any) -> None:
    for name, array in source.arrays():
        values = change(name, np.asarray(array[...]))
        if values is not None:
            create_series(target, name, values.shape, (9999, *values.shape[1:]), values.dtype)[
                ...
            ] = values
