"""Holes of published embeddings: which pixels are computed, how both are put together, compared and
stated, and when it is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tessera_flow.block_file import create_array, create_block_file, open_block_file
from tessera_flow.config.configuration import load_config
from tessera_flow.config.model import Model
from tessera_flow.config.sections import Download, Sentinel2
from tessera_flow.dates import Slice
from tessera_flow.errors import ConfigError, ItemError, TileError
from tessera_flow.geotessera.cosines import CosineTally, cosines
from tessera_flow.geotessera.fill import FILL, FillRecord, fill_block
from tessera_flow.geotessera.importer import import_embeddings
from tessera_flow.geotessera.listing import list_published
from tessera_flow.geotessera.manifest import StoreManifest
from tessera_flow.geotessera.same_model import EARLIER_CELL, Weights, require_same_model
from tessera_flow.geotessera.stores import Store
from tessera_flow.ingest.download import download_sentinel2
from tessera_flow.ingest.retile import retile
from tessera_flow.ingest.stack import stack_sentinel2
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.plan.estimate import make_estimate
from tessera_flow.jobs.plan.simulate import Limits
from tessera_flow.jobs.schedule import Schedule
from tessera_flow.jobs.store_model import store_model_warnings
from tessera_flow.products.blocks import RegionBlocks
from tessera_flow.products.checks.embeddings import write_checks
from tessera_flow.products.provenance import FillSource
from tessera_flow.products.stores.geotessera import write_geotessera
from tessera_flow.region.grid import Window
from tessera_flow.region.needed import HOLES, NOT_NEEDED, needed_pixels

from ..support.products_region import landscape, make_region, write_block
from ..support.published_zarr import HUGE, UNWRITTEN, WATER, WITHOUT_CODES, ZONES, write_published
from .test_config import PERIOD
from .test_geotessera_source import write_roi
from .test_geotessera_zarr import grid_of_zone


def published_file(path: Path, holes: np.ndarray, patch: int, rate: int = 1) -> Path:
    attributes = {"patch_size": patch, "downsample_rate": rate, NOT_NEEDED: not holes.any()}
    with create_block_file(path, attributes) as group:
        create_array(group, HOLES, holes.shape, (patch, patch), np.uint8)[:] = holes
    return path


@pytest.mark.parametrize("rate", [1, 3])
def test_patches_with_a_hole_are_needed_completely(tmp_path: Path, rate: int) -> None:
    holes = np.zeros((10, 11), np.uint8)
    holes[3, 4] = holes[9, 10] = 1  # in the patches (0, 4) and (8, 8)
    expected = np.zeros((10, 11), bool)
    expected[0:4, 4:8] = expected[8:10, 8:11] = True
    inside = np.ones((10 * rate - rate + 1, 11 * rate), bool)  # the last row is not complete
    inside[0] = False
    path = published_file(tmp_path / "b.zip", holes, 4, rate)
    full = np.kron(expected, np.ones((rate, rate), bool))[: len(inside)]
    np.testing.assert_array_equal(needed_pixels(inside, path), full & inside)
    assert needed_pixels(inside, None) is inside


def test_steps_of_a_block_without_holes_read_nothing(tmp_path: Path) -> None:
    """No list, mask, scene or archive is opened: none of these files exists."""
    published = published_file(tmp_path / "p.zip", np.zeros((5, 5), np.uint8), 5)
    slices = [tmp_path / "slice1.zip", tmp_path / "slice2.zip"]
    for path in slices:
        download_sentinel2(
            tmp_path / "no.json", tmp_path / "no.tif", Window(0, 0, 5, 5),
            Slice.from_name("2021-01-01_2021-12-31"), path, Sentinel2(), "corrected", Download(),
            published,
        )  # fmt: skip
    stack_sentinel2(slices, tmp_path / "stack.zip")
    retile(
        tmp_path / "stack.zip", None, tmp_path / "no.tif", "b", Window(0, 0, 5, 5),
        tmp_path / "patches.zip", 5, published=published,
    )  # fmt: skip
    for name in ("slice1", "stack", "patches"):
        with open_block_file(tmp_path / f"{name}.zip") as group:
            assert group.attrs[NOT_NEEDED] and not list(group.keys())


def test_import_records_holes_and_impossible_scales(tmp_path: Path) -> None:
    store = Store(str(write_published(tmp_path / "store")), "v1.1")
    grid = grid_of_zone(ZONES[0])
    inside = np.zeros(grid.geobox.shape, bool)
    inside[:, :70] = True  # west of the zone's border
    roi = write_roi(tmp_path / "roi.tif", grid, inside)
    manifest = list_published(store, grid, 2024)
    path = tmp_path / "b.zip"
    import_embeddings(store, manifest, grid, grid.blocks[0], roi, path, 50, filled=True)
    with open_block_file(path) as group:
        missing, scales = group[HOLES][:] > 0, group["scales"][:]
        attributes = group.attrs.asdict()
    np.testing.assert_array_equal(missing, inside & np.isnan(scales))
    for place in (WATER, UNWRITTEN, WITHOUT_CODES, HUGE):
        assert missing[place][inside[place]].all()
    assert (attributes["impossible_scales"], attributes["without_codes"]) == (1, 4)
    assert attributes[NOT_NEEDED] is False


def test_a_store_without_the_year_is_one_hole(tmp_path: Path) -> None:
    store = Store(str(write_published(tmp_path / "store")), "v1.1")
    grid = grid_of_zone(ZONES[0])
    with pytest.raises(ItemError, match="has no embeddings of 2019"):
        list_published(store, grid, 2019)
    manifest = list_published(store, grid, 2019, may_be_empty=True)
    # The tile in the next zone reaches over the border.
    names = ("utm31", "utm32")
    assert manifest.parts == ()
    assert manifest.warnings == tuple(f"{n} of {store} has no embeddings of 2019." for n in names)
    inside = np.ones(grid.geobox.shape, bool)
    roi = write_roi(tmp_path / "roi.tif", grid, inside)
    path = tmp_path / "b.zip"
    import_embeddings(store, manifest, grid, grid.blocks[0], roi, path, 50, filled=True)
    with open_block_file(path) as group:
        assert (group[HOLES][:] == 1).all()


def block_pair(folder: Path, holes: np.ndarray, needed: np.ndarray) -> dict[str, Any]:
    """Write a published and a computed file of 12 x 12 pixels in patches of 6."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for name in ("published", "computed"):
        arrays[name] = random.integers(-127, 128, (12, 12, 128)).astype(np.int8)
        arrays[f"{name} scales"] = random.uniform(0.01, 0.1, (12, 12)).astype(np.float32)
    # Two pixels that both have are the same, of a third only the codes.
    for pixel in ((0, 0), (0, 1), (0, 2)):
        arrays["computed"][pixel] = arrays["published"][pixel]
    for pixel in ((0, 0), (0, 1)):
        arrays["computed scales"][pixel] = arrays["published scales"][pixel]
    arrays["published scales"][holes] = np.nan
    arrays["computed scales"][~needed] = np.nan
    attributes = {
        "block": "b", "dataset": "v1.1, 2021", "tiles": [], "without_codes": 0,
        "impossible_scales": 3, "patch_size": 6, "downsample_rate": 1,
    }  # fmt: skip
    for name in ("published", "computed"):
        marked = {NOT_NEEDED: not holes.any()}
        own = attributes if name == "published" else {"precision": "float32", "device": "CPU"}
        with create_block_file(folder / f"{name}.zip", own | marked) as group:
            for array, data, fill in (
                ("embeddings", arrays[name], 0),
                ("scales", arrays[f"{name} scales"], np.nan),
                (HOLES, holes.astype(np.uint8), 0),
            ):
                chunk = (6, 6, *data.shape[2:])
                create_array(group, array, data.shape, chunk, data.dtype, fill)[...] = data
    return arrays


