"""Texts of the report: the methods paragraph, the citations and how to open the products."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...geotessera.manifest import StoreManifest
from ...scenes.manifest import Manifest
from ..provenance import Provenance, pixel_text
from .summary import BlockRecords, missing_counts

CITATIONS = (
    "Feng et al. (2025). TESSERA: Temporal Embeddings of Surface Spectra for Earth Representation "
    "and Analysis. arXiv:2506.20380.",
    "Contains modified Copernicus Sentinel data, processed by tessera-flow.",
    "Mölder et al. (2021). Sustainable data analysis with Snakemake. F1000Research 10:33.",
)

PRODUCT_NAMES = {"sentinel2": "Sentinel-2 L2A", "sentinel1": "Sentinel-1 RTC"}
"""What each sensor's scenes are called in a text."""


def methods(
    provenance: Provenance,
    manifests: Sequence[Manifest],
    records: BlockRecords,
    skipped: int = 0,
    rate: int = 1,
    store: StoreManifest | None = None,
    fill: Mapping[str, Any] | None = None,
) -> list[str]:
    """Describe how the embeddings were made, as paragraphs for a paper.

    Args:
        provenance: of the products.
        manifests: the lists of scenes; none for tile folders and published embeddings.
        records: attributes of the block files.
        skipped: number of blocks without embeddings because they failed.
        rate: every `rate`-th pixel was kept (`grid.downsample_rate`).
        store: the tiles of published embeddings.
        fill: of the results of the checks, if holes of published embeddings were computed.
    """
    if store is not None and provenance.fill is None:
        return [
            _join(_published(provenance, store), _skipped_blocks(skipped)),
            *_warnings(provenance),
        ]
    if not manifests:
        made = _join(_tile_folders(provenance), _skipped_blocks(skipped))
        encoder = _join(_encoder(provenance, records), _minimum(provenance))
        return [made, *_warnings(provenance), encoder]
    made = _join(
        _scenes(provenance, manifests, records),
        _omissions(manifests, records),
        _skipped_blocks(skipped),
    )
    preprocessing = _join(*_preprocessing(provenance, manifests, rate))
    encoder = _join(_encoder(provenance, records), _minimum(provenance))
    if store is not None:
        made = _join(_filled(provenance, store, fill), made)
    return [made, *_warnings(provenance), preprocessing, encoder]


