"""Find the weights of a run: a local file, or published weights downloaded by name.

The published v2 students and their teacher are on Hugging Face. They are downloaded with
`huggingface_hub`, which resumes interrupted transfers, shares its cache between runs, and
honours `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE`. They are public: no access token is
sent. Checkpoints of v1.x are not published there: the user gives the path of a file.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from ..atomic import DISK_ERRORS, output_error
from ..errors import CheckpointError, ConfigError
from .checkpoint import FAMILIES, inspect_checkpoint, sha256_of
from .family import Heads, check_dim
from .published import HUB, PUBLISHED, Published, weights_file
from .weights_pin import expected_weights, record_download
from .weights_record import WeightsRecord

TransferError = cast("type[Exception]", HfHubHTTPError.__mro__[1])
"""Errors of the HTTP client of `huggingface_hub` (httpx or httpx2, by its version)."""

logger = logging.getLogger(__name__)


def fetch_weights(
    weights: str,
    cache: str | None = None,
    heads: Heads | None = None,
    sha256: str | None = None,
    downloads: Path | None = None,
) -> WeightsRecord:
    """Find the weights, download them if they are given by name, and check them.

    Args:
        weights: path of a checkpoint file, or a key of `PUBLISHED`.
        cache: folder for downloads; the cache of `huggingface_hub` if None.
        heads: see `models.checkpoint.inspect_checkpoint`.
        sha256: of the file, in hexadecimal; another one is refused.
        downloads: file that records what was downloaded by name, and from which later calls know
            what to expect (`models.weights_pin`).

    Raises:
        ConfigError, CheckpointError: see `models.published.weights_file`.
        CheckpointError: the download fails, the file is another one than expected, or it cannot
            be used.
        OutputError: the cache cannot be written.
    """
    published = PUBLISHED.get(weights)
    pin = expected_weights(weights, sha256, downloads)
    path = weights_file(weights) or _download(weights, PUBLISHED[weights], cache, pin.revision)
    digest = sha256_of(path)
    pin.check(weights, path, digest)
    inspection = inspect_checkpoint(path, heads)
    if published is not None and downloads is not None:
        record_download(downloads, weights, digest, path)
    sizes = json.loads(json.dumps(asdict(inspection.sizes)))
    return WeightsRecord(
        path=str(path.absolute()),
        sha256=digest,
        name=weights if published is not None else None,
        url=published.page if published is not None else None,
        family=inspection.family.key,
        sizes=sizes | {"parameters": inspection.parameters},
        dims=list(inspection.sizes.dims),
        dtype=inspection.family.dtype,
    )


def check_choices(
    record: WeightsRecord,
    dim: int | None,
    statistics: str | None,
    seed: int = 0,
    repeat_times: int = 1,
) -> None:
    """Reject settings that do not fit the weights, before any scene is read.

    Raises:
        ConfigError: see `models.family.check_dim` and `Family.choose_statistics`; or `seed` or
            `repeat_times` is set for a family that does not draw its observations.
    """
    family = FAMILIES[record.family]
    family.choose_statistics(statistics, Path(record.path))
    check_dim(dim, record.dims, record.path)
    for key, value, default in (("seed", seed, 0), ("repeat_times", repeat_times, 1)):
        if value != default and not family.rule.random:
            raise ConfigError(
                f"model.{key} (--{key.replace('_', '-')}) is {value}, but {record.path} is a "
                f"{family.title} checkpoint, which draws no observations at random: leave it out."
            )


def _download(name: str, published: Published, cache: str | None, revision: str) -> Path:
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    logger.info("weights %s: searching the cache and %s", name, _host(endpoint))
    try:
        return Path(
            hf_hub_download(
                published.repository,
                published.file,
                revision=revision,
                cache_dir=cache,
                endpoint=endpoint,
                token=False,
            )
        )
    except (OSError, TransferError) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise output_error(Path(cache or error.filename or "the cache"), error) from error
        # The library's messages may contain a mirror's URL with its password: not repeated.
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
    """Return host and port of a URL, without user name and password."""
    return urlsplit(endpoint).netloc.rpartition("@")[2] or "HF_ENDPOINT, which is not a URL,"
