"""Make malformed files from valid ones: the same seed gives the same files."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1e308, -1e308, 2**63, 10**30, "", " ", "nan", "\0",
    "\ud800", "a" * 5000,
    "../../../etc/passwd", "file:///etc/passwd", "http://[bad", "2021-13-45",
    "2021-06-10T25:00:00Z",
    [], {}, [[]], [None], [1e400], {"": None}, float("nan"), float("inf"), "EPSG:0", "EPSG:999999",
]  # fmt: skip
"""Values in place of any other."""


def malformed(valid: bytes, random: random.Random) -> bytes:
    """Return a changed copy of the content of a file: its bytes, or the values of a JSON text."""
    try:
        document = json.loads(valid)
    except (ValueError, RecursionError):
        return _bytes(valid, random)
    if random.random() < 0.3:
        return _bytes(valid, random)
    for _ in range(random.choice([1, 1, 2, 4])):
        document = _document(document, random)
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _bytes(valid: bytes, random: random.Random) -> bytes:
    data = bytearray(valid)
    changes: list[Callable[[bytearray, random.Random], bytearray]] = [
        _cut, _flip, _flip, _fill, _insert, _repeat, _encode, _empty,
    ]  # fmt: skip
    for _ in range(random.choice([1, 1, 1, 3])):
        data = random.choice(changes)(data, random)
    return bytes(data)


def _cut(data: bytearray, random: random.Random) -> bytearray:
    return data[: random.randrange(len(data) + 1)]


def _flip(data: bytearray, random: random.Random) -> bytearray:
    for _ in range(random.choice([1, 3, 20])):
        if data:
            # Headers are at the beginning and at the end of most formats.
            end = random.choice([min(len(data), 200), len(data)])
            place = random.randrange(end)
            place = random.choice([place, len(data) - 1 - place])
            data[place] = random.choice(
                [0, 255, 127, 128, data[place] ^ (1 << random.randrange(8))]
            )
    return data


def _fill(data: bytearray, random: random.Random) -> bytearray:
    start = random.randrange(len(data) + 1)
    stop = min(len(data), start + random.choice([1, 4, 8, 100, 5000]))
    data[start:stop] = bytes([random.choice([0, 255, 32])]) * (stop - start)
    return data


def _insert(data: bytearray, random: random.Random) -> bytearray:
    place = random.randrange(len(data) + 1)
    piece = random.choice(
        [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n" * 50, b"\x80" * 9, b'"', b"{[" * 3000]
    )
    return data[:place] + piece + data[place:]


def _repeat(data: bytearray, random: random.Random) -> bytearray:
    start = random.randrange(len(data) + 1)
    piece = data[start : start + random.choice([1, 16, 1000])]
    return data[:start] + piece * random.choice([2, 5]) + data[start:]


def _encode(data: bytearray, random: random.Random) -> bytearray:
    encoding = random.choice(["utf-16", "utf-16-le", "utf-32"])
    return bytearray(data.decode("latin-1").encode(encoding))


def _empty(data: bytearray, random: random.Random) -> bytearray:
    return bytearray(random.choice([b"", b"\0" * len(data), b"\n", b"null", b"[]", b"{}", b"PAR1"]))


def _document(document: Any, random: random.Random) -> Any:
    """Return a JSON document in which one value is replaced, removed, repeated or moved."""
    places = list(_places(document))
    if not places or random.random() < 0.02:
        return copy.deepcopy(random.choice(ODD_VALUES))
    container, key = random.choice(places)
    action = random.choice(["replace", "replace", "replace", "remove", "wrap", "swap"])
    if action == "remove":
        del container[key]
    elif action == "wrap":
        container[key] = random.choice(
            [[container[key]], {"a": container[key]}, str(container[key])]
        )
    elif action == "swap":
        other, name = random.choice(places)
        container[key] = json.loads(json.dumps(other[name]))
    else:
        container[key] = copy.deepcopy(random.choice(ODD_VALUES))
    return document


def _places(document: Any) -> Any:
    if isinstance(document, dict | list):
        keys = list(document) if isinstance(document, dict) else range(len(document))
        for key in keys:
            yield document, key
            yield from _places(document[key])


def spoil(folder: Path, random: random.Random) -> Path:
    """Replace one file of a folder by a malformed one; return its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = random.choice(files)
    path.write_bytes(malformed(path.read_bytes(), random))
    return path
