"""Configuration of Sphinx. `optrepro site` renders the pages beside it and calls Sphinx on the result."""

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.writers.html5 import HTML5Translator

from optrepro import __version__

project = "optrepro"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
default_role = "code"  # docstrings set names of code in single backticks, as Markdown does
add_module_names = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]  # sections of other files begin where those files had them

html_theme = "furo"
html_title = "optrepro"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_copy_source = html_show_copyright = html_use_index = False
html_show_search_summary = False  # summaries are fetched page by page, which browsers refuse for files
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"
html_theme_options = {"navigation_with_keys": False, "top_of_page_buttons": []}


def _inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def _paragraphs(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make paragraphs of what docstrings say behind `Shape:`, `Raises:` and `Source:`; of stars, plain stars."""
    text = re.sub(r"(?<![\w`*\\])(\*{1,2})(?=\w)", lambda stars: r"\*" * len(stars[1]), "\n".join(lines))
    text = re.sub(
        r"^(Shape|Raises|Source): (.*(?:\n +.*)*)",
        lambda found: f"\n**{found[1]}:** {' '.join(found[2].split())}\n",
        text,
        flags=re.MULTILINE,
    )
    lines[:] = text.splitlines()


def _objects(app: Sphinx, env: BuildEnvironment) -> None:
    """Let the search find exhibits, claims and choices one by one, as it finds classes."""
    for kind, name, page, anchor in json.loads(Path(app.srcdir, "objects.json").read_text()):
        env.domains.standard_domain.objects[kind, name] = (page, anchor)


def setup(app: Sphinx) -> None:
    """Formulas are MathML, which browsers draw by themselves; Sphinx's own renderers load scripts or need LaTeX."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("autodoc-process-docstring", _paragraphs, priority=400)  # before napoleon
    for kind in ("exhibit", "claim", "choice"):
        app.add_object_type(kind, kind)
    app.connect("env-updated", _objects)
