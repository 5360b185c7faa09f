"""`tessera-flow run`, `init`, `plan` and `status`: a run from a region and a year."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from .run_request import add_arguments, prepared, run_folder_of

if TYPE_CHECKING:
    from ..config.configuration import Config
    from ..jobs.plan.simulate import Limits
    from .run_folder import RunFolder

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_LOOKS = {
    "--unlock", "--dag", "--rulegraph", "--filegraph", "--d3dag", "--summary", "-S",
    "--detailed-summary", "-D", "--list", "--list-rules", "-l", "--list-target-rules", "--lt",
    "--list-changes", "--list-untracked", "--lint", "--version", "-v", "--help", "-h",
    "--cleanup-metadata", "--cleanup-shadow", "--delete-all-output", "--delete-temp-output",
    "--report", "--archive", "--touch", "-t", "plan", "status", "lists",
}  # fmt: skip
"""Arguments with which Snakemake makes no products."""
_DRY_RUN = re.compile(r"-[a-zA-Z]*n[a-zA-Z]*|--dry-?run")


def register(subparsers: Subparsers) -> None:
    """Add `run`, `init`, `plan` and `status` to the command line."""
    run = subparsers.add_parser(
        "run",
        help="compute the embeddings of a region and a year",
        description=(
            "Write a configuration into a folder, run the workflow there, show its progress and "
            "print where the products are. Without --roi, continue the run of the folder."
        ),
    )
    add_arguments(run)
    _add_place(run)
    run.add_argument("-n", "--dry-run", action="store_true", help="count the jobs, and run nothing")
    run.add_argument(
        "snakemake", nargs="*", default=[], metavar="-- ARGUMENTS",
        help="arguments for Snakemake, after `--`",
    )  # fmt: skip
    run.set_defaults(func=_run, when_interrupted="finished steps are kept; run again to continue")
    for name, function, text in (
        ("init", _init, "write the configuration of a run, and run nothing"),
        ("plan", _plan, "estimate jobs, gigabytes and hours of a run"),
        ("status", _status, "show the progress of a run, and its failures"),
    ):
        parser = subparsers.add_parser(name, help=text, description=_sentence(text))
        add_arguments(parser, new=name != "status")
        if name == "plan":
            _add_place(parser)
        parser.set_defaults(func=function)


def _add_place(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where jobs run."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--cores", default=None, metavar="N",
        help="number of cores on this machine, or all (default: all)",
    )  # fmt: skip
    where.add_argument(
        "--profile", default=None, metavar="NAME",
        help="Snakemake profile: local, slurm, generic, or the path of another",
    )  # fmt: skip


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _init(arguments: argparse.Namespace) -> int:
    folder = prepared(arguments)
    print(f"{folder.config}: edit it if you like.")
    print(f"Then: tessera-flow plan{_out(arguments)}, and tessera-flow run{_out(arguments)}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from ..config.unused import unused_settings
    from ..jobs.files import RunFiles
    from ..jobs.plan.text import write_estimate
    from ..region.blocks import region_warnings

    run = prepared(arguments)
    limits = _limits(arguments, run, run.load().jobs.concurrent_jobs)
    config = _entered(run)
    folder = RunFiles(config).estimate_folder
    for text in [*unused_settings(config), *region_warnings(config)]:
        print(f"WARNING: {text}", file=sys.stderr)
    print(write_estimate(config, Path(folder), limits))
    print(f"Written to {arguments.out / folder}, with maps and GeoJSON files of the blocks.")
    return 0


def _limits(arguments: argparse.Namespace, run: RunFolder, assumed_jobs: int | None) -> Limits:
    """Return what will limit `tessera-flow run` with the same options."""
    from ..jobs.plan.limits import of_cluster, of_machine, of_profile

    if arguments.profile is not None:
        return of_profile(run.folder / run.profile(arguments.profile))
    if arguments.cores is None and assumed_jobs is not None:
        return of_cluster(assumed_jobs)
    return of_machine(arguments.cores)


def _status(arguments: argparse.Namespace) -> int:
    from ..jobs.files import RunFiles
    from ..jobs.state.status import status
    from .run_folder import RunFolder

    print(status(RunFiles(_entered(RunFolder(run_folder_of(arguments))))), end="")
    return 0


def _entered(run: RunFolder) -> Config:
    """Return the configuration of a run, whose folder becomes the working directory."""
    config = run.load()
    os.chdir(run.folder)
    return config


def _run(arguments: argparse.Namespace) -> int:
    """Run Snakemake; return its exit status, or 130 after Ctrl-C."""
    from ..jobs.plan.limits import cores_of

    extra = list(arguments.snakemake)
    check_snakemake_arguments(extra)
    cores_of(arguments.cores)  # Snakemake's own message names no option
    run = prepared(arguments)
    config = run.load()
    if arguments.profile is not None:
        run.check_executor(arguments.profile)
        where = ["--profile", run.profile(arguments.profile)]
    elif any(word.split("=")[0] in ("--cores", "-c", "--profile") for word in extra):
        where = []
    else:
        where = ["--cores", arguments.cores or "all"]
    if arguments.dry_run:
        where.append("--dry-run")
    command = [sys.executable, "-m", "snakemake", "--logger", "tessera-flow", *where, *extra]
    status = _waited_for(command, run.folder, _environment(arguments))
    if status == 0 and "--unlock" in extra:
        print(f"Unlocked. Continue with: tessera-flow run{_out(arguments)}")
        return status
    if status == 0 and makes_products(arguments.dry_run, extra):
        text = products_text(run, config)
        print(text, end="\n" if text else "")
    return status


def makes_products(dry_run: bool, words: Sequence[str]) -> bool:
    """Return whether a run with these arguments for Snakemake can make products."""
    names = {word.split("=")[0] for word in words}
    return not dry_run and not names & _LOOKS and not any(map(_DRY_RUN.fullmatch, words))


def check_snakemake_arguments(words: Sequence[str]) -> None:
    """Refuse arguments for Snakemake that would end in a traceback, or run another folder.

    Raises:
        ConfigError: see the message.
    """
    from ..errors import ConfigError

    for word in words:
        name = word.split("=")[0]
        if name in ("--directory", "-d", "--snakefile", "-s"):
            raise ConfigError(
                f"{name} cannot be used with tessera-flow run, which runs the folder of --out: "
                "name the folder with --out, or start snakemake yourself."
            )
        if name in ("--configfile", "--configfiles"):
            raise ConfigError(
                f"{name} cannot be used with tessera-flow run, which reads config/config.yaml of "
                "the folder of --out: edit that file, or start snakemake yourself, with "
                "--configfile FILE at the end of the command."
            )


def _waited_for(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
    """Run a command; pass on SIGTERM and SIGHUP, and SIGINT if no terminal sends it to both."""
    interrupted = False
    process = subprocess.Popen(command, cwd=folder, env=dict(environment))

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        if not _in_foreground():
            process.send_signal(number)

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    handlers = {signal.SIGINT: note, signal.SIGTERM: pass_on, signal.SIGHUP: pass_on}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if interrupted and status:
        raise KeyboardInterrupt
    return status if status >= 0 else 128 - status


def _in_foreground() -> bool:
    """Return whether Ctrl-C in a terminal interrupts this process and those that it starts."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the environment of Snakemake, which must find this package."""
    from ..jobs.state.status import COMMAND_VARIABLE

    package = Path(__file__).resolve().parents[2]
    paths = [str(package)] if package.name == "src" else []
    given = [str(Path(p).absolute()) for p in os.environ.get("PYTHONPATH", "").split(":") if p]
    paths += [path for path in given if path not in paths]
    words = ["tessera-flow", "run", *shlex.split(_out(arguments))]
    for option in ("cores", "profile"):
        if getattr(arguments, option) is not None:
            words += [f"--{option}", getattr(arguments, option)]
    if arguments.snakemake:
        words += ["--", *arguments.snakemake]
    command = shlex.join(words)
    variables = {**os.environ, COMMAND_VARIABLE: command}
    return {**variables, "PYTHONPATH": ":".join(paths)} if paths else variables


def _out(arguments: argparse.Namespace) -> str:
    return f" --out {shlex.quote(str(arguments.out))}"


def products_text(run: RunFolder, config: Config) -> str:
    """Return where the products of a run are, what to open first and next; empty without any."""
    from ..config.configuration import SITES, runs

    results = run.folder / config.paths.results
    folders = [results / region / period for region, period in runs(config)]
    folders += [results / SITES] if config.sites.table is not None else []
    lines = ["Products:", *(f"  {folder}" for folder in folders if folder.is_dir())]
    reports = [folder / "report.html" for folder in folders]
    first = next((path for path in reports if path.is_file()), None)
    if first is not None:
        lines += [f"Open first: {first}"]
    maps = [
        results / region / period / "maps" / name / "map.html"
        for region, period in runs(config)
        for name in config.maps_of(region, period)
    ]
    lines += [f"Map: {path}" for path in maps if path.is_file()]
    if first is not None:
        lines += [f"Next: tessera-flow info {first.parent}"]
    return "\n".join(lines) if len(lines) > 1 else ""
