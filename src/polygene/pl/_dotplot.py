"""Dotplot: a reference against predictions, as dots. Legend: R reference labels, V predicted labels."""

import textwrap
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from polygene.errors import missing_column
from polygene.pl._axes import axes_for, check_drawable, finish
from polygene.pl._demo import short

LARGEST = 170  # square points of a dot that holds all cells of its row
FEWEST = 0.05
"""A predicted label is drawn if it has so large a share of some reference label."""
SHARES = (0.1, 0.5, 1.0)
WIDTH = 46  # letters of a name


def dotplot(
    adata: ad.AnnData,
    reference: str,
    prediction: str = "polygene_cell_type",
    *,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw reference labels against predicted ones: the size of a dot is the share of the row, its colour how sure.

    Parameters
    ----------
    adata
        Cells after `annotate`.
    reference
        Column of `obs` with labels or clusters, a row each. Cells without one are left out.
    prediction
        Column of `obs` with predicted labels, such as "polygene_cell_type_leiden"; its `..._probability` is the colour.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write.

    Returns
    -------
    The axes. Predicted labels stand as in their ontology, near ones side by side, and rows in the order of what they
    are predicted as. A predicted label that has less than a twentieth of every row is left out.

    Raises
    ------
    ColumnError
        A column is missing.
    """
    check_drawable(adata, "obs uns", "the AnnData after pg.tl.annotate")
    probability = f"{prediction}_probability"
    for column in (reference, prediction, probability):
        if column not in list(adata.obs):
            raise missing_column(column, adata.obs.columns, of="adata", do="`annotate` writes the predictions.")
    cells = adata.obs[[reference, prediction, probability]].dropna()
    rows_C, columns_C = cells[reference].astype(str), cells[prediction].astype(str)
    count_RV = pd.crosstab(rows_C, columns_C)
    cells_R = count_RV.sum(axis=1)
    sure_RV = cells[probability].astype(float).groupby([rows_C, columns_C]).mean().unstack()
    share_RV = count_RV.div(cells_R, axis=0)
    share_RV = share_RV[_ordered(adata, prediction, share_RV.columns[share_RV.max() >= FEWEST])]
    share_RV = share_RV.iloc[np.argsort(share_RV.to_numpy() @ np.arange(share_RV.shape[1]), kind="stable")]
    ax = axes_for(ax, show=show, size=(5.6 + 0.3 * share_RV.shape[1], 3.4 + 0.3 * len(share_RV)))
    y, x = np.nonzero(share_RV.to_numpy() >= FEWEST / 5)
    sizes, sure = share_RV.to_numpy()[y, x], sure_RV.reindex_like(share_RV).to_numpy()[y, x]
    dots = ax.scatter(x, y, s=LARGEST * sizes, c=sure, cmap="viridis_r", vmin=0, vmax=1, linewidths=0, zorder=3)
    ax.set(ylabel=reference, xlabel=prediction)
    _name(ax, [f"{name}  ({cells_R[name]:,})" for name in share_RV.index], list(share_RV.columns))
    ax.figure.colorbar(dots, ax=ax, label="mean probability", shrink=0.6, aspect=12, pad=0.02)
    _legend(ax)
    return finish(ax, show=show, save=save)


def _ordered(adata: ad.AnnData, prediction: str, labels: pd.Index) -> list[str]:
    """Order labels as `annotate` found them in their ontology; others, such as "heterogeneous", come last."""
    orders = adata.uns.get("polygene", {}).get("annotate", {}).get("order", {})
    known = next((list(order) for name, order in orders.items() if prediction.startswith(f"polygene_{name}")), [])
    return sorted(labels, key=lambda label: (known.index(label) if label in known else len(known), label))


def _name(ax: Axes, rows: list[str], columns: list[str]) -> None:
    names = [textwrap.shorten(short(name), WIDTH, placeholder="…") for name in columns]
    ax.set_xticks(range(len(columns)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize="small")
    ax.set_yticks(range(len(rows)), rows, fontsize="small")
    ax.set(xlim=(-0.7, len(columns) - 0.3), ylim=(len(rows) - 0.3, -0.7))
    ax.grid(color="0.92", linewidth=0.6)
    ax.tick_params(length=0)


def _legend(ax: Axes) -> None:
    """Explain the sizes."""
    sizes = [(LARGEST * share) ** 0.5 for share in SHARES]
    dots = [Line2D([], [], marker="o", linestyle="", color="0.4", markersize=size, mew=0) for size in sizes]
    ax.legend(
        dots, [f"{share:.0%}" for share in SHARES], title="share of its row", loc="lower left", bbox_to_anchor=(0, 1),
        ncols=len(SHARES), frameon=False, fontsize="small", title_fontsize="small",
    )  # fmt: skip
