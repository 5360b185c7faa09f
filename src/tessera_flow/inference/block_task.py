"""Describe the embedding of one block as plain data, which a process can send to another.

No PyTorch here: a job that only sends the task, or takes over a result, starts without it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..config.configuration import Config
from ..models.weights_record import WeightsRecord


@dataclass(frozen=True)
class BlockTask:
    """What decides the embeddings file of a block, and where it is written.

    Attributes:
        block: name of the block.
        patches: path of its patches file.
        output: path of the embeddings file to write.
        record: the weights.
        settings: parameters of the job (`jobs.params`).
        made_from: record of what the file is made from, for its attributes.
        source: of the configuration.
        block_edge: edge in pixels of a block that is not clipped, on the product grid.
        batch_size: of the configuration.
        threads: CPU threads.
        compiled: see `model.ModelSpec`.
    """

    block: str
    patches: str
    output: str
    record: WeightsRecord
    settings: Mapping[str, Any]
    made_from: Mapping[str, str]
    source: str
    block_edge: int
    batch_size: int
    threads: int
    compiled: str | None = None

    @classmethod
    def of(
        cls,
        config: Config,
        block: str,
        patches: str,
        output: str,
        record: WeightsRecord,
        settings: Mapping[str, Any],
        made_from: Mapping[str, str],
        threads: int,
        compiled: Path | None,
    ) -> BlockTask:
        """Return the task of a block of a run with this configuration."""
        return cls(
            *(block, patches, output, record, settings, made_from),
            source=config.source,
            block_edge=config.grid.block_size // config.grid.downsample_rate,
            batch_size=config.model.batch_size,
            threads=threads,
            compiled=None if compiled is None else str(compiled),
        )

    def to(self, output: Path) -> BlockTask:
        """Return the task with another output."""
        return replace(self, output=str(output))

    def of_copy(self, patches: Path) -> BlockTask:
        """Return the task that reads a copy of the patches."""
        return replace(self, patches=str(patches))

    def key(self) -> str:
        """Return the SHA-256 of everything that decides the bytes of the output.

        Raises:
            OSError, zipfile.BadZipFile: the patches file cannot be read.
        """
        with zipfile.ZipFile(self.patches) as archive:
            members = [f"{i.filename} {i.file_size} {i.CRC}" for i in archive.filelist]
        left_out = ("output", "patches", "threads", "batch_size")
        decides = {k: v for k, v in asdict(self).items() if k not in left_out}
        software = [__version__, version("torch")]
        text = json.dumps([decides, sorted(members), software], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()
