"""A wrong line in the middle of the arithmetic makes a test fail (tools/mutations.py)."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import mutations  # noqa: E402
from mutations import MUTATIONS, Mutation  # noqa: E402

WHAT = [mutation.what for mutation in MUTATIONS]


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=WHAT)
def test_it_is_noticed(mutation: Mutation) -> None:
    assert mutations.is_noticed(mutation)


@pytest.mark.slow
def test_what_changes_nothing_is_not_taken_for_noticed() -> None:
    same = Mutation("nothing", (("np.rint(values / ", "np.rint(values * 1 / "),), MUTATIONS[7].test)
    assert not mutations.is_noticed(same)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=WHAT)
def test_its_lines_and_its_test_are_there(mutation: Mutation, tmp_path: Path) -> None:
    package = Path(shutil.copytree(mutations.PACKAGE, tmp_path / "package"))
    mutations.apply(mutation, package)
    with pytest.raises(ValueError, match="has to stand once"):
        mutations.apply(mutation, package)
    file, _, test = mutation.test.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")


def test_the_page_lists_them() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|`]+) \| `(tests/[^`]+)` \|$", page, flags=re.MULTILINE)
    assert rows == [(mutation.what, mutation.test) for mutation in MUTATIONS]
