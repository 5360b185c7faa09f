"""Find the workflow: Snakefile, rules, scripts, profiles."""

from __future__ import annotations

from pathlib import Path

from .errors import ConfigError


def workflow_folder() -> Path:
    """Return the folder of the workflow: in the installed package, or beside `src` in a clone.

    Raises:
        ConfigError: the installation has no workflow.
    """
    package = Path(__file__).resolve().parent
    installed = package / "workflow"
    folder = installed if installed.is_dir() else package.parents[1] / "workflow"
    if not (folder / "Snakefile").is_file():
        raise ConfigError(
            f"{folder} has no Snakefile: this installation of tessera-flow is incomplete; install "
            "it again from its wheel or a clone."
        )
    return folder
