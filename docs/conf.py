"""The documentation as a site: `bash scripts/docs.sh` writes docs/_build/html."""

from nemo_mm_align import __version__

project, author, release = "nemo_mm_align", "the authors of nemo_mm_align", __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 4
# Files of the repository that are no pages; tests/unit/test_documentation.py holds that every link leads somewhere.
suppress_warnings = ["myst.xref_missing"]
html_theme = "furo"
html_title = f"nemo_mm_align {release}"
