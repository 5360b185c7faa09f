import argparse
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tessera_flow.cli import embed
from tessera_flow.cli.main import main
from tessera_flow.errors import CheckpointError, ConfigError, OutputError, TileError
from tessera_flow.tile_folders import embed as embed_folders

GOLDEN = Path(__file__).parents[1] / "golden"
WEIGHTS = GOLDEN / "checkpoints/v2_student_qk.pt"
NAMES = ["long", "main", "none", "one"]


def run(*options: object) -> int:
    parser = argparse.ArgumentParser(prog="tessera-flow")
    embed.register(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["embed", *map(str, options)])
    result: int = arguments.func(arguments)
    return result


def options(tiles: Path, out: Path) -> list[object]:
    return ["--weights", WEIGHTS, "--tiles", tiles, "--out", out, "--threads", 1]


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "tiles", tmp_path / "tiles")
    return tmp_path / "tiles"


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(out.iterdir())}


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"v2/student_qk__{name}.npz"))


def test_embeddings_equal_the_reference_without_minimum_counts(tmp_path: Path, tiles: Path) -> None:
    out = tmp_path / "out"
    words = [*options(tiles, out), "--min-s2", 0, "--min-s1", 0]
    assert run(*words, "--format", "float32") == 0
    assert sorted(p.name for p in out.glob("*.npy")) == [f"{n}.npy" for n in NAMES]
    for name in NAMES:
        expected, result = golden(name), np.load(out / f"{name}.npy")
        defined = ~expected["undefined"]
        np.testing.assert_allclose(result[defined], expected["emb"][defined], atol=5e-5, rtol=0)
        assert np.isnan(result[~defined]).all()


def test_int8_is_the_default(tmp_path: Path, tiles: Path) -> None:
    out = tmp_path / "out"
    run(*options(tiles, out), "--dim", 64, "--device", "cpu", "--batch-size", 50)
    assert len(list(out.glob("*.npy"))) == 8
    for name in NAMES:
        expected = golden(name)
        codes, scales = np.load(out / f"{name}.npy"), np.load(out / f"{name}_scales.npy")
        assert codes.dtype == np.int8 and scales.dtype == np.float32
        observed = expected["n_s2"] > 0
        assert np.array_equal(np.isfinite(scales), observed)
        assert (codes[~observed] == 0).all()
        steps = np.abs(codes.astype(int) - expected["int8_64"])[observed]
        assert steps.max() <= 1 and np.mean(steps > 0) <= 1e-3
        np.testing.assert_allclose(scales[observed], expected["scale_64"][observed], rtol=1e-5)