def test_holes_are_filled_and_the_rest_is_compared(tmp_path: Path) -> None:
    holes, needed = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    holes[2:4, 1:3] = True
    needed[:6, :6] = True
    needed[3, 2] = False  # has too few observations
    arrays = block_pair(tmp_path, holes, needed)
    fill_block(tmp_path / "published.zip", tmp_path / "computed.zip", tmp_path / "out.zip")
    with open_block_file(tmp_path / "out.zip") as group:
        codes, scales, origin = (group[n][:] for n in ("embeddings", "scales", "origin"))
        attributes = group.attrs.asdict()
    expected = np.where(holes, 2, 1)
    expected[3, 2] = 0
    np.testing.assert_array_equal(origin, expected)
    for value, name in ((1, "published"), (2, "computed")):
        np.testing.assert_array_equal(codes[origin == value], arrays[name][origin == value])
        np.testing.assert_array_equal(
            scales[origin == value], arrays[f"{name} scales"][origin == value]
        )
    assert np.isnan(scales[3, 2])
    assert (attributes["precision"], attributes["device"]) == ("float32", "CPU")
    record = FillRecord.of_json(attributes[FILL])
    both = needed & ~holes
    a, b = arrays["published"][both], arrays["computed"][both]
    assert (record.published, record.computed, record.missing) == (140, 3, 1)
    assert record.compared == both.sum() == 32
    assert (record.identical, record.impossible_scales) == (2, 3)
    assert record.equal_codes == (a == b).sum()
    wide = a.astype(np.float64), b.astype(np.float64)
    exact = (wide[0] * wide[1]).sum(1) / np.linalg.norm(wide[0], axis=1)
    exact /= np.linalg.norm(wide[1], axis=1)
    assert record.cosines.mean == pytest.approx(exact.mean(), abs=1e-6)
    assert record.cosines.least == pytest.approx(exact.min(), abs=1e-6)


