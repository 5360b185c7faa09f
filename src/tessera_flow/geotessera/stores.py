"""Where published embeddings are: a local folder, a URL, or the public Zarr stores."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..config.configuration import Config
from ..config.locations import store_location
from ..config.path_text import url_with_variables
from ..errors import ConfigError
from ..raster.retry import RetryPolicy
from ..urls import absolute_location, is_url, public_href

PUBLIC_ROOT = (
    "https://s3.us-west-2.amazonaws.com/us-west-2.opendata.source.coop/tessera/tessera/zarr"
)
"""The bucket of Source Cooperative (https://source.coop/tessera/tessera), read without its gateway,
as the geotessera client does: the gateway drops requests of large reads."""

PUBLIC: dict[tuple[str, str], str] = {
    ("v1.1", "dclimate"): "v1.1-dclimate",
    ("v1.1", "cambridge"): "v1.1",
    ("v1", "vultr"): "v1",
    ("v2", "2B-L~beta1"): "v2-2B-L~beta1",
    ("v2", "2B-L~beta2"): "v2-2B-L~beta2",
}
"""Folder of each public Zarr store by version and variant, as of geotessera 0.11. The first of a
version is its default."""

DEFAULT_VERSION = "v1.1"


@dataclass(frozen=True)
class Store:
    """A store of published embeddings.

    Attributes:
        location: absolute path of a folder, or URL, which may contain a secret.
        version: version of the dataset, such as `v1.1`; None if it is what the store says.
        variant: its variant, if known.
        policy: of requests to a URL.
    """

    location: str = field(repr=False)
    version: str | None = None
    variant: str | None = None
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    @property
    def is_remote(self) -> bool:
        """Whether it is a URL."""
        return is_url(self.location)

    @property
    def folder(self) -> Path:
        """Its folder, if it is not remote."""
        return Path(self.location)

    def __str__(self) -> str:
        return public_href(self.location)


def configured_store(config: Config, region: str, period: str) -> Store:
    """Return the store of a region and period in the configuration.

    Raises:
        ConfigError: a public store of this version and variant is not known, or a variable in a
            URL is not set.
    """
    location = store_location(config, region, period)
    settings, download = config.geotessera, config.download
    policy = RetryPolicy(download.attempts, download.timeout, download.deadline)
    version = None if settings.version is None else normal_version(settings.version)
    if location is None:
        version, variant, url = public_store(version or DEFAULT_VERSION, settings.variant)
        return Store(url, version, variant, policy)
    try:
        location = url_with_variables(absolute_location(os.path.expanduser(location)))
    except ValueError as error:
        raise ConfigError(f"geotessera.location: {error}: set it, and run again.") from None
    return Store(location, version, settings.variant, policy)


def public_store(version: str, variant: str | None) -> tuple[str, str, str]:
    """Return version, variant and URL of a public store.

    Raises:
        ConfigError: none is known.
    """
    for (known, name), folder in PUBLIC.items():
        if known == version and variant in (None, name):
            return known, name, f"{PUBLIC_ROOT}/{folder}"
    names = ", ".join(f"{known} {name}" for known, name in PUBLIC)
    requested = " ".join(filter(None, (version, variant)))
    raise ConfigError(
        f"No public Zarr store is known of {requested} (geotessera.version and "
        f"geotessera.variant); known are {names}: choose one of them, or set "
        "geotessera.location to the URL or folder of the store."
    )


def normal_version(version: str) -> str:
    """Return `v1` for `1`, `v1`, `1.0` and `v1.0`; `v1.1` for `1.1` and `v1.1`."""
    number = version.strip().removeprefix("v")
    return "v" + (number.removesuffix(".0") if number.count(".") == 1 else number)
