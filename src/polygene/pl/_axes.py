"""Where a picture is drawn and where it goes: `ax`, `show` and `save`, as in scanpy."""

from pathlib import Path

import anndata as ad
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polygene.errors import DataError


def axes_for(ax: Axes | None, *, show: bool, size: tuple[float, float]) -> Axes:
    """Return these axes, or new ones of this size (inches); pyplot is touched only if the picture is to be shown."""
    if ax is not None:
        return ax
    if show:
        import matplotlib.pyplot as plt

        return plt.subplots(figsize=size, layout="constrained", dpi=150)[1]
    return Figure(figsize=size, layout="constrained", dpi=150).subplots()


def finish(ax: Axes, *, show: bool, save: str | Path | None) -> Axes:
    """Leave the frame open, write the picture to `save` in the format its ending names, show it, give its axes back."""
    ax.spines[["top", "right"]].set_visible(False)
    figure = ax.get_figure(root=True)
    if save is not None and figure is not None:
        figure.savefig(save)
    if show:
        import matplotlib.pyplot as plt

        plt.show()
    return ax


def of_model(table: pd.DataFrame, model: str | None) -> pd.DataFrame:
    """Return the rows of one of the models, the first by default."""
    names = list(table["model"].unique())
    if model is not None and model not in names:
        msg = f"There is no model {model!r}; there are {', '.join(names)}."
        raise DataError(msg)
    return table[table["model"] == (names[0] if model is None else model)].reset_index(drop=True)


def from_uns(found: pd.DataFrame | ad.AnnData, verb: str, name: str, call: str) -> pd.DataFrame:
    """Return a table, or the one that a verb wrote into an AnnData; `call` is what makes it."""
    if not isinstance(found, ad.AnnData):
        return found
    results = found.uns.get("polygene", {}).get(verb, {})
    if name not in results:
        msg = f"uns['polygene'] has no {verb!r}: run {call} first."
        raise DataError(msg)
    return results[name]
