"""The picture of the demo: labels, predictions and doubt on one map, over a cell as the model reads it.

Legend: C cells.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import combinations

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

TYPES = ("#332288", "#88CCEE", "#44AA99", "#117733", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#999933")
OTHERS = ("#EE8866", "#BBBBBB", "#666666", "#FFAABB", "#E8C547", "#8899AA")
"""Paul Tol's muted and light colours: colour-blind readers tell them apart."""
REST = "#DDDDDD"
INK, ACCENT = "#222222", "#D55E00"
DOUBT = LinearSegmentedColormap.from_list("doubt", ["#D3D9E0", "#F3B27A", "#D55E00", "#5E1F00"])
"""Grey where the model is sure; it darkens evenly, so print without colour shows it too."""
SLOTS = (
    ("", "[CLS]"),
    ("SEX", "male"),
    ("TISSUE", "blood"),
    ("CELL TYPE", "?"),
    ("AGE", "not given"),
    ("DISEASE", "normal"),
    ("", "[START]"),
    ("LYZ", "bin 9"),
    ("S100A8", "bin 8"),
    ("CD14", "?"),
    ("CD3D", "bin 0"),
    ("", "…"),
    ("", "[END]"),
)
"""Head and content of the slots that are drawn, a scheme and no cell of a file; "?" is masked, "…" leaves some out."""
READS = "One cell as PolyGene reads it: what is known, what each gene expresses, and masked slots, which it predicts."
LINE, LETTER, OVER = 22, np.array([0.029, 0.055]), 0.06
"""Letters of a line of a name; shares of the map: width and height of a letter, how far names reach over the edge."""
NAMED_FROM, COMPACT, FEWEST = 0.04, 0.06, 8
"""A label is written on the map if it has this share of the cells, or if its cells, at least so many, lie together
within this share of the map."""


def demo_picture(
    adata: ad.AnnData,
    *,
    label: str,
    predicted: str,
    meant: Mapping[str, str],
    agreement: str,
) -> Figure:
    """Draw authors' labels, predictions and doubt side by side, over the sequence of one cell.

    Parameters
    ----------
    adata
        Cells with a map in `obsm["X_umap"]`.
    label, predicted
        Columns of `obs`; the probability of the prediction stands in `<predicted>_probability`.
    meant
        Predicted label → the author label whose colour it takes; others get colours of their own.
    agreement
        How far both agree, for the title.

    Returns
    -------
    The figure; `figure.savefig("demo.png")` writes it.
    """
    figure = Figure(figsize=(9.2, 4.7), layout="constrained", dpi=150, facecolor="white")
    maps, strip = figure.subfigures(2, 1, squeeze=False, height_ratios=[4, 1])[:, 0]
    left, middle, right = maps.subplots(1, 3, sharex=True, sharey=True)
    authors = list(adata.obs[label].cat.categories)
    colours = dict(zip(authors, TYPES, strict=False))
    _labels(left, adata, adata.obs[label], colours)
    left.set_title("Authors' labels", fontweight="bold", fontsize=11)
    predicted_C = adata.obs[predicted].astype(str)
    order = predicted_C.value_counts().index
    free = iter(OTHERS)
    shades = {name: colours[meant[name]] if name in meant else next(free, REST) for name in order}
    _labels(middle, adata, predicted_C, shades)
    middle.set_title(f"PolyGene: {agreement}", fontweight="bold", fontsize=11)
    _doubt(right, adata, adata.obs[f"{predicted}_probability"].to_numpy())
    right.set_title("Where it is not sure", fontweight="bold", fontsize=11)
    _sequence(strip.subplots())
    return figure


def short(name: str) -> str:
    """Shorten a name of the Cell Ontology as biologists write it.

    Examples
    --------
    >>> short("naive thymus-derived CD4-positive, alpha-beta T cell")
    'naive CD4+ T cell'
    """
    name = re.sub(r"thymus-derived |, alpha-beta(?= )|^alpha-beta |, human$", "", name)
    for long, brief in (("-positive", "+"), ("-negative", "−"), ("natural killer", "NK"), ("effector memory", "EM")):
        name = name.replace(long, brief)
    return name


