"""The thirty failures of docs/troubleshooting.md: each is made, and prints what the page says.

What is seen when the configuration is read is made in this process, by the calls that
`workflow/rules/common.smk` makes, and again by Snakemake (slow). What a job meets is made by
running the workflow (slow).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from snakemake import exceptions

from tessera_flow.cli.main import main
from tessera_flow.config.configuration import load_config
from tessera_flow.errors import TesseraFlowError
from tessera_flow.jobs.files import RunFiles
from tessera_flow.jobs.journal import job_log_path, read_job_log
from tessera_flow.jobs.params import JobParams
from tessera_flow.jobs.schedule import Schedule
from tessera_flow.products.zarr_store import write_zarr
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

sys.path.insert(0, str(REPOSITORY / "tools"))

import messages

pytestmark = pytest.mark.e2e

GOLDEN = REPOSITORY / "tests" / "golden"
PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| \d+ \| ([^|]+?) \| ``? ?(.+?) ?``? \|$", PAGE, flags=re.MULTILINE))
"""The page's table: what is wrong, and the sentence."""

SUMMARY = "What failed, and why:"


@dataclass(frozen=True)
class Failure:
    """A failure and how it is made.

    Attributes:
        make: breaks things in a new folder; returns what a user sees, if it ran something.
        job: whether a job meets it, so that the summary at the end repeats the sentence.
    """

    make: Callable[..., str | None]
    job: bool = False


READ: dict[str, Failure] = {}
"""Seen when the configuration is read; `make` takes the folder of a run that would succeed."""

COMMANDS: dict[str, Failure] = {}
"""Of `tessera-flow`; `make` takes a folder and returns the arguments, joined by spaces."""

RUNS: dict[str, Failure] = {}
"""Of a run; `make` takes a folder, and the finished run."""

Maker = Callable[..., str | None]


def failure(table: dict[str, Failure], what: str, job: bool = False) -> Callable[[Maker], Maker]:
    """Put a maker into one of the tables above."""

    def keep(make: Maker) -> Maker:
        table[what] = Failure(make, job)
        return make

    return keep


def changed(what: str, key: str, value: object) -> None:
    """A failure that is one changed key of the configuration."""
    READ[what] = Failure(lambda folder: change(folder, {key: value}))


changed("A key is misspelt", "grid.blocksize", 500)
changed("A value is none of the choices", "model.dtype", "int16")
changed("A key that is needed is missing", "model.weights", None)
changed("A period ends before it begins", "periods.then.end", "2020-06-30")
changed("Statistics of another source", "model.statistics", "aws")
changed("The region's file is not there", "regions.here.roi", "rio.geojson")
changed("The checkpoint is not there", "model.weights", "ckpt/student.pt")
changed("The name of the weights is misspelt", "model.weights", "v2_nano")


@failure(READ, "The region's coordinates are not what it says they are")
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


@failure(READ, "The folder of the results is not one")
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
    (folder / "points.csv").write_text("lon,lat\n51.4,4.5\n")  # the wrong way round
    out = folder / "out.csv"
    return f"sample {folder / 'embeddings.zarr'} {folder / 'points.csv'} --out {out}"


@failure(RUNS, "The archive is not there", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    (folder / "items.json").unlink()
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "The archive is empty", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    archive(folder, [])
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "No scene in the period, or none where the region is", job=True)
def _(folder: Path, _finished: Path) -> str:
    one_row(folder, 25)
    change(folder, {"periods.then": {"start": "2019-06-01", "end": "2019-06-30"}})
    return snakemake(folder, "--cores", "2").stdout


@failure(RUNS, "The server of the archive is dead", job=True)
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


@failure(RUNS, "A block that no scene covers", job=True)
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


@failure(RUNS, "The checkpoint is cut short", job=True)
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
    """A run in which the process that embeds a block gets a signal."""
    path = job_log_path(patched(finished, folder) / "work", "here", "then", "b001_000")
    process = start(folder)
    try:
        while not (found := read_job_log(path)):
            assert process.poll() is None
            time.sleep(0.002)
        os.kill(found[0].process, number)
        assert process.wait(timeout=300) != 0
    finally:
        kill_group(process)
    return (folder / "run.txt").read_text()


