"""Vote: the label of each group and its runner-up, as bars."""

import textwrap
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from polygene.errors import DataError
from polygene.pl._axes import axes_for, check_drawable, finish
from polygene.pl._demo import short

AGREE, RUNNER_UP, REST = "#2f79c5", "#e69f00", "#d9d9d9"
MOST = 60
"""Letters of a label that are written."""


def vote(
    adata: ad.AnnData,
    groupby: str = "leiden",
    phenotype: str = "cell_type",
    *,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw a bar a group: the cells that agree with its label, those of the runner-up, and the others.

    Parameters
    ----------
    adata
        Cells after `tl.vote`, or `annotate` with `vote`.
    groupby, phenotype
        As for `tl.vote`.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write.

    Returns
    -------
    The axes. On the right stands the label, its probability and the runner-up; a heterogeneous group is in grey.

    Raises
    ------
    DataError
        There was no such vote.
    """
    check_drawable(adata, "uns", "the AnnData after pg.tl.vote")
    votes = adata.uns.get("polygene", {}).get("annotate", {}).get("votes", {})
    if f"{phenotype}_{groupby}" not in votes:
        there = ", ".join(votes) or "none"
        msg = f"There is no vote on {phenotype} by {groupby!r} (there are: {there}): run pg.tl.vote first."
        raise DataError(msg)
    facts = votes[f"{phenotype}_{groupby}"]
    table: pd.DataFrame = facts["table"]
    ax = axes_for(ax, show=show, size=(8.5, 1.1 + 0.36 * len(table)))
    _draw(ax, table)
    ax.axvline(facts["share"], color="0.3", linewidth=0.8, linestyle=":")
    ax.set(xlim=(0, 1), xlabel=f"share of the group's cells (dotted: {facts['share']:g}, below it heterogeneous)")
    ax.set_ylabel(groupby)
    ax.set_title(f"{phenotype.replace('_', ' ')} by {groupby}", fontsize="medium", loc="left", pad=22)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize="small", borderaxespad=0.2)
    return finish(ax, show=show, save=save)


def _draw(ax: Axes, table: pd.DataFrame) -> None:
    at, agree, other = np.arange(len(table)), table["agree"].to_numpy(), table["runner_up_share"].to_numpy()
    ax.barh(at, agree, color=AGREE, height=0.7, label="the label or a finer one")
    ax.barh(at, other, left=agree, color=RUNNER_UP, height=0.7, label="runner-up")
    ax.barh(at, 1 - agree - other, left=agree + other, color=REST, height=0.7, label="others")
    for y, row in enumerate(table.itertuples()):
        name, second = (textwrap.shorten(short(text), MOST, placeholder="…") for text in (row.label, row.runner_up))
        ink = "0.55" if row.heterogeneous else "0.1"
        head = f"{'heterogeneous: ' if row.heterogeneous else ''}{name}  {row.probability:.2f}"
        ax.text(1.02, y - 0.02, head, va="bottom" if second else "center", fontsize="small", color=ink)
        if second:
            ax.text(1.02, y + 0.02, f"then {second}", va="top", fontsize="x-small", color="0.45")
    ax.set_yticks(at, [f"{row.group}  ({row.cells:,})" for row in table.itertuples()], fontsize="small")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(table) - 0.4, -0.6)  # the first group on top, and no empty rows
