"""UMAP: cells as points on a plane, coloured by their labels, drawn by scanpy."""

import warnings
from collections.abc import Mapping, Sequence

import anndata as ad
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from pandas.api.types import is_numeric_dtype

from polygene.errors import DataError, check_names, missing_column
from polygene.pl._axes import check_drawable

PANEL = 4.0  # inches
LABELS_IN_A_COLUMN = 18
MOST_LABELS = 50  # more different numbers of a column are no labels
MISSING = "lightgray"


def umap(adata: ad.AnnData, *, color: str | Sequence[str], basis: str = "X_umap") -> Figure:
    """Draw cells once for each column of labels, side by side; a label has one colour in all of them.

    Parameters
    ----------
    adata
        Cells with a plane in `obsm[basis]`, as `sc.tl.umap` makes it; it is not changed.
    color
        Columns of `obs` with labels, or with more than 50 different numbers.
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
    check_drawable(adata, "obs obsm", "an AnnData")
    columns = check_names("color", color)
    if basis not in adata.obsm:
        msg = f"obsm has no {basis!r}: run sc.pp.neighbors(adata, use_rep='X_polygene') and sc.tl.umap(adata) first."
        raise DataError(msg)
    if missing := [column for column in columns if column not in adata.obs]:
        raise missing_column(missing[0], adata.obs.columns, of="adata")
    numbers = [one for one in columns if is_numeric_dtype(adata.obs[one]) and adata.obs[one].nunique() > MOST_LABELS]
    texts = adata.obs[columns].drop(columns=numbers).astype("string").astype("category")
    cells = ad.AnnData(obs=adata.obs[columns].assign(**texts), obsm={"X_umap": adata.obsm[basis]})
    colours = distinct_colours(sorted({label for column in texts for label in texts[column].cat.categories}))
    figure = Figure(figsize=(PANEL * len(columns), PANEL), layout="constrained", dpi=150)
    for axis, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        embedding(cells, column, ax=axis) if column in numbers else _draw(cells, column, colours, axis)
    legend = _add_legend(figure, colours, missing=bool(cells.obs.isna().to_numpy().any()))
    figure.set_figwidth(PANEL * len(columns) + legend.get_window_extent().width / figure.dpi)
    return figure


def distinct_colours(labels: Sequence[str]) -> dict[str, str]:
    """Give each label a colour of its own, of scanpy's palettes of 20, 28 or 102; more labels share those."""
    from scanpy.plotting.palettes import default_20, default_28, default_102

    palette = next((one for one in (default_20, default_28) if len(labels) <= len(one)), default_102)
    return {label: palette[i % len(palette)] for i, label in enumerate(labels)}


def embedding(cells: ad.AnnData, column: str, *, ax: Axes) -> Axes:
    """Draw `obsm["X_umap"]` coloured by one column, without a legend; of numbers the title gives the range."""
    values = cells.obs[column]
    if not isinstance(values.dtype, pd.CategoricalDtype):
        return _draw(cells, column, {}, ax, title=f"{column}\n{values.min():.3g} (dark) to {values.max():.3g} (bright)")
    return _draw(cells, column, distinct_colours(list(values.cat.categories)), ax)


def _draw(cells: ad.AnnData, column: str, colours: Mapping[str, str], ax: Axes, title: str = "") -> Axes:
    import scanpy as sc

    if colours:
        cells.uns[f"{column}_colors"] = [colours[label] for label in cells.obs[column].cat.categories]
    with warnings.catch_warnings():  # scanpy calls what matplotlib deprecates
        warnings.simplefilter("ignore")
        sc.pl.umap(
            cells, color=column, ax=ax, show=False, title=title or column, colorbar_loc=None, legend_loc="none",
            na_color=MISSING,
        )  # fmt: skip
    ax.set_box_aspect(1)
    return ax


def _add_legend(figure: Figure, colours: Mapping[str, str], *, missing: bool) -> Legend:
    """Name the colours beside the panels, where the layout keeps room for them."""
    named = {**colours, **({"not given": MISSING} if missing else {})}
    handles = [Line2D([], [], color=colour, marker="o", linestyle="", label=label) for label, colour in named.items()]
    n_columns = -(-len(named) // LABELS_IN_A_COLUMN) or 1
    return figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize="small", ncols=n_columns)
