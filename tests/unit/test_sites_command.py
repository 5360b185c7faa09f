"""`tessera-flow run --sites`: the configuration that it writes, and the jobs of the workflow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tessera_flow.cli.main import main
from tessera_flow.config.configuration import load_config
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.journal import record_job
from tessera_flow.jobs.sites.files import SiteFiles
from tessera_flow.jobs.state.status import end_of_run, status

ROWS = "id,lon,lat,year\na,4.5,51,2021\nb,4.6,51,2021\nc,7.6,51,2022\nd,1,88,2022\n"


def written(folder: Path) -> dict:
    return yaml.safe_load((folder / "run/config/config.yaml").read_text())


def test_a_table_with_years_needs_no_region_and_no_period(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plots.csv").write_text(ROWS)
    assert main(["init", "--sites", "plots.csv", "--out", "run"]) == 0
    document = written(tmp_path)
    assert document["sites"]["table"] == str(tmp_path / "plots.csv")
    assert load_config(document).regions == {}
    assert main(["init", "--sites", "plots.csv", "--out", "run"]) == 0
    Path("other.csv").write_text(ROWS)
    assert main(["init", "--sites", "other.csv", "--out", "run"]) == 1
    assert "has the sites" in capsys.readouterr().err
    assert main(["plan", "--out", "run"]) == 0
    text = capsys.readouterr().out
    assert "4 rows of" in text
    assert "2 cells and 2 periods: 2 cells and periods, 10 jobs, 3 pixels" in text
    assert "1 rows have no place" in text


def test_a_table_of_projected_coordinates_has_a_crs(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plots.csv").write_text("id,easting,northing,year\na,600205,5699805,2021\n")
    command = ["init", "--sites", "plots.csv", "--out", "run", "--crs"]
    assert main([*command, "EPSG:32631"]) == 0
    assert written(tmp_path)["sites"]["crs"] == "EPSG:32631"
    assert main([*command, "EPSG:32631"]) == 0
    assert main([*command, "EPSG:32632"]) == 1
    assert "has the crs EPSG:32631, but the command line has EPSG:32632" in capsys.readouterr().err
    assert main(["init", "--roi", "4,51,5,52", "--year", "2021", "--crs", "EPSG:4326"]) == 1
    assert "give --sites, too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,x,y,year\na,6e5,57e5,2021\n", "give their CRS with --crs, such as EPSG:32631."),
        ("id,E,N,year\na,6e5,57e5,2021\n", "lon and lat, or x and y (with --crs)."),
        ("id,lon,lat\na,4.5,51\n", "neither a column year nor columns start and end"),
        ("id,lon,lat,year\na,4,51,2021\na,4,52,2021\n", "occur more than once"),
    ],
)
def test_nothing_is_written_for_a_table_that_cannot_be_used(
    tmp_path: Path, monkeypatch, capsys, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plots.csv").write_text(text)
    assert main(["init", "--sites", "plots.csv", "--out", "run"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_status_and_end_of_run_name_failed_cells(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plots.csv").write_text(ROWS)
    assert main(["init", "--sites", "plots.csv", "--out", "run"]) == 0
    monkeypatch.chdir(tmp_path / "run")
    files = RunFiles(load_config(written(tmp_path)))
    unit = next(iter(SiteFiles(files).units))
    with (
        pytest.raises(ValueError, match="broken"),
        record_job(files.job_log_file("sites", *unit), "site_series"),
    ):
        raise ValueError("the archive is broken")
    text = status(files)
    assert "0 of 2 cells and periods of sites have embeddings. 1 of 4 sites have no place" in text
    line = "sites 2021-01-01_2021-12-31 n31_06_56: site_series (1 attempt): ValueError: the archive"
    assert line in text
    text = end_of_run(files, ["snakemake", "--cores", "2"])
    assert line in text
    assert "without embeddings of the 1 failed block" in text


def test_jobs_of_a_dry_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plots.csv").write_text(ROWS)
    assert main(["init", "--sites", "plots.csv", "--out", "run", "--weights", "v2-nano"]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules", "--cores", "1"],
        cwd=tmp_path / "run", capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    rows = (line.split() for line in output.splitlines())
    counts = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
    counts = {rule: number for rule, number in counts.items() if "site" in rule or rule == "total"}
    assert counts == {
        "site_items": 4, "site_series": 2, "site_infer": 2, "site_table": 1, "site_stac": 1,
        "total": 12,
    }  # fmt: skip
