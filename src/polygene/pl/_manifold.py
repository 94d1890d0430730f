"""Manifold: one score of each space with its interval over donors, beside principal components."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from polygene.errors import DataError
from polygene.pl._axes import axes_for, check_drawable, finish

WORDS = {
    "purity": "share of neighbours of other donors with the cell's label",
    "ari": "adjusted Rand index of Leiden clusters",
    "nmi": "normalised mutual information of Leiden clusters",
    "bras": "BRAS: mixing of donors within a label",
    "ilisi": "iLISI: mixing of donors",
}
MARKERS = "os^Dv<>p"


def manifold(
    scores: pd.DataFrame,
    *,
    score: str = "purity",
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw one score of every space, a colour and a marker for each phenotype; dashed lines are those of PCA.

    Parameters
    ----------
    scores
        What `tl.manifold_scores` returned.
    score
        Such as "purity" or "ari".
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write it to.

    Returns
    -------
    The axes. Lines are 95 % intervals over donors.

    Raises
    ------
    DataError
        The table has no such score.
    """
    check_drawable(scores, "score space phenotype", "what pg.tl.manifold_scores returned")
    rows = scores[scores["score"] == score]
    if not len(rows):
        msg = f"The table has no score {score!r}; it has {', '.join(scores['score'].unique())}."
        raise DataError(msg)
    several = rows["model"].nunique() > 1
    names = rows["space"] + (", " + rows["model"] if several else "")
    spaces, phenotypes = list(dict.fromkeys(names)), list(dict.fromkeys(rows["phenotype"]))
    ax = axes_for(ax, show=show, size=(5.2, 1.2 + 0.34 * len(spaces)))
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000"]  # Okabe and Ito
    for i, phenotype in enumerate(phenotypes):
        of, colour = rows["phenotype"] == phenotype, colours[i % len(colours)]
        y = names[of].map(spaces.index) + 0.5 * ((i + 0.5) / len(phenotypes) - 0.5)
        known = np.isfinite(rows["low"][of])
        ax.hlines(y[known], rows["low"][of][known], rows["high"][of][known], color=colour, linewidth=1.4)
        ax.scatter(
            rows["value"][of], y, s=26, color=colour, marker=MARKERS[i % len(MARKERS)], label=phenotype, zorder=3
        )
        for value in rows["value"][of & (rows["space"] == "pca")].head(1):
            ax.axvline(value, color=colour, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    ax.set_yticks(range(len(spaces)), spaces, fontsize="small")
    ax.set(ylim=(len(spaces) - 0.5, -0.5), xlabel=WORDS.get(score, score))
    if len(phenotypes) > 1:
        ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=len(phenotypes))
    return finish(ax, show=show, save=save)
