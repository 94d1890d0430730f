"""Forest: a score of several predictors with its intervals."""

import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from polygene.pl._axes import axes_for, check_drawable, finish

OWN, OTHER = "#2f79c5", "#8c8c8c"
"""Seen on light and on dark paper alike (contrast above 3)."""


def forest(
    table: pd.DataFrame, *, label: str, ax: Axes | None = None, show: bool = False, save: str | Path | None = None
) -> Axes:
    """Draw a score of each predictor as a point and its interval as a line, the first on top and in colour.

    Parameters
    ----------
    table
        `value`, `low` and `high`, a row for each predictor, named by the index.
    label
        What the score is.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write.

    Returns
    -------
    The axes. The dotted line is the first predictor's value.
    """
    check_drawable(table, "value low high", "a table with value, low and high, a row for each predictor")
    ax = axes_for(ax, show=show, size=(4.0, 0.6 + 0.35 * len(table)))
    for at, row in enumerate(table.itertuples()):
        colour = OTHER if at else OWN
        ax.plot([row.low, row.high], [at, at], color=colour, linewidth=2.5, solid_capstyle="round")
        ax.plot(row.value, at, "o", color=colour, markersize=5 if at else 7)
    ax.axvline(table.value.iloc[0], color=OWN, linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(table)), [textwrap.fill(str(name), 20) for name in table.index])
    ax.set_xlabel(label)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return finish(ax, show=show, save=save)
