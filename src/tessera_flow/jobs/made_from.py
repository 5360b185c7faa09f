"""Compare what block files were made from with the settings and lists of a run.

A block file states in its attribute `made_from` the hash of the settings of each step before it,
of the lists of scenes or tiles, and of the weights. A job refuses a file that states others: the
working folder is shared with another configuration, or Snakemake has lost its own records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..config.configuration import Config
from ..errors import Refused, TesseraFlowError
from ..input_files import MADE_FROM
from ..models.weights_record import read_weights_record
from .block_attributes import read_attributes
from .files import RunFiles
from .params import JobParams
from .paths import SENSORS

_SHORT = 10
_OF_POSITION = {"window", "origin"}
_OWN_STEPS = {
    "download": ("region", "search", "items", "download"),
    "stack": ("stack",),
    "retile": ("retile",),
    "import_tiles": ("region", "import_tiles"),
    "import_embeddings": ("region", "search", "items", "import_embeddings"),
    "infer_cpu": ("infer", "checkpoint", "weights"),
    "infer_gpu": ("infer", "checkpoint", "weights"),
    "fill": (),
    "export_tiles": (),
}
"""What the jobs of a rule add to the record of their inputs; some by sensor."""

_BY_SENSOR = {"search", "items", "download"}
_OF_LISTS = {"search", "checkpoint"}
"""Settings of the lists (`items`) and of the record of the weights (`weights`). A block depends on
the content of those files only; its record shows which settings the content belongs to."""

BLOCK_RULES = frozenset(_OWN_STEPS)


def settings_hash(settings: Any) -> str:
    """Return the SHA-256 of the parameters of a job, as they are in JSON."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Expected:
    """What the block files of one region and period must be made from.

    Attributes:
        steps: hash by step.
    """

    def __init__(self, files: RunFiles, params: JobParams, region: str, period: str) -> None:
        """Collect the hashes; the lists and the record of the weights are read where they exist.

        Raises:
            CheckpointError: the record of the weights is damaged.
        """
        self.region, self.period = region, period
        config = files.for_run(region, period)
        block = files.grids[region].blocks[0].id
        steps: dict[str, Any] = {
            "region": {"roi": params.roi(region), "block_size": config.grid.block_size},
            "stack": config.grid.downsample_rate,
        }
        if config.reads_scenes:
            for sensor in files.sensors(region, period):
                steps[f"search {sensor}"] = params.items(region, period, sensor)
                steps[f"download {sensor}"] = params.download(region, period, sensor, block)
            steps["retile"] = params.retile(region, period, block)
        if config.source == "tiles":
            steps["import_tiles"] = params.import_tiles(region, period, block)
        if config.source == "geotessera":
            steps["search"] = params.store_tiles(region, period)
            steps["import_embeddings"] = params.import_embeddings(region, block)
        if config.weights is not None:
            steps["infer"] = params.infer(region, period, block)
            steps["checkpoint"] = params.weights()
        self.steps = {
            name: settings_hash(_without_position(settings)) for name, settings in steps.items()
        }
        self._add_lists(files)

    def _add_lists(self, files: RunFiles) -> None:
        for path in map(Path, files.manifests(self.region, self.period)):
            if path.exists():
                name = f"items {path.stem}" if path.stem in SENSORS else "items"
                self.steps[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        record = files.weights_record()
        if isinstance(record, str) and Path(record).exists():
            self.steps["weights"] = read_weights_record(record).sha256

    def differences(self, made_from: Mapping[str, str]) -> list[str]:
        """Return what differs between the record of a file and what is expected, as text."""
        return [
            f"{_text(step)} (hash {stated[:_SHORT]}, here {self.steps.get(step, 'none')[:_SHORT]})"
            for step, stated in made_from.items()
            if self.steps.get(step) != stated and step.split(" ")[0] not in _OF_LISTS
        ]

    def proves(self, attributes: Mapping[str, Any], steps: Iterable[str]) -> bool:
        """Return whether a block file with these attributes was made from these steps as they are
        here."""
        record = attributes.get(MADE_FROM)
        return isinstance(record, dict) and all(
            step in self.steps and record.get(step) == self.steps[step] for step in steps
        )

    def fault(self, attributes: Mapping[str, Any]) -> str | None:
        """Return why a block file with these attributes is not one of this run; None if it is."""
        if attributes.get("skipped"):
            return None
        record = attributes.get(MADE_FROM)
        if not isinstance(record, dict):
            return "it does not state what it was made from"
        differences = self.differences(record)
        return f"it differs in {'; '.join(differences)}" if differences else None

    def check(self, paths: Iterable[Path]) -> dict[str, str]:
        """Refuse block files that were made from something else; return their joined records.

        Raises:
            Refused: there is such a file.
            TileError: a file is missing or damaged.
            ReadError: a file cannot be read.
        """
        joined: dict[str, str] = {}
        for path in paths:
            attributes = read_attributes(path)
            if fault := self.fault(attributes):
                raise Refused(
                    f"{path} was not made with the settings and lists of this run (region "
                    f"{self.region}, period {self.period}): {fault}. If another configuration "
                    "uses this folder, set another paths.work; else delete the file and run again."
                )
            joined |= attributes.get(MADE_FROM, {})
        return joined

    def of_job(self, rule: str, sensor: str | None, inputs: Iterable[Path]) -> dict[str, str]:
        """Check the block files that a job reads, and return the record of the one it writes.

        Args:
            rule: of the job; one of `BLOCK_RULES`.
            sensor: of the job, if it has one.
            inputs: its block files.

        Raises:
            Refused, TileError, ReadError: see `check`.
        """
        record = self.check(inputs)
        for step in _OWN_STEPS[rule]:
            name = f"{step} {sensor}" if sensor and step in _BY_SENSOR else step
            record[name] = self.steps[name]
        return record


def expected_of(config: Config, region: str, period: str) -> Expected:
    """Return what the block files of one region and period must be made from."""
    # The other regions are not read.
    one = config.model_copy(update={"regions": {region: config.regions[region]}})
    files = RunFiles(one)
    return Expected(files, JobParams(files), region, period)


def record_of_job(
    config: Config, rule: str, names: Mapping[str, str], inputs: Iterable[str]
) -> dict[str, str]:
    """Check the block files among the inputs of a job, and return the record of its output.

    Args:
        config: of the run.
        rule: of the job; empty record if it writes no block file.
        names: values of its wildcards.
        inputs: paths.

    Raises:
        Refused: a block file was made from something else, or a file of all blocks is damaged.
        TileError, ReadError: a block file is missing or damaged, or cannot be read.
    """
    if rule not in BLOCK_RULES:
        return {}
    try:
        expected = expected_of(config, names["region"], names["period"])
    except TesseraFlowError as error:  # not a failure of this block
        raise Refused(str(error)) from error
    return expected.of_job(rule, names.get("sensor"), block_files(inputs))


def block_files(paths: Iterable[str]) -> list[Path]:
    """Return those of some paths that are block files."""
    return [path for path in map(Path, paths) if path.suffix == ".zip"]


def _without_position(settings: Any) -> Any:
    """Return settings without what differs between the blocks of a region."""
    if not isinstance(settings, dict):
        return settings
    return {key: value for key, value in settings.items() if key not in _OF_POSITION}


def _text(step: str) -> str:
    """Return the name of a step for messages."""
    name, _, sensor = step.partition(" ")
    texts = {
        "region": "the region, its grid or its blocks",
        "items": "the list of scenes" if sensor else "the list of tiles",
        "weights": "the weights",
        "infer": "the settings of the model",
    }
    text = texts.get(name, f"the settings of {name}")
    return f"{text} of {sensor}" if sensor else text
