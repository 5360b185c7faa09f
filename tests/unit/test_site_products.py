"""The table of sites as a product: checksums, damage, description, STAC."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pystac
import pytest
import shapely
from pystac.extensions.table import TableExtension

from tessera_flow.cli.main import main
from tessera_flow.config.configuration import Config
from tessera_flow.errors import TileError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.journal import record_job
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.plan.limits import of_machine
from tessera_flow.jobs.plan.text import write_estimate
from tessera_flow.jobs.sites.files import SiteFiles, SiteParams
from tessera_flow.jobs.sites.steps import write_table
from tessera_flow.jobs.state.damage import faulty_products
from tessera_flow.models.weights_record import WeightsRecord, write_weights_record
from tessera_flow.products.checksums import multihash, record_files, sha256_of
from tessera_flow.products.stac.sites import write_site_stac

from ..support.stac_rules import check_extensions
from .test_products_stac import COLLECTION_RULES, ITEM_RULES, validated
from .test_site_plan import config

ROWS = "id,lon,lat,year\na,4.5,51,2021\nb,4.6,51.2,2021\nc,7.6,50.9,2022\nd,,,2022\n"


def make_products(settings: Config) -> Path:
    """Write the table of sites whose cells have failed, its summary, STAC and records, as the rules
    do; return their folder."""
    files = RunFiles(settings)
    sites = SiteFiles(files)
    for unit in sites.units:
        with (
            pytest.raises(OSError, match="disk"),
            record_job(files.job_log_file("sites", *unit), "site_series"),
        ):
            raise OSError("the disk is broken")
    Path(files.paths.weights).parent.mkdir(parents=True, exist_ok=True)
    record = WeightsRecord("/w.pt", "ab" * 32, "v2-nano", None, "v2-student", {}, [128], "int8")
    write_weights_record(record, files.paths.weights)
    table, summary = Path(files.paths.sites), Path(files.paths.sites_record)
    write_table(settings, [], files.paths.weights, table, summary)
    params = SiteParams(files, SiteFiles(files), JobParams(files))
    record_files(Path(files.paths.sites_checksums), [table, summary], params.table())
    documents = Path(files.paths.sites_item), Path(files.paths.sites_collection)
    write_site_stac(*documents, table, summary, settings.products.license)
    record_files(Path(files.paths.sites_stac_checksums), documents, params.stac())
    return table.parent


def skipping(folder: Path, rows: str = ROWS, **sections: Any) -> Config:
    return config(folder, rows, jobs={"on_failed_block": "skip"}, **sections)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Config, Path]:
    settings = skipping(tmp_path)
    return settings, make_products(settings)


def faults(settings: Config) -> dict[str, str]:
    files = RunFiles(settings)
    found = faulty_products(files, JobParams(files))
    return {Path(path).name: why for path, why in found.damaged.items()} | {
        Path(path).name: "outdated" for path in found.outdated
    }


def test_the_next_run_notices_damage(made: tuple[Config, Path], tmp_path: Path) -> None:
    settings, folder = made
    assert faults(settings) == {}
    assert {str(folder / name) for name in ("embeddings.parquet", "checksums/site_table.json")} <= (
        set(SiteFiles(RunFiles(settings)).products())
    )
    table = folder / "embeddings.parquet"
    content = table.read_bytes()
    table.write_bytes(content[:-40])
    assert "embeddings.parquet has" in faults(settings)["site_table.json"]
    altered = bytearray(content)
    altered[200] ^= 1
    table.write_bytes(altered)
    assert "embeddings.parquet has changed" in faults(settings)["site_table.json"]
    table.write_bytes(content)  # written again, but the same
    assert faults(settings) == {}
    (folder / "item.json").write_text("{}")
    assert "item.json has 2 bytes instead of" in faults(settings)["site_stac.json"]


def test_other_settings_are_noticed(made: tuple[Config, Path], tmp_path: Path) -> None:
    other = skipping(tmp_path, products={"license": "CC-BY-4.0"})
    assert faults(other) == {"site_stac.json": "outdated"}
    other = skipping(tmp_path, ROWS + "e,4.7,51,2021\n")
    assert faults(other) == {"site_stac.json": "outdated", "site_table.json": "outdated"}


def test_a_plan_names_what_is_made_again(made: tuple[Config, Path], tmp_path: Path) -> None:
    """As the dry run does. A configuration without regions has a plan of its own."""
    settings, _ = made
    plan = tmp_path / "plan"
    before = write_estimate(settings, plan, of_machine(1))
    assert "than those of this run" not in before
    # There is no job log of it in this test.
    assert "than the present ones" in before and "weights.json: the settings of weights" in before
    other = skipping(tmp_path, products={"license": "CC-BY-4.0"})
    files = RunFiles(other)
    (expected,) = faulty_products(files, JobParams(files)).warnings()
    assert "site_stac.json: made with other settings than those of this run" in expected
    assert f"Warning: {expected}\n" in write_estimate(other, plan, of_machine(1))
    assert f"Warning: {expected}\n" in (plan / "plan.md").read_text()


def test_verify_reads_all_files(
    made: tuple[Config, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = made
    assert main(["info", "--verify", str(folder)]) == 0
    text = capsys.readouterr().out
    assert text.count("2 files") == 2 and "as recorded" in text
    table = folder / "embeddings.parquet"
    state = table.stat()
    altered = bytearray(table.read_bytes())
    altered[200] ^= 1
    table.write_bytes(altered)
    os.utime(table, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert main(["info", "--verify", str(folder.parent)]) == 1
    assert "embeddings.parquet has changed (its SHA-256 is another)" in capsys.readouterr().out
    shutil.rmtree(folder / "checksums")
    assert main(["info", "--verify", str(table)]) == 1
    assert "embeddings.parquet: has no record of checksums" in capsys.readouterr().out


def test_info_describes_the_table(
    made: tuple[Config, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = made
    assert main(["info", str(folder)]) == 0
    text = capsys.readouterr().out
    assert str(folder / "embeddings.parquet") in text and str(folder / "item.json") in text
    assert "pixels of 10 m" in text and "v2-nano (v2-student), 128 dimensions" in text
    assert "sentinel-2-l2a" in text


def test_stac_of_the_table(made: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = made
    item = validated(folder / "item.json", ITEM_RULES, monkeypatch)
    collection = validated(folder / "collection.json", COLLECTION_RULES, monkeypatch)
    properties = item["properties"]
    assert properties["start_datetime"] == "2021-01-01T00:00:00Z"
    assert properties["end_datetime"] == "2022-12-31T23:59:59Z"
    table = folder / "embeddings.parquet"
    schema = pq.read_schema(table)
    assert [column["name"] for column in properties["table:columns"]] == schema.names
    assert properties["table:row_count"] == 4
    assert properties["states"] == {"failed": 3, "no coordinates": 1}
    asset = item["assets"]["embeddings"]
    assert asset["file:checksum"] == multihash(sha256_of(table))
    assert asset["file:size"] == table.stat().st_size
    outline = shapely.geometry.shape(item["geometry"])
    hull = shapely.convex_hull(shapely.MultiPoint([(4.5, 51), (4.6, 51.2), (7.6, 50.9)]))
    assert outline.contains(hull) and outline.area < 1.01 * hull.area
    assert item["bbox"] == pytest.approx(outline.bounds, abs=1e-6)
    assert properties["license"] == collection["license"] == "other"
    assert "Microsoft Planetary Computer" in [p["name"] for p in properties["providers"]]
    sources = [link["href"] for link in item["links"] if link["rel"] == "emb:source-data"]
    assert [href.rpartition("/")[2] for href in sources] == ["sentinel-2-l2a", "sentinel-1-rtc"]
    assert "emb:quantization" not in properties
    (read,) = pystac.Collection.from_file(folder / "collection.json").get_items()
    assert read.assets["embeddings"].get_absolute_href() == str(table)
    table_fields = TableExtension.ext(read)
    assert (table_fields.row_count, table_fields.primary_geometry) == (4, "geometry")
    assert table_fields.columns is not None and table_fields.columns[0].name == "id"


@pytest.mark.parametrize(
    ("rows", "kind", "bbox"),
    [
        ("a,4.5,51,2021\n", "Polygon", (4.4998, 50.9999, 4.5002, 51.0001)),
        ("a,179.9,-17,2021\nb,-179.8,-17,2021\n", "MultiPolygon", (179.9, -17, -179.8, -17)),
        ("a,-120,40,2021\nb,10,50,2021\n", "Polygon", (-120, 40, 10, 50)),
    ],
)
def test_outlines_of_sites(tmp_path: Path, rows: str, kind: str, bbox: tuple[float, ...]) -> None:
    folder = make_products(skipping(tmp_path, "id,lon,lat,year\n" + rows))
    item = json.loads((folder / "item.json").read_text())
    check_extensions(item)
    assert item["geometry"]["type"] == kind
    assert item["bbox"] == pytest.approx(bbox, abs=3e-4)
    assert shapely.geometry.shape(item["geometry"]).is_valid


def test_sites_without_a_place_have_no_outline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_products(skipping(tmp_path, "id,lon,lat,year\na,,,2021\nb,3,88,2021\n"))
    item = validated(folder / "item.json", ITEM_RULES, monkeypatch)
    assert item["geometry"] is None and "bbox" not in item


def test_codes_state_their_quantisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_products(skipping(tmp_path, sites={"values": "codes"}))
    item = validated(folder / "item.json", ITEM_RULES, monkeypatch)
    assert item["properties"]["emb:quantization"]["quantized_dtype"] == "int8"


def test_another_table_is_refused(tmp_path: Path) -> None:
    settings = skipping(tmp_path)
    folder = make_products(settings)
    documents = folder / "item.json", folder / "collection.json"
    (folder / "embeddings.parquet").write_bytes(b"PAR1 of something else")
    with pytest.raises(TileError, match="is no table of embeddings"):
        write_site_stac(*documents, folder / "embeddings.parquet", folder / "embeddings.json", "x")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(ITEM_RULES).validate({"stac_extensions": []})
