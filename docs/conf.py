"""Configuration of the documentation site: `make docs` builds it into `build/docs`.

The pages in this folder are written for GitHub: their links lead to files of the repository. Sphinx
knows only this folder, so `rewrite_links` turns such a link into a page of the site, where there is
one, or into a link to the file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

from deploy import VERSION

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = {
    ROOT / "README.md": "index.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "CODE_OF_CONDUCT.md": "conduct.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "RELEASING.md": "releasing.md",
    ROOT / "SECURITY.md": "security.md",
}
"""Pages of the site that include a file of the repository's root."""
LINK = r"\[(?P<label>[^]]*)\]\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)"


def source_url() -> str:
    """Template of a link to a file of the repository.

    In GitHub Actions the file on GitHub, at the commit that was built. Elsewhere the file in this
    checkout, seen from `build/docs`.
    """
    if "GITHUB_REPOSITORY" not in os.environ:
        return "../../{{path}}"
    server, repository, commit = (
        os.environ[f"GITHUB_{name}"] for name in ("SERVER_URL", "REPOSITORY", "SHA")
    )
    return f"{server}/{repository}/blob/{commit}/{{{{path}}}}"


def rewrite_links(text: str, folder: Path) -> str:
    """Return the Markdown of a file in `folder` with its relative links as Sphinx needs them."""

    def rewritten(link: re.Match[str]) -> str:
        label, anchor = link["label"], link["anchor"] or ""
        path = (folder / link["path"]).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            return link[0]
        on_site = path in PAGES or (path.parent == DOCS and path.suffix in {".md", ".png"})
        if not on_site:
            return f"[{label}](source:{path.relative_to(ROOT)}{anchor})"
        if label.endswith(".md"):  # a file's name: the site shows the title of the page
            label = ""
        return f"[{label}]({PAGES.get(path, path.name)}{anchor})"

    return re.sub(LINK, rewritten, text)


def setup(app: Sphinx) -> None:
    """Rewrite the links of each page, and of each file that a page includes."""

    def on_page(_app: Sphinx, _name: str, text: list[str]) -> None:
        text[0] = rewrite_links(text[0], DOCS)

    def on_include(_app: Sphinx, path: Path, _page: str, text: list[str]) -> None:
        text[0] = rewrite_links(text[0], (DOCS / path).resolve().parent)

    app.connect("source-read", on_page)
    app.connect("include-read", on_include)


project = "raydqn"
version = release = VERSION
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math", "mermaid"]  # as GitHub writes them
myst_heading_anchors = 3
myst_url_schemes = {"http": None, "https": None, "mailto": None, "source": source_url()}
mermaid_fullscreen = False
mermaid_height = "auto"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
default_role = "code"  # docstrings mark code as Markdown does
python_maximum_signature_line_length = 80

html_css_files = ["site.css"]
html_static_path = ["_static"]
html_theme = "pydata_sphinx_theme"
html_title = f"raydqn {VERSION}"
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 10,
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": [],
    "footer_end": [],
}
# The header lists the pages; only the section "Contributing" has pages of its own.
section = ["contributing", "security", "conduct", "releasing"]
html_sidebars = {"**": []} | {page: ["sidebar-nav-bs"] for page in section}
