"""Polyfunctionality: how far the states of each gene spread between contexts, beside that of like genes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from polygene.errors import DataError, check_names
from polygene.pl._axes import axes_for, finish, from_uns, of_model

LABELLED = 5


def polyfunctionality(
    found: Any,
    *,
    genes: str | Sequence[str] = (),
    model: str | None = None,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw each gene: expected spread against measured spread, with the genes that stand out by name.

    Parameters
    ----------
    found
        What `tl.polyfunctionality` returned, or its `genes`, or the AnnData that it was written into.
    genes
        Genes to name; with the five polyfunctional ones that are farthest above what is expected.
    model
        Whose genes, where there are several; the first by default.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write it to.

    Returns
    -------
    The axes. Filled dots replicate in both halves of the donors.

    Raises
    ------
    DataError
        There is no such result, no such model in it, or too few genes were measured.
    """
    table = from_uns(getattr(found, "genes", found), "polyfunctionality", "table", "pg.tl.polyfunctionality(adata)")
    table = of_model(table, model)
    table = table[table["expected"].notna()]
    if not len(table):
        msg = "No gene has an expected spread, as fewer than ten are measured: read more cells, or lower min_cells."
        raise DataError(msg)
    wanted = check_names("genes", genes)
    x, y, strong = table["expected"], table["spread"], table["polyfunctional"].astype(bool)
    ax = axes_for(ax, show=show, size=(4.8, 4.2))
    ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
    ax.scatter(x[~strong], y[~strong], s=12, facecolors="none", edgecolors="0.6", linewidths=0.7)
    ax.scatter(x[strong], y[strong], s=16, color="tab:blue", linewidths=0, zorder=3)
    farthest = table[strong].assign(by=y - x).nlargest(LABELLED, "by").index
    named = table.loc[table["gene"].isin(wanted) | table.index.isin(farthest)].sort_values("spread")
    is_wanted = named["gene"].isin(wanted)
    ax.scatter(named["expected"][is_wanted], named["spread"][is_wanted], s=60, facecolors="none", edgecolors="tab:red")
    margin = 0.05 * (y.max() - min(y.min(), 0))
    low, high = min(y.min(), 0) - margin, y.max() + margin
    ax.set(xlim=(x.min() - 0.02, x.max() + 0.02), ylim=(low, high))
    _name(ax, named, wanted, (high - low) / 22)
    ax.set_xlabel("spread expected of genes of like expression")
    ax.set_ylabel("spread between contexts, share of variance")
    ax.set_title(f"{int(strong.sum())} of {len(table)} genes stand out in both halves of the donors", fontsize="small")
    return finish(ax, show=show, save=save)


def _name(ax: Axes, named: pd.DataFrame, wanted: list[str], step: float) -> None:
    """Write names to the right of the axes, from below, none closer to the one before than a line."""
    below, right = -np.inf, ax.get_xlim()[1] + 0.04 * np.diff(ax.get_xlim())[0]
    for _, row in named.iterrows():
        below = max(row["spread"], below + step)
        ax.annotate(
            row["gene"], (row["expected"], row["spread"]), (right, below), fontsize="x-small", va="center",
            color="tab:red" if row["gene"] in wanted else "0.1", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
