"""Where a picture is drawn and where it goes: `ax`, `show` and `save`, as in scanpy."""

from pathlib import Path

import anndata as ad
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polygene.errors import DataError
from polygene.runtime.atomic import writing


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
        with writing(Path(save)):
            figure.savefig(save)
    if show:
        import matplotlib.pyplot as plt

        plt.show()
    return ax


def check_drawable(found: object, needed: str, made_by: str) -> None:
    """Refuse what has not all of these attributes or columns, named with blanks between; `made_by` is what has them."""
    if missing := [name for name in needed.split() if not hasattr(found, name)]:
        msg = f"This {type(found).__name__} has no {', '.join(missing)} to draw here: pass {made_by}."
        raise DataError(msg)


def of_model(table: pd.DataFrame, model: str | None) -> pd.DataFrame:
    """Return the rows of one of the models, the first by default."""
    check_drawable(table, "model", "what the verb of this name in pg.tl returned")
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
