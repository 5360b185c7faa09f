"""Find products that exist but must be made again: damaged, or made with other settings.

Snakemake knows that a product exists and when it was changed. It does not look into a store, does
not know sizes, and forgets the parameters of every job when its folder `.snakemake` is removed.
Sizes and settings are compared with the records of checksums; contents are not read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ...config.configuration import runs
from ...errors import TesseraFlowError, TileError
from ...products.checksums import TILES, Checksums
from ..files import RunFiles
from ..params import JobParams
from ..product_files import STORES, ProductFiles
from ..sites.files import SiteFiles, SiteParams
from .cubes import cube_faults, cube_warnings, read_cubes

_LISTED = 3


@dataclass(frozen=True)
class FaultyProducts:
    """Products to make again: stores, or records of checksums of files that one rule writes.

    Attributes:
        damaged: what is wrong with each, by path.
        outdated: paths of those made with other settings.
        of_cubes: warnings about the cubes (`cube_warnings`).
    """

    damaged: dict[str, str]
    outdated: list[str]
    of_cubes: list[str]

    @property
    def paths(self) -> list[str]:
        """The paths of all of them."""
        return [*self.damaged, *self.outdated]

    def warnings(self) -> list[str]:
        """Return the warnings about cubes, one about each damaged product, and one about the
        outdated ones."""
        texts = [
            *self.of_cubes,
            *(f"{fault}: it is made again." for fault in self.damaged.values()),
        ]
        if self.outdated:
            more = f" and {len(self.outdated) - 1} more" if self.outdated[1:] else ""
            texts.append(
                f"{self.outdated[0]}{more}: made with other settings than those of this run."
            )
        return texts


def faulty_products(files: RunFiles, params: JobParams) -> FaultyProducts:
    """Return the products that exist but must be made again.

    Products of which a declared file is missing are left to Snakemake.
    """
    products = ProductFiles(files)
    cubes = read_cubes(files)
    damaged = cube_faults(files, cubes)
    outdated: list[str] = []
    for region, period in runs(files.config):
        for name, path in products.records(region, period).items():
            if path in damaged or path in outdated or not Path(path).exists():
                continue
            record = _record(path, name)
            if fault := _damage(record, path):
                damaged[path] = fault
            elif record is not None and record.settings is not None:
                expected = params.of_record(name, region, period)
                if record.settings != json.loads(json.dumps(expected)):
                    outdated.append(path)
    _check_sites(files, params, damaged, outdated)
    return FaultyProducts(damaged, outdated, cube_warnings(files, cubes))


def faulty_now(files: RunFiles) -> tuple[FaultyProducts, list[str]]:
    """Return `faulty_products` for a look at the run, and of each problem a message: a look is
    never refused."""
    try:
        return faulty_products(files, JobParams(files)), []
    except TesseraFlowError as error:
        return FaultyProducts({}, [], []), [f"It is not known which products are complete: {error}"]


def _check_sites(
    files: RunFiles, params: JobParams, damaged: dict[str, str], outdated: list[str]
) -> None:
    """Add the records of the files of sites. Of a file that was changed after its record was
    written, the content is compared, too."""
    if files.config.sites.table is None:
        return
    sites = SiteFiles(files)
    site_params = SiteParams(files, sites, params)
    for rule, path in sites.records().items():
        if not Path(path).exists():
            continue
        record = _record(path, rule)
        if fault := _damage(record, path) or _altered(record, Path(path)):
            damaged[path] = fault
        elif record is not None and record.settings != json.loads(
            json.dumps(site_params.of_record(rule))
        ):
            outdated.append(path)


def _altered(record: Checksums | None, path: Path) -> str | None:
    if record is None:
        return None
    written = path.stat().st_mtime_ns
    later = [name for name in record.sizes if (record.root / name).stat().st_mtime_ns > written]
    faults = list(record.only(later).changed_contents())
    return f"{record.root} is damaged: {'; '.join(faults[:_LISTED])}" if faults else None


def _record(path: str, name: str) -> Checksums | None:
    """Return the record of a product; None if it is missing or damaged."""
    try:
        if name in STORES:
            return Checksums.of_store(Path(path))
        if name.startswith(f"{TILES}/"):
            return Checksums.of_tiles(Path(path))
        return Checksums.read(Path(path), Path(path).parent.parent)
    except TileError:
        return None


def _damage(record: Checksums | None, path: str) -> str | None:
    if record is None:
        return f"{path} has no readable record of checksums"
    faults = list(record.changed_sizes())
    if not faults:
        return None
    more = f" and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
    return f"{record.root} is damaged: {'; '.join(faults[:_LISTED])}{more}"
