"""The store of all periods of a region in the workflow: its jobs, failures and removed periods."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import xarray as xr

from tessera_flow.cli.main import main
from tests.support.workflow import change, plan, run, snakemake


def periods_of(cube: Path) -> list[str]:
    attributes = json.loads((cube / "zarr.json").read_text())["attributes"]
    return [entry["period"] for entry in attributes["cube"]]


def test_periods_are_added_one_by_one(finished: Path) -> None:
    region = finished / "results" / "here"
    cube = region / "cube.zarr"
    change(finished, {"products.formats": ["zarr"], "products.cube": True})
    assert plan(finished) == {"cube": 1}
    run(finished)
    assert plan(finished) == {} and periods_of(cube) == ["then"]

    # A period fails, another one does not.
    later = {"start": "2021-08-01", "end": "2021-08-31"}
    empty = {"start": "1999-08-01", "end": "1999-08-31"}
    change(finished, {"periods.later": later, "periods.empty": empty})
    run(finished, "--keep-going", fails=True)
    assert periods_of(cube) == ["then", "later"]
    with xr.open_zarr(cube) as combined:
        for index, period in enumerate(("then", "later")):
            with xr.open_zarr(region / period / "embeddings.zarr") as one:
                np.testing.assert_array_equal(combined.scales[index], one.scales[0])
    change(finished, {"periods.empty": None})
    assert plan(finished) == {}

    # A cube that is gone is made again from the stores; a changed store changes its period.
    shutil.rmtree(cube)
    assert plan(finished) == {"cube": 2}
    run(finished)
    assert periods_of(cube) == ["then", "later"]
    assert main(["info", "--verify", str(region)]) == 0
    change(finished, {"products.zarr_chunk": 10})
    assert plan(finished) == {"stitch_zarr": 2, "cube": 2}

    # A period that is not configured any more stays, and every run says so.
    change(finished, {"products.zarr_chunk": None, "periods.later": None})
    shown = snakemake(finished, "--dry-run").stdout
    assert "cube.zarr keeps later, which the configuration does not have" in shown
    assert periods_of(cube) == ["then", "later"]
