"""Export of patches as reference tile folders, and import of tile folders as patches."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from tessera_flow.block_file import (
    create_array,
    create_block_file,
    create_series,
    open_block_file,
)
from tessera_flow.errors import OutputError, TileError
from tessera_flow.inference.tile import ARRAYS
from tessera_flow.ingest.retile import TIME_CHUNK
from tessera_flow.products.checksums import Checksums, record_files
from tessera_flow.products.reading.verify import verify
from tessera_flow.region.grid import RegionGrid, tiling
from tessera_flow.tile_folders.exporter import export_tiles
from tessera_flow.tile_folders.format import read_tile_folder
from tessera_flow.tile_folders.importer import import_tiles
from tessera_flow.tile_folders.tile_list import list_tiles

from ..support.products_region import cut

PATCH, BLOCK, SHAPE = 20, 40, (70, 53)
STEPS = {"bands": 19, "sar_ascending": 3, "sar_descending": 0}


class Tiles:
    """A region of 2 x 2 blocks with its mask and files of patches."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        self.inside = random.random(SHAPE) < 0.8
        self.inside[:25, :25] = False  # the first patch has no pixel of the region
        self.grid: RegionGrid = cut(SHAPE, self.inside, BLOCK)
        self.mask = folder / "roi.tif"
        self.folder = folder / "tiles"
        self.patches = {}
        box = self.grid.geobox
        with rasterio.open(
            self.mask, "w", driver="GTiff", height=SHAPE[0], width=SHAPE[1], count=1,
            dtype="uint8", crs="EPSG:32631", transform=box.affine,
        ) as target:  # fmt: skip
            target.write(self.inside.astype(np.uint8), 1)
        for block in self.grid.blocks:
            path = folder / f"{block.id}.zip"
            inside = self.inside[block.window.slices]
            windows = [p for p in tiling(*inside.shape, PATCH) if inside[p.slices].any()]
            attributes = {
                "shape": list(inside.shape),
                "patch_size": PATCH,
                "patches": [[p.y0, p.x0, p.height, p.width] for p in windows],
            }
            with create_block_file(path, attributes) as group:
                for window in windows:
                    patch = group.create_group(f"{window.y0}_{window.x0}")
                    self._fill(patch, inside[window.slices], random)
            self.patches[block.id] = path

    def _fill(self, patch, inside: np.ndarray, random: np.random.Generator) -> None:  # type: ignore[no-untyped-def]
        h, w = inside.shape
        t, a, d = STEPS.values()
        content = {
            "roi": inside.astype(np.uint8),
            "bands": random.integers(1, 9000, (t, h, w, 10)).astype(np.uint16),
            "masks": random.integers(0, 2, (t, h, w)).astype(np.bool_),
            "doys": np.sort(random.choice(366, t, replace=False) + 1).astype(np.uint16),
            "sar_ascending": random.integers(0, 9000, (a, h, w, 2)).astype(np.int16),
            "sar_ascending_doy": np.arange(1, a + 1).astype(np.int16),
            "sar_descending": np.zeros((d, h, w, 2), np.int16),
            "sar_descending_doy": np.zeros(d, np.int16),
        }
        for name, data in content.items():
            first, create = (
                (data.shape[0], create_array) if name == "roi" else (TIME_CHUNK, create_series)
            )
            array = create(patch, name, data.shape, (first, *data.shape[1:]), data.dtype)
            if data.size:
                array[:] = data

    def export(self) -> list[str]:
        return [
            name
            for block in self.grid.blocks
            for name in export_tiles(
                self.patches[block.id], self.grid, block, self.folder / f"{block.id}.json", {"a": 1}
            )
        ]

    def import_block(self, output: Path, block: str = "b001_001", **options) -> Path:  # type: ignore[no-untyped-def]
        import_tiles(
            self.folder, self.grid, self.grid.block(block), self.mask, output, PATCH, **options
        )
        return output


