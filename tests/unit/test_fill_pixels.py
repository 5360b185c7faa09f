"""Holes of a store that was written here are computed, step by step in this process, to the same
bits as a run that computes everything; what has no hole reads no scene."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tessera_flow.config.configuration import Config
from tessera_flow.demo.weights import write_demo_weights
from tessera_flow.geotessera.fill import fill_block
from tessera_flow.geotessera.importer import import_embeddings
from tessera_flow.geotessera.listing import list_published
from tessera_flow.geotessera.manifest import StoreManifest
from tessera_flow.geotessera.same_model import with_same_model
from tessera_flow.geotessera.stores import configured_store
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import InferenceOptions
from tessera_flow.inference.model import ModelSpec
from tessera_flow.inference.months import PeriodMonths
from tessera_flow.jobs.block_attributes import read_attributes
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.params import JobParams
from tessera_flow.models.weights import fetch_weights
from tessera_flow.models.weights_record import WeightsRecord, write_weights_record
from tessera_flow.products.blocks import RegionBlocks
from tessera_flow.products.inputs import product_inputs, source_lists
from tessera_flow.products.report.summary import read_block_records
from tessera_flow.products.report.text import methods
from tessera_flow.products.stores.geotessera import write_geotessera
from tessera_flow.region.mask import write_mask
from tessera_flow.region.needed import passed_on
from tessera_flow.region.roi import read_roi

from ..support.pipeline import configuration, ingest
from ..support.servers import Fault, FileServer, serve_files
from ..support.workflow import box, scenes

RUN = {"region": "here", "period": "then"}
SHAPE = (16, 40)
HOLES = ((np.s_[3:9, 4:12], np.nan), (np.s_[0, 15], 5e5))
"""Both in the first of two blocks; the second number is an impossible scale."""


@dataclass
class Place:
    """An archive behind a server, the weights, and the products of a run that computes all."""

    folder: Path
    server: FileServer
    items: list[dict[str, Any]]
    record: WeightsRecord
    codes: np.ndarray
    scales: np.ndarray

    def config(self, name: str, **sections: Any) -> Config:
        return configuration(
            self.folder / name, self.folder / "roi.geojson", self.items, "2021-01-01",
            "2021-12-31", grid={"block_size": 20, "patch_size": 10},
            model={
                "weights": self.record.path, "device": "cpu", "precision": "float32",
                # A pixel that is always cloudy has an embedding, too.
                "min_observations": {"s2": 0, "s1": 0},
            },
            download={"slice_months": 12, "attempts": 2}, **sections,
        )  # fmt: skip


def infer(config: Config, files: RunFiles, record: WeightsRecord, pattern: str) -> None:
    """Embed all blocks, as the script of the rule does."""
    for block in files.grids["here"].blocks:
        names = RUN | {"block": block.id}
        patches, output = (Path(p.format(**names)) for p in (files.paths.patches, pattern))
        if passed_on([patches], output):
            continue
        settings = JobParams(files).infer(**names)
        infer_block(
            patches, output, ModelSpec.of(record, settings, "cpu", 2),
            InferenceOptions.of(settings, config.model.batch_size), {"weights": record.sha256},
            origin=tuple(settings["origin"]),
            period=PeriodMonths.of(config.source, dt.date(2021, 1, 1), dt.date(2021, 12, 31)),
        )  # fmt: skip


def products(config: Config, files: RunFiles, record: WeightsRecord) -> dict[str, Any]:
    """Return the arguments of the writers of products."""
    weights = Path(files.paths.weights)
    write_weights_record(record, weights)
    blocks = [Path(path) for path in files.block_files(**RUN)]
    manifests = [Path(path) for path in files.manifests(**RUN)]
    return product_inputs(config, "here", "then", blocks, weights, manifests)


def arrays(inputs: dict[str, Any], *names: str) -> list[np.ndarray]:
    with RegionBlocks(**inputs) as source:
        whole = inputs["grid"].product_geobox.shape
        found = []
        for name in names:
            data = np.zeros((*whole, *source.trailing(name)), source.array_dtype(name))
            for block_id, inside, window in source.pieces():
                data[window.slices] = source.read(block_id, name, inside)
            found.append(data)
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Compute a region of two blocks, and write it as a store."""
    folder = tmp_path_factory.mktemp("place")
    box(folder / "roi.geojson", (0, SHAPE[1]), (0, SHAPE[0]))
    items = scenes(folder, ["2021-06-03", "2021-06-13", "2021-07-03", "2021-08-01"], (40, 50))
    record = fetch_weights(str(write_demo_weights(folder / "weights")), None, None, None, None)
    with serve_files(folder / "scenes") as server:
        remote = json.loads(json.dumps(items).replace(str(folder / "scenes"), server.url))
        none = np.zeros(0)
        made = Place(folder, server, remote, record, none, none)
        config = made.config("full")
        files = ingest(config)
        infer(config, files, record, files.paths.embeddings)
        inputs = products(config, files, record)
        made.codes, made.scales = arrays(inputs, "embeddings", "scales")
        assert np.isfinite(made.scales).all()
        write_geotessera(folder / "store", **inputs)
        yield made


