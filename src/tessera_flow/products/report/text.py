"""What the report says in words, and how it looks."""

from __future__ import annotations

from collections.abc import Sequence

from ...geotessera.manifest import StoreManifest
from ...scenes.manifest import Manifest
from ..provenance import Provenance, pixel_text

CITATIONS = (
    "Feng et al. (2025). TESSERA: Temporal Embeddings of Surface Spectra for Earth Representation "
    "and Analysis. arXiv:2506.20380.",
    "Contains modified Copernicus Sentinel data, processed by tessera-flow.",
    "Mölder et al. (2021). Sustainable data analysis with Snakemake. F1000Research 10:33.",
)

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1080px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em}h2{font-size:1.2em;border-bottom:1px solid #ccc;margin-top:2em}
h3{font-size:1em;margin:1em 0 .3em}
table{border-collapse:collapse;margin:.5em 0}th,td{border-bottom:1px solid #ddd;padding:.25em .8em;
text-align:left;vertical-align:top}th{color:#555;font-weight:600}
.wide td{white-space:nowrap}.wide td:last-child{white-space:normal;overflow-wrap:anywhere}
pre{background:#f4f4f4;padding:.7em;overflow-x:auto;font-size:13px}
figure{margin:.5em 0}figcaption{color:#555;font-size:.9em;max-width:46em}
img{max-width:100%;max-height:560px;image-rendering:pixelated;background:#eee}
img{min-width:min(100%,320px)}.map{width:100%;max-height:330px;object-fit:contain}
.row{display:flex;flex-wrap:wrap;gap:1.5em}.row figure{flex:1 1 300px;min-width:0}
svg{display:block;margin:.4em 0;max-width:100%}svg text{font-size:10px;fill:#444}
svg line{stroke:#999}.chart{width:420px}.legend{width:220px}
.blocks{max-height:420px;max-width:600px}.blocks image{image-rendering:pixelated}
.blocks rect{fill-opacity:.25}
.blocks .full{fill-opacity:0}
.s0{fill:#3b528b}.s1{fill:#d98032}.s2{fill:#5ec962}
.full{fill:#2f8f5b;stroke:#2f8f5b;background:#2f8f5b}
.part{fill:#e0a030;stroke:#e0a030;background:#e0a030}
.none{fill:#c0504d;stroke:#c0504d;background:#c0504d}
.hole{fill:#7b2d8b;stroke:#7b2d8b;background:#7b2d8b}
.outside{background:#e4e4e4}.inside{background:#fff;outline:1px solid #999}
.embedded{background:#506070}
.key{display:inline-block;width:.9em;height:.9em;margin-left:.6em;vertical-align:-.1em}
.good{color:#1d6b41;font-weight:600}.bad{color:#a4211c;font-weight:600}
"""


def methods(
    provenance: Provenance, manifests: Sequence[Manifest], store: StoreManifest | None = None
) -> str:
    """A paragraph for a paper: what was done, with the numbers of this region and period."""
    if store is not None:
        return _methods_of_store(provenance, store)
    model = provenance.model
    if manifests:
        sources = {source.sensor: source for source in provenance.sources}
        names = {"sentinel2": "Sentinel-2 L2A", "sentinel1": "Sentinel-1 RTC"}
        used = " and ".join(
            f"{len(m.items)} {names[m.sensor]} scenes ({sources[m.sensor].provider}, "
            f"{sources[m.sensor].collection})"
            for m in manifests
        )
    else:
        used = "time series in reference tile folders"
    height, width = provenance.shape
    least = provenance.min_observations
    stored = (
        "quantised to int8 with one float32 scale per pixel"
        if model.dtype == "int8"
        else "stored as float32"
    )
    return (
        f"Pixel embeddings of {provenance.period_start} to {provenance.period_end} were computed "
        f"with tessera-flow {provenance.software['tessera-flow']} from {used}, on a grid of "
        f"{width} x {height} pixels of {pixel_text(provenance.crs, provenance.transform[0])} in "
        f"{provenance.crs}. Time series followed the {provenance.preprocessing} arithmetic of the "
        f"TESSERA preprocessing (Feng et al., 2025). The encoder was {model.name} "
        f"({model.family}; weights SHA-256 {model.sha256}); {model.dim} dimensions were kept and "
        f"{stored}. Pixels needed at least {least['s2']} valid Sentinel-2 and {least['s1']} "
        "Sentinel-1 steps."
    )


def _methods_of_store(provenance: Provenance, store: StoreManifest) -> str:
    model = provenance.model
    height, width = provenance.shape
    nearest = provenance.sources[0].resampled
    pixels = (
        f"pixels of {nearest} tiles, which lie on other grids, were resampled by nearest neighbour "
        "and all others copied"
        if nearest
        else "pixels were copied without resampling"
    )
    weights = f" (weights SHA-256 {model.sha256})" if model.sha256 else ""
    stored = (
        "int8 codes with one float32 scale per pixel"
        if model.dtype == "int8"
        else "float32, the products of codes and scales"
    )
    return (
        f"Published pixel embeddings of {store.year} ({model.dim} dimensions, {model.family} "
        f"{model.name}{weights}; Feng et al., 2025) were taken from {store.location} (dataset "
        f"{store.version}) with geotessera {store.client} and tessera-flow "
        f"{provenance.software['tessera-flow']}: {len(store.tiles)} tiles, on a grid of {width} x "
        f"{height} pixels of {pixel_text(provenance.crs, provenance.transform[0])} in "
        f"{provenance.crs}; {pixels}. "
        f"They are stored as {stored}. The store does not tell the scenes and the number of "
        "observations that they were made from."
    )


def opening(provenance: Provenance) -> list[tuple[str, str]]:
    """(product, how it is opened), for every product."""
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
        ("vrt", "In QGIS, or: rasterio.open('embeddings.vrt').read([1, 2, 3])  # dequantised"),
        ("stac", "import pystac\n\nitem = pystac.Item.from_file('item.json')"),
        (
            "geotessera",
            "from geotessera import GeoTessera\n\n"
            'client = GeoTessera(dataset_version="v1", embeddings_dir="geotessera",\n'
            '                    registry_dir="geotessera")',
        ),
        ("tiles", "tessera-flow embed --weights CHECKPOINT --tiles tiles --out embeddings"),
    ]
