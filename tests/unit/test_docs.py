"""The pages build without a broken link or anchor; the page of the command line is complete."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tessera_flow.cli.main import parser
from tessera_flow.jobs.assumptions import START_SECONDS, inference_seconds
from tessera_flow.models.published import PUBLISHED

pytest.importorskip("myst_parser", reason="the pages are built by the packages of `dev`")

ROOT = Path(__file__).resolve().parents[2]


def build(docs: Path, out: Path, builder: str = "html") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder, docs, out],
        capture_output=True,
        text=True,
        check=False,
    )


def copied(folder: Path) -> Path:
    """Copy the pages into a folder that also has the files they link to."""
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("_build"))
    for path in ROOT.iterdir():
        if path.name not in ("docs", ".git"):
            (folder / path.name).symlink_to(path)
    return folder


Build = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Build]:
    """A copy of the pages, and their build."""
    repository = copied(tmp_path_factory.mktemp("pages"))
    return repository, build(repository / "docs", repository / "html")


def test_the_pages_build(built: tuple[Path, Build]) -> None:
    repository, done = built
    assert done.returncode == 0, done.stderr
    for page in (repository / "docs").glob("*.md"):
        assert (repository / "html" / f"{page.stem}.html").exists()


BROKEN = {
    "absent.md": "failures.md",
    "sources.md#no-such-heading": "run.md",
    "../src/absent.py": "models.md",
}
"""Broken links, each on a page of its own."""


@pytest.fixture(scope="module")
def broken_build(built: tuple[Path, Build]) -> Build:
    """Another build, with all broken links; it continues after an error. Sphinx reads only the
    changed pages again."""
    repository, _ = built
    for link, name in BROKEN.items():
        page = repository / "docs" / name
        page.write_text(f"{page.read_text()}\n[x]({link})\n")
    return build(repository / "docs", repository / "html")


@pytest.mark.parametrize("link", BROKEN)
def test_a_broken_link_fails_the_build(broken_build: Build, link: str) -> None:
    """Every message is an error, because the pages without them have none."""
    assert broken_build.returncode != 0
    lines = [line for line in broken_build.stderr.splitlines() if BROKEN[link] in line]
    assert len(lines) == 1, broken_build.stderr
    assert link.rpartition("#")[2].removeprefix("../") in lines[0]


@pytest.mark.parametrize("name", ["README.md", "config/README.md", "tests/golden/README.md"])
def test_links_on_pages_outside_the_site(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each sub-command."""
    (action,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def section(command: str) -> str:
    """Return the text of docs/cli.md about a sub-command."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    _, heading, text = page.partition(f"\n## tessera-flow {command}\n")
    assert heading, f"docs/cli.md has no section about {command}"
    return text.partition("\n## ")[0]


@pytest.mark.parametrize("command", commands())
def test_the_cli_page_has_every_argument(command: str) -> None:
    actions = [a for a in commands()[command]._actions if a.dest != "help"]
    expected = {(a.option_strings or [a.dest])[-1] for a in actions}
    stated = re.findall(r"^\| `(--[\w-]+|\w+)[ `]", section(command), flags=re.MULTILINE)
    assert sorted(stated) == sorted(expected)
    for action in actions:
        for choice in action.choices or ():
            assert choice in section(command)


def test_the_cli_page_lists_every_command() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").partition("\n## ")[0]
    listed = re.findall(r"^\| \[`tessera-flow (\w+)`\]\(#", page, re.MULTILINE)
    assert sorted(listed) == sorted(commands())


@pytest.mark.parametrize("command", commands())
def test_the_examples_on_the_cli_page_parse(command: str) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", section(command), flags=re.DOTALL)
    lines = [line for line in block.splitlines() if line.startswith("tessera-flow ")]
    assert lines
    for line in lines:
        parser().parse_args(shlex.split(line)[1:])


@pytest.mark.online
def test_links_to_other_sites(repository: Path) -> None:
    done = build(repository / "docs", repository / "links", "linkcheck")
    assert done.returncode == 0, done.stdout + done.stderr


def test_costs_of_models_are_those_that_the_plan_assumes() -> None:
    """Downloads and computed rates of the table; measured ones are those of the benchmark."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    measured = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    parameters = {f"`{name}`": published.parameters for name, published in PUBLISHED.items()}
    parameters |= {"v1.1": 57_700_000, "v1.0 QAT": 45_800_000, "v1.0 float": 87_800_000}
    table = text.split("### What it costs")[1].split("### ")[0]
    rows = re.findall(r"^\| (\S[^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", table, re.MULTILINE)[
        1:
    ]
    assert {row[0] for row in rows} == set(parameters) and len(rows) == 8
    for name, download, cpu, gpu in rows:
        if download != "your file":
            assert float(download.replace(",", "")) == round(4 * parameters[name] / 1e6)
        dates = 80 if name.startswith("v1.0") else 95
        for shown, device in ((cpu, "cpu"), (gpu, "gpu")):
            rate, how = shown.split(", ") if shown.count(",") == 1 else shown.rsplit(", ", 1)
            if how == "measured":
                row = f"| {name.strip('`')} | float32 | {rate} |"
                assert row in measured
                continue
            # Of many pixels, without the start of a job.
            seconds = inference_seconds(device, parameters[name], 1e9, dates, threads=2)
            expected = 1e9 / (seconds - START_SECONDS)
            assert float(rate.replace(",", "")) == pytest.approx(expected, rel=0.03)