def test_a_block_without_holes_is_published_as_it_is(tmp_path: Path) -> None:
    none = np.zeros((12, 12), bool)
    arrays = block_pair(tmp_path, none, none)
    fill_block(tmp_path / "published.zip", tmp_path / "computed.zip", tmp_path / "out.zip")
    with open_block_file(tmp_path / "out.zip") as group:
        np.testing.assert_array_equal(group["embeddings"][:], arrays["published"])
        assert (group["origin"][:] == 1).all()
        assert "precision" in group.attrs and group.attrs[NOT_NEEDED]
    holes = none.copy()
    holes[0, 0] = True
    (tmp_path / "with").mkdir()
    block_pair(tmp_path / "with", holes, holes)
    with pytest.raises(TileError, match="was not made for the holes of"):
        fill_block(tmp_path / "with" / "published.zip", tmp_path / "computed.zip", tmp_path / "x")


def test_tally_of_cosines() -> None:
    random = np.random.default_rng(1)
    distances = 10 ** random.uniform(-7, 0, 10_000)
    values, tally, joined = 1 - distances, CosineTally(), CosineTally()
    tally.add(values)
    for part in np.array_split(values, 7):
        other = CosineTally()
        other.add(part)
        joined += CosineTally.of_json(json.loads(json.dumps(other.to_json())))
    for one in (tally, joined):
        assert one.pairs == 10_000
        assert one.mean == pytest.approx(values.mean())
        assert one.least == values.min()
        for share in (0.01, 0.5, 0.9):
            found, exact = one.quantile(share), np.quantile(values, share)
            assert found is not None
            assert 1 - found == pytest.approx(1 - exact, rel=0.13)
    assert CosineTally().quantile(0.5) is None and CosineTally().mean is None
    same = np.ones((3, 4), np.int8)
    assert cosines(same, 2 * same) == pytest.approx([1, 1, 1])
    zero = CosineTally()
    zero.add(cosines(same, 0 * same))  # a vector of zeros has no direction
    assert (zero.mean, zero.least) == (0.0, 0.0)


SHA = "ab" * 32
STATED = {"family": "v2-student", "name": "nano", "sha256": SHA, "statistics": None, "heads": None}


def store(**changes: Any) -> StoreManifest:
    return replace(StoreManifest("zarr", "/store", "v1.1", None, 2021), **changes)


WEIGHTS = Weights("nano.pt", SHA, "v2-student", 128)


def test_the_same_weights_are_the_same_model() -> None:
    how = require_same_model(store(model=STATED), WEIGHTS, Model(), "corrected", False)
    assert how == ("sha256", ())
    stated = STATED | {"preprocessing": "as_published"}
    _, (warning,) = require_same_model(store(model=stated), WEIGHTS, Model(), "corrected", False)
    assert "preprocessing: as_published" in warning


