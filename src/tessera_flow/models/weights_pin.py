"""Refuse weights that are another file than expected.

The expected SHA-256 is that of the configuration, else that of the record which the first download
of a name leaves in the work folder, else that in `published.PUBLISHED`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..atomic import write_text
from ..errors import CheckpointError
from .published import PUBLISHED

RECORD_NAME = "published_weights.json"
"""File in the work folder: hash and revision of each name that was downloaded."""


@dataclass(frozen=True)
class WeightsPin:
    """The expected file.

    Attributes:
        sha256: in hexadecimal; None if any file is accepted.
        revision: branch, tag or commit to download.
        stated_in: where the hash is stated, for messages.
    """

    sha256: str | None = None
    revision: str = "main"
    stated_in: str = ""

    def check(self, weights: str, path: Path, sha256: str) -> None:
        """Compare the hash of a file with the expected one.

        Raises:
            CheckpointError: they differ.
        """
        if self.sha256 is not None and sha256 != self.sha256:
            raise CheckpointError(
                f"The weights {weights} are another file than expected: {path} has the SHA-256 "
                f"{sha256}; {self.stated_in} states {self.sha256}. If they were replaced on "
                f"purpose, for example by their publisher, accept this file with "
                f"`model.sha256: {sha256}`; otherwise get the expected file."
            )


def expected_weights(
    weights: str, sha256: str | None = None, record: Path | None = None
) -> WeightsPin:
    """Return which file is expected for a path or a published name.

    Args:
        weights: a path, or a key of `PUBLISHED`.
        sha256: the hash that the user states, or None.
        record: the record of earlier downloads, which need not exist; None: there is none.

    Raises:
        CheckpointError: the record is not readable.
    """
    published = PUBLISHED.get(weights)
    pins = []
    if published is not None and record is not None and weights in (known := _read(record)):
        entry = known[weights]
        pins.append(WeightsPin(entry["sha256"], entry["revision"], f"{record} (first download)"))
    if published is not None:
        stated_in = "tessera-flow" if published.sha256 else ""
        pins.append(WeightsPin(published.sha256, published.revision, stated_in))
    if sha256 is None:
        return pins[0] if pins else WeightsPin()
    revision = next((pin.revision for pin in pins if pin.sha256 == sha256), "main")
    return WeightsPin(sha256, revision, "model.sha256")


def record_download(record: Path, weights: str, sha256: str, path: Path) -> None:
    """Record the hash and the commit of a downloaded file, so that another one is refused later.

    Args:
        record: the file to write.
        weights: a key of `PUBLISHED`.
        sha256: of the file.
        path: the file, in a cache of `huggingface_hub`: `.../snapshots/<commit>/...`.

    Raises:
        CheckpointError: the record exists and is not readable.
        OutputError: the record cannot be written.
    """
    known = dict(_read(record))
    last = len(path.parts) - 1 - path.parts[::-1].index("snapshots")  # the cache may be in another
    entry = {"sha256": sha256, "revision": path.parts[last + 1]}
    if known.get(weights) != entry:
        known[weights] = entry
        write_text(record, json.dumps(known, indent=2, sort_keys=True) + "\n")


def _read(record: Path) -> Mapping[str, Mapping[str, str]]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return {
            name: {key: str(entry[key]) for key in ("sha256", "revision")}
            for name, entry in content.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{record} is not a record of downloaded weights ({type(error).__name__}). It is there "
            f"to refuse weights that differ from the first download: restore it, or state the file "
            f"that you want as `model.sha256` and delete it."
        ) from error
