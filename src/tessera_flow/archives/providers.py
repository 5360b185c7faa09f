"""List the providers: one class per provider has everything specific to its archive."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError
from .earth_search import EarthSearch
from .mpc import Mpc
from .opera import Opera
from .provider import Provider

PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider for provider in (Mpc(), EarthSearch(), Opera())
}


def find_provider(provider: str, item_format: str) -> Provider:
    """Return the provider named `provider`; for `local`, the provider named `item_format`.

    Raises:
        ConfigError: the provider is unknown.
    """
    name = item_format if provider == "local" else provider
    if name not in PROVIDERS:
        raise ConfigError(f"Unknown provider {name!r}: choose one of {', '.join(PROVIDERS)}.")
    return PROVIDERS[name]