@pytest.mark.parametrize(
    ("model", "weights", "settings", "message"),
    [
        ({"sha256": "cd" * 32}, WEIGHTS, {}, "its weights (nano) have the SHA-256 cdcd"),
        ({"statistics": "aws"}, WEIGHTS, {}, "its statistics is aws, model.statistics is None"),
        ({"heads": [8, 8]}, WEIGHTS, {}, "its heads is [8, 8], model.heads is None"),
        ({"family": "v1.0", "seed": 3}, replace(WEIGHTS, family="v1.0"), {}, "its seed is 3"),
        ({}, replace(WEIGHTS, dim=1024), {}, "it has 128 dimensions"),
    ],
)
def test_another_model_is_refused_whatever_is_assumed(
    model: dict[str, Any], weights: Weights, settings: dict[str, Any], message: str
) -> None:
    for assumed in (False, True):
        with pytest.raises(ConfigError) as error:
            require_same_model(
                store(model=STATED | model), weights, Model(**settings), "corrected", assumed
            )
        assert message in str(error.value)


def test_without_a_hash_the_model_must_be_stated_by_the_user() -> None:
    """v1.1 was published with another recurrent cell, which is warned of wherever it is mixed."""
    weights = Weights("v1.1.pt", SHA, "v1.1", 128)
    unknown = store(model={"url": "https://geotessera.org/model/1.1"})
    with pytest.raises(ConfigError, match="does not state the SHA-256") as error:
        require_same_model(unknown, weights, Model(), "corrected", False)
    assert EARLIER_CELL in str(error.value) and "assume_same_model: true" in str(error.value)
    how, (warning,) = require_same_model(unknown, weights, Model(), "corrected", True)
    assert how == "assumed" and EARLIER_CELL in warning
    with pytest.raises(ConfigError, match=r"it is of v1\.1, model\.weights"):
        require_same_model(unknown, WEIGHTS, Model(), "corrected", True)
    v2 = store(version="v2", variant="2B-L~beta1")
    with pytest.raises(ConfigError, match=r"it is variant 2B-L~beta1, model\.weights v2-nano"):
        require_same_model(v2, replace(WEIGHTS, name="v2-nano"), Model(), "corrected", True)
    how, (warning,) = require_same_model(
        v2, replace(WEIGHTS, name="v2-large"), Model(), "corrected", True
    )
    assert EARLIER_CELL not in warning


PUBLISHED: dict[str, Any] = {
    "regions": {"here": {"roi": [5.0, 51.0, 5.01, 51.01]}},
    "periods": {"y2023": PERIOD},
    "source": "geotessera",
    "model": {"weights": "weights.pt"},
    "geotessera": {"fill": "compute"},
}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {}}, "geotessera.fill is compute, but model.weights is missing"),
        ({"model": {"weights": "w.pt", "dtype": "float32"}}, "published embeddings are int8 codes"),
        ({"sentinel2": {"provider": "local"}}, "sentinel2: provider is local, but location is"),
        ({"products": {"formats": ["counts"]}}, "published embeddings have no observation counts"),
    ],
)
def test_configuration_of_holes(sections: dict[str, Any], message: str) -> None:
    assert load_config(PUBLISHED).fills
    with pytest.raises(ConfigError) as error:
        load_config(PUBLISHED | sections)
    assert message in str(error.value)
    without = PUBLISHED | sections | {"geotessera": {}}
    if "products" not in sections:
        assert not load_config(without).fills


def test_the_public_store_is_refused_without_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"weights")
    files = RunFiles(load_config(PUBLISHED))
    with pytest.raises(ConfigError, match=r"v1\.1-dclimate does not state the SHA-256"):
        store_model_warnings(files, JobParams(files))
    assumed = PUBLISHED | {"geotessera": {"fill": "compute", "assume_same_model": True}}
    files = RunFiles(load_config(assumed))
    (warning,) = store_model_warnings(files, JobParams(files))
    assert EARLIER_CELL in warning


