"""Biomarkers: attributions of genes in each context, beside what the same donors differ in by expression."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from polygene.pl._axes import axes_for, finish, from_uns, of_model

LARGEST = 150  # square points


def biomarkers(
    found: pd.DataFrame | ad.AnnData,
    *,
    n_genes: int = 25,
    model: str | None = None,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw the genes of the largest attributions as dots: size = attribution, colour = change of expression.

    Parameters
    ----------
    found
        What `tl.biomarkers` returned, or the AnnData that it was written into.
    n_genes
        How many genes, those of the largest attribution in any context, from the highest mean down.
    model
        Whose, where there are several; the first by default.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write it to.

    Returns
    -------
    The axes. A triangle points down where the attribution is against the label; a black edge marks what replicates in
    held-out donors.

    Raises
    ------
    DataError
        There is no such result, or no such model in it.
    """
    table = from_uns(found, "biomarkers", "table", "pg.tl.biomarkers(adata, label='B cell')")
    table = of_model(table, model)
    sizes = table["attribution"].abs().groupby(table["gene"]).max().nlargest(n_genes)
    shown = table[table["gene"].isin(sizes.index)]
    genes = shown.groupby("gene")["attribution"].mean().sort_values(ascending=False).index.tolist()
    contexts = list(dict.fromkeys(shown["context"]))
    ax = axes_for(ax, show=show, size=(3.6 + 0.5 * len(contexts), 1.8 + 0.19 * len(genes)))
    x, y = shown["context"].map(contexts.index), shown["gene"].map(genes.index)
    largest = max(float(sizes.max()), 1e-12)
    area, limit = LARGEST * shown["attribution"].abs() / largest, max(shown["pseudobulk"].abs().max(), 1e-12)
    again = shown["attribution_replicates"].eq(True).fillna(False).to_numpy(dtype=bool)
    for marker, side in (("^", shown["attribution"] >= 0), ("v", shown["attribution"] < 0)):
        dots = ax.scatter(
            x[side], y[side], s=area[side], c=shown["pseudobulk"][side], marker=marker, cmap="PuOr_r", vmin=-limit,
            vmax=limit, edgecolors=np.where(again[side], "black", "0.8"),
            linewidths=np.where(again[side], 1.0, 0.4).tolist(),
        )  # fmt: skip
    ax.set_yticks(range(len(genes)), genes, fontsize="x-small")
    ax.set_xticks(range(len(contexts)), contexts, rotation=40, ha="right", rotation_mode="anchor", fontsize="small")
    ax.set(xlim=(-0.7, len(contexts) - 0.3), ylim=(len(genes) - 0.4, -0.6))
    bar = ax.figure.colorbar(dots, ax=ax, shrink=0.5, aspect=14, pad=0.03)
    bar.set_label("change of log1p mean counts per 10,000", fontsize="x-small")
    _legend(ax, largest)
    return finish(ax, show=show, save=save)


def _legend(ax: Axes, largest: float) -> None:
    """Explain sizes, triangles and edges."""
    sizes = (("^", LARGEST, f"+{largest:.2g} log-odds"), ("v", LARGEST / 4, f"−{largest / 4:.2g}"))
    rows = [
        Line2D([], [], marker=marker, linestyle="", color="0.6", markersize=area**0.5, label=label)
        for marker, area, label in sizes
    ]
    rows.append(Line2D([], [], marker="^", linestyle="", markerfacecolor="none", color="black", label="replicates"))
    ax.legend(
        handles=rows, loc="lower left", bbox_to_anchor=(-0.1, 1.0), frameon=False, fontsize="x-small", ncols=3,
        handletextpad=0.2, columnspacing=0.9,
    )  # fmt: skip
