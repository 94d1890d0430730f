"""UMAP: cells as points on a plane, coloured by their labels.

Legend: C cells.
"""

from collections.abc import Sequence

import anndata as ad
import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from polygene.errors import DataError, missing_column

PANEL, LEGEND = 4.0, 2.6  # inches
LABELS_IN_A_COLUMN = 16


def umap(adata: ad.AnnData, *, color: str | Sequence[str], basis: str = "X_umap") -> Figure:
    """Draw cells once for each column of labels, side by side; a label has one colour in all of them.

    Parameters
    ----------
    adata
        Cells with a plane in `obsm[basis]`, as `sc.tl.umap` makes it.
    color
        Columns of `obs` with labels.
    basis
        Name in `obsm`.

    Returns
    -------
    The figure; `figure.savefig("cells.png")` writes it.

    Raises
    ------
    DataError, ColumnError
        The plane or a column is missing.
    """
    columns = [color] if isinstance(color, str) else list(color)
    if basis not in adata.obsm:
        msg = f"obsm has no {basis!r}: run sc.pp.neighbors(adata, use_rep='X_polygene') and sc.tl.umap(adata) first."
        raise DataError(msg)
    for column in columns:
        if column not in adata.obs:
            raise missing_column(column, adata.obs.columns, of="adata")
    xy_C2 = adata.obsm[basis][:, :2]
    texts = {
        column: adata.obs[column].astype(object).where(adata.obs[column].notna(), "not given") for column in columns
    }
    counts = pd.concat(list(texts.values())).value_counts()
    labels = sorted(map(str, counts.index))
    colours = mpl.colormaps["tab10" if len(labels) <= 10 else "tab20"]
    colour_of = {label: colours(i % colours.N) for i, label in enumerate(labels)}

    n_legends = -(-len(labels) // LABELS_IN_A_COLUMN)
    figure = Figure(figsize=(PANEL * len(columns) + LEGEND * n_legends, PANEL), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(columns), squeeze=False, sharex=True, sharey=True)[0]
    size = max(2.0, min(30.0, 6_000 / adata.n_obs))
    for axis, (column, label_C) in zip(axes, texts.items(), strict=True):
        axis.scatter(*xy_C2.T, s=size, c=[colour_of[str(label)] for label in label_C], linewidths=0)
        axis.set_title(column)
        axis.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        axis.set_box_aspect(1)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [axes[0].scatter([], [], s=30, color=colour_of[label], linewidths=0, label=label) for label in labels]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize="small", ncols=n_legends)
    return figure
