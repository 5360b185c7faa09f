"""`tessera-flow run`, `init`, `plan`, `status`: what they write, refuse and print."""

from __future__ import annotations

import datetime
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
import yaml

from tessera_flow.cli import run_folder
from tessera_flow.cli.main import main, parser
from tessera_flow.cli.run import check_snakemake_arguments, products_text
from tessera_flow.cli.run_folder import SNAKEFILE, RunFolder, region_name
from tessera_flow.cli.run_request import periods
from tessera_flow.config.configuration import load_config
from tessera_flow.config.example import config_text, yaml_value
from tessera_flow.errors import ConfigError
from tessera_flow.region.roi import VectorRoi, read_roi
from tessera_flow.workflow_folder import workflow_folder

from ..support.pipeline import write_box

DAY = datetime.date
BOX = "5.1,52.0,5.11,52.01"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a region and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    write_box(tmp_path / "my fens.geojson", 600_000, 5_700_000, 600_300, 5_700_200)
    (tmp_path / "weights.pt").write_bytes(b"x")
    return tmp_path


def init(*words: str) -> int:
    return main(["init", *words])


def message(capsys: pytest.CaptureFixture[str], *words: str, command: str = "init") -> str:
    """Return the message of a command that is refused."""
    capsys.readouterr()
    assert main([command, *words]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("cores", ["eight", "0", "-2", "1.5"])
def test_cores_that_are_no_number_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, cores: str
) -> None:
    words = ("--roi", "my fens.geojson", "--year", "2023", f"--cores={cores}")
    text = message(capsys, *words, command=command)
    assert f"--cores is {cores}, but must be a number above 0, or all." in text
    assert command == "plan" or not (folder / "tessera-run").exists()


def test_init_writes_a_complete_configuration(folder: Path) -> None:
    assert init("--roi", "my fens.geojson", "--year", "2023", "--weights", "weights.pt") == 0
    run = RunFolder(folder / "tessera-run")
    config = run.load()
    assert config.regions["my_fens"].roi == str(folder / "my fens.geojson")
    assert config.periods["y2023"].year == 2023
    assert config.model.weights == str(folder / "weights.pt")
    text = run.config.read_text()
    assert "# Edge length of a block (px)\n  block_size: 2000\n" in text
    assert max(map(len, text.splitlines())) <= 110
    expected = load_config(
        {
            "regions": {"my_fens": {"roi": str(folder / "my fens.geojson")}},
            "periods": {"y2023": {"start": "2023-01-01", "end": "2023-12-31"}},
            "model": {"weights": str(folder / "weights.pt")},
        }
    )
    assert config == expected
    for name in ("default", "local", "slurm", "generic"):
        profile = run.folder / "profiles" / name / "config.yaml"
        source = workflow_folder() / "profiles" / name / "config.yaml"
        assert profile.read_bytes() == source.read_bytes()
    assert run.profile("slurm") == "profiles/slurm" and run.profile("mine") == "mine"
    assert (run.folder / "Snakefile").read_text() == SNAKEFILE


def test_default_weights_can_be_downloaded(folder: Path) -> None:
    assert init("--roi", BOX, "--year", "2023") == 0
    assert RunFolder(folder / "tessera-run").load().model.weights == "v2-medium"


def test_a_box_that_begins_with_a_minus_sign(folder: Path) -> None:
    assert init("--roi", "-3.2,50,-3.1,50.1", "--year", "2023", "--out", "a") == 0
    assert init("--roi=-3.2,50,-3.1,50.1", "--year", "2023", "--out", "b") == 0
    assert init("--roi", "-3.2, 50, -3.1, 50.1", "--year", "2023", "--out", "c") == 0
    for name in "abc":
        config = RunFolder(folder / name).load()
        assert config.regions["region"].roi == [-3.2, 50.0, -3.1, 50.1]


