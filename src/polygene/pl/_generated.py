"""Generated cells beside real ones: which genes they express too often, and which too rarely.

Legend: G genes.
"""

from pathlib import Path

import anndata as ad
import numpy as np
from matplotlib.axes import Axes

from polygene.errors import DataError
from polygene.pl._axes import axes_for, finish

NAMED = 6
"""Genes that are farthest from the line and get their name."""


def generated(
    real: ad.AnnData,
    made: ad.AnnData,
    *,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw for each gene how many of the real and of the generated cells express it.

    Shares of cells need no common scale, so counts and log values can be compared as they are.

    Parameters
    ----------
    real
        Real cells, such as those of the label that was ordered, best of donors that did not train.
    made
        What `tl.generate` returned.
    ax, show, save
        As in scanpy: where to draw, whether to show, where to write.

    Returns
    -------
    The axes.

    Raises
    ------
    DataError
        The two have no gene in common, or one has no cells.
    """
    genes = real.var_names.intersection(made.var_names)
    if not len(genes) or not real.n_obs or not made.n_obs:
        msg = (
            f"real has {real.n_obs:,} cells, made has {made.n_obs:,}, and {len(genes)} names of genes are in both; "
            "give cells whose var_names are the symbols of the model's panel."
        )
        raise DataError(msg)
    real_G, made_G = (np.asarray((cells[:, genes].X != 0).mean(axis=0)).ravel() for cells in (real, made))
    ax = axes_for(ax, show=show, size=(4.2, 4.2))
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    ax.scatter(real_G, made_G, s=9, linewidths=0, alpha=0.6)
    for g in np.argsort(-np.abs(made_G - real_G))[:NAMED]:
        ax.annotate(genes[g], (real_G[g], made_G[g]), fontsize="x-small", xytext=(3, 2), textcoords="offset points")
    off = np.abs(made_G - real_G).mean()
    ax.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        xlabel=f"share of {real.n_obs:,} real cells",
        ylabel=f"share of {made.n_obs:,} generated cells",
        title=f"cells that express a gene\n{len(genes):,} genes, {off:.3f} off on average",
    )
    ax.title.set_fontsize("medium")
    ax.set_box_aspect(1)
    return finish(ax, show=show, save=save)
