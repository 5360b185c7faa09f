"""Write GeoTIFFs and VRTs, which GIS programs open."""
