"""Missing and corrupt scenes: replaced by a duplicate, or left out and recorded."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from tessera_flow.block_file import open_block_file
from tessera_flow.errors import ReadError
from tessera_flow.inference.block import infer_block
from tessera_flow.inference.embed import InferenceOptions
from tessera_flow.inference.model import ModelSpec
from tessera_flow.ingest.retile import retile
from tessera_flow.ingest.stack import stack_sentinel2
from tessera_flow.scenes.search import Manifest

from ..support import golden
from ..support.fault_archive import HOST, WINDOW, Archive, one_asset, read, write_items
from ..support.servers import Fault, FileServer


def left_out_days(attributes: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entry["item"], entry["date"]) for entry in attributes["left_out"]]


MISSING = {
    "missing": (Fault("status", value=404), "HTTP 404 Not Found"),
    "missing, as S3 reports it": (Fault("status", value=403), "HTTP 403 Forbidden, although"),
    "gone": (Fault("status", value=410), "HTTP 410 Gone"),
    "corrupt": (Fault("corrupt"), "corrupt ("),
}


@pytest.mark.parametrize(("fault", "cause"), MISSING.values(), ids=MISSING)
@pytest.mark.parametrize("key", ["B05", "SCL"])
def test_missing_scene_is_left_out_with_all_bands_and_recorded(
    archive: Archive,
    server: FileServer,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    fault: Fault,
    cause: str,
    key: str,
) -> None:
    """The result equals that of a list without the scene: none of its bands is used."""
    item, path = one_asset(archive, key, 0)
    server.faults = [dataclasses.replace(fault, path=path, count=None)]
    arrays, attributes = read(archive, tmp_path / "slice.zip")
    assert left_out_days(attributes) == [(item, "2021-06-10")]
    reason = attributes["left_out"][0]["reason"]
    assert reason.startswith(f"asset {key} of item {item} ({HOST}{path}): {cause}")
    assert sum(path in requested for requested in server.paths) <= 8
    server.faults = []
    without = write_items(archive, tmp_path / "items.json", archive.items()[1:])
    expected, _ = read(archive, tmp_path / "without.zip", items=without)
    assert arrays == expected
    assert arrays["bands"] != undisturbed["sentinel2/bands"]
    stack_sentinel2([tmp_path / "slice.zip"], tmp_path / "stack.zip")
    with open_block_file(tmp_path / "stack.zip") as group:
        assert group.attrs["left_out"] == attributes["left_out"]
    stacks = (tmp_path / "stack.zip", None)
    patches, embeddings = tmp_path / "patches.zip", tmp_path / "embeddings.zip"
    retile(*stacks, archive.mask, "b", WINDOW, patches, patch_size=150)
    with open_block_file(patches) as group, open_block_file(stacks[0]) as stack:
        assert stack.attrs["dates"]
        assert group.attrs["dates"] == {
            "sentinel2": stack.attrs["dates"], "ascending": [], "descending": []
        }  # fmt: skip
    small = InferenceOptions(min_s2=100)  # no pixel has as many: nothing to compute
    spec = ModelSpec(golden.checkpoint("v2_student_noqk"), device="cpu")
    infer_block(patches, embeddings, spec, small, {})
    with open_block_file(embeddings) as group:
        missing_scenes = {"left_out": attributes["left_out"], "replaced": []}
        assert group.attrs["missing_scenes"] == {"sentinel2": missing_scenes}


def test_date_whose_only_scene_is_missing_is_dropped_and_logged(
    archive: Archive, server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    item, path = one_asset(archive, "B8A", 2)
    server.faults = [Fault("corrupt", path, count=None)]
    read(archive, tmp_path / "slice.zip")
    with open_block_file(tmp_path / "slice.zip") as group:
        assert group.attrs["dates"] == ["2021-06-10", "2021-06-20"]
        assert group["kept"][:].tolist() == [1, 0]
        assert not group["masks"][1].any() and not group["bands"][1].any()
    assert f"{item} is left out: asset B8A of item {item}" in caplog.text


@pytest.mark.parametrize("fault", [Fault("status", value=404), Fault("corrupt")])
def test_duplicate_of_the_acquisition_is_used(
    archive: Archive, server: FileServer, tmp_path: Path, fault: Fault
) -> None:
    """With its own offset, in the position of the missing item."""
    first, second, third = archive.items()
    duplicate = dataclasses.replace(third, date=first.date, boa_offset=1000)
    assert first.boa_offset != duplicate.boa_offset
    listing = [dataclasses.replace(first, duplicates=(duplicate,)), second]
    items = write_items(archive, tmp_path / "items.json", listing)
    assert Manifest.read(items).items[0].duplicates == (duplicate,)
    _, path = one_asset(archive, "B12", 0)
    server.faults = [dataclasses.replace(fault, path=path, count=None)]
    arrays, attributes = read(archive, tmp_path / "slice.zip", items=items)
    assert attributes["left_out"] == []
    (replaced,) = attributes["replaced"]
    assert (replaced["item"], replaced["duplicate"]) == (first.id, duplicate.id)
    assert f"asset B12 of item {first.id}" in replaced["reason"]
    server.faults = []
    instead = write_items(archive, tmp_path / "instead.json", [duplicate, second])
    assert arrays == read(archive, tmp_path / "instead.zip", items=instead)[0]


def test_missing_radar_scene_is_left_out_and_recorded(
    archive: Archive, server: FileServer, tmp_path: Path
) -> None:
    item = archive.items("sentinel1")[0]
    server.faults = [Fault("status", "iw-vh", count=None, value=404)]
    server.faults[0].path = item.stac["assets"]["vh"]["href"].removeprefix(HOST)
    arrays, attributes = read(archive, tmp_path / "slice.zip", "sentinel1")
    assert left_out_days(attributes) == [(item.id, "2021-06-12")]
    assert not any(arrays["descending"]) and any(arrays["ascending"])
    assert arrays["descending_kept"] == b"\0"


@pytest.mark.parametrize("fault", [Fault("status", value=404), Fault("corrupt")])
def test_most_scenes_missing_is_treated_as_an_outage(
    archive: Archive, server: FileServer, tmp_path: Path, fault: Fault
) -> None:
    """A moved bucket answers 404 to all requests."""
    server.faults = [dataclasses.replace(fault, path="/s2/", count=None)]
    with pytest.raises(
        ReadError, match=r"^3 of the 3 scenes .* download\.max_missing_percent \(50 %\)"
    ) as raised:
        read(archive, tmp_path / "slice.zip")
    # A higher limit would give an empty product.
    assert "the result would be empty" in str(raised.value)
    assert "aise" not in str(raised.value) and "exclude" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    _, attributes = read(archive, tmp_path / "slice.zip", max_missing_percent=100.0)
    assert len(attributes["left_out"]) == 3
    server.faults = [dataclasses.replace(fault, path=one_asset(archive)[1], count=None)]
    with pytest.raises(
        ReadError, match=r"^1 of the 3 scenes .*list its id in `exclude`.*; 2 would remain\.$"
    ):
        read(archive, tmp_path / "strict.zip", max_missing_percent=0.0)


def test_truncated_file_and_file_of_another_format_are_corrupt(
    archive: Archive, server: FileServer, tmp_path: Path
) -> None:
    item, path = one_asset(archive, "B03", 2)
    content = (archive.scenes / path.lstrip("/")).read_bytes()
    for corrupt in (content[: len(content) // 2], b"", b"II*x" * 9):
        server.contents[path] = corrupt
        _, attributes = read(archive, tmp_path / "slice.zip")
        assert left_out_days(attributes) == [(item, "2021-06-20")]


def test_corrupt_and_missing_files_on_a_disk_are_recorded_and_a_disk_error_fails(
    archive: Archive, tmp_path: Path
) -> None:
    scenes = Path(shutil.copytree(archive.scenes, tmp_path / "scenes"))
    local = tmp_path / "items.json"
    local.write_text(archive.list_of("sentinel2").read_text().replace(HOST, str(scenes)))
    item, path = one_asset(archive, "B03", 2)
    broken = scenes / path.lstrip("/")
    broken.write_bytes(broken.read_bytes()[:60_000])
    reason = read(archive, tmp_path / "slice.zip", items=local)[1]["left_out"][0]["reason"]
    assert reason.startswith(f"asset B03 of item {item} ({broken}): corrupt (")
    broken.unlink()
    reason = read(archive, tmp_path / "slice.zip", items=local)[1]["left_out"][0]["reason"]
    assert reason == f"asset B03 of item {item} ({broken}): no such file"
    broken.mkdir()  # exists but cannot be read, even by root
    with pytest.raises(ReadError, match=rf"^Cannot read asset B03 of item {item}.*is a directory"):
        read(archive, tmp_path / "slice.zip", items=local)
