"""Where the weights are: a file of the user's, or published ones fetched by name.

The published v2 students and their teacher lie on Hugging Face. They are fetched with
`huggingface_hub`, which resumes an interrupted transfer, shares its cache between runs, and
honours `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE`. They are public: no access token is
sent. Checkpoints of v1.x are not there: the user names the path of a file.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from ..atomic import DISK_ERRORS, output_error, write_text
from ..errors import CheckpointError
from .checkpoint import FAMILIES, inspect_checkpoint, sha256_of
from .family import Heads, check_dim
from .published import HUB, PUBLISHED, Published, weights_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightsRecord:
    """What is known of the weights of a run.

    Attributes:
        path: absolute path of the checkpoint file.
        sha256: of the file, in hexadecimal.
        name: the published name asked for, or None for a path.
        url: page of the published model, or None for a path.
        family: model family, such as `v2-student`.
        sizes: the architecture, as the checkpoint states or shows it, and `parameters`.
        dims: numbers of leading dimensions that may be stored, smallest first.
        dtype: what the published pipeline stores of this family, `int8` or `float32`.
    """

    path: str
    sha256: str
    name: str | None
    url: str | None
    family: str
    sizes: dict[str, Any]
    dims: list[int]
    dtype: Literal["int8", "float32"]


def fetch_weights(
    weights: str, cache: str | None = None, heads: Heads | None = None
) -> WeightsRecord:
    """Find the weights, download them if they are named, and make sure they can be used.

    Args:
        weights: path of a checkpoint file, or a key of `PUBLISHED`.
        cache: folder for downloads; the cache of `huggingface_hub` if None.
        heads: see `models.checkpoint.inspect_checkpoint`.

    Raises:
        ConfigError, CheckpointError: see `models.published.weights_file`.
        CheckpointError: the download fails, or the file cannot be used.
        OutputError: the cache cannot be written.
    """
    published = PUBLISHED.get(weights)
    path = weights_file(weights) or _download(weights, PUBLISHED[weights], cache)
    found = inspect_checkpoint(path, heads)
    sizes = json.loads(json.dumps(asdict(found.sizes))) | {"parameters": found.parameters}
    return WeightsRecord(
        path=str(path.absolute()),
        sha256=sha256_of(path),
        name=weights if published is not None else None,
        url=published.page if published is not None else None,
        family=found.family.key,
        sizes=sizes,
        dims=list(found.sizes.dims),
        dtype=found.family.dtype,
    )


def check_choices(record: WeightsRecord, dim: int | None, statistics: str | None) -> None:
    """Refuse what the weights do not go with, before any scene is read for them.

    Raises:
        ConfigError: see `models.family.check_dim` and `Family.choose_statistics`.
    """
    FAMILIES[record.family].choose_statistics(statistics, Path(record.path))
    check_dim(dim, record.dims, record.path)


def write_weights_record(record: WeightsRecord, path: str | os.PathLike[str]) -> None:
    """Write a record as JSON; the same record gives the same bytes.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, json.dumps(asdict(record), indent=2, sort_keys=True) + "\n")


def read_weights_record(path: str | os.PathLike[str]) -> WeightsRecord:
    """Read what `write_weights_record` wrote.

    Raises:
        CheckpointError: the file is missing or not such a record.
    """
    try:
        return WeightsRecord(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{os.fspath(path)} is not a record of weights: delete it and run again."
        ) from error


def _download(name: str, published: Published, cache: str | None) -> Path:
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    logger.info("weights %s: looking in the cache and at %s", name, _host(endpoint))
    try:
        return Path(
            hf_hub_download(
                published.repository,
                published.file,
                cache_dir=cache,
                endpoint=endpoint,
                token=False,
            )
        )
    except (OSError, httpx2.HTTPError) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise output_error(Path(cache or error.filename or "the cache"), error) from error
        # The library's texts may quote a mirror's address with its password: not passed on.
        raise CheckpointError(
            f"The weights {name} could not be downloaded ({_reason(error, endpoint)}). Run again "
            f"with a connection, or download {published.url} on a machine that has one, copy the "
            f"file here, and set the weights to its path (`model.weights`, or `--weights`)."
        ) from None


def _reason(error: Exception, endpoint: str) -> str:
    host = _host(endpoint)
    if isinstance(error, HfHubHTTPError):
        return f"{host} answered HTTP {error.response.status_code}"
    if isinstance(error, LocalEntryNotFoundError):
        return f"they are not in the cache, and {host} cannot be reached or offline mode is set"
    return f"the connection to {host} failed: {type(error).__name__}"


def _host(endpoint: str) -> str:
    """Host and port of a URL, without a user's name and password."""
    return urlsplit(endpoint).netloc.rpartition("@")[2] or "HF_ENDPOINT, which is not a URL,"
