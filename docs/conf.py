"""Sphinx configuration: the pages are MyST Markdown; `make docs` builds them."""

project = "tessera-flow"
author = "tessera-flow contributors"
copyright = author
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
# GitHub's rule for the anchors of headings, so that links work there and here.
myst_heading_anchors = 4
html_theme = "alabaster"
html_static_path = ["_static"]  # alabaster loads custom.css
html_theme_options = {"page_width": "1100px", "description": "10 m maps of TESSERA embeddings"}