def test_one_tile_folder(tmp_path: Path, tiles: Path) -> None:
    run(*options(tiles / "one", tmp_path / "out"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "one.json",
        "one.npy",
        "one_scales.npy",
    ]
    metadata = json.loads((tmp_path / "out/one.json").read_text())
    assert metadata["shape"] == [4, 5, 128]
    assert metadata["model"]["family"] == "v2-student"
    assert len(metadata["settings"]["weights_sha256"]) == 64
    assert str(tmp_path) not in (tmp_path / "out/one.json").read_text()


def test_finished_tiles_are_skipped_without_overwrite(tmp_path: Path, tiles: Path) -> None:
    out = tmp_path / "out"
    run(*options(tiles, out))
    first = stamps(out)
    contents = {name: (out / name).read_bytes() for name in first}
    run(*options(tiles, out))
    assert stamps(out) == first
    run(*options(tiles, out), "--overwrite")
    second = stamps(out)
    assert all(second[name] != first[name] for name in first)
    assert {name: (out / name).read_bytes() for name in second} == contents


@pytest.mark.parametrize("name", ["one.npy", "one_scales.npy", "one.json"])
def test_files_of_others_are_kept(tmp_path: Path, tiles: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("precious")
    with pytest.raises(OutputError, match=rf"{name} is in the way.*--overwrite"):
        run(*options(tiles, out))
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "precious"
    run(*options(tiles, out), "--overwrite")
    assert "settings" in json.loads((out / "one.json").read_text())


def test_tile_that_was_being_written_is_embedded_again(tmp_path: Path, tiles: Path) -> None:
    out = tmp_path / "out"
    run(*options(tiles, out))
    contents = {path.name: path.read_bytes() for path in out.iterdir()}
    record = json.loads(contents["one.json"])
    del record["shape"]
    (out / "one.json").write_text(json.dumps(record))
    (out / "one.npy").unlink()
    run(*options(tiles, out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == contents


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("one.npy", None),
        ("one_scales.npy", None),
        ("one.npy", 200),
        ("one_scales.npy", 10),
        ("one_scales.npy", "shape"),
    ],
)
def test_unfinished_tile_is_embedded_again(
    tmp_path: Path, tiles: Path, name: str, damage: object
) -> None:
    out = tmp_path / "out"
    run(*options(tiles, out))
    content, before = (out / name).read_bytes(), stamps(out)
    if damage is None:
        (out / name).unlink()
    elif damage == "shape":
        np.save(out / name, np.zeros((2, 2), np.float32))
    else:
        (out / name).write_bytes(content[:damage])  # type: ignore[misc]
    run(*options(tiles, out))
    assert (out / name).read_bytes() == content
    after = stamps(out)
    assert {n for n in after if after[n] != before[n]} == {
        "one.npy",
        "one_scales.npy",
        "one.json",
    }


def test_results_of_other_settings_are_not_reused(tmp_path: Path, tiles: Path) -> None:
    out = tmp_path / "out"
    run(*options(tiles, out))
    before = stamps(out)
    with pytest.raises(OutputError, match=r"other settings \(dim differ\).*--overwrite"):
        run(*options(tiles, out), "--dim", 64)
    other = [*options(tiles, out), "--weights", GOLDEN / "checkpoints/v2_student_noqk.pt"]
    with pytest.raises(OutputError, match="weights_sha256"):
        run(*other)
    assert stamps(out) == before
    run(*other, "--format", "float32", "--overwrite")
    assert not list(out.glob("*_scales.npy"))
    assert np.load(out / "one.npy").dtype == np.float32
    assert stamps(out) != before


def test_results_of_another_tile_of_the_same_name_are_not_reused(
    tmp_path: Path, tiles: Path
) -> None:
    out, name = tmp_path / "out", "0_0_500_500"
    for region in "AB":
        shutil.copytree(tiles / "main", tmp_path / region / name)
    bands = tmp_path / "B" / name / "bands.npy"
    np.save(bands, np.load(bands) // 2)
    run(*options(tmp_path / "A", out))
    before = stamps(out)
    with pytest.raises(
        OutputError, match=rf"B/{name}, or before its files changed.*--out.*--overwrite"
    ):
        run(*options(tmp_path / "B", out))
    run(*options(tmp_path / "A", out))
    assert stamps(out) == before
    first = np.load(out / f"{name}.npy")
    run(*options(tmp_path / "B", out), "--overwrite")
    run(*options(tmp_path / "B", tmp_path / "alone"))
    second = np.load(out / f"{name}.npy")
    assert np.array_equal(second, np.load(tmp_path / f"alone/{name}.npy"))
    assert not np.array_equal(second, first)


@pytest.mark.parametrize("name", ["bands.npy", "sar_ascending_doy.npy", "roi.tiff"])
def test_tile_with_changed_files_is_not_finished(tmp_path: Path, tiles: Path, name: str) -> None:
    run(*options(tiles, tmp_path / "out"))
    before = stamps(tmp_path / "out")
    path = tiles / "one" / name
    path.touch()  # creates roi.tiff
    with pytest.raises(OutputError, match=r"tiles/one, or before its files changed"):
        run(*options(tiles, tmp_path / "out"))
    assert stamps(tmp_path / "out") == before


@pytest.mark.parametrize("format", ["int8", "float32"])
def test_tiles_that_would_write_the_same_file(tmp_path: Path, tiles: Path, format: str) -> None:
    out, links = tmp_path / "out", tmp_path / "links"
    links.mkdir()
    for region in "AB":
        shutil.copytree(tiles / "one", tmp_path / region / "x")
        (links / f"region{region}").symlink_to(tmp_path / region / "x")
    with pytest.raises(OutputError, match=r"A/x\) and .*B/x\) would both write .*out/x\.npy"):
        run(*options(links, out), "--format", format)
    shutil.copytree(tiles / "one", tmp_path / "A/x_scales")
    with pytest.raises(OutputError, match=r"A/x\) and .*A/x_scales\) would both .*x_scales\.npy"):
        run(*options(tmp_path / "A", out), "--format", format)
    assert not out.exists()


def test_interrupt_keeps_the_finished_tiles(
    tmp_path: Path,
    tiles: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, embed_tile = tmp_path / "out", embed_folders.embed_tile
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed_tile(*arguments)

    monkeypatch.setattr(embed_folders, "embed_tile", interrupted)
    words = ["embed", *map(str, options(tiles, out))]
    assert main(words) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "tessera-flow: interrupted; finished tiles are kept"
    )
    before = stamps(out)
    assert list(before) == [f"{n}{e}" for n in NAMES[:2] for e in (".json", ".npy", "_scales.npy")]
    assert main(words) == 0
    after = stamps(out)
    assert len(after) == 12 and all(after[name] == before[name] for name in before)


def test_damaged_tile_does_not_stop_the_others(tmp_path: Path, tiles: Path) -> None:
    out = tmp_path / "out"
    (tiles / "long/masks.npy").unlink()
    path = tiles / "none/bands.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TileError) as error:
        run(*options(tiles, out))
    text = str(error.value)
    assert "2 of 4 tiles could not be embedded" in text
    assert "tiles/long is incomplete: masks.npy missing" in text
    assert "tiles/none/bands.npy cannot be used" in text
    assert sorted(p.name for p in out.glob("*.npy")) == [
        "main.npy",
        "main_scales.npy",
        "one.npy",
        "one_scales.npy",
    ]
    for name in ("long", "none"):
        shutil.rmtree(tiles / name)
        shutil.copytree(GOLDEN / "tiles" / name, tiles / name)
    before = stamps(out)
    assert run(*options(tiles, out)) == 0
    after = stamps(out)
    assert len(after) == 12 and all(after[name] == before[name] for name in before)


UNREADABLE = {
    "folder": r"tiles/long is incomplete: bands\.npy missing",
    "vanished": r"tiles/long is incomplete: bands\.npy, masks\.npy, .* missing",
    "read error": r"long/bands\.npy cannot be used \(Input/output error\)",
    "permission": r"long/bands\.npy cannot be used \(Permission denied\)",
    "link": r"tiles/5_0_10_4 is incomplete: bands\.npy, .* missing",
    "mask": r"tiles/long contains roi\.tif, but the mask of a tile is roi\.tiff",
}


def make_unreadable(tiles: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one tile unreadable: `long`, or one more."""
    path = tiles / "long/bands.npy"
    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "vanished":
        prepare = embed_folders.prepare

        def remove_and_prepare(*arguments: Any) -> Any:
            shutil.rmtree(tiles / "long")
            return prepare(*arguments)

        monkeypatch.setattr(embed_folders, "prepare", remove_and_prepare)
    elif kind == "read error":
        path.unlink()
        path.symlink_to("/proc/self/mem")
    elif kind == "permission":
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read every file")
    elif kind == "link":
        (tiles / "5_0_10_4").symlink_to(tiles / "unmounted")
    else:
        (tiles / "long/roi.tif").touch()


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_tile_that_cannot_be_read_is_listed_at_the_end(
    tmp_path: Path,
    tiles: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_unreadable(tiles, kind, monkeypatch)
    out = tmp_path / "out"
    assert main(["embed", *map(str, options(tiles, out))]) == 1
    last = capsys.readouterr().err.rstrip().splitlines()[-2:]
    number = 5 if kind == "link" else 4
    assert f"1 of {number} tiles could not be embedded; the others are in {out}." in last[0]
    assert re.match(f"- .*{UNREADABLE[kind]}", last[1])
    others = [name for name in NAMES if name != "long" or kind == "link"]
    assert sorted(path.stem for path in out.glob("*.json")) == others


def test_bad_arguments(tmp_path: Path, tiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for words, message in (
        (["--dim", "0"], "0 is below 1"),
        (["--dim", "many"], "invalid whole number value: 'many'"),
        (["--min-s2", "-1"], "-1 is below 0"),
        (["--format", "int4"], "invalid choice: 'int4'"),
        (["--threads", "0"], "0 is below 1"),
    ):
        with pytest.raises(SystemExit):
            run(*options(tiles, out), *words)
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="16, 32, 64, 128"):
        run(*options(tiles, out), "--dim", 100)
    with pytest.raises(TileError, match="no tile in"):
        run(*options(tmp_path, out))
    with pytest.raises(CheckpointError, match="is not a TESSERA checkpoint"):
        torch.save({"model": {}}, tmp_path / "x.pt")
        run(*options(tiles, out), "--weights", tmp_path / "x.pt")
    assert not out.exists()


def test_output_that_cannot_be_written(tmp_path: Path, tiles: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="Cannot write"):
        run(*options(tiles, tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "a file"