def test_a_region_in_the_folder_has_a_relative_path(folder: Path) -> None:
    (folder / "run").mkdir()
    write_box(folder / "run" / "r$1.geojson", 600_000, 5_700_000, 600_300, 5_700_200)
    assert init("--roi", "run/r$1.geojson", "--year", "2023", "--out", "run") == 0
    assert RunFolder(folder / "run").load().regions["r_1"].roi == "r$1.geojson"


def test_an_existing_run_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = ["--roi", "my fens.geojson", "--year", "2023", "--weights", "weights.pt"]
    assert init(*first) == 0
    file = folder / "tessera-run" / "config" / "config.yaml"
    edited = file.read_text().replace("patch_size: 500", "patch_size: 250")
    file.write_text(edited)
    for equal in (
        first,
        first[:2],
        first[2:4],
        ["--start", "2023-01-01", "--end", "2023-12-31"],
        [],
    ):
        assert init(*equal) == 0
    for other, text in (
        (["--roi", BOX], "has the roi"),
        (["--year", "2022"], "has the period 2023-01-01 to 2023-12-31, but the command line has"),
        (["--year", "2022-2023"], "2022-01-01 to 2022-12-31, 2023-01-01 to 2023-12-31"),
        (["--weights", "v2-nano"], "has the weights"),
        ([*first[:2], "--layer", "x"], "(layer x)"),
        (["--layer", "x"], "has the layer (none), but the command line has x"),
    ):
        for command in ("init", "plan", "run"):
            stated = message(capsys, *other, command=command)
            assert text in stated and "name another folder with --out" in stated
    assert "--year is , but must be a year" in message(capsys, "--year", "")
    assert file.read_text() == edited


def test_a_layer_must_be_that_of_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for layer in ("fens", "bogs"):
        frame = pyogrio.raw.read(folder / "my fens.geojson")
        pyogrio.raw.write(
            folder / "two.gpkg", frame[2], frame[3], frame[0]["fields"],
            layer=layer, geometry_type="Polygon", crs=frame[0]["crs"],
            append=(folder / "two.gpkg").exists(),
        )  # fmt: skip
    words = ["--roi", "two.gpkg", "--year", "2023", "--weights", "weights.pt"]
    assert init(*words, "--layer", "fens") == 0
    assert init("--layer", "fens") == 0
    assert "has the layer fens, but the command line has bogs" in message(capsys, "--layer", "bogs")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "has no run yet, and --roi is missing"),
        (["--roi", BOX], "--year, or --start and --end is missing"),
        (["--roi", "no.shp", "--year", "2023"], "--roi no.shp is neither a file nor a box"),
        (["--roi", "5,52,4,53", "--year", "2023"], "--roi is [5.0, 52.0, 4.0, 53.0] (list), but"),
        (["--roi", "weights.pt", "--year", "2023"], "cannot be read as a vector file"),
        (["--roi", BOX, "--year", "20x3"], "--year is 20x3, but must be a year"),
        (["--roi", BOX, "--year", "2023", "--weights", "v9"], "did you mean"),
        (["--roi", BOX, "--start", "2023-01-01"], "--end is missing"),
        (["--roi", BOX, "--start", "2023-02-01", "--end", "2023-01-01"], "is before --start"),
        (["--roi", BOX, "--start", "1 May", "--end", "2023-01-01"], "--start is 1 May, but must"),
        (["--roi", BOX, "--year", "2023", "--start", "2023-05-01"], "with --year it must be a"),
        (["--roi", BOX, "--year", "2023", "--start", "02-30"], "it must be a month and a day"),
    ],
)  # fmt: skip
def test_wrong_options_write_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    assert text in message(capsys, *words)
    assert not (folder / "tessera-run").exists()


def test_files_of_another_workflow_are_not_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--roi", BOX, "--year", "2023", "--out", "other"]
    for name in ("Snakefile", "workflow/Snakefile", "config/config.yaml"):
        path = folder / "other" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a: 1\n")
        assert "has files of another workflow" in message(capsys, *words)
        assert path.read_text() == "a: 1\n"
        path.unlink()
    (folder / "other" / "Snakefile").write_text(SNAKEFILE)  # of an interrupted init
    assert init(*words) == 0


