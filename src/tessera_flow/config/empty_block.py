"""Apply `download.on_empty_block`."""

from __future__ import annotations

import logging
from typing import Literal

from ..errors import TesseraFlowError

log = logging.getLogger(__name__)

OnEmptyBlock = Literal["fail", "nodata"]


def handle_empty(
    on_empty_block: OnEmptyBlock,
    message: str,
    advice: str,
    error: type[TesseraFlowError],
    unit: str = "blocks",
) -> None:
    """Fail, or warn that a block or patch is published without embeddings.

    Args:
        on_empty_block: `download.on_empty_block`.
        message: what is not covered, and by what.
        advice: what to do about it.
        error: raised if `on_empty_block` is `fail`.
        unit: what is published without embeddings.

    Raises:
        TesseraFlowError: `error`.
    """
    if on_empty_block == "nodata":
        log.warning("%s; published without embeddings (download.on_empty_block: nodata).", message)
        return
    raise error(
        f"{message}: {advice}, or set download.on_empty_block: nodata to publish such {unit} "
        "without embeddings."
    )
