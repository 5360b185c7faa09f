"""Run a script's one call with a log, a job record, and errors as one message."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Ctrl-C also reaches jobs that still import: it ends them without a traceback.
_show = sys.excepthook
sys.excepthook = lambda kind, *error: kind is KeyboardInterrupt or _show(kind, *error)
# A clone works without installing the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from tessera_flow.block_file import made_from
from tessera_flow.config.configuration import SITES, Config, load_config
from tessera_flow.errors import Stopped, TesseraFlowError
from tessera_flow.jobs.journal import LOG_FORMAT, JobCost, job_log_path, record_job
from tessera_flow.jobs.made_from import block_files, expected_of, record_of_job, settings_hash
from tessera_flow.jobs.resources import rule_name
from tessera_flow.signals import StopRequest, stop_requests


@contextmanager
def job(snakemake: Any) -> Iterator[Config]:
    """Run a job that ends at once on SIGTERM; otherwise as `stoppable_job`."""
    with stoppable_job(snakemake) as (config, *_):
        yield config


@contextmanager
def stoppable_job(snakemake: Any) -> Iterator[tuple[Config, StopRequest, JobCost]]:
    """Yield the configuration, the request to stop that a long job must check, and its cost.

    Messages go to the job's log file, which Snakemake empties before each attempt; the job log
    records the attempt. The package's errors become one line and exit status 1.
    """
    logging.basicConfig(filename=snakemake.log[0], level=logging.INFO, format=LOG_FORMAT)
    try:
        config = load_config(snakemake.config)
        with (
            stop_requests() as stop,
            record_job(*_job(snakemake, config)) as cost,
            made_from(_made_from(snakemake, config)),
        ):
            yield config, stop, cost
    except (TesseraFlowError, Stopped) as error:
        logging.error("%s", error)
        sys.exit(1)
    except Exception:
        logging.exception("internal error in tessera-flow; please report it with this log")
        sys.exit(1)


@contextmanager
def product_job(snakemake: Any) -> Iterator[Config]:
    """Run a job that writes product files, and then their record, `output.checksums`."""
    from tessera_flow.products.checksums import record_files

    with job(snakemake) as config:
        yield config
        files = dict(snakemake.output.items())
        record = Path(files.pop("checksums"))
        record_files(record, map(Path, files.values()), snakemake.params.get("settings"))


def _made_from(snakemake: Any, config: Config) -> dict[str, str]:
    names = dict(snakemake.wildcards.items())
    return record_of_job(config, rule_name(snakemake.rule), names, snakemake.input)


def _job(snakemake: Any, config: Config) -> tuple[Path, str, int, str]:
    """Return the job log, the name of the job in it, the attempt, and the hash of its settings."""
    names = dict(snakemake.wildcards.items())
    block = [names.pop(key) for key in ("region", "period", "block") if key in names]
    if "cell" in names:
        block = [SITES, names.pop("days"), names.pop("cell")]
    label = " ".join([rule_name(snakemake.rule), *names.values()])
    attempt = snakemake.resources.get("attempt", 1)
    path = job_log_path(config.paths.work, *block)
    return path, label, attempt, settings_hash(snakemake.params.get("settings"))


def blocks_of(snakemake: Any, config: Config, period: str, paths: Any) -> dict[str, Path]:
    """Return the checked files of a period of the job's region, by block."""
    expected_of(config, snakemake.wildcards.region, period).check(block_files(paths))
    return {Path(path).stem: Path(path) for path in paths}


def stitch_inputs(snakemake: Any, config: Config, blocks: bool = True) -> dict[str, Any]:
    """Return grid, provenance and, if requested, blocks for a product writer."""
    from tessera_flow.products.inputs import product_inputs

    names = snakemake.wildcards
    given = blocks_of(snakemake, config, names.period, snakemake.input.blocks) if blocks else {}
    inputs = product_inputs(
        *(config, names.region, names.period),
        blocks=given.values(),
        weights=Path(snakemake.input.weights) if snakemake.input.get("weights") else None,
        manifests=[Path(path) for path in snakemake.input.manifests],
        tile_blocks=[Path(path) for path in snakemake.input.tile_blocks],
    )
    return {name: value for name, value in inputs.items() if blocks or name != "blocks"}