def test_periods_of_the_options() -> None:
    assert periods("2023", None, None) == {
        "y2023": {"start": DAY(2023, 1, 1), "end": DAY(2023, 12, 31)}
    }
    assert list(periods("2017-2018,2020", None, None)) == ["y2017", "y2018", "y2020"]
    assert periods(None, "2022-11-01", "2023-03-31") == {
        "2022-11-01_2023-03-31": {"start": DAY(2022, 11, 1), "end": DAY(2023, 3, 31)}
    }
    assert periods("2020", "04-01", None) == {
        "season": {"years": [2020], "start": "04-01", "end": "12-31"}
    }


def test_periods_in_the_file_are_those_of_the_options(folder: Path) -> None:
    for name, words, expected in (
        ("a", ["--year", "2019-2020", "--start", "11-01", "--end", "03-31"],
         {"season_2019": (DAY(2019, 11, 1), DAY(2020, 3, 31)),
          "season_2020": (DAY(2020, 11, 1), DAY(2021, 3, 31))}),
        ("b", ["--start", "2022-11-01", "--end", "2023-03-31"],
         {"2022-11-01_2023-03-31": (DAY(2022, 11, 1), DAY(2023, 3, 31))}),
        ("c", ["--year", "2019,2021"],
         {"y2019": (DAY(2019, 1, 1), DAY(2019, 12, 31)),
          "y2021": (DAY(2021, 1, 1), DAY(2021, 12, 31))}),
    ):  # fmt: skip
        assert init("--roi", BOX, *words, "--out", name) == 0
        config = RunFolder(folder / name).load()
        assert {k: (p.start, p.end) for k, p in config.periods.items()} == expected


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("fens", "fens"),
        ("Älmhult 2", "lmhult_2"),
        ("_a.b", "a_b"),
        ("村", "region"),
        ("2023", "2023"),
    ],
)
def test_names_of_regions(stem: str, name: str) -> None:
    assert region_name(Path("x") / f"{stem}.gpkg") == name


@pytest.mark.parametrize("text", ["a b", "2023-01-01", "1", "no", "~", "a: b", "#x", "", "é", "$x"])
def test_text_in_a_configuration_stays_text(text: str) -> None:
    assert yaml.safe_load(f"a: {yaml_value(text)}") == {"a": text}


def test_every_value_can_be_written() -> None:
    document: dict[str, Any] = {
        "regions": {"a": {"roi": "a.tif"}, "b": {"roi": [1.0, 2.0, 3.0, 4.0], "periods": ["y"]}},
        "periods": {"y": {"start": DAY(2023, 1, 1), "end": DAY(2023, 1, 2),
                          "sentinel1": {"enabled": False}}},
        "model": {"weights": "w.pt", "min_observations": {"s2": 3}},
        "products": {"formats": ["zarr"]},
        "jobs": {"max_disk_gb": 1.5},
    }  # fmt: skip
    assert load_config(yaml.safe_load(config_text(document, "x"))) == load_config(document)


@pytest.mark.parametrize("command", ["plan", "status"])
def test_plan_and_status_need_a_run(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert "has no run" in message(capsys, command=command)


def test_plan_and_status_of_a_new_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--roi", BOX, "--year", "2023", "--weights", "weights.pt"]) == 0
    printed = capsys.readouterr().out
    assert "| blocks | 1, of which 1 have no embeddings yet |" in printed
    assert "tessera-run/results/plan" in printed
    plan = json.loads(Path("results/plan/plan.json").read_text())
    of_block = {"download": 6, "stack": 2, "retile": 1, "infer_cpu": 1}
    assert of_block.items() <= plan["jobs"].items()
    assert main(["status", "--out", "."]) == 0
    assert capsys.readouterr().out == (
        "0 of 1 blocks have embeddings.\n  not started: 1\n"
        "Jobs done of all: download 0/6, stack 0/2, retile 0/1, infer 0/1.\n"
        "0 of 27 product files exist.\n"
    )


def test_a_wrong_configuration_names_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init("--roi", BOX, "--year", "2023") == 0
    file = folder / "tessera-run" / "config" / "config.yaml"
    good = file.read_text()
    for text, stated in (
        (good.replace("block_size: 2000", "block_sizes: 2000"), "did you mean grid.block_size?"),
        (good.replace("grid:", "grid: [", 1), "cannot be read as YAML"),
        (good + "source: tiles\n", "the key source is defined twice"),
    ):
        file.write_text(text)
        error = message(capsys, command="status")
        assert str(Path("tessera-run/config/config.yaml")) in error and stated in error


@pytest.mark.parametrize(
    "words", [["--configfile", "x.yaml", "plan"], ["--directory=x"], ["-s", "x"]]
)
def test_arguments_that_name_another_run_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"{words[0].split('=')[0]} cannot be used"):
        check_snakemake_arguments(words)