def _join(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def _enumerate(parts: Iterable[str]) -> str:
    """`a`, `a and b` or `a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _grid(provenance: Provenance) -> str:
    height, width = provenance.shape
    pixel = pixel_text(provenance.crs, provenance.transform[0])
    return f"a grid of {width} x {height} pixels of {pixel} in {provenance.crs}"


def _computed(provenance: Provenance) -> str:
    return (
        f"Pixel embeddings for {provenance.period_start} to {provenance.period_end} were computed "
        f"with tessera-flow {provenance.software['tessera-flow']}"
    )


def _filled(provenance: Provenance, store: StoreManifest, fill: Mapping[str, Any] | None) -> str:
    """State which embeddings are published, and how it is known that the model is the same."""
    numbers, agreement = "", ""
    if fill is not None:
        numbers = f" ({fill['published']:,} pixels)"
        if fill["agreement"]["pairs"]:
            agreement = (
                f" Published and computed embeddings of the same {fill['agreement']['pairs']:,} "
                f"pixels have a mean cosine of {fill['agreement']['mean']:.4f}; "
                f"{fill['agreement']['equal_codes_percent']:.1f} % of their codes are equal."
            )
    known = "whose weights have the SHA-256 that the store states"
    if provenance.fill is None or provenance.fill.same_model != "sha256":
        known = "of which it was assumed, not proven, that it is that of the store"
    return (
        f"Where they exist{numbers}, published pixel embeddings of {store.year} were taken from "
        f"{store.location} (dataset {store.dataset}); the others were computed with a model "
        f"{known}.{agreement} Of the computed ones:"
    )


def _scenes(provenance: Provenance, manifests: Sequence[Manifest], records: BlockRecords) -> str:
    sources = {source.sensor: source for source in provenance.sources}
    used = []
    for manifest in manifests:
        source = sources[manifest.sensor]
        left_out, _ = missing_counts(records.missing, manifest.sensor)
        number = str(len(manifest.items) - left_out)
        name = PRODUCT_NAMES[manifest.sensor]
        used.append(f"{number} {name} scenes ({source.provider}, {source.collection})")
    return f"{_computed(provenance)} from {_enumerate(used)}, on {_grid(provenance)}."


def _omissions(manifests: Sequence[Manifest], records: BlockRecords) -> str:
    """Say how many scenes were found, listed, left out and replaced, by sensor."""
    sentences = []
    for manifest in manifests:
        listed, excluded = len(manifest.items), len(manifest.left_out)
        left_out, replaced = missing_counts(records.missing, manifest.sensor)
        name = PRODUCT_NAMES[manifest.sensor]
        text = f"Of {_count(listed + excluded, f'{name} scene')} found, {excluded}"
        text += f" {'was' if excluded == 1 else 'were'} excluded before download"
        if left_out:
            text += (
                f"; {left_out} of the {listed} listed {'was' if left_out == 1 else 'were'} missing "
                "or corrupt at the archive and left out of one or more blocks"
            )
        if replaced:
            text += (
                f"; {replaced} {'was' if replaced == 1 else 'were'} replaced by a duplicate "
                "acquisition in one or more blocks"
            )
        if excluded or left_out or replaced:
            sentences.append(f"{text}.")
    return _join(*sentences) or "All scenes found were used."


def _warnings(provenance: Provenance) -> list[str]:
    if not provenance.warnings:
        return []
    return [_join(f"Warnings about {warnings_about(provenance)}:", *provenance.warnings)]


def warnings_about(provenance: Provenance) -> str:
    """Return what the warnings of a product are about."""
    of = {"tiles": "the tile folders", "geotessera": "the published embeddings"}
    if provenance.fill is not None:
        return f"the region, {of['geotessera']} and the scenes"
    providers = [source.provider for source in provenance.sources if source.provider in of]
    return f"the region and {of[providers[0]] if providers else 'the scenes'}"


def _skipped_blocks(skipped: int) -> str:
    if not skipped:
        return ""
    verb = "block failed and contains" if skipped == 1 else "blocks failed and contain"
    return f"{skipped} {verb} no embeddings."


def _preprocessing(provenance: Provenance, manifests: Sequence[Manifest], rate: int) -> list[str]:
    """Describe the preprocessing and its deviations from the published pipeline."""
    optical = next((m for m in manifests if m.sensor == "sentinel2" and m.items), None)
    radar = any(m.sensor == "sentinel1" and m.items for m in manifests)
    corrected = provenance.preprocessing == "corrected"
    sentences = [
        "Time series were prepared as in the published TESSERA pipeline (Feng et al., 2025)"
    ]
    if optical is None:
        sentences[0] += "."
    else:
        mode = (
            "with two known errors corrected"
            if corrected
            else "including its treatment of the radiometric offset and of missing data"
        )
        sentences[0] += f", {mode} (preprocessing: {provenance.preprocessing})."
        sentences.append(_corrected(optical) if corrected else _as_published(optical))
    if optical is None:
        lead = "Deviations from the published pipeline"
    elif corrected:
        lead = "Further deviations from the published pipeline"
    else:
        lead = "The time series still deviate from the published pipeline"
    sentences.append(f"{lead}: {'; '.join(_deviations(optical is not None))}.")
    if radar:
        sentences.append(
            "Sentinel-1 backscatter x (linear gamma0) was converted to integers as published: "
            "(20 log10(x) + 50) * 200, limited to 0 to 32767."
        )
    if rate > 1:
        sentences.append(f"Of the rows and columns, one in {rate} was kept.")
    return sentences


def _offset_count(manifest: Manifest) -> str:
    shifted = sum(item.boa_offset != 0 for item in manifest.items)
    return f"{shifted} of the {_count(len(manifest.items), 'listed scene')}"


def _corrected(manifest: Manifest) -> str:
    return (
        "The Sentinel-2 radiometric offset of 1000, present since processing baseline 04.00, was "
        "subtracted from every scene whose pixels contain it, from any provider "
        f"({_offset_count(manifest)}); 0 (no data) remains 0 and all other values are at least 1. "
        "The published pipeline subtracts it by date, for Planetary Computer only, and can turn "
        "dark pixels into no data. Pixels without data were excluded from resampling, where the "
        "published pipeline averages zeros in at the edges of swaths."
    )


def _as_published(manifest: Manifest) -> str:
    return (
        "The Sentinel-2 radiometric offset of 1000 was subtracted as in the published pipeline: "
        "by date (after 2022-01-25), for Planetary Computer only "
        f"({_offset_count(manifest)}); values below 1000 were not changed and 1000 became 0 (no "
        "data). Zeros of Sentinel-2 files that declare no no-data value took part in the "
        "resampling, as in the published pipeline."
    )


def _deviations(optical: bool) -> list[str]:
    """List what differs from the published pipeline whatever the mode."""
    deviations = []
    if optical:
        deviations += [
            "of duplicate Sentinel-2 acquisitions only the one with the newest processing "
            "baseline was used",
            "where no scene of a day is valid, a pixel takes all bands from the first scene with "
            "data, not from random scenes",
        ]
    return [
        *deviations,
        "scenes of another projection, such as a neighbouring UTM zone, were resampled exactly, so "
        "that values do not depend on the window that is read",
        "a date was dropped from a block only if none of its pixels is valid, without a "
        "threshold of coverage",
        "the last day of the period is included",
    ]


def _tile_folders(provenance: Provenance) -> str:
    return (
        f"{_computed(provenance)} from time series in TESSERA tile folders, on "
        f"{_grid(provenance)}. The time series were prepared before this run: the tile folders "
        "record neither their scenes nor their preprocessing. Their pixels are on this grid."
    )


def _encoder(provenance: Provenance, records: BlockRecords) -> str:
    model = provenance.model
    text = (
        f"The encoder was {model.name} (family {model.family}; weights SHA-256 {model.sha256}), "
        f"run in {_precision(records.inference.precisions)}."
    )
    if records.inference.fallbacks:
        text += (
            f" In {_count(len(records.inference.fallbacks), 'block')} a faster precision exceeded "
            "the tolerance, and float32 replaced it."
        )
    if records.inference.not_compiled:
        reason = next(iter(records.inference.not_compiled.values()))
        text += (
            f" In {_count(len(records.inference.not_compiled), 'block')} the compiler of PyTorch "
            f"was not used although it was requested ({reason})."
        )
    if model.statistics:
        text += f" Inputs were standardised with the statistics for {model.statistics} data."
    if model.family in ("v1.0", "v1.0-qat"):
        text += (
            " The observations of each pixel were sampled at random, by the seed "
            f"({model.seed}) and the position of the pixel"
        )
        text += (
            f"; the embeddings of {model.repeat_times} samples were averaged."
            if model.repeat_times > 1
            else "."
        )
    stored = (
        "quantised to int8 with one float32 scale per pixel"
        if model.dtype == "int8"
        else "stored as float32"
    )
    return f"{text} The first {model.dim} dimensions were {stored}."


def _precision(precisions: Mapping[str | None, int]) -> str:
    """`float32`, or the number of blocks by precision."""
    names = {None: "a precision that is not recorded", "bf16": "bfloat16", "fp16": "float16"}
    counts = sorted(precisions.items(), key=lambda entry: (-entry[1], str(entry[0])))
    if not counts:
        return names[None]
    if len(counts) == 1:
        return names.get(counts[0][0], str(counts[0][0]))
    return _enumerate(
        f"{names.get(name, str(name))} ({_count(number, 'block')})" for name, number in counts
    )


def _minimum(provenance: Provenance) -> str:
    names = {"s2": "Sentinel-2", "s1": "Sentinel-1"}
    minimum = [
        f"at least {_count(number, f'valid {names[sensor]} time step')}"
        for sensor, number in provenance.min_observations.items()
        if number
    ]
    if not minimum:
        return "No minimum number of observations was required of a pixel."
    return f"A pixel has an embedding only if it has {_enumerate(minimum)}."


def _published(provenance: Provenance, store: StoreManifest) -> str:
    model = provenance.model
    nearest = provenance.sources[0].resampled
    pixels = (
        f"pixels of {_count(nearest, store.unit)} on other grids were resampled by nearest "
        "neighbour and all others copied"
        if nearest
        else "pixels were copied without resampling"
    )
    weights = f"weights SHA-256 {model.sha256}" if model.sha256 else "weights not recorded"
    stored = (
        "int8 codes with one float32 scale per pixel"
        if model.dtype == "int8"
        else "float32, the products of codes and scales"
    )
    return (
        f"Published pixel embeddings of {store.year} ({model.dim} dimensions, {model.family} "
        f"{model.name}, {weights}; Feng et al., 2025) were taken from {store.location} (dataset "
        f"{store.dataset}) with tessera-flow {provenance.software['tessera-flow']}: "
        f"{_count(len(store.parts), store.unit)}, on "
        f"{_grid(provenance)}; {pixels}. They are stored as {stored}. Nothing was computed from "
        "satellite scenes in this run: the store records neither the scenes, the preprocessing "
        "nor the number of observations of its embeddings, nor the precision of the inference."
    )


def opening_examples(provenance: Provenance) -> list[tuple[str, str]]:
    """Return (product, code that opens it) for every product."""
    scaled = provenance.model.dtype == "int8"
    vector = "ds.embeddings * ds.scales" if scaled else "ds.embeddings"
    arrays = 'codes = np.load("stitched_representation.npy", mmap_mode="r")\n'
    if scaled:
        arrays += 'scales = np.load("stitched_representation_scales.npy", mmap_mode="r")\n'
        arrays += "pixel = codes[100, 50] * scales[100, 50]"
    else:
        arrays += "pixel = codes[100, 50]"
    return [
        (
            "zarr",
            'import xarray as xr\n\nds = xr.open_zarr("embeddings.zarr")  # lazy\n'
            f"embeddings = {vector}\n\n# points of a table:\n"
            "# tessera-flow sample embeddings.zarr points.csv --out features.parquet",
        ),
        ("arrays", f"import numpy as np\n\n{arrays}"),
        ("preview", "In QGIS: Layer > Add Layer > Add Raster Layer."),
        ("counts", "In QGIS, or: rasterio.open('counts.tif').read(1)  # valid Sentinel-2 steps"),
        (
            "cog",
            "In QGIS: add the raster, then Symbology > Multiband color; a band is a dimension.",
        ),
        (
            "change",
            "In QGIS, or: rasterio.open('change.tif').read(1)  # 1 - cosine",
        ),
        ("origin", "In QGIS, or: rasterio.open('origin.tif').read(1)  # 1 published, 2 computed"),
        ("vrt", "In QGIS, or: rasterio.open('embeddings.vrt').read([1, 2, 3])  # dequantised"),
        ("stac", "import pystac\n\nitem = pystac.Item.from_file('item.json')"),
        (
            "geotessera",
            "from geotessera.store import GeoTesseraZarr  # 0.11, Python 3.12\n\n"
            'client = GeoTesseraZarr("geotessera")\n'
            "vectors = client.sample_points([(lon, lat)], year=client.years[0])",
        ),
        ("tiles", "tessera-flow embed --weights CHECKPOINT --tiles tiles --out embeddings"),
        (
            "maps",
            "In a browser: accuracy, uncertainty and labels of the map.\n"
            "In QGIS: map.tif and uncertainty.tif in the same folder.",
        ),
    ]
