"""The public names work as the README shows them, and cost nothing until they are used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import tessera_flow as tf
from tessera_flow.errors import ConfigError, RegionError, TileError
from tessera_flow.products.stores.zarr_store import write_zarr

from ..support.products_region import dequantised, make_region

GOLDEN = Path(__file__).parents[1] / "golden"


def test_import_loads_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import tessera_flow; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - sys.stdlib_module_names == {"tessera_flow"}


@pytest.mark.parametrize("name", tf.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(tf, name).__doc__
    assert name in dir(tf)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'embed'"):
        tf.embed  # noqa: B018


def test_a_tile_folder_gives_the_reference_numbers() -> None:
    model = tf.load_model(GOLDEN / "checkpoints/v2_student_qk.pt", device="cpu")
    options = tf.InferenceOptions(dtype="float32", min_s2=0, min_s1=0)
    result = tf.embed_tile_folder(model, GOLDEN / "tiles/one", options)
    expected = np.load(GOLDEN / "v2/student_qk__one.npz")
    defined = ~expected["undefined"]
    np.testing.assert_allclose(result.values[defined], expected["emb"][defined], atol=5e-5, rtol=0)
    tile = tf.read_tile_folder(GOLDEN / "tiles/one")
    np.testing.assert_array_equal(tf.embed_tile(tile, model, options).values, result.values)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_product_is_opened_with_dequantised_values(tmp_path: Path, dtype: str) -> None:
    region = make_region(tmp_path, 100, dtype=dtype)
    store = tmp_path / "run" / "embeddings.zarr"
    write_zarr(store, region.grid, region.blocks, region.provenance, chunk=50)
    for path in (store, store.parent):
        dataset = tf.open_product(path)
        values = np.moveaxis(dataset["embeddings"].values[0], 0, -1)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values[region.valid], dequantised(region), rtol=1e-6)
        assert np.isnan(values[~region.valid]).all()
        assert "scales" not in dataset
        assert json.loads(dataset.attrs["provenance"]) == region.provenance.to_json()
        dataset.to_netcdf(tmp_path / "all.nc", engine="scipy")
        with xr.open_dataset(tmp_path / "all.nc", engine="scipy") as copy:
            np.testing.assert_array_equal(copy["embeddings"], dataset["embeddings"])
            np.testing.assert_array_equal(copy["observation_counts"][0, 0], region.counts[..., 0])
            assert json.loads(copy.attrs["provenance"])["region"] == "field"
        np.testing.assert_array_equal(
            np.moveaxis(dataset["observation_counts"].values[0], 0, -1), region.counts
        )
    row, column = np.argwhere(region.valid)[7]
    x, y = region.grid.product_geobox.affine @ (column + 0.5, row + 0.5)
    vectors = tf.sample_points(store, [x, x - 1e5], [y, y], region.provenance.crs)
    np.testing.assert_array_equal(vectors[0], values[row, column])
    assert np.isnan(vectors[1]).all()


def test_wrong_input_is_refused_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(TileError, match="is not a Zarr v3 store"):
        tf.open_product(tmp_path)
    with pytest.raises(RegionError, match="one number for each point"):
        tf.sample_points(tmp_path, [1, 2], [1])


def test_values_are_stored_as_in_the_published_pipeline_by_default() -> None:
    """float32 of v1.0 (float), int8 of the others."""
    for checkpoint, dtype in (("v1_0", np.float32), ("v2_student_qk", np.int8)):
        model = tf.load_model(GOLDEN / f"checkpoints/{checkpoint}.pt", device="cpu")
        result = tf.embed_tile_folder(model, GOLDEN / "tiles/one")
        assert result.values.dtype == dtype
        assert (result.scales is None) == (dtype == np.float32)


def test_an_unknown_precision_is_refused() -> None:
    """It would be taken for float32."""
    with pytest.raises(
        ConfigError, match="precision is 'bfloat16': set it to auto, float32, bf16 or fp16"
    ):
        tf.load_model(
            GOLDEN / "checkpoints/v2_student_qk.pt",
            device="cpu",
            precision="bfloat16",  # type: ignore[arg-type]
        )