@pytest.fixture
def tiles(tmp_path: Path) -> Tiles:
    return Tiles(tmp_path)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def members(path: Path, ignored: str = "") -> dict[str, bytes]:
    """Return the files in a block file, without one attribute; their order depends on zarr's
    threads."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    root = json.loads(content["zarr.json"])
    root["attributes"].pop(ignored, None)
    return content | {"zarr.json": json.dumps(root).encode()}


@pytest.mark.parametrize("change", ["added", "of another program"])
def test_export_does_not_replace_folders_of_others(tiles: Tiles, change: str) -> None:
    tiles.export()
    tiles.export()  # over its own
    folder = tiles.folder / "20_0_40_20"
    if change == "added":
        (folder / "notes.txt").write_text("kept")
    else:
        with rasterio.open(folder / "roi.tiff") as dataset:
            mask, profile = dataset.read(), dataset.profile
        with rasterio.open(folder / "roi.tiff", "w", **profile) as dataset:
            dataset.write(mask)
    before = digests(folder)
    with pytest.raises(OutputError, match="20_0_40_20 is a folder that tessera-flow has not"):
        tiles.export()
    assert digests(folder) == before


def test_names_padding_types_and_origin_match_the_reference(tiles: Tiles) -> None:
    names = tiles.export()
    assert "0_0_20_20" not in names
    assert {"20_0_40_20", "40_60_53_70"} <= set(names)
    assert sorted(names) == sorted(p.name for p in tiles.folder.iterdir() if p.is_dir())
    tile = read_tile_folder(tiles.folder / "40_60_53_70")
    assert tile.shape == (PATCH, PATCH)
    assert tile.bands.dtype == np.uint16 and tile.sar_ascending.dtype == np.int16
    assert tile.sar_descending.shape == (0, PATCH, PATCH, 2)
    with open_block_file(tiles.patches["b001_001"]) as group:
        np.testing.assert_array_equal(tile.bands[:, :10, :13], group["20_0/bands"][:])
        np.testing.assert_array_equal(tile.doys, group["20_0/doys"][:])
        np.testing.assert_array_equal(tile.roi[:10, :13], group["20_0/roi"][:])
    for padded in (tile.bands[:, 10:], tile.bands[:, :, 13:], tile.masks[:, 10:], tile.roi[10:]):
        assert padded.size and not padded.any()
    with rasterio.open(tiles.folder / "40_60_53_70" / "roi.tiff") as roi:
        assert roi.crs.to_epsg() == 32631
        assert (roi.transform.c, roi.transform.f) == (600_400, 5_699_400)
    record = json.loads((tiles.folder / "b001_001.json").read_text())
    assert record["tiles"] == [n for n in names if n.startswith("40_") and n[3] in "46"]
    assert record["a"] == 1


def test_round_trips_are_byte_identical(tiles: Tiles, tmp_path: Path) -> None:
    """Patches to tiles to patches, and tiles to patches to tiles."""
    tiles.export()
    before = digests(tiles.folder)
    assert len(before) == 11 * 8 + 4
    original = dict(tiles.patches)
    for block in tiles.grid.blocks:
        again = tiles.import_block(tmp_path / f"{block.id}-again.zip", block.id)
        assert members(again) == members(original[block.id])
        tiles.patches[block.id] = again
    shutil.rmtree(tiles.folder)
    tiles.export()
    assert digests(tiles.folder) == before


def test_other_integer_types_of_days_and_missing_roi_are_accepted(
    tiles: Tiles, tmp_path: Path
) -> None:
    tiles.export()
    for folder in tiles.folder.glob("*_*_*_*"):
        (folder / "roi.tiff").unlink()
        for name in ("doys", "sar_ascending_doy", "sar_descending_doy"):
            days = np.load(folder / f"{name}.npy")
            np.save(folder / f"{name}.npy", days.astype(np.int64))
    again = tiles.import_block(tmp_path / "again.zip")
    assert members(again, "tile_facts") == members(tiles.patches["b001_001"])


def test_missing_tile_is_named_or_skipped(tiles: Tiles, tmp_path: Path) -> None:
    tiles.export()
    shutil.rmtree(tiles.folder / "40_60_53_70")
    with pytest.raises(TileError, match=r"b001_001: 1 of its patches .*column 40, row 60"):
        tiles.import_block(tmp_path / "again.zip")
    tiles.import_block(tmp_path / "again.zip", on_empty_block="nodata")
    with open_block_file(tmp_path / "again.zip") as group:
        assert group.attrs["patches"] == [[0, 0, 20, 13]]


def test_tiles_of_another_size_or_region_are_rejected(tiles: Tiles, tmp_path: Path) -> None:
    tiles.export()
    odd = tiles.folder / "40_40_50_60"
    shutil.copytree(tiles.folder / "40_40_53_60", odd)
    with pytest.raises(TileError, match=r"40_40_50_60 covers 10 x 20 px .* not a patch of 20 px"):
        tiles.import_block(tmp_path / "again.zip")
    shutil.rmtree(odd)
    with rasterio.open(tiles.folder / "40_40_53_60" / "roi.tiff", "r+") as roi:
        roi.transform = roi.transform.translation(600_410, 5_699_600) @ roi.transform.scale(10, -10)
    with pytest.raises(
        TileError, match=r"starts at 600410.0, .* is at 600400.0, 5699600.0 in EPSG"
    ):
        tiles.import_block(tmp_path / "again.zip")
    assert not (tmp_path / "again.zip").exists()


def test_shift_below_one_pixel_is_accepted_with_a_warning(
    tiles: Tiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiles.export()
    for folder in tiles.folder.glob("*_*_*_*"):
        with rasterio.open(folder / "roi.tiff", "r+") as roi:
            roi.transform = Affine.translation(3, -4) @ roi.transform
    with pytest.raises(TileError, match=r"starts 3.0, 4.0 units .*regions.field.align to roi"):
        tiles.import_block(tmp_path / "again.zip")  # exported tiles are where they state
    for record in tiles.folder.glob("*.json"):
        record.unlink()
    with caplog.at_level(logging.WARNING):
        again = tiles.import_block(tmp_path / "again.zip")
    assert "is 3.000 units right of and 4.000 below the pixels: 2." in caplog.text
    assert members(again, "tile_facts") == members(tiles.patches["b001_001"])


def test_missing_location(tiles: Tiles, tmp_path: Path) -> None:
    with pytest.raises(TileError, match=r"cannot be listed \(No such file.*check tiles.location"):
        tiles.import_block(tmp_path / "again.zip")
    assert set(ARRAYS) == {*STEPS, "masks", "doys", "sar_ascending_doy", "sar_descending_doy"}


class TestTileList:
    """The list of the tile folders, and what is beside them."""

    @staticmethod
    def write(tiles: Tiles, blocks: list[str] | None = None) -> dict[str, Any]:
        output = tiles.folder.with_name("tiles.json")
        chosen = blocks or [block.id for block in tiles.grid.blocks]
        records = [tiles.folder / f"{block}.json" for block in chosen]
        others = list_tiles(output, tiles.folder, records, {"configuration": "abc"})
        document: dict[str, Any] = json.loads(output.read_text())
        assert document["other_folders"] == others
        assert document["configuration_sha256"] == "abc"
        assert document["blocks"] == chosen
        return document

    def test_current_tiles_stay(self, tiles: Tiles) -> None:
        names = tiles.export()
        before = digests(tiles.folder)
        assert self.write(tiles)["tiles"] == names
        assert digests(tiles.folder) == before
        assert not tiles.folder.with_name("tiles_earlier").exists()

    def test_tiles_of_an_earlier_region_are_moved_away(
        self, tiles: Tiles, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The region has lost its last block, and a patch of the block before it."""
        tiles.export()
        before = digests(tiles.folder)
        record = tiles.folder / "b001_000.json"
        document = json.loads(record.read_text())
        lost = document["tiles"].pop()
        record.write_text(json.dumps(document))
        last = json.loads((tiles.folder / "b001_001.json").read_text())["tiles"]
        current = self.write(tiles, ["b000_000", "b000_001", "b001_000"])["tiles"]
        folders = {path.name for path in tiles.folder.iterdir() if path.is_dir()}
        assert folders == set(current)
        assert not {lost, *last} & folders and last
        moved = tiles.folder.with_name("tiles_earlier") / "1"
        assert {path.name for path in moved.iterdir()} == {lost, *last, "b001_001.json"}
        after = digests(moved)
        assert after == {name: before[name] for name in after}
        assert len(after) == 8 * (1 + len(last)) + 1
        assert f"{2 + len(last)} tile folders and records of earlier settings" in caplog.text

    def test_a_second_move_keeps_the_first(self, tiles: Tiles) -> None:
        for number in (1, 2):
            tiles.export()
            self.write(tiles, ["b000_000", "b000_001", "b001_000"])
            moved = tiles.folder.with_name("tiles_earlier") / str(number)
            assert (moved / "b001_001.json").is_file()
        assert len(list(tiles.folder.with_name("tiles_earlier").iterdir())) == 2

    def test_folders_of_others_stay_and_are_named(self, tiles: Tiles) -> None:
        names = tiles.export()
        other = tiles.folder / "900_900_920_920"
        shutil.copytree(tiles.folder / names[0], other)
        (other / "notes.txt").write_text("kept")
        (tiles.folder / "mine").mkdir()
        (tiles.folder / "notes.json").write_text('{"block": 1}')
        (tiles.folder / ".hidden").mkdir()
        before = digests(tiles.folder)
        assert self.write(tiles)["other_folders"] == ["900_900_920_920", "mine"]
        assert digests(tiles.folder) == before

    def test_what_cannot_be_read_is_of_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        private, deep = tmp_path / "tiles" / "private", tmp_path / "tiles" / "deep.json"
        private.mkdir(parents=True)
        deep.write_text("[" * 100_000)
        private.chmod(0)
        tmp_path.chmod(0o777)
        monkeypatch.chdir(tmp_path)
        user = os.geteuid()
        if user == 0:  # who may read everything
            os.seteuid(65534)
        try:
            others = list_tiles(Path("tiles.json"), Path("tiles"), [], {"configuration": "abc"})
        finally:
            os.seteuid(user)
            private.chmod(0o700)
        assert others == ["private"]
        assert deep.exists() and not (tmp_path / "tiles_earlier").exists()

    def test_a_damaged_record_is_refused(self, tiles: Tiles) -> None:
        tiles.export()
        (tiles.folder / "b000_000.json").write_text("[]")
        before = digests(tiles.folder)
        with pytest.raises(TileError, match=r"b000_000\.json cannot be read"):
            self.write(tiles)
        assert digests(tiles.folder) == before


