"""How the site is built: `python -m sphinx -W docs site`. It needs no network, neither to be built nor to be read."""

import os
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import latex2mathml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # of the kernels that run the gallery
os.environ["PYTHONWARNINGS"] = "ignore"
os.environ.pop("MPLBACKEND", None)  # of .ci/run: it would keep the pictures out of the gallery

import polygene  # noqa: E402
from recipes import reference  # noqa: E402

# A public name that is a module elsewhere, which autosummary looks for by its name.
sys.modules.setdefault("polygene.datasets", polygene.datasets)
generated = Path(__file__).parent / "generated"
generated.mkdir(exist_ok=True)
for name, text in {"cli": reference.command_line(), "api": reference.api()}.items():
    (generated / f"{name}.md").write_text(text, encoding="utf-8")

project, author, copyright = "PolyGene", "PolyGene authors", "PolyGene authors, MIT licence"  # noqa: A001
version = release = polygene.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_static"]
html_static_path = ["_static"]
html_css_files = ["polygene.css"]
html_extra_path = ["llms.txt"]
html_theme = "sphinx_book_theme"
html_title = "PolyGene"
html_favicon = "_static/logo.svg"
html_theme_options = {
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "home_page_in_toc": False,
    "logo": {"image_light": "_static/logo.svg", "image_dark": "_static/logo.svg", "text": "PolyGene"},
}
html_show_sourcelink = False

default_role = "literal"  # `obs` in a docstring is code
smartquotes = False  # "raw" is what is typed
autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_preprocess_types = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache" if os.environ.get("POLYGENE_DOCS_CACHE") else "force"
nb_execution_cache_path = str(ROOT / "site" / ".jupyter_cache")
nb_execution_timeout = 900  # of a cell, on a busy computer
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
html_math_renderer = "mathml"


def mathml(*, block):
    """Make a visitor that writes a formula as MathML."""

    def visit(self, node):
        self.body.append(f'<{"div" if block else "span"} class="math">')
        self.body.append(str(latex2mathml.tex2mathml(node.astext(), as_block=block)))
        self.body.append("</div>" if block else "</span>")
        raise nodes.SkipNode

    return visit, None


def escape_names(_app, _what, _name, _thing, _options, lines):
    """Keep a name in quotes that ends with an underscore from being read as a link."""
    lines[:] = [line if ">>>" in line else line.replace('_"', '\\_"') for line in lines]


def keep_pairs_together(_app, doctree):
    """Break no line within "0.80 / 0.87" or "+0.05 ± 0.02", in tables that are narrow enough."""
    for table in doctree.findall(lambda node: isinstance(node, nodes.tgroup) and node["cols"] < 7):
        for text in list(table.findall(nodes.Text)):
            text.parent.replace(text, nodes.Text(re.sub(r"(?<=\d) ([/±]) (?=[\d+−-])", "\u00a0\\1\u00a0", text)))


def setup(app):
    """Browsers draw MathML without a script, which would come from elsewhere."""
    app.connect("autodoc-process-docstring", escape_names)
    app.connect("doctree-read", keep_pairs_together)
    app.add_html_math_renderer("mathml", inline_renderers=mathml(block=False), block_renderers=mathml(block=True))
