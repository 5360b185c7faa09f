"""The folder of a run: its configuration, a Snakefile that includes the workflow, and profiles.

`snakemake` can be started in it like `tessera-flow run`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ..atomic import atomic_output, check_folder, write_text
from ..config.configuration import Config, load_config
from ..config.example import config_text
from ..config.sections import Region
from ..config.types import NAME_PATTERN
from ..config.yaml_file import check_config_files
from ..errors import ConfigError
from ..workflow_folder import workflow_folder

PROFILES = ("default", "local", "slurm", "generic")

_OWN_EXECUTORS = ("local", "dryrun", "touch")
"""Executors that Snakemake has without a plugin."""

SNAKEFILE = """\
# Written by tessera-flow. Start `snakemake --cores 8` in this folder, or `tessera-flow run`.
from tessera_flow.workflow_folder import workflow_folder


include: str(workflow_folder() / "Snakefile")


# A default target is not handed on by `include`.
rule default:
    default_target: True
    input:
        rules.all.input,
    message:
        "All products exist"
"""

INTRO = (
    "Written by tessera-flow: the region, the period and the weights of a run; all other keys have "
    "their default values and may be edited or removed. docs/configuration.md describes every key. "
    "Paths are relative to the folder above this one; start `snakemake` there, or `tessera-flow "
    "run --out` with that folder."
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run.

    Attributes:
        folder: working directory of Snakemake.
    """

    folder: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.folder / "config" / "config.yaml"

    @property
    def exists(self) -> bool:
        """Whether the folder has a configuration and a Snakefile; also true for a clone."""
        return self.config.is_file() and self._has_snakefile

    @property
    def _has_snakefile(self) -> bool:
        return any((self.folder / name).is_file() for name in ("Snakefile", "workflow/Snakefile"))

    def load(self) -> Config:
        """Return the configuration.

        Raises:
            ConfigError: there is none, or it is wrong.
        """
        import yaml

        if not self.exists:
            raise ConfigError(
                f"{self.folder} has no run (config/config.yaml and Snakefile): create one with "
                "tessera-flow init --roi FILE --year 2023 --out FOLDER, or name its folder with "
                "--out."
            )
        check_config_files([self.config])
        try:
            document = yaml.safe_load(self.config.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{self.config} cannot be read as YAML: {error}") from error
        try:
            return load_config(document)
        except ConfigError as error:
            raise ConfigError(f"{self.config}:\n{error}") from error

    def write(self, document: Mapping[str, Any], files: Mapping[str, Path] | None = None) -> None:
        """Write the files of a new run.

        Args:
            document: its values, as in a configuration file.
            files: files to copy, by their paths in the folder.

        Raises:
            ConfigError: the folder has files of another workflow.
            OutputError: a file cannot be written.
        """
        if self.config.exists():
            raise self._of_others()
        self.write_workflow()
        for name, source in (files or {}).items():
            with atomic_output(self.folder / name) as part:
                shutil.copyfile(source, part)
        # Last: a run whose configuration exists is complete.
        write_text(self.config, config_text(document, INTRO))

    def write_workflow(self) -> None:
        """Write the Snakefile, and the profiles that do not exist yet.

        Raises:
            ConfigError: the folder has the Snakefile of another workflow.
            OutputError: a file cannot be written.
        """
        snakefile = self.folder / "Snakefile"
        ours = snakefile.is_file() and snakefile.read_text(encoding="utf-8") == SNAKEFILE
        if self._has_snakefile and not ours:
            raise self._of_others()
        check_folder(self.folder)
        if not ours:
            write_text(snakefile, SNAKEFILE)
        for name in PROFILES:
            target = self.folder / "profiles" / name / "config.yaml"
            if not target.exists():
                source = workflow_folder() / "profiles" / name / "config.yaml"
                write_text(target, source.read_text(encoding="utf-8"))

    def _of_others(self) -> ConfigError:
        return ConfigError(
            f"{self.folder} has files of another workflow (Snakefile or config/config.yaml): name "
            "an empty or new folder with --out."
        )

    def profile(self, name: str) -> str:
        """Return the path of a profile of this folder, else the name for Snakemake to look up."""
        for path in (Path(name), Path("profiles") / name):
            if (self.folder / path).exists():
                return str(path)
        return name

    def check_executor(self, profile: str) -> None:
        """Refuse a profile whose executor is a plugin of Snakemake that is not installed.

        Raises:
            ConfigError: with the command that installs it.
        """
        path = self.folder / self.profile(profile)
        document: Any = None
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # Snakemake states them
            file = path / "config.yaml" if path.is_dir() else path
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
        name = document.get("executor") if isinstance(document, dict) else None
        if not isinstance(name, str) or name in _OWN_EXECUTORS:
            return
        plugin = f"snakemake-executor-plugin-{name}"
        if find_spec(plugin.replace("-", "_")) is None:
            how = f"pip install {plugin}"
            if name == "slurm":
                how = "make slurm-plugin (in a clone), or pip install 'tessera-flow[slurm]'"
            raise ConfigError(f"Profile {profile} needs {plugin}, which is not installed: {how}.")

    def roi_text(self, path: Path) -> str:
        """Return the path of a region file as its configuration has it: relative if it is in the
        folder, else absolute."""
        absolute, folder = path.absolute(), self.folder.absolute()
        inside = absolute.is_relative_to(folder)
        text = str(absolute.relative_to(folder) if inside else absolute)
        return text.replace("$", "$$")


def region_name(path: Path) -> str:
    """Return the name of a region from its file: characters that are not allowed become `_`."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_-")
    return name if NAME_PATTERN.fullmatch(name) else "region"


def check_equal(run: RunFolder, present: Config, requested: Config, given: set[str]) -> None:
    """Refuse values that differ from those of an existing run, which is never overwritten.

    Args:
        run: the folder.
        present: its configuration.
        requested: configuration of the command line.
        given: what the command line has: `roi`, `layer`, `sites`, `crs`, `period`,
            `weights`.

    Raises:
        ConfigError: they differ; names both values.
    """
    values: dict[str, Callable[[Config], list[str]]] = {
        "roi": lambda c: sorted(_region_text(run, region) for region in c.regions.values()),
        "layer": lambda c: sorted({r.layer or "(none)" for r in c.regions.values()}),
        "sites": lambda c: [_path_text(run, c.sites.table or "none")],
        "crs": lambda c: [c.sites.crs or "EPSG:4326"],
        "period": lambda c: sorted(f"{p.start} to {p.end}" for p in c.periods.values()),
        "weights": lambda c: [_path_text(run, str(c.model.weights))],
    }
    for name, value in values.items():
        old, new = value(present), value(requested)
        if name in given and old != new:
            raise ConfigError(
                f"{run.config} has the {name} {', '.join(old)}, but the command line has "
                f"{', '.join(new)}: edit the file and leave the option out, or name another folder "
                "with --out."
            )


def _region_text(run: RunFolder, region: Region) -> str:
    if not isinstance(region.roi, str):
        return f"box {region.roi}"
    layer = f" (layer {region.layer})" if region.layer else ""
    return _path_text(run, region.roi) + layer


def _path_text(run: RunFolder, text: str) -> str:
    """Return a path without `..`, absolute; other text (a published name) unchanged."""
    path = run.folder.absolute() / text
    return str(path.resolve()) if path.exists() else text