def test_arguments_for_snakemake() -> None:
    arguments = parser().parse_args(["run", "--out", "a", "--cores", "2", "--", "-n", "--forceall"])
    assert arguments.snakemake == ["-n", "--forceall"]
    check_snakemake_arguments(arguments.snakemake)
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "--cores", "2", "--profile", "slurm"])


def test_profile_of_a_missing_plugin_states_how_to_install_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init("--roi", BOX, "--year", "2023") == 0
    monkeypatch.setattr(run_folder, "find_spec", lambda name: None)
    assert message(capsys, "--profile", "slurm", "--dry-run", command="run") == (
        "tessera-flow: Profile slurm needs snakemake-executor-plugin-slurm, which is not "
        "installed: make slurm-plugin (in a clone), or pip install 'tessera-flow[slurm]'.\n"
    )
    stated = message(capsys, "--profile", "generic", "--dry-run", command="run")
    assert "pip install snakemake-executor-plugin-cluster-generic." in stated
    run = RunFolder(folder / "tessera-run")
    run.check_executor("local")
    run.check_executor("none")
    monkeypatch.undo()
    run.check_executor("slurm")


def test_products_are_named(folder: Path) -> None:
    assert init("--roi", BOX, "--year", "2022-2023") == 0
    run = RunFolder(Path("tessera-run"))
    config = run.load()
    assert products_text(run, config) == ""
    for year in (2022, 2023):
        place = Path(f"tessera-run/results/region/y{year}")
        place.mkdir(parents=True)
        (place / "report.html").touch()
    assert products_text(run, config).splitlines() == [
        "Products:",
        "  tessera-run/results/region/y2022",
        "  tessera-run/results/region/y2023",
        "Open first: tessera-run/results/region/y2022/report.html",
        "Next: tessera-flow info tessera-run/results/region/y2022",
    ]
    labels = {"labels": "kinds.csv", "column": "kind"}
    mapped = config.model_validate({**config.model_dump(), "maps": {"kinds": labels}})
    page = Path("tessera-run/results/region/y2023/maps/kinds/map.html")
    page.parent.mkdir(parents=True)
    page.touch()
    assert products_text(run, mapped).splitlines()[3:] == [
        "Open first: tessera-run/results/region/y2022/report.html",
        f"Map: {page}",
        "Next: tessera-flow info tessera-run/results/region/y2022",
    ]


FIELDS = [("North field", 0), ("South/field", 400)]


def fields(path: Path, names: list[Any]) -> Path:
    """Write rectangles of 300 x 200 m, one below the other, with the attribute `name`."""
    geometries = [shapely.box(600_000, 5_700_000 - d, 600_300, 5_700_200 - d) for _, d in FIELDS]
    pyogrio.raw.write(
        path, np.array([shapely.to_wkb(g) for g in geometries], dtype=object),
        [np.array(names, dtype=object)], ["name"], geometry_type="Polygon", crs="EPSG:32631",
    )  # fmt: skip
    return path


