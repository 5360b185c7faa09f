"""The JSON record of the weights of a run.

No PyTorch here: jobs that only need the record start faster and take less memory.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..atomic import write_text
from ..errors import CheckpointError


@dataclass(frozen=True)
class WeightsRecord:
    """The weights of a run.

    Attributes:
        path: absolute path of the checkpoint file.
        sha256: of the file, in hexadecimal.
        name: the published name in the configuration, or None for a path.
        url: page of the published model, or None for a path.
        family: model family, such as `v2-student`.
        sizes: the architecture, read from the checkpoint, and `parameters`.
        dims: numbers of leading dimensions that may be stored, smallest first.
        dtype: stored type of this family in the published pipeline, `int8` or `float32`.
    """

    path: str
    sha256: str
    name: str | None
    url: str | None
    family: str
    sizes: dict[str, Any]
    dims: list[int]
    dtype: Literal["int8", "float32"]


def write_weights_record(record: WeightsRecord, path: str | os.PathLike[str]) -> None:
    """Write a record as JSON; the same record gives the same bytes.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, json.dumps(asdict(record), indent=2, sort_keys=True) + "\n")


def read_weights_record(path: str | os.PathLike[str]) -> WeightsRecord:
    """Read a file written by `write_weights_record`.

    Raises:
        CheckpointError: the file is missing or not such a record.
    """
    try:
        return WeightsRecord(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{os.fspath(path)} is not a record of weights: delete it and run again."
        ) from error
