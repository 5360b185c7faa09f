"""Thirty failures: each is caused here, and its message names the cause and the remedy.

Errors in the configuration are caused in this process, by the calls of
`workflow/rules/common.smk`, and again through Snakemake (slow). Errors of jobs are caused by
running the workflow (slow).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from tessera_flow.cli.main import main
from tessera_flow.config.configuration import load_config
from tessera_flow.errors import TesseraFlowError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.journal import job_log_path, read_job_log
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.schedule import Schedule
from tessera_flow.products.stores.zarr_store import write_zarr
from tests.support.archives import opera_burst, opera_item
from tests.support.broken import damaged_checkpoint, one_row, patched, region_without_crs
from tests.support.products_region import make_region
from tests.support.servers import closed_port, serve_files
from tests.support.workflow import (
    LEFT,
    REPOSITORY,
    TOP,
    archive,
    change,
    fill,
    kill_group,
    small_disk,
    snakemake,
    start,
)

pytestmark = pytest.mark.e2e

GOLDEN = REPOSITORY / "tests" / "golden"
MESSAGES = {
    "A key is misspelt": ("grid.blocksize", "grid.block_size"),
    "A value is none of the choices": ("model.dtype", "int16", "int8"),
    "A required key is missing": ("model.weights", "missing", "set it"),
    "A period ends before it begins": ("periods.then", "2020-06-30", "2021-06-01"),
    "Statistics of another source": (
        "model.statistics", "aws", "mpc", "model.allow_statistics_mismatch",
    ),
    "The region file does not exist": ("rio.geojson", "does not exist", "roi"),
    "The region has no coordinate reference system": (
        "no_crs.shp", "no coordinate reference system", "assign",
    ),
    "The region's coordinates are in another system": ("roi.geojson", "degrees", "assign"),
    "The checkpoint does not exist": (
        "ckpt/student.pt", "does not exist", "model.weights", "v2-nano",
    ),
    "The name of the weights is misspelt": ("v2_nano", "did you mean `v2-nano`"),
    "The folder of the results is a file": ("Cannot write results", "Not a directory", "folder"),
    "Products of other settings exist": (
        "embeddings.zarr", "other settings", "paths.results", "--force",
    ),
    "Snakemake was killed, and left its lock": (
        "is locked by the run in", "That run was killed", "--configfile", "--unlock",
    ),
    "The archive does not exist": ("items.json", "does not exist", "`location`"),
    "The archive is empty": (
        "No Sentinel-2 scene covers region here", "2021-06-01", "(0 items", "sentinel2.collection",
    ),
    "No scene in the period": (
        "No Sentinel-2 scene covers region here", "2019-06-01", "(2 items", "sentinel2.collection",
    ),
    "The server of the archive is down": (
        "sentinel-2-l2a", "http://127.0.0.1:", "failed", "check", "network",
    ),
    "The archive refuses a scene": ("asset", "http://", "HTTP 403", "credentials"),
    "Most scenes are corrupt": ("2 of the 2 scenes", "download.max_missing_percent", "check it"),
    "OPERA without a token": ("Earthdata", "https://urs.earthdata.nasa.gov", "EARTHDATA_TOKEN"),
    "No scene covers a block": ("b000_002", "sentinel2", "download.on_empty_block"),
    "Tile folders of another grid": ("tiles/3_0_8_4", "5 x 4 px", "grid.patch_size"),
    "The checkpoint is truncated": ("weights.pt", "interrupted download", "again"),
    "A GPU job finds no GPU": (
        "GPU", "CUDA_VISIBLE_DEVICES", "jobs.cpu_gpu", "jobs.on_missing_gpu",
    ),
    "An intermediate file is damaged": (
        "work/here/then/patches/b000_001.zip", "not a complete block file", "delete it",
    ),
    "The disk is full": ("No space left while writing work/here/then/", "free", "`paths`"),
    "A job is stopped, as by preemption": ("Stopped by SIGTERM", "Run again"),
    "A job is killed, as for its memory": ("was killed", "out of memory"),
    "A tile folder is incomplete": ("0_0_5_4", "masks.npy", "all seven files"),
    "Points outside the product": ("None of the 1 points", "EPSG:32631", "order"),
}  # fmt: skip
"""Parts of the expected message, in their order on one line, by the title of the failure."""

SUMMARY = "Failed jobs:"


@dataclass(frozen=True)
class Failure:
    """A failure and its cause.

    Attributes:
        make: prepares a new folder so that the failure occurs; returns the output of a run.
        job: whether a job fails, so that the summary at the end repeats the message.
    """

    make: Callable[..., str | None]
    job: bool = False


READ: dict[str, Failure] = {}
"""Errors in the configuration; `make` takes the folder of a run that would succeed."""

COMMANDS: dict[str, Failure] = {}
"""Errors of `tessera-flow`; `make` takes a folder and returns the arguments, joined by spaces."""

RUNS: dict[str, Failure] = {}
"""Errors of a run; `make` takes a folder and the finished run."""

Maker = Callable[..., str | None]


def failure(table: dict[str, Failure], title: str, job: bool = False) -> Callable[[Maker], Maker]:
    """Register a function in one of the tables above."""

    def register(make: Maker) -> Maker:
        table[title] = Failure(make, job)
        return make

    return register


def changed(title: str, key: str, value: object) -> None:
    """Register a failure caused by one changed key of the configuration."""
    READ[title] = Failure(lambda folder: change(folder, {key: value}))


changed("A key is misspelt", "grid.blocksize", 500)
changed("A value is none of the choices", "model.dtype", "int16")
changed("A required key is missing", "model.weights", None)
changed("A period ends before it begins", "periods.then.end", "2020-06-30")
changed("Statistics of another source", "model.statistics", "aws")
changed("The region file does not exist", "regions.here.roi", "rio.geojson")
changed("The checkpoint does not exist", "model.weights", "ckpt/student.pt")
changed("The name of the weights is misspelt", "model.weights", "v2_nano")


@failure(READ, "The region's coordinates are in another system")
def _(folder: Path) -> None:
    square = [[LEFT, TOP], [LEFT + 200, TOP], [LEFT + 200, TOP - 200], [LEFT, TOP]]
    polygon = {"type": "Polygon", "coordinates": [square]}
    feature = {"type": "Feature", "properties": {}, "geometry": polygon}
    document = {"type": "FeatureCollection", "features": [feature]}
    (folder / "roi.geojson").write_text(json.dumps(document))


@failure(READ, "The region has no coordinate reference system")
def _(folder: Path) -> None:
    path = region_without_crs(folder)
    change(folder, {"regions.here.roi": path.name})


@failure(READ, "The folder of the results is a file")
def _(folder: Path) -> None:
    (folder / "results").write_text("a file of that name")


@failure(COMMANDS, "A tile folder is incomplete")
def _(folder: Path) -> str:
    tile = Path(shutil.copytree(GOLDEN / "tiles" / "one", folder / "tiles" / "0_0_5_4"))
    (tile / "masks.npy").unlink()
    weights = GOLDEN / "checkpoints" / "v2_student_noqk.pt"
    return f"embed --weights {weights} --tiles {tile.parent} --out {folder / 'out'}"


@failure(COMMANDS, "Points outside the product")
def _(folder: Path) -> str:
    region = make_region(folder / "blocks", 100)
    write_zarr(folder / "embeddings.zarr", region.grid, region.blocks, region.provenance)
    (folder / "points.csv").write_text("lon,lat\n51.4,4.5\n")  # swapped
    out = folder / "out.csv"
    return f"sample {folder / 'embeddings.zarr'} {folder / 'points.csv'} --out {out}"


@failure(RUNS, "The archive does not exist", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    (folder / "items.json").unlink()
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "The archive is empty", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    archive(folder, [])
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "No scene in the period", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    change(folder, {"periods.then": {"start": "2019-06-01", "end": "2019-06-30"}})
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "The server of the archive is down", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    change(folder, {"sentinel2.location": f"http://127.0.0.1:{closed_port()}/stac"})
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "The archive refuses a scene", job=True)
def _(folder: Path, _finished: Path) -> str:
    items = one_row(folder, 25)
    with serve_files(folder / "scenes") as server:
        server.signed = True
        text = json.dumps(items).replace(f"{folder}/scenes", server.url)
        archive(folder, json.loads(text))
        return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "Most scenes are corrupt", job=True)
def _(folder: Path, _finished: Path) -> str:
    for item in one_row(folder, 25):
        band = Path(item["assets"]["B11"]["href"])
        band.write_bytes(band.read_bytes()[:-200])
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "No scene covers a block", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 75)
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "OPERA without a token", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    host = "https://cumulus.asf.earthdatacloud.nasa.gov/OPERA"
    power = np.full((10, 20), 0.1)
    burst = opera_burst(folder, "2021-06-05T06:00:00", power, power, (LEFT, TOP))
    text = json.dumps({"type": "FeatureCollection", "features": [opera_item(burst, folder)]})
    (folder / "bursts.json").write_text(re.sub(r'"href": "[^"]*/', f'"href": "{host}/', text))
    source = {"provider": "local", "item_format": "opera", "location": "bursts.json"}
    change(folder, {"sentinel1": source})
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "The checkpoint is truncated", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    damaged_checkpoint(folder, "cut").replace(folder / "weights.pt")
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "A GPU job finds no GPU", job=True)
def _(folder: Path, finished: Path) -> str:
    patched(finished, folder)
    change(folder, {"jobs.cpu_gpu": [0, 1]})
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "The disk is full", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    with small_disk(folder / "work", 4 * 2**20) as disk:
        fill(disk, leave=64 * 2**10)
        return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "A job is stopped, as by preemption", job=True)
def _(folder: Path, finished: Path) -> str:
    return _signalled(folder, finished, signal.SIGTERM)


@failure(RUNS, "A job is killed, as for its memory", job=True)
def _(folder: Path, finished: Path) -> str:
    return _signalled(folder, finished, signal.SIGKILL)


def _signalled(folder: Path, finished: Path, number: signal.Signals) -> str:
    """Send a signal to the process that embeds a block; return the output of the run."""
    path = job_log_path(patched(finished, folder) / "work", "here", "then", "b001_000")
    process = start(folder)
    try:
        while not (records := read_job_log(path)):
            assert process.poll() is None
            time.sleep(0.002)
        os.kill(records[0].process, number)
        assert process.wait(timeout=300) != 0
    finally:
        kill_group(process)
    return (folder / "run.txt").read_text()


@failure(RUNS, "Snakemake was killed, and left its lock")
def _(folder: Path, finished: Path) -> str:
    process = start(patched(finished, folder))
    try:
        while not (folder / "work" / "lock.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        kill_group(process)
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "An intermediate file is damaged", job=True)
def _(folder: Path, finished: Path) -> str:
    file = patched(finished, folder) / "work" / "here" / "then" / "patches" / "b000_001.zip"
    stat = file.stat()
    file.write_bytes(file.read_bytes()[:1000])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "Products of other settings exist")
def _(folder: Path, finished: Path) -> str:
    shutil.copytree(finished, folder)
    change(folder, {"model.dim": 64})
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "Tile folders of another grid", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    tile = Path(shutil.copytree(GOLDEN / "tiles" / "one", folder / "tiles" / "3_0_8_4"))
    assert np.load(tile / "masks.npy").shape[1:] == (4, 5)
    change(folder, {"source": "tiles", "tiles.location": "tiles"})
    return snakemake(folder, "--cores", "2").stdout


def assert_printed(title: str, output: str) -> None:
    """Assert that the message is in the output, and no traceback."""
    pattern = r"[^\n]*?".join(map(re.escape, MESSAGES[title]))
    assert re.search(pattern, output), output
    assert "Traceback" not in output, output


def test_every_failure_has_its_message() -> None:
    titles = [*READ, *COMMANDS, *RUNS]
    assert len(titles) == 30
    assert sorted(titles) == sorted(MESSAGES)


def read_as_snakemake_does() -> None:
    """Read the configuration of the working directory as `workflow/rules/common.smk` does."""
    files = RunFiles(load_config(yaml.safe_load(Path("config.yaml").read_text())))
    JobParams(files)
    Schedule(files)


@pytest.mark.parametrize("title", READ)
def test_when_the_configuration_is_read(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    one_row(folder, 25)
    monkeypatch.chdir(folder)
    read_as_snakemake_does()
    READ[title].make(folder)
    with pytest.raises(TesseraFlowError) as caught:
        read_as_snakemake_does()
    assert_printed(title, str(caught.value))


@pytest.mark.slow
@pytest.mark.parametrize("title", READ)
def test_when_snakemake_reads_the_configuration(title: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    one_row(folder, 25)
    READ[title].make(folder)
    result = snakemake(folder, "--dry-run")
    assert result.returncode != 0
    assert_printed(title, result.stdout)


@pytest.mark.parametrize("title", COMMANDS)
def test_on_the_command_line(title: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = COMMANDS[title].make(tmp_path)
    assert arguments is not None
    assert main(arguments.split()) == 1
    assert_printed(title, capfd.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("title", RUNS)
def test_in_a_run(
    title: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is printed when the job fails and, for jobs, again in the summary at the end."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("EARTHDATA_TOKEN", raising=False)
    monkeypatch.setenv("EARTHDATA_TOKEN_FILE", str(tmp_path / "no_token"))
    output = RUNS[title].make(tmp_path / "run", finished_run)
    assert output is not None
    assert_printed(title, output)
    if RUNS[title].job:
        assert_printed(title, output.partition(SUMMARY)[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--configfile", "tab.yaml"], "Config file is not valid JSON or YAML"),
        (["--configfile", "absent.yaml"], "FileNotFoundError"),
        (["results/here/then/embedings.zarr"], "MissingRuleException"),
    ],
)
def test_errors_of_snakemake_itself(tmp_path: Path, arguments: list[str], message: str) -> None:
    """docs/troubleshooting.md explains these."""
    folder = tmp_path / "run"
    one_row(folder, 25)
    (folder / "tab.yaml").write_text("regions:\n\there: 1\n")
    paths = [str(folder / a) if a.endswith(".yaml") else a for a in arguments]
    result = snakemake(folder, "--dry-run", *paths)
    assert result.returncode != 0
    assert message in result.stdout