def test_one_region_for_each_feature(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields(folder / "fields.gpkg", [name for name, _ in FIELDS])
    words = ["--roi", "fields.gpkg", "--year", "2023", "--by", "name"]
    assert init(*words, "--weights", "weights.pt") == 0
    run = RunFolder(folder / "tessera-run")
    config = run.load()
    assert {name: region.roi for name, region in config.regions.items()} == {
        "North_field": "config/regions/North_field.gpkg",
        "South_field": "config/regions/South_field.gpkg",
    }
    for region, (_, down) in zip(config.regions.values(), FIELDS, strict=True):
        roi = read_roi(run.folder / str(region.roi))
        assert isinstance(roi, VectorRoi) and roi.crs.to_epsg() == 32631
        assert roi.geometry.bounds == (600_000, 5_700_000 - down, 600_300, 5_700_200 - down)
    assert "leave it out for an existing run" in message(capsys, *words)


@pytest.mark.parametrize(
    ("names", "by", "text"),
    [
        (["a", "b"], "id", "has no attribute id; it has name"),
        (["a", "A"], "name", "the features 1 and 2 both have the name A"),
        (["a b", "a_b"], "name", "both have the name a_b"),
        (["a", None], "name", "feature 2 has the name ''"),
        (["村", "b"], "name", "feature 1 has the name '村'"),
    ],
)
def test_features_without_a_name_of_their_own_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], names: list[Any], by: str, text: str
) -> None:
    fields(folder / "fields.gpkg", names)
    assert text in message(capsys, "--roi", "fields.gpkg", "--year", "2023", "--by", by)
    assert not (folder / "tessera-run").exists()


def test_one_region_for_each_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = folder / "sites.csv"
    table.write_text("site;west;south;east;north\nA 1;5.1;52;5.11;52.01\nB;-5.1;52;-5.09;52.01\n")
    words = ["--roi", "sites.csv", "--year", "2023", "--by", "site"]
    assert init(*words) == 0
    config = RunFolder(folder / "tessera-run").load()
    assert {name: region.roi for name, region in config.regions.items()} == {
        "A_1": [5.1, 52.0, 5.11, 52.01],
        "B": [-5.1, 52.0, -5.09, 52.01],
    }
    for text, stated in (
        ("site,west,south,east\nA,1,2,3\n", "has no column north"),
        ("site,west,south,east,north\nA,5,52,x,53\n", "line 2: the box must be"),
        ("site,west,south,east,north\nA,5,52\n", "line 2: the box must be"),
        ("site,west,south,east,north\nA,5,52,6,51\n", "line 2: the box must be a box of four"),
        ("site,west,south,east,north\nA,5,52,6,53\nA,6,52,7,53\n", "rows 1 and 2 both have"),
        ("site,west,south,east,north\n", "has no rows"),
    ):
        table.write_text(text)
        assert stated in message(capsys, *words, "--out", "other")
        assert not (folder / "other").exists()


# Runs a command as `tessera-flow run` does; the command prints each SIGINT that it receives.
WAITING = """
import os, sys
from pathlib import Path
from tessera_flow.cli.run import _waited_for
child = '''
import signal, time
number = 0
def note(*_):
    global number
    number += 1
signal.signal(signal.SIGINT, note)
print("started", flush=True)
end = time.monotonic() + 20
while not number and time.monotonic() < end:
    time.sleep(0.02)
time.sleep(0.3)
print(f"interrupted {number} times", flush=True)
raise SystemExit(1)
'''
try:
    print(_waited_for([sys.executable, "-c", child], Path("."), os.environ))
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
"""
EXPECTED = ["interrupted 1 times", "KeyboardInterrupt"]


def test_an_interrupt_without_a_terminal_is_passed_on() -> None:
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().splitlines() == EXPECTED


def test_ctrl_c_in_a_terminal_interrupts_once() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", WAITING])
    text = b""
    try:
        while True:
            text += os.read(terminal, 1000)
            if text.endswith(b"started\r\n"):
                os.write(terminal, b"\x03")
    except OSError:  # the end, on Linux
        pass
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    assert text.decode().replace("^C", "").splitlines()[1:] == EXPECTED
