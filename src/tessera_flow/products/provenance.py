"""Build the provenance record of a product: grid, model, sources, preprocessing, software.

The record contains nothing that differs between two runs of the same configuration with the
same software: no time stamps, no host names, no absolute paths of weights, no tokens.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePath
from typing import Any
from urllib.parse import quote, urlsplit

from pyproj import CRS

from .. import __version__
from ..archives.providers import find_provider
from ..config.configuration import Config
from ..config.fingerprint import content_hash
from ..config.locations import tiles_location
from ..dates import mask_months
from ..errors import RegionError
from ..geotessera import STORE_DIM
from ..geotessera.manifest import StoreManifest, resampled
from ..region.grid import RegionGrid
from ..urls import public_href

_MODEL_PAGE = "https://github.com/ucam-eo/tessera"
_SOFTWARE = ("numpy", "torch", "zarr", "rasterio", "odc-geo", "odc-stac")


@dataclass(frozen=True)
class ModelRecord:
    """The encoder.

    Attributes:
        family: architecture, such as `v2-student`.
        name: published name or file name of the checkpoint.
        sha256: SHA-256 of the checkpoint file, hexadecimal; None for published embeddings
            that do not state it.
        dim: dimensions stored per pixel.
        dtype: `int8` or `float32`.
        url: of the published checkpoint; `urn:sha256:...` for one that is not published.
        statistics: source whose statistics were used, if the family has several sets.
        heads: attention heads (S2, S1) that override the checkpoint's, if any.
        precision: as configured; each block file records the precision used.
        seed: of random draws (v1.0).
        repeat_times: number of draws that are averaged (v1.0).
    """

    family: str
    name: str
    sha256: str | None
    dim: int
    dtype: str
    url: str
    statistics: str | None
    heads: list[int] | None
    precision: str
    seed: int
    repeat_times: int


@dataclass(frozen=True)
class SourceRecord:
    """Scenes of one sensor, or the tile folders or published embeddings used instead.

    Attributes:
        sensor: `sentinel2` or `sentinel1`; `both` for tile folders and published embeddings.
        provider: `mpc`, `earth-search`, `opera` or `local`; `tiles` for tile folders,
            `geotessera` for published embeddings.
        location: service, catalog, file of items, folder of tiles or store, without credentials
            or query.
        collection: STAC collection, or CMR's concept id; empty for tile folders; version and
            year of published embeddings.
        items: number of items in the manifest, if known; for a store, number of UTM zones or tiles.
        resampled: number of these parts of a store that are not aligned with the region's grid and
            were resampled by nearest neighbour. None for other sources.
    """

    sensor: str
    provider: str
    location: str
    collection: str
    items: int | None = None
    resampled: int | None = None

    @property
    def uri(self) -> str:
        """URI of the data: the collection of an API, or the location itself."""
        parts = urlsplit(self.location)
        if self.provider not in ("local", "tiles", "geotessera"):
            return find_provider(self.provider, "").collection_uri(self.location, self.collection)
        if parts.scheme and parts.netloc:
            return self.location
        return self.location if parts.scheme == "file" else f"file:{quote(self.location)}"

    def item_uri(self, name: str) -> str:
        """Return the URI of a scene, tile or zone."""
        if self.provider not in ("local", "tiles", "geotessera"):
            provider = find_provider(self.provider, "")
            return provider.item_uri(self.location, self.collection, name)
        return f"{self.uri}#{quote(name, safe='')}"


@dataclass(frozen=True)
class FillSource:
    """Published embeddings whose holes were computed.

    Attributes:
        dataset: of the published embeddings: version, variant and year.
        same_model: how it is known that they are of the same model: `sha256` of the weights, which
            the store states, or `assumed` by the configuration.
        model: what the store states about its model.
    """

    dataset: str
    same_model: str
    model: dict[str, Any]


@dataclass(frozen=True)
class Provenance:
    """The record of one region and period.

    Attributes:
        region, period: their names in the configuration.
        roi_sha256: SHA-256 of the region's geometry, if known.
        period_start, period_end: first and last day (UTC), both included, ISO 8601.
        crs: `EPSG:n`, or WKT2 for a CRS without a code.
        transform: affine coefficients (a, b, c, d, e, f): x = a*column + b*row + c,
            y = d*column + e*row + f, of pixel corners.
        shape: (height, width) in pixels.
        nodata: value of a pixel without an embedding, per array.
        model, sources: see their types.
        preprocessing: `corrected` or `as_published`; `unknown` for tile folders and published
            embeddings, which are prepared elsewhere.
        min_observations: minimum of valid time steps of a pixel (s2, s1); empty for published
            embeddings.
        software: version by package.
        configuration_sha256: see `config.fingerprint.content_hash`.
        warnings: about the region and its grid (`region.blocks.lasting_warnings`); about the
            scenes, from their lists (`scenes.manifest.Manifest.warnings`); about tile folders,
            from the block files (`products.tile_facts`).
        fill: if holes of published embeddings were computed; `model` is that of the computed ones.
    """

    region: str
    period: str
    roi_sha256: str | None
    period_start: str
    period_end: str
    crs: str
    transform: tuple[float, ...]
    shape: tuple[int, int]
    nodata: dict[str, str]
    model: ModelRecord
    sources: tuple[SourceRecord, ...]
    preprocessing: str
    min_observations: dict[str, int]
    software: dict[str, str]
    configuration_sha256: str
    warnings: tuple[str, ...] = ()
    fill: FillSource | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form (lists and dictionaries of strings and finite numbers)."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.fill is None:
            del document["fill"]
        return document

    def tags(self) -> dict[str, str]:
        """Return the record as metadata of a raster, with the complete JSON under `PROVENANCE`."""
        return {
            "TIFFTAG_SOFTWARE": f"tessera-flow {self.software['tessera-flow']}",
            "PROVENANCE": json.dumps(self.to_json(), sort_keys=True),
        }

    @property
    def counted(self) -> bool:
        """Whether the number of observations of each embedding is known."""
        return all(source.provider != "geotessera" for source in self.sources)

    @property
    def months(self) -> list[str]:
        """The months (`YYYY-MM`) of the bits of masks of months; empty if there are no masks."""
        providers = {source.provider for source in self.sources}
        special = providers & {"tiles", "geotessera"}
        return mask_months(special.pop() if special else "scenes", self.start, self.last)

    @property
    def last(self) -> datetime.date:
        """Last day of the period (UTC)."""
        return datetime.date.fromisoformat(self.period_end)

    @property
    def start(self) -> datetime.date:
        """First day of the period (UTC)."""
        return datetime.date.fromisoformat(self.period_start)


def product_crs(grid: RegionGrid) -> CRS:
    """Return the CRS of the region's products.

    Raises:
        RegionError: the grid has none.
    """
    if grid.product_geobox.crs is None:
        raise RegionError(f"Region {grid.name}: its grid has no CRS; set regions.{grid.name}.crs.")
    return CRS.from_wkt(grid.product_geobox.crs.to_wkt())


def pixel_text(crs: str, width: float) -> str:
    """Return the width of a pixel with its unit, such as `10 m`, for people."""
    unit = CRS.from_user_input(crs).axis_info[0].unit_name
    return f"{abs(width):g} {'m' if unit == 'metre' else unit}"


def crs_code(crs: CRS) -> str | None:
    """Return `AUTHORITY:code` of a CRS, or None if it has none."""
    authority = crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else None


def software_versions() -> dict[str, str]:
    """Return the versions of tessera-flow, Python and the packages that process pixels."""
    versions = {"tessera-flow": __version__, "python": platform.python_version()}
    for name in _SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def build_provenance(
    grid: RegionGrid,
    config: Config,
    region: str,
    period: str,
    weights: Mapping[str, Any] | None,
    *,
    store: StoreManifest | None = None,
    item_counts: Mapping[str, int] | None = None,
    warnings: Iterable[str] = (),
    roi_sha256: str | None = None,
) -> Provenance:
    """Build the record of `region` in `period`.

    Args:
        grid: the region's grid; the record describes its product grid.
        config: the complete configuration.
        region: name of the region in `config`.
        period: name of the period in `config`.
        weights: the weights record: `path`, `sha256`, `family`, and, for published weights,
            `name` and `url`; `dims` if `model.dim` is left out. The file name of the path is
            recorded if there is no name. None if all embeddings are published ones.
        store: the tiles of published embeddings.
        item_counts: number of items in the manifest by sensor, if known.
        warnings: about the region, and about the scenes or the tile folders.
        roi_sha256: SHA-256 of the region's geometry, if known.

    Raises:
        KeyError: no such region, period or key of the weights record.
        RegionError: the grid has no CRS.
        ValueError: neither weights nor a store are given, or both though no holes are filled.
    """
    config = config.for_run(region, period)
    software = software_versions()
    preprocessing, minimum = "unknown", {}
    sources: tuple[SourceRecord, ...]
    fill = None
    if weights is not None and (store is None or config.fills):
        model = model_record(config, weights)
        sources = tuple(_sources(config, region, period, item_counts or {}))
        if store is not None:
            sources = (_store_source(store, grid), *sources)
            fill = FillSource(store.dataset, store.same_model or "assumed", dict(store.model or {}))
        minimum = config.model.min_observations.model_dump()
        if config.reads_scenes:
            preprocessing = config.preprocessing
    elif store is not None and weights is None:
        model, sources = _published_model(config, store), (_store_source(store, grid),)
    else:
        raise ValueError("give either weights or a store")
    geobox = grid.product_geobox
    crs = product_crs(grid)
    days = config.periods[period]
    int8 = config.model.dtype == "int8"
    return Provenance(
        region=region,
        period=period,
        roi_sha256=roi_sha256,
        period_start=days.start.isoformat(),
        period_end=days.end.isoformat(),
        crs=crs_code(crs) or crs.to_wkt(),
        transform=tuple(float(v) for v in list(geobox.affine)[:6]),
        shape=(int(geobox.shape[0]), int(geobox.shape[1])),
        nodata={"embeddings": "0", "scales": "NaN"} if int8 else {"embeddings": "NaN"},
        model=model,
        sources=sources,
        preprocessing=preprocessing,
        min_observations=minimum,
        software=software,
        configuration_sha256=content_hash(config, region, period),
        warnings=tuple(dict.fromkeys(warnings)),
        fill=fill,
    )


def model_record(config: Config, weights: Mapping[str, Any]) -> ModelRecord:
    """Return the record of the encoder; `weights` as in `build_provenance`."""
    sha256 = str(weights["sha256"])
    return ModelRecord(
        family=str(weights["family"]),
        name=str(weights.get("name") or PurePath(weights["path"]).name),
        sha256=sha256,
        dim=config.model.dim or int(weights["dims"][-1]),
        dtype=config.model.dtype,
        url=str(weights.get("url") or f"urn:sha256:{sha256}"),
        statistics=config.model.statistics,
        heads=config.model.heads,
        precision=config.model.precision,
        seed=config.model.seed,
        repeat_times=config.model.repeat_times,
    )


def _published_model(config: Config, store: StoreManifest) -> ModelRecord:
    """Return the model that a store written by tessera-flow states, else the dataset's name."""
    unknown = ModelRecord(
        family="TESSERA",
        name=" ".join(filter(None, ("dataset", store.version, store.variant))),
        sha256=None,
        dim=STORE_DIM,
        dtype=config.model.dtype,
        url=_MODEL_PAGE,
        statistics=None,
        heads=None,
        precision="unknown",
        seed=0,
        repeat_times=1,
    )
    known = {field.name for field in fields(ModelRecord)} - {"dim", "dtype"}
    stated = {key: value for key, value in (store.model or {}).items() if key in known}
    return replace(unknown, **stated)


def _store_source(store: StoreManifest, grid: RegionGrid) -> SourceRecord:
    return SourceRecord(
        sensor="both",
        provider="geotessera",
        location=public_href(store.location),
        collection=store.dataset,
        items=len(store.parts),
        resampled=resampled(store.parts, grid),
    )


def _sources(
    config: Config, region: str, period: str, item_counts: Mapping[str, int]
) -> list[SourceRecord]:
    if config.source == "tiles":
        return [SourceRecord("both", "tiles", tiles_location(config, region, period), "")]
    return scene_sources(config, item_counts)


def scene_sources(config: Config, item_counts: Mapping[str, int]) -> list[SourceRecord]:
    """Return the records of the sensors in use; `item_counts` as in `build_provenance`."""
    records = []
    for sensor, source in (("sentinel2", config.sentinel2), ("sentinel1", config.sentinel1)):
        if source.enabled:
            provider = find_provider(source.provider, source.item_format)
            location = source.location or provider.endpoint
            records.append(
                SourceRecord(
                    sensor=sensor,
                    provider=source.provider,
                    location=public_href(location),
                    collection=source.collection or provider.collection(source.provider, sensor),
                    items=item_counts.get(sensor),
                )
            )
    return records
