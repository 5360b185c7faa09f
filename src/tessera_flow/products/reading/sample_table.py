"""Sample one or several stores at points or in polygons, and write the result as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...errors import RegionError
from ..tables.geopackage import geometries, write_geopackage
from ..tables.points import Points, Polygons, write_table
from .find import PeriodStore
from .polygons import average_store
from .sample import INSIDE, OUTSIDE, append_columns, sample_store


@dataclass(frozen=True)
class SampleTable:
    """The result.

    Attributes:
        table: a row for each feature, store by store.
        complete: rows whose state is `ok`.
        rows: what a row is, in plural.
    """

    table: pa.Table
    complete: int
    rows: str


def sample_table(stores: Sequence[PeriodStore], features: Points | Polygons) -> SampleTable:
    """Sample the stores; of several stores, each row has the columns `region` and `period`.

    Raises:
        RegionError: all features are outside all stores, or have a column that is added.
        TileError: a store is damaged.
    """
    several = len(stores) > 1
    tables, states = [], []
    for store in stores:
        table = features.table
        if several:
            names = zip(("region", "period"), store.labels, strict=True)
            rows = table.num_rows
            table = append_columns(
                table, {name: np.full(rows, label) for name, label in names}, "features"
            )
        if isinstance(features, Polygons):
            means = average_store(store.group, features, not several, store.time)
            tables.append(means.columns_after(table))
            states.append(means.state)
        else:
            sample = sample_store(store.group, features, not several, store.time)
            tables.append(sample.columns_after(table))
            states.append(sample.state)
    state = np.concatenate(states)
    if several and len(state) and (state == OUTSIDE).all():
        raise RegionError(
            f"No feature is in any of the {len(stores)} products: check the CRS and the order of "
            "the coordinates."
        )
    kind = "polygons" if isinstance(features, Polygons) else "points"
    # Counts and origin are known of some stores only: empty in the rows of others.
    table = pa.concat_tables(tables, promote_options="default")
    return SampleTable(table, int((state == INSIDE).sum()), kind)


def write_sample(path: Path, result: SampleTable, features: Points | Polygons) -> None:
    """Write a result as Parquet, CSV or, with the geometries, GeoPackage.

    Raises:
        OutputError: the file cannot be written.
    """
    if path.suffix.lower() != ".gpkg":
        write_table(path, result.table)
        return
    geometry = geometries(features)
    copies = result.table.num_rows // max(1, len(geometry))
    write_geopackage(path, result.table, np.tile(geometry, copies), features.crs)