class TestChecksums:
    """The tile folders of a block are in the record of checksums in its list."""

    @pytest.fixture
    def folder(self, tiles: Tiles) -> Path:
        tiles.folder = tiles.folder.parent / "results" / "tiles"
        tiles.export()
        TestTileList.write(tiles)
        folder = tiles.folder.parent
        record_files(folder / "checksums/tiles.json", [folder / "tiles.json"])
        return folder

    @staticmethod
    def faults(path: Path) -> list[str]:
        return [fault for result in verify(path) for fault in result.faults]

    def test_whole_tiles_are_as_recorded(self, folder: Path) -> None:
        results = list(verify(folder))
        files = [p for p in (folder / "tiles").glob("*/*") if p.is_file()]
        assert [result.files for result in results] == [1, *(8 * n for n in (3, 2, 4, 2))]
        assert sum(r.size for r in results[1:]) == sum(p.stat().st_size for p in files)
        for path in (folder, folder / "tiles"):
            assert self.faults(path) == []

    def test_changed_tiles_are_named(self, folder: Path) -> None:
        record = Checksums.of_tiles(folder / "tiles" / "b001_001.json")
        assert record.settings == {"a": 1}
        bands, doys, roi, *_ = sorted(n for n in record.sizes if n.startswith("40_40"))
        tiles = folder / "tiles"
        data = bytearray((tiles / bands).read_bytes())
        data[-1] ^= 1
        (tiles / bands).write_bytes(data)
        assert list(record.changed_sizes()) == []
        assert self.faults(folder) == [f"{bands} has changed (its SHA-256 is another)"]
        (tiles / doys).unlink()
        (tiles / roi).write_bytes(b"")
        missing = [f"{doys} is missing", f"{roi} has 0 bytes instead of {record.sizes[roi]}"]
        assert list(record.changed_sizes()) == missing
        assert set(self.faults(folder)) == {
            *missing, f"{bands} has changed (its SHA-256 is another)",
        }  # fmt: skip

    def test_missing_and_damaged_lists(self, folder: Path) -> None:
        (folder / "tiles" / "b000_000.json").unlink()
        (folder / "tiles" / "b000_001.json").write_text('{"tiles": ["0_0_9_9"]}')
        (folder / "tiles" / "b001_000.json").write_text('{"tiles": [], "files": 1}')
        first, second, third = self.faults(folder)
        assert first.startswith(f"{folder / 'tiles/b000_000.json'} does not exist")
        assert second == "has no checksums: delete it and run the workflow again"
        assert list(Checksums.of_tiles(folder / "tiles" / "b000_001.json").changed_sizes()) == []
        assert third.startswith(f"{folder / 'tiles/b001_000.json'} is no record of checksums")
        (folder / "tiles.json").write_text("{")
        first, second, *_ = self.faults(folder)
        assert first.startswith("tiles.json has 1 bytes instead of")
        assert second.startswith("cannot be read")
        (folder / "checksums/tiles.json").unlink()
        assert len(self.faults(folder)) == 1


def test_patches_without_values_under_clouds_are_not_exported(tiles: Tiles) -> None:
    """A tile of other values than those of the archive would look complete."""
    path = tiles.patches["b000_000"]
    with create_block_file(path, {"patch_size": PATCH, "patches": [[0, 0, 5, 6]]}) as group:
        create_array(group.create_group("0_0"), "needed_bands", (3, 10), (3, 10), np.uint16)
    with pytest.raises(TileError, match=f"{path} has only the values .*`tiles` in products.form"):
        tiles.export()
    assert not tiles.folder.exists()