@failure(RUNS, "Snakemake itself was killed, and left its lock")
def _(folder: Path, finished: Path) -> str:
    process = start(patched(finished, folder))
    try:
        while not (folder / ".snakemake" / "locks").is_dir() or not any(
            (folder / ".snakemake" / "locks").iterdir()
        ):
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


@failure(RUNS, "Products of other settings are in the way")
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


def assert_printed(what: str, output: str) -> None:
    """The page's sentence is in the output, and no traceback."""
    assert messages.pattern(ROWS[what]).search(output), output
    assert "Traceback" not in output, output


def test_the_page_lists_these_thirty() -> None:
    made = {**READ, **COMMANDS, **RUNS}
    assert len(made) == len(READ) + len(COMMANDS) + len(RUNS)
    assert set(ROWS) == set(made)
    assert len(ROWS) == 30


def read_as_snakemake_does() -> None:
    """What `workflow/rules/common.smk` does with the configuration of the working directory."""
    layout = RunFiles(load_config(yaml.safe_load(Path("config.yaml").read_text())))
    JobParams(layout)
    Schedule(layout)


@pytest.mark.parametrize("what", [what for what in ROWS if what in READ])
def test_when_the_configuration_is_read(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    one_row(folder, 25)
    monkeypatch.chdir(folder)
    read_as_snakemake_does()
    READ[what].make(folder)
    with pytest.raises(TesseraFlowError) as caught:
        read_as_snakemake_does()
    assert_printed(what, str(caught.value))


@pytest.mark.slow
@pytest.mark.parametrize("what", [what for what in ROWS if what in READ])
def test_when_snakemake_reads_the_configuration(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    one_row(folder, 25)
    READ[what].make(folder)
    done = snakemake(folder, "--dry-run")
    assert done.returncode != 0
    assert_printed(what, done.stdout)


@pytest.mark.parametrize("what", [what for what in ROWS if what in COMMANDS])
def test_on_the_command_line(what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = COMMANDS[what].make(tmp_path)
    assert arguments is not None
    assert main(arguments.split()) == 1
    assert_printed(what, capfd.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("what", [what for what in ROWS if what in RUNS])
def test_in_a_run(
    what: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence stands where the job fails and, for those, in the summary at the end."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("EARTHDATA_TOKEN", raising=False)
    monkeypatch.setenv("EARTHDATA_TOKEN_FILE", str(tmp_path / "no_token"))
    output = RUNS[what].make(tmp_path / "run", finished_run)
    assert output is not None
    assert_printed(what, output)
    if RUNS[what].job:
        assert_printed(what, output.partition(SUMMARY)[2])


@pytest.mark.slow
def test_what_snakemake_says_in_its_own_words(tmp_path: Path) -> None:
    """The first column of that table, where it can be made here."""
    section = PAGE.partition("## In Snakemake's own words")[2].partition("\n## ")[0]
    words = re.findall(r"^\| `([^`]+)`", section, flags=re.MULTILINE)
    folder = tmp_path / "run"
    one_row(folder, 25)
    (folder / "tab.yaml").write_text("regions:\n\there: 1\n")
    made = [
        snakemake(folder, "--dry-run", "--configfile", str(folder / "tab.yaml")),
        snakemake(folder, "--dry-run", "--configfile", str(folder / "absent.yaml")),
        snakemake(folder, "--dry-run", "results/here/then/embedings.zarr"),
    ]
    for done, said in zip(made, words, strict=False):
        assert done.returncode != 0
        assert said in done.stdout
    assert len(words) == len(made) + 1
    assert words[-1] in Path(exceptions.__file__).read_text(encoding="utf-8")


def test_other_output_is_not_taken_for_a_sentence() -> None:
    for what, sentence in ROWS.items():
        others = "\n".join(text for other, text in ROWS.items() if text != sentence)
        assert not messages.pattern(sentence).search(others), what
