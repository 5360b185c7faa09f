"""What is particular to each archive of scenes: one small class holds all of it."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError
from .base import HTTP_OPTIONS, GdalOption, Provider, processing_baseline
from .earth_search import EarthSearch
from .mpc import Mpc
from .opera import Opera

__all__ = [
    "HTTP_OPTIONS",
    "PROVIDERS",
    "EarthSearch",
    "GdalOption",
    "Mpc",
    "Opera",
    "Provider",
    "processing_baseline",
    "provider",
]

PROVIDERS: Mapping[str, Provider] = {found.name: found for found in (Mpc(), EarthSearch(), Opera())}


def provider(kind: str, imitates: str) -> Provider:
    """The particulars that apply to a source of `kind` (for `local`: of what it imitates).

    Raises:
        ConfigError: there is no such provider.
    """
    key = imitates if kind == "local" else kind
    if key not in PROVIDERS:
        raise ConfigError(
            f"There is no provider {key!r}; known are {', '.join(PROVIDERS)}: choose one of these."
        )
    return PROVIDERS[key]
