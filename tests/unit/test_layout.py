"""What decides a job's result: what the rules hand over."""

from pathlib import Path

import pytest

from tessera_flow.config import Config, load_config
from tessera_flow.layout import Layout

from ..support.pipeline import CRS, write_polygon
from .test_plan import RING


def layout(folder: Path, rate: int = 1, **model: object) -> Layout:
    roi = write_polygon(folder / "r.geojson", RING)
    config: Config = load_config(
        {
            "regions": {"here": {"roi": str(roi), "crs": CRS}},
            "periods": {"then": {"start": "2021-01-01", "end": "2021-12-31"}},
            "model": {"weights": "x.pt", **model},
            "grid": {"block_size": 20, "patch_size": 5, "downsample_rate": rate},
            "paths": {
                "work": str(folder / "work"),
                "results": str(folder / "results"),
                "logs": str(folder / "logs"),
            },
        }
    )
    return Layout(config)


@pytest.mark.parametrize("rate", [1, 2])
def test_inference_knows_where_its_block_lies(tmp_path: Path, rate: int) -> None:
    """v1.0's draws follow the pixel's row and column in the product's grid."""
    run = layout(tmp_path, rate)
    origins = {block.id: run.settings_infer("here", block.id)["origin"] for block in
               run.grids["here"].blocks}  # fmt: skip
    assert len(origins) > 4
    for name, origin in origins.items():
        row, column = (int(part) for part in name[1:].split("_"))
        assert origin == [row * 20 // rate, column * 20 // rate]


def test_choices_that_change_numbers_are_handed_to_inference(tmp_path: Path) -> None:
    run = layout(
        tmp_path, statistics="mpc", heads=[4, 2], seed=5, repeat_times=3, dim=64, batch_size=7
    )
    settings = run.settings_infer("here", run.grids["here"].blocks[0].id)
    del settings["origin"]
    assert settings == {
        "statistics": "mpc",
        "heads": [4, 2],
        "dim": 64,
        "dtype": "int8",
        "seed": 5,
        "repeat_times": 3,
        "min_observations": {"s2": 1, "s1": 0},
    }
    assert run.settings_weights()["heads"] == [4, 2]
