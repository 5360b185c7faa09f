"""tessera-flow: 10 m maps of TESSERA pixel embeddings from Sentinel-1 and Sentinel-2."""

__version__ = "0.1.0"