OTHER_DAYS = (
    "{} states that its embeddings of 2023 are of 2023-07-01 to 2024-06-30. The period is "
    "2023-01-01 to 2023-12-31, and so are the days of embeddings that are computed in holes."
)


@pytest.mark.parametrize("fill", ["compute", "nodata"])
def test_a_store_of_other_days_is_warned_of_before_and_in_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: str
) -> None:
    """A store of July to June has its main year, 2023: the other half of its days is not in it."""
    monkeypatch.chdir(tmp_path)
    region = make_region(tmp_path / "blocks", 100, dim=128)
    assert region.provenance.to_json()["period_start"] == "2023-07-01"
    write_geotessera(tmp_path / "store", region.grid, region.blocks, region.provenance)
    (tmp_path / "weights.pt").write_bytes(b"weights")
    sections: dict[str, Any] = {"geotessera": {"location": "store", "fill": fill}}
    if fill == "nodata":
        sections["model"] = {}
    else:
        # The weights of the store are those of the run.
        path = tmp_path / "store" / "zarr.json"
        document = json.loads(path.read_text())
        digest = hashlib.sha256(b"weights").hexdigest()
        document["attributes"]["provenance"]["model"]["sha256"] = digest
        path.write_text(json.dumps(document))

    def warnings(year: int) -> list[str]:
        days = {"start": f"{year}-01-01", "end": f"{year}-12-31"}
        files = RunFiles(load_config(PUBLISHED | sections | {"periods": {"y": days}}))
        return store_model_warnings(files, JobParams(files))

    expected = OTHER_DAYS.format(tmp_path / "store")
    assert warnings(2023) == [expected]
    # It has no embeddings of 2024, so nothing of it is taken.
    assert warnings(2024) == []
    store = Store(str(tmp_path / "store"))
    assert list_published(store, region.grid, 2023).warnings == (expected,)
    listed = list_published(store, region.grid, 2024, may_be_empty=True)
    assert len(listed.warnings) == 1 and "no embeddings of 2024" in listed.warnings[0]


def test_a_store_of_its_calendar_year_is_not_warned_of() -> None:
    for days in (["2021-01-01", "2021-12-31"], None, ["then"], ["2021-01-01", None], "2021"):
        assert store(model={"period": days}).days_warning() is None
    assert store().days_warning() is None
    assert store(model={"period": ["2021-01-01", "2021-11-30"]}).days_warning()


def filled_region(folder: Path, computed: np.ndarray, shift: float) -> dict[str, Any]:
    """Write blocks of a smooth landscape whose computed part is changed by `shift`, and the
    arguments of `write_checks`."""
    values = landscape(60, 60, 128)
    values[computed] += shift * np.random.default_rng(3).normal(size=128).astype(np.float32)
    valid = np.ones((60, 60), bool)
    region = make_region(folder, 30, dim=128, values=values, valid=valid, chunk=15)
    origin = np.where(computed, 2, 1).astype(np.uint8)
    for block in region.grid.blocks:
        window = region.grid.product_window(block).slices
        assert region.scales is not None
        record = FillRecord(published=int((origin[window] == 1).sum()))
        record.computed = int((origin[window] == 2).sum())
        path = folder / f"{block.id}.zip"
        write_block(
            path, region.embeddings[window], region.scales[window], region.counts[window], 15,
            {FILL: record.to_json(), "precision": "float32", "device": "CPU"},
        )  # fmt: skip
        with open_block_file(path) as group:
            arrays = {name: np.asarray(group[name][:]) for name in ("embeddings", "scales")}
            attributes = group.attrs.asdict()
        with create_block_file(path, attributes) as group:
            for name, data in (*arrays.items(), ("origin", origin[window])):
                chunk = (15, 15, *data.shape[2:])
                create_array(group, name, data.shape, chunk, data.dtype)[...] = data
    source = region.provenance.sources[0]
    provenance = replace(
        region.provenance,
        sources=(replace(source, sensor="both", provider="geotessera"),),
        fill=FillSource("v2, 2023", "sha256", {}),
    )
    with rasterio.open(
        folder / "roi.tif", "w", driver="GTiff", height=60, width=60, count=1, dtype="uint8",
        crs="EPSG:32631", transform=region.grid.geobox.affine,
    ) as mask:  # fmt: skip
        mask.write(valid.astype(np.uint8), 1)
    return {
        "grid": region.grid, "blocks": region.blocks, "provenance": provenance,
        "mask": folder / "roi.tif", "manifests": [], "max_seam": 1.5, "max_saturated": 10.0,
    }  # fmt: skip


