"""What every script does around its one call: a log, and errors as one clear sentence."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A clone works without installing the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from tessera_flow.config import Config, load_config
from tessera_flow.errors import TesseraFlowError


@contextmanager
def job(snakemake: Any) -> Iterator[Config]:
    """Log to the job's log file, which Snakemake empties before each attempt and shows when the
    job fails, and turn the package's errors into one line and exit status 1."""
    logging.basicConfig(
        filename=snakemake.log[0],
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        yield load_config(snakemake.config)
    except TesseraFlowError as error:
        logging.error("%s", error)
        sys.exit(1)
    except Exception:
        logging.exception("a defect of this program; please report it with this log")
        sys.exit(1)


def stitch_inputs(snakemake: Any, config: Config) -> dict[str, Any]:
    """Grid, blocks and provenance for a product writer."""
    from tessera_flow.products.inputs import product_inputs

    return product_inputs(
        config,
        snakemake.wildcards.region,
        snakemake.wildcards.period,
        blocks=[Path(path) for path in snakemake.input.blocks],
        weights=Path(snakemake.input.weights),
        manifests=[Path(path) for path in snakemake.input.manifests],
    )


def product_record(snakemake: Any, config: Config) -> dict[str, Any]:
    """Grid and provenance for a product that is not made from the blocks."""
    from tessera_flow.products.inputs import product_inputs

    inputs = product_inputs(
        config,
        snakemake.wildcards.region,
        snakemake.wildcards.period,
        blocks=[],
        weights=Path(snakemake.input.weights),
        manifests=[Path(path) for path in snakemake.input.manifests],
    )
    return {name: inputs[name] for name in ("grid", "provenance")}
