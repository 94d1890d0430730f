"""Pictures that stand in a page: SVG that takes its text colour and font from what is around it."""

import hashlib
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure

INK = "#010203"
"""Becomes the colour of the page's text, light or dark."""
STYLE = {
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "polygene",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


def svg(draw: Callable[..., Any], *, title: str, size: tuple[float, float]) -> Markup:
    """Draw on new axes of this size (inches) and return the picture as SVG to stand in a page, light or dark."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        draw(ax=figure.subplots())
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    body = re.sub(r"<metadata>.*?</metadata>", "", written.getvalue(), flags=re.DOTALL).partition("<svg")[2]
    head, _, body = body.partition(">")
    box = re.search(r'viewBox="[^"]+"', head)
    own = hashlib.sha256(title.encode()).hexdigest()[:8]  # names within a page must differ from picture to picture
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", body)
    body = re.sub(r"(font: (?:[a-z]+ |\d+ )*[\d.]+px|font-family:) [^;\"]*", r"\1 var(--font)", body)
    body = body.replace(INK, "currentColor")
    return Markup(
        f'<svg {box[0] if box else ""} role="img" aria-label="{escape(title)}" style="max-width:{size[0] * 1.2:.1f}in">'
        f"<title>{escape(title)}</title>{body}"
    )