@pytest.mark.parametrize(("shift", "seam"), [(0.0, False), (2.0, True)])
def test_borders_of_published_and_computed_pixels(tmp_path: Path, shift: float, seam: bool) -> None:
    """Every pair across is counted once, also where a border follows that of a block or patch."""
    computed = np.zeros((60, 60), bool)
    computed[10:20, 5:57] = True  # borders inside patches
    computed[30:60, 30:45] = True  # borders of blocks and patches
    arguments = filled_region(tmp_path, computed, shift)
    checks = write_checks(tmp_path / "checks.json", **arguments)
    pairs = 0
    for mask in (computed, computed.T):
        for line in mask:
            text = "".join("c" if pixel else "p" for pixel in line)
            pairs += sum(text[n : n + 6] in ("pppccc", "cccppp") for n in range(len(text) - 5))
    assert checks.fill is not None
    borders = checks.fill["borders"]
    assert borders["across"]["pairs"] == pairs == borders["beside"]["pairs"] / 2
    assert (borders["ratio"] > 2) == seam
    (check,) = [c for c in checks.checks if c.name.startswith("Ratio at the borders")]
    assert check.state == ("warn" if seam else "pass")
    assert (checks.fill["published"], checks.fill["computed"]) == (
        (~computed).sum(), computed.sum(),
    )  # fmt: skip
    with RegionBlocks(*(arguments[n] for n in ("grid", "blocks", "provenance"))) as source:
        assert source.names == ("embeddings", "scales", "origin")


def test_disagreement_is_a_warning(tmp_path: Path) -> None:
    computed = np.zeros((60, 60), bool)
    computed[:30, :30] = True
    arguments = filled_region(tmp_path, computed, 0.0)
    path = tmp_path / "b000_000.zip"
    with open_block_file(path) as group:
        attributes = group.attrs.asdict()
        arrays = {name: np.asarray(array[...]) for name, array in group.arrays()}
    record = FillRecord.of_json(attributes[FILL])
    record.cosines.add(np.full(50, 0.997))
    with create_block_file(path, attributes | {FILL: record.to_json()}) as group:
        for name, data in arrays.items():
            chunk = (15, 15, *data.shape[2:])
            create_array(group, name, data.shape, chunk, data.dtype)[...] = data
    checks = write_checks(tmp_path / "checks.json", **arguments)
    (check,) = [c for c in checks.checks if c.name.startswith("Mean cosine of published")]
    assert check.state == "warn" and check.limit == "at least 0.999"
    assert "mean cosine of 0.9970" in check.messages[0]


def test_a_plan_is_an_upper_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many downloads and as much inference as without published embeddings, and the import."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"weights")
    scenes = {**PUBLISHED, "source": "scenes", "geotessera": {}}
    estimates = []
    for document in (scenes, PUBLISHED):
        files = RunFiles(load_config(document))
        estimates.append(make_estimate(files, Schedule(files), Limits(cores=4)))
    computed, filled = estimates
    own = {"store_tiles": 1, "import_embeddings": 1, "fill": 1, "origin": 1}
    formats = {"counts": 1}  # of published embeddings they are not known
    assert filled.jobs == {k: v for k, v in computed.jobs.items() if k not in formats} | own
    published = next(row for row in filled.rows if row.sensor == "geotessera")
    assert filled.download_gb - published.download_gb == pytest.approx(computed.download_gb)
    assert published.download_gb > 0
    assert filled.wall_hours > computed.wall_hours
    assert "upper bound" in filled.assumptions[0]
    assert filled.items == {"geotessera": None, "sentinel2": None, "sentinel1": None}
    assert list(files.jobs_of_block("here", "y2023")) == [
        "import", "download", "stack", "retile", "infer", "fill",
    ]  # fmt: skip
