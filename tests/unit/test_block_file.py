"""Block files: attributes can be set until the end, and no member is stored twice."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from tessera_flow.block_file import FORMAT, create_array, create_block_file, open_block_file
from tessera_flow.errors import TileError


def test_attributes_set_while_arrays_are_written(tmp_path: Path) -> None:
    with create_block_file(tmp_path / "a.zip", {"dates": ["2021-06-03"]}) as group:
        create_array(group, "kept", (3,), (3,), np.uint8)[:] = [1, 0, 1]
        group.attrs["left_out"] = [{"item": "x"}]
        group.attrs["left_out"] = [{"item": "y"}]
        assert group.attrs["dates"] == ["2021-06-03"]
    with open_block_file(tmp_path / "a.zip") as group:
        assert dict(group.attrs) == {
            "format": FORMAT,
            "dates": ["2021-06-03"],
            "left_out": [{"item": "y"}],
        }
        assert group["kept"][:].tolist() == [1, 0, 1]
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert len(names) == len(set(names))
    assert names.count("zarr.json") == 1


@pytest.mark.parametrize("attributes", [{"format": 1}, {"format": None}])
def test_a_file_of_another_version_is_refused(
    tmp_path: Path, attributes: dict[str, int | None]
) -> None:
    """Its attributes have other names: read as if they had not been written, they would be lost
    silently, such as the record of missing scenes."""
    with create_block_file(tmp_path / "old.zip", attributes):
        pass
    with (
        pytest.raises(TileError, match=r"old\.zip was written by another version .*delete it"),
        open_block_file(tmp_path / "old.zip"),
    ):
        pass
