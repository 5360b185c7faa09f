"""Answers to range requests: their versions, encodings, and refusals of all objects."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest

from tessera_flow.errors import ReadError
from tessera_flow.raster.responses import Version, decoded, encodings

from ..support.fault_archive import Archive, read
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
