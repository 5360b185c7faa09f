"""The pages build without a warning: no link and no anchor leads nowhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("myst_parser", reason="the pages are built by the packages of `dev`")

ROOT = Path(__file__).resolve().parents[2]


def build(docs: Path, out: Path, builder: str = "html") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder, docs, out],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the pages, beside what they link to."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("_build"))
    for path in ROOT.iterdir():
        if path.name not in ("docs", ".git"):
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_the_pages_build(repository: Path) -> None:
    done = build(repository / "docs", repository / "html")
    assert done.returncode == 0, done.stderr
    for page in (repository / "docs").glob("*.md"):
        assert (repository / "html" / f"{page.stem}.html").exists()


@pytest.mark.parametrize(
    "link", ["[x](absent.md)", "[x](sources.md#no-such-part)", "[x](../src/absent.py)"]
)
def test_a_broken_link_fails_the_build(repository: Path, link: str) -> None:
    page = repository / "docs" / "failures.md"
    page.write_text(f"{page.read_text()}\n{link}\n")
    done = build(repository / "docs", repository / "html")
    assert done.returncode != 0
    assert "failures.md" in done.stderr


@pytest.mark.parametrize("name", ["README.md", "config/README.md", "tests/golden/README.md"])
def test_links_of_pages_outside_the_site(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_every_test_that_a_page_names_exists() -> None:
    named = [
        (page.name, *found)
        for page in (ROOT / "docs").glob("*.md")
        for found in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text("utf-8"))
    ]
    assert len(named) > 40
    for page, file, test in named:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in text, f"{page}: {file}::{test}"


@pytest.mark.online
def test_links_to_other_sites(repository: Path) -> None:
    done = build(repository / "docs", repository / "links", "linkcheck")
    assert done.returncode == 0, done.stdout + done.stderr
