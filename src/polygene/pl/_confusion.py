"""Confusion matrix: true labels against predicted labels."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from polygene.errors import DataError
from polygene.pl._axes import axes_for, finish

SHARES = LinearSegmentedColormap.from_list("shares", [(0.184, 0.475, 0.773, 0.0), (0.184, 0.475, 0.773, 1.0)])
"""From transparent to a blue on which black and white are read alike (contrast 4.5 with both)."""
MOST_WRITTEN = 15
"""With more labels the shares are colours only."""


def confusion(
    labels: Sequence[str],
    counts: Sequence[Sequence[int]] | np.ndarray,
    *,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw a confusion matrix: a row for each true label, and the share of its cells by predicted label.

    Parameters
    ----------
    labels
        Names of rows and columns, in the order in which they are drawn; columns bear their numbers.
    counts
        Cells, a row for each true label, a column for each predicted label.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write.

    Returns
    -------
    The axes. Shares stand in the fields, in percent, if there are at most 15 labels; a row without cells is empty.
    """
    if (found := np.asarray(counts)).dtype.kind not in "buif" or found.shape != (len(labels), len(labels)):
        msg = (
            f"confusion draws counts of cells, {len(labels)} × {len(labels)} numbers for as many labels, and got "
            f"{found.shape} of {found.dtype}: make them, as by sklearn.metrics.confusion_matrix(true, predicted)."
        )
        raise DataError(msg)
    counts_VV = found.astype(float)
    size = 1.5 + 0.32 * len(labels)
    ax = axes_for(ax, show=show, size=(size + 1.5, size))
    cells_V1 = counts_VV.sum(axis=1, keepdims=True)
    percent_VV = 100 * np.divide(counts_VV, cells_V1, out=np.zeros_like(counts_VV), where=cells_V1 > 0)
    ax.pcolormesh(percent_VV, cmap=SHARES, vmin=0, vmax=100, rasterized=len(labels) > MOST_WRITTEN)
    for true, predicted in np.argwhere(percent_VV >= 0.5) if len(labels) <= MOST_WRITTEN else ():
        ax.text(predicted + 0.5, true + 0.5, f"{percent_VV[true, predicted]:.0f}", ha="center", va="center")
    at = np.arange(len(labels)) + 0.5
    numbers = [str(v + 1) for v in range(len(labels))]
    names = ["\n".join(textwrap.wrap(label, 24, max_lines=2, placeholder="…")) for label in labels]
    ax.set_yticks(at, [f"{name}  {number}" for name, number in zip(names, numbers, strict=True)])
    ax.set_xticks(at, numbers)
    ax.set(xlabel="predicted label", ylabel="true label")
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.tick_params(length=0)
    if (figure := ax.get_figure(root=True)) is not None:
        figure.draw_without_rendering()  # the first layout of equal axes leaves the name of the rows outside
    return finish(ax, show=show, save=save)
