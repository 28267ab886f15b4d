"""The site: README.md, docs/*.md and the docstrings, by Sphinx. Its source folder is the repository's root, so that
every page lies where its links expect it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = html_title = "Sparring"
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/results/*.md",
    "website/api/*.rst",
]
exclude_patterns = [".*", "build", "dist", "runs", "site"]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "website.docstrings",  # before napoleon, which reads what it leaves
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.mermaid",
    "website.navigation",
    "website.links",
    "website.tour",
]
suppress_warnings = [
    "myst.header",  # the generated tables of settings have headings of the third level
    "myst.xref_missing",  # it knows no anchor <a id="...">; website/links.py checks every link of the built pages
]

# Where files that the site does not hold are looked up, such as https://HOST/OWNER/sparring: see website/links.py.
repository = os.environ.get("REPOSITORY", "")
navigation = {
    "Start": ["docs/tour"],
    "Train": ["docs/methods", "docs/data", "docs/extending"],
    "Evaluate": ["docs/evaluation", "docs/report"],
    "Scale out": ["docs/scaling", "docs/cluster"],
    "Operate": ["docs/operations", "docs/dashboards", "docs/metrics", "docs/reliability", "SECURITY"],
    "Reference": [
        "website/api/sparring",
        "website/api/attacks",
        "website/api/objectives",
        "website/api/allocators",
        "docs/configuration",
        "docs/architecture",
    ],
    "Results": [
        "docs/results",
        "docs/results/asynchronous",
        "docs/results/bullettrain",
        "docs/results/fast",
        "docs/results/pruning",
        "docs/results/remedies",
        "docs/benchmarks",
        "docs/lab",
    ],
    "Project": ["CONTRIBUTING", "CHANGELOG"],
}

myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
mermaid_output_format = "svg"  # drawn here: in the browser it would be a script from elsewhere
mermaid_cmd = str(Path(sys.executable).with_name("mermaidx"))
mermaid_params = ["--quiet", "--background", "white"]

default_role = "py:obj"  # `name` in a docstring: a link where there is such an object, else as code
highlight_language = "text"  # a block without a language
smartquotes = False  # "linf" and --engine stay as they are
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 100
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