def fill(config: Config, record: WeightsRecord) -> RunFiles:
    """Run the steps of all blocks with `geotessera.fill: compute`."""
    files = RunFiles(config)
    grid, mask = files.grids["here"], Path(files.paths.roi.format(region="here"))
    region = config.regions["here"]
    write_mask(read_roi(region.roi, region.layer), grid.geobox, mask)
    store = configured_store(config, "here", "then")
    listed = list_published(store, grid, 2021, may_be_empty=True)
    path = Path(files.manifests(**RUN)[0])
    with_same_model(listed, config, record).write(path)
    for block in grid.blocks:
        published = Path(files.paths.published.format(**RUN, block=block.id))
        import_embeddings(
            store, StoreManifest.read(path), grid, block, mask, published, 10, filled=True
        )
    ingest(config, published=files.paths.published)
    infer(config, files, record, files.paths.computed)
    for block in grid.blocks:
        names = RUN | {"block": block.id}
        patterns = (files.paths.published, files.paths.computed, files.paths.embeddings)
        fill_block(*(Path(pattern.format(**names)) for pattern in patterns))
    return files


def punched(place: Place, name: str) -> Path:
    """Return a copy of the store, to punch holes into."""
    return Path(shutil.copytree(place.folder / "store", place.folder / name))


def test_holes_have_the_bits_of_the_full_run(place: Place) -> None:
    """The store is read over HTTP, from a server that fails now and then."""
    store = punched(place, "holes")
    scales = zarr.open_group(store, mode="r+")["utm31/scales"]
    origin = np.ones(SHAPE, int)
    for where, value in HOLES:
        scales[(0, *where)] = value
        origin[where] = 2
    # Published pixels are recognised: the store has other codes than the run would compute.
    codes = zarr.open_group(store, mode="r+")["utm31/embeddings"]
    codes[0, 0, 10:16, 5] = (place.codes[10:16, 5, 0].astype(int) + 200).astype(np.int8)
    expected = np.where(origin[..., None] == 1, np.moveaxis(codes[0], 0, -1), place.codes)
    before = len(place.server.requests)
    with serve_files(place.folder) as server:
        server.faults += [
            Fault("status", "scales/c/0", skip=1, value=503), Fault("truncate", "embeddings/c/0"),
        ]  # fmt: skip
        location = f"{server.url}/holes"
        config = place.config(
            "filled", source="geotessera", geotessera={"location": location, "fill": "compute"}
        )
        files = fill(config, place.record)
        assert all(fault.seen > 1 for fault in server.faults)
    assert len(place.server.requests) > before
    inputs = products(config, files, place.record)
    found = arrays(inputs, "embeddings", "scales", "origin")
    np.testing.assert_array_equal(found[2], origin)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], place.scales)

    with RegionBlocks(**inputs) as source:
        record = source.fill_record()
    # The patches of the first row of the first block have holes: rows 0 to 9, columns 0 to 19.
    assert (record.published, record.computed, record.missing) == (591, 49, 0)
    assert (record.compared, record.identical) == (200 - 49, 200 - 49)
    assert (record.equal_percent, record.impossible_scales) == (100, 1)
    provenance = inputs["provenance"]
    assert provenance.fill.same_model == "sha256"
    assert all(text.startswith("There is no Sentinel-") for text in provenance.warnings)
    assert provenance.model.sha256 == provenance.fill.model["sha256"] == place.record.sha256
    blocks = read_block_records(inputs["grid"], inputs["blocks"], provenance)
    assert blocks.inference.precisions == {"float32": 1}  # the other block computed nothing
    paths = [pattern.format(**RUN, block="b000_000") for pattern in (files.paths.computed,
             files.paths.embeddings)]  # fmt: skip
    computed, filled = (read_attributes(Path(path)) for path in paths)
    assert computed.keys() - filled.keys() <= {"tile_facts"}  # of another source
    assert filled["not_compiled"] is None and filled["compiled"] is False
    listed = source_lists(config, map(Path, files.manifests(**RUN)))
    first, *_ = methods(provenance, listed["manifests"], blocks, store=listed["store"])
    assert first.startswith("Where they exist, published pixel embeddings of 2021 were taken from")
    assert "whose weights have the SHA-256 that the store states" in first


def test_a_region_without_holes_requests_nothing_of_the_archive(place: Place) -> None:
    config = place.config(
        "complete", source="geotessera",
        geotessera={"location": str(place.folder / "store"), "fill": "compute"},
    )  # fmt: skip
    before = len(place.server.requests)
    files = fill(config, place.record)
    assert len(place.server.requests) == before
    found = arrays(products(config, files, place.record), "embeddings", "scales", "origin")
    np.testing.assert_array_equal(found[0], place.codes)
    np.testing.assert_array_equal(found[1], place.scales)
    assert (found[2] == 1).all()


def test_a_year_that_is_not_published_is_computed(place: Place) -> None:
    store = punched(place, "year")
    zarr.open_group(store, mode="r+")["utm31/time"][0] = 2019
    config = place.config(
        "missing", source="geotessera", geotessera={"location": str(store), "fill": "compute"}
    )
    files = fill(config, place.record)
    inputs = products(config, files, place.record)
    found = arrays(inputs, "embeddings", "scales", "origin")
    np.testing.assert_array_equal(found[0], place.codes)
    np.testing.assert_array_equal(found[1], place.scales)
    assert (found[2] == 2).all()
    assert f"utm31 of {store} has no embeddings of 2021." in inputs["provenance"].warnings
