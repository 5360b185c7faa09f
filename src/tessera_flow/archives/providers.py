"""Name the providers: one small class holds all that is particular to an archive."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError
from .earth_search import EarthSearch
from .mpc import Mpc
from .opera import Opera
from .provider import Provider

PROVIDERS: Mapping[str, Provider] = {found.name: found for found in (Mpc(), EarthSearch(), Opera())}


def find_provider(kind: str, item_format: str) -> Provider:
    """Return the provider of a source of `kind` (for `local`: of what it imitates).

    Raises:
        ConfigError: there is no such provider.
    """
    key = item_format if kind == "local" else kind
    if key not in PROVIDERS:
        raise ConfigError(
            f"There is no provider {key!r}; known are {', '.join(PROVIDERS)}: choose one of these."
        )
    return PROVIDERS[key]
