"""Answers to range requests: their versions, encodings, and refusals of all objects."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest
import rasterio

from tessera_flow.block_file import create_block_file
from tessera_flow.errors import ReadError
from tessera_flow.ingest.stack import stack_sentinel2
from tessera_flow.raster.responses import Version, decoded, encodings

from ..support.fault_archive import HOST, Archive, one_asset, read
from ..support.servers import Fault, FileServer


def test_versions_differ_by_what_both_state() -> None:
    first = Version.of({"ETag": '"a"', "Last-Modified": "Mon"}, 10)
    assert first.strong and not Version.of({"ETag": 'W/"a"'}, 10).strong
    assert not first.differs(Version.of({}, 10))
    assert not first.differs(Version.of({"ETag": 'W/"a"'}, 10))
    assert first.differs(Version.of({"ETag": '"b"'}, 10))
    assert first.differs(Version.of({"Last-Modified": "Tue"}, 10))
    assert first.differs(Version.of({"ETag": '"a"'}, 11))


def test_bodies_are_decoded_only_if_complete() -> None:
    body = b"pixels" * 100
    assert decoded(gzip.compress(body), ["gzip"], 1000) == body
    assert decoded(zlib.compress(body), ["deflate"], 1000) == body
    assert decoded(gzip.compress(body)[:-9], ["gzip"], 1000) is None
    assert decoded(gzip.compress(body), ["gzip"], 100) is None
    assert decoded(body, ["br"], 1000) is None
    assert encodings({"Content-Encoding": "aws-chunked"}) == []


def test_refusal_of_all_objects_is_not_missing_scenes(
    archive: Archive, server: FileServer, tmp_path: Path
) -> None:
    server.faults = [Fault("status", "/s2/", value=403, count=None)]
    with pytest.raises(ReadError, match=r"HTTP 403 Forbidden\. Check the credentials"):
        read(archive, tmp_path / "slice.zip", attempts=2, max_missing_percent=100.0)


def rewritten(archive: Archive, path: str, output: Path, shift: int) -> Path:
    """Write an object without compression, so that all versions have one size and layout."""
    with rasterio.open(archive.scenes / path.lstrip("/")) as dataset:
        pixels, profile = dataset.read(), dataset.profile
    profile |= {"compress": None, "blockxsize": 16, "blockysize": 16}
    with rasterio.open(output, "w", **profile) as dataset:
        dataset.write((pixels + shift).astype(pixels.dtype))
    return output


@pytest.mark.parametrize("versions", ["etag", "weak", "modified"])
def test_object_that_is_replaced_is_read_again_from_its_start(
    archive: Archive, server: FileServer, tmp_path: Path, versions: str
) -> None:
    """After its header was read. The pixels are those of the new version alone."""
    _, path = one_asset(archive, "B05", 0)
    old = rewritten(archive, path, tmp_path / "old.tif", 0)
    new = rewritten(archive, path, tmp_path / "new.tif", 7)
    assert old.stat().st_size == new.stat().st_size
    local = tmp_path / "local.json"
    text = archive.list_of("sentinel2").read_text().replace(f"{HOST}{path}", str(new))
    local.write_text(text.replace(f"{HOST}/", f"{archive.scenes.absolute()}/"))
    expected, _ = read(archive, tmp_path / "expected.zip", items=local)
    server.versions = versions
    server.contents[path], server.replacements[path] = old.read_bytes(), new.read_bytes()
    server.faults = [Fault("replace", path, skip=1)]
    arrays, attributes = read(archive, tmp_path / "slice.zip")
    assert arrays == expected and attributes["left_out"] == attributes["replaced"] == []
    requests = server.asked(path)
    assert ["if-range" in request.headers for request in requests[:3]] == [
        False, versions == "etag", False,
    ]  # fmt: skip
    if versions == "etag":  # the server answers with the complete new object
        assert requests[1].status == 200
        assert requests[-1].headers["if-range"] not in ("", requests[1].headers["if-range"])


def test_object_that_is_replaced_all_the_time_is_an_error(
    archive: Archive, server: FileServer, tmp_path: Path
) -> None:
    _, path = one_asset(archive, "B05", 0)
    server.versions = "etag"
    original = (archive.scenes / path.lstrip("/")).read_bytes()
    server.on_request = lambda: server.contents.update(
        {path: original + bytes([len(server.requests) % 256])}
    )
    with pytest.raises(ReadError, match=r"was replaced while it was read, 4 times"):
        read(archive, tmp_path / "slice.zip", threads=1)


@pytest.mark.parametrize("kind", ["gzip", "deflate", "raw deflate", "gzip whole"])
def test_encoded_answers_are_decoded(
    archive: Archive,
    server: FileServer,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    kind: str,
) -> None:
    """Ranges that are compressed on the way (206), and complete compressed objects (200)."""
    server.faults = [Fault(kind, "/s2/", count=None)]
    arrays, attributes = read(archive, tmp_path / "slice.zip")
    assert attributes["left_out"] == []
    assert all(data == undisturbed[f"sentinel2/{name}"] for name, data in arrays.items())
    assert {request.status for request in server.asked("/s2/")} == {200 if "whole" in kind else 206}


def test_missing_scenes_of_the_period_are_checked_when_slices_are_joined(tmp_path: Path) -> None:
    """Each slice may lack one scene, however few it has; together they are too many."""
    paths = []
    for number in range(4):
        entry = {"item": f"S2_{number}", "date": f"2021-0{number + 1}-05", "reason": "HTTP 404"}
        attributes = {"dates": [], "items": [], "left_out": [entry], "scene_count": 10}
        paths.append(tmp_path / f"{number}.zip")
        with create_block_file(paths[-1], attributes) as group:
            group.create_array("bands", shape=(0, 4, 4, 10), dtype="uint16")
            group.create_array("masks", shape=(0, 4, 4), dtype="uint8")
            group.create_array("kept", shape=(0,), dtype="uint8")
    with pytest.raises(
        ReadError, match=r"^4 of the 40 scenes of this block in this period are missing .*\(5 %\)"
    ):
        stack_sentinel2(paths, tmp_path / "stack.zip", max_missing_percent=5.0)
    assert not (tmp_path / "stack.zip").exists()
    stack_sentinel2(paths, tmp_path / "stack.zip", max_missing_percent=10.0)
