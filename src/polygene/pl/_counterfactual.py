"""Counterfactual: the genes that rise and fall most, as bars with intervals.

Legend: S shown genes.
"""

from pathlib import Path
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from polygene.errors import DataError
from polygene.pl._axes import axes_for, check_drawable, finish

KEY = "polygene_counterfactual"
CONTEXTS = {"tokens": ("tokens alone", "tab:blue"), "half": ("tokens and half of the genes", "tab:orange")}
UNITS = {"expression": "change of log1p counts per 10,000", "expressed": 'change of the probability of "expressed"'}
BAR = 0.38  # of the room of a gene


def counterfactual(
    adata: ad.AnnData | pd.DataFrame,
    *,
    n_genes: int = 10,
    quantity: Literal["expression", "expressed"] = "expression",
    group: str | None = None,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw how far each gene would change: largest rises above, largest falls below, both contexts side by side.

    Parameters
    ----------
    adata
        Cells after `tl.counterfactual`, or the table that it returned.
    n_genes
        How many rises, and how many falls, by the change under the tokens alone.
    quantity
        Which change, in the words of the table.
    group
        Which group of a table that was made with `groupby`.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write it to.

    Returns
    -------
    The axes. Whiskers are the 95 % intervals over donors; the change of a single donor has none.

    Raises
    ------
    DataError
        There is no such table, quantity or group.
    """
    table = _of_group(_table_of(adata, quantity), group)
    change = table[f"tokens_{quantity}_change"]
    ranked = table.iloc[np.argsort(-change.to_numpy(), kind="stable")]
    n_rises, n_falls = min(n_genes, int((change > 0).sum())), min(n_genes, int((change < 0).sum()))
    drawn = pd.concat([ranked.head(n_rises), ranked.tail(n_falls)])
    y_S = np.arange(len(drawn)) + (np.arange(len(drawn)) >= n_rises) * 0.6  # a gap between rises and falls

    ax = axes_for(ax, show=show, size=(6.0, 1.2 + 0.26 * len(drawn)))
    _draw_bars(ax, drawn, y_S, quantity)
    ax.set_title(_title(adata, table, group), fontsize="medium")
    return finish(ax, show=show, save=save)


def _draw_bars(ax: Axes, drawn: pd.DataFrame, y_S: np.ndarray, quantity: str) -> None:
    """Draw a bar for each gene and context, with its interval."""
    for number, (context, (name, colour)) in enumerate(CONTEXTS.items()):
        change_S, low_S, high_S = (drawn[f"{context}_{quantity}_{end}"].to_numpy() for end in ("change", "low", "high"))
        at_S = y_S + (number - 0.5) * BAR
        ax.barh(at_S, change_S, height=BAR, color=colour, label=name)
        known = np.isfinite(low_S)
        ax.hlines(at_S[known], low_S[known], high_S[known], color="0.2", linewidth=1)
    ax.axvline(0, color="0.2", linewidth=0.8)
    ax.set_yticks(y_S, drawn["gene"].to_list(), fontsize="small")
    ax.invert_yaxis()
    ax.set_xlabel(UNITS[quantity])
    ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5, ncols=2)


def _table_of(adata: ad.AnnData | pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Take the table, which must have this quantity."""
    if isinstance(adata, ad.AnnData) and KEY not in adata.uns:
        msg = f"uns has no {KEY!r}: run pg.tl.counterfactual(adata, model, {{'sex': 'male'}}) first."
        raise DataError(msg)
    table = adata.uns[KEY] if isinstance(adata, ad.AnnData) else adata
    check_drawable(table, "gene cells donors", "what pg.tl.counterfactual returned")
    if f"tokens_{quantity}_change" not in table:
        reason = f"there are {', '.join(UNITS)}"
        if quantity in UNITS:
            reason = "a model of binary bins knows no values; draw quantity='expressed'"
        msg = f"The table has no {quantity!r}: {reason}."
        raise DataError(msg)
    return table


def _of_group(table: pd.DataFrame, group: str | None) -> pd.DataFrame:
    """Take the rows of a group; the column of groups, where there is one, stands behind `gene`."""
    column = table.columns[1]
    groups = [] if column == "cells" else list(table[column].unique())
    if group is None and len(groups) < 2:
        return table
    if group not in groups:
        has = f"has no group {group!r}; it has" if group else "has several groups: pass one as group=, such as"
        msg = f"The table {has} {', '.join(groups) or 'none'}."
        raise DataError(msg)
    return table[table[column] == group]


def _title(adata: ad.AnnData | pd.DataFrame, table: pd.DataFrame, group: str | None) -> str:
    cells, donors = int(table["cells"].iloc[0]), int(table["donors"].iloc[0])
    title = f"{cells:,} cells of {donors} donor{'s' if donors > 1 else ''}"
    if isinstance(adata, ad.AnnData):
        changes = adata.uns["polygene"]["counterfactual"]["changes"]
        title = ", ".join(f"{name}: {label}" for name, label in changes.items()) + f"\n{title}"
    return title if group is None else f"{title}, {group}"
