"""Change central lines of the package, one at a time, and check that a test fails for each.

python tools/mutations.py          takes a few minutes; exit 1 if no test fails for a change

The changes are made in a copy of `src/`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tessera_flow"


@dataclass(frozen=True)
class Mutation:
    """A wrong line that looks right.

    Attributes:
        error: the error that the change makes.
        edits: text that occurs once in the package, and its replacement.
        test: the test that must fail.
    """

    error: str
    edits: tuple[tuple[str, str], ...]
    test: str


MUTATIONS = (
    Mutation(
        "Band order: B08 and B8A are swapped",
        (('"B04", "B02", "B03", "B08", "B8A"', '"B04", "B02", "B03", "B8A", "B08"'),),
        "tests/unit/test_inference.py::test_model_inputs_and_bins_equal_the_reference",
    ),
    Mutation(
        "Statistics: ascending VV is standardised with those of descending",
        (('{"vv": (5909.3921, 1507.1750)', '{"vv": (5816.1382, 1554.6475)'),),
        "tests/unit/test_inference.py::test_model_inputs_and_bins_equal_the_reference",
    ),
    Mutation(
        "Offset: a dark pixel becomes no data",
        (("np.maximum(dn, BOA_OFFSET + 1)", "np.maximum(dn, BOA_OFFSET)"),),
        "tests/unit/test_sensors.py::test_offset_corrected",
    ),
    Mutation(
        "GRU gate order: reset and update are swapped",
        (
            (
                "r, z = gates[:, :width], gates[:, width:]",
                "z, r = gates[:, :width], gates[:, width:]",
            ),
        ),
        "tests/unit/test_v1.py::test_v1_1_embeddings_equal_the_reference",
    ),
    Mutation(
        "Orbit order: descending steps first, each with its own days and statistics",
        (
            (
                "(tile.sar_ascending, tile.sar_descending)",
                "(tile.sar_descending, tile.sar_ascending)",
            ),
            (
                "(tile.sar_ascending_doy, tile.sar_descending_doy)",
                "(tile.sar_descending_doy, tile.sar_ascending_doy)",
            ),
            (
                "(statistics.ascending, statistics.descending)",
                "(statistics.descending, statistics.ascending)",
            ),
        ),
        "tests/unit/test_v1.py::test_v1_1_embeddings_equal_the_reference",
    ),
    Mutation(
        "Mask polarity: steps are valid where the mask is 0",
        (("np.asarray(tile.masks[:, rows]) == 1", "np.asarray(tile.masks[:, rows]) == 0"),),
        "tests/unit/test_inference.py::test_counts_are_numbers_of_valid_steps",
    ),
    Mutation(
        "Bin rule: the bin below instead of the bin above",
        (("-(-counts // BIN_STEP) * BIN_STEP", "counts // BIN_STEP * BIN_STEP"),),
        "tests/unit/test_sampling.py::test_bins_equal_the_reference",
    ),
    Mutation(
        "Rounding: codes are truncated instead of rounded",
        (("np.rint(values / scales[..., None])", "np.trunc(values / scales[..., None])"),),
        "tests/unit/test_quantize.py::test_codes_and_scales_equal_the_reference",
    ),
    Mutation(
        "Block offset: row and column of a block are swapped",
        (
            (
                "Window(place.y0 + y0, place.x0 + x0, h, w)",
                "Window(place.x0 + y0, place.y0 + x0, h, w)",
            ),
        ),
        "tests/unit/test_products_arrays.py::test_every_pixel",
    ),
    Mutation(
        "Scale axis: one scale for all pixels instead of one for each",
        (
            (
                "np.max(np.abs(values), axis=-1)",
                "np.full_like(values[..., 0], np.max(np.abs(values)))",
            ),
        ),
        "tests/unit/test_quantize.py::test_codes_and_scales_equal_the_reference",
    ),
)


def apply(mutation: Mutation, package: Path) -> None:
    """Make the change in a copy of the package.

    Raises:
        ValueError: a text to be changed does not occur exactly once.
    """
    for old, new in mutation.edits:
        files = [path for path in package.rglob("*.py") if old in path.read_text(encoding="utf-8")]
        if len(files) != 1 or files[0].read_text(encoding="utf-8").count(old) != 1:
            raise ValueError(
                f"{mutation.error}: {old!r} must occur once in {package}: update "
                "tools/mutations.py."
            )
        files[0].write_text(
            files[0].read_text(encoding="utf-8").replace(old, new), encoding="utf-8"
        )


def is_detected(mutation: Mutation) -> bool:
    """Return whether the test fails, without an error outside the test, after the change.

    Raises:
        ValueError: see `apply`; or the test could not be run.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(PACKAGE, source / PACKAGE.name)
        apply(mutation, source / PACKAGE.name)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", mutation.test]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1) or " error" in done.stdout.splitlines()[-1]:
        raise ValueError(f"{mutation.test} could not be run:\n{done.stdout[-3000:]}{done.stderr}")
    return done.returncode == 1


def main() -> int:
    """Apply all mutations; return the exit status."""
    undetected = 0
    for mutation in MUTATIONS:
        detected = is_detected(mutation)
        undetected += not detected
        print(f"{'detected' if detected else 'NOT DETECTED'}: {mutation.error} ({mutation.test})")
    return 1 if undetected else 0


if __name__ == "__main__":
    sys.exit(main())