def _labels(axis: Axes, adata: ad.AnnData, label_C: pd.Series, colours: Mapping[str, str]) -> None:
    xy_C2 = adata.obsm["X_umap"]
    _points(axis, xy_C2, [colours[str(label)] for label in label_C])
    low_2, extent_2 = xy_C2.min(axis=0), np.ptp(xy_C2, axis=0)
    texts, places, sizes = [], [], []
    for name in label_C.astype(str).unique():
        own_C2 = xy_C2[label_C.astype(str) == name]
        most_2 = np.ptp(np.percentile(own_C2, (16, 84), axis=0), axis=0) / 2  # a deviation that no stray cell widens
        together = len(own_C2) >= FEWEST and (most_2 < COMPACT * extent_2).all()
        if together or len(own_C2) >= NAMED_FROM * len(xy_C2):
            brief = short(name)
            n_lines = -(-len(brief) // LINE)
            lines = textwrap.wrap(brief, max(len(brief) // n_lines + 5, 8))  # lines of like length
            texts.append("\n".join(lines))
            sizes.append(LETTER * extent_2 * (max(map(len, lines)), len(lines)))
            places.append(np.median(own_C2, axis=0))
    room = low_2 - OVER * extent_2, low_2 + (1 + OVER) * extent_2
    for (x, y), text in zip(_apart(np.array(places), np.array(sizes), *room), texts, strict=True):
        written = axis.text(x, y, text, fontsize=9, ha="center", va="center", color=INK, linespacing=0.95)
        written.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white", alpha=0.9)])
        written.set_in_layout(False)


def _apart(places_T2: np.ndarray, sizes_T2: np.ndarray, low_2: np.ndarray, high_2: np.ndarray) -> np.ndarray:
    """Move texts up and down until none lies on another, and into the room that there is; T texts, 2 x and y."""
    places_T2 = np.clip(places_T2, low_2 + sizes_T2 / 2, high_2 - sizes_T2 / 2)
    for _ in range(300):
        moved = False
        for i, j in combinations(range(len(places_T2)), 2):
            apart_2 = np.abs(places_T2[i] - places_T2[j])
            lacking_2 = (sizes_T2[i] + sizes_T2[j]) / 2 - apart_2
            if (lacking_2 > 1e-6).all():
                up = 1 if places_T2[i, 1] >= places_T2[j, 1] else -1
                places_T2[i, 1] += up * lacking_2[1] / 2
                places_T2[j, 1] -= up * lacking_2[1] / 2
                moved = True
        if not moved:
            break
    return places_T2


def _doubt(axis: Axes, adata: ad.AnnData, probability_C: np.ndarray) -> None:
    order = np.argsort(-probability_C)  # the unsure ones on top
    x_C, y_C = adata.obsm["X_umap"][order].T
    drawn = axis.scatter(x_C, y_C, c=1 - probability_C[order], s=10, cmap=DOUBT, vmin=0, vmax=1, linewidths=0)
    _bare(axis)
    bar = axis.figure.colorbar(drawn, ax=axis, shrink=0.7, aspect=18, pad=0.01, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["1", "0.5", "0"])
    bar.ax.invert_yaxis()
    bar.set_label("probability", fontsize=8)
    bar.ax.tick_params(labelsize=8, length=0)
    bar.outline.set_visible(False)


def _points(axis: Axes, xy_C2: np.ndarray, colours: Sequence[str]) -> None:
    axis.scatter(xy_C2[:, 0], xy_C2[:, 1], s=10, c=list(colours), linewidths=0)
    _bare(axis)


def _bare(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.margins(0.06)


def _sequence(axis: Axes) -> None:
    """Draw slots as boxes in a row, masked ones in another colour."""
    x, gap = 0.0, 0.14
    for head, content in SLOTS:
        masked, text = content == "?", "[MASK]" if content == "?" else content
        width = 0.5 if content == "…" else max(0.16 * len(head), 0.19 * len(text)) + 0.3
        middle = x + width / 2
        if content != "…":
            box = FancyBboxPatch(
                (x, 0.2), width, 0.75, boxstyle="round,pad=0,rounding_size=0.1", linewidth=1.4 if masked else 0.7,
                facecolor="#FCE5D4" if masked else "#F2F4F7", edgecolor=ACCENT if masked else "#AAB2BD",
            )  # fmt: skip
            axis.add_patch(box)
        weight, colour = ("bold", ACCENT) if masked else ("normal", INK)
        axis.text(middle, 0.77, head, ha="center", va="center", fontsize=7, color="#555555")
        y = 0.44 if head else 0.57
        axis.text(middle, y, text, ha="center", va="center", fontsize=9, color=colour, fontweight=weight)
        x += width + gap
    axis.text(x / 2, -0.05, READS, ha="center", va="center", fontsize=9, color="#555555")
    axis.set(xlim=(-0.1, x), ylim=(-0.2, 1), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
