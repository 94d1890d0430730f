"""Ageing: slopes of network measures over age beside those of shuffled ages, or one measure by age group."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from polygene.errors import DataError
from polygene.pl._axes import axes_for, check_drawable, finish, of_model
from polygene.pl._network import COLOURS, MARKERS


def ageing(
    found: Any,
    measure: str | None = None,
    *,
    model: str | None = None,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw how network measures change with age, beside shuffled ages.

    Parameters
    ----------
    found
        What `tl.ageing_topology` returned.
    measure
        None: the slopes of all measures in all contexts, each in units of what shuffled ages give. Or one measure, such
        as "modularity": its value in each age group.
    model
        Whose, where there are several; the first by default.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write it to.

    Returns
    -------
    The axes. Whiskers are 95 % intervals over donors. In the grey band lie 95 % of the slopes of shuffled ages: a dot
    within it is no finding.

    Raises
    ------
    DataError
        There is no such measure or model.
    """
    check_drawable(found, "slopes measures", "what pg.tl.ageing_topology returned")
    slopes = of_model(found.slopes, model)
    if measure is None:
        return _slopes(slopes, ax, show=show, save=save)
    if measure not in set(slopes["measure"]):
        msg = f"There is no measure {measure!r}; there are {', '.join(slopes['measure'].unique())}."
        raise DataError(msg)
    groups = of_model(found.measures, model)
    groups = groups[groups["measure"] == measure]
    ax = axes_for(ax, show=show, size=(5.2, 3.8))
    for number, (context, part) in enumerate(groups.groupby("context", sort=False)):
        again, first = divmod(number, len(COLOURS))  # beyond six, colours come with other markers
        colour, marker = COLOURS[first], MARKERS[(first + again) % len(MARKERS)]
        p = slopes.loc[(slopes["context"] == context) & (slopes["measure"] == measure), "p"].iloc[0]
        whiskers = np.abs(part[["low", "high"]].to_numpy().T - part["value"].to_numpy())
        x = part["mean_age"] + 0.7 * (number - (groups["context"].nunique() - 1) / 2)  # so that whiskers stand apart
        label = f"{context} (p = {p:.2f})"
        ax.errorbar(x, part["value"], whiskers, color=colour, marker=marker, markersize=5, linewidth=1.2, label=label)
    ax.set(xlabel="mean age of the donors, years", ylabel=measure)
    ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return finish(ax, show=show, save=save)


def _slopes(slopes: pd.DataFrame, ax: Axes | None, *, show: bool, save: str | Path | None) -> Axes:
    """A row for each context and measure."""
    contexts = list(slopes["context"].unique())
    gap = 0.8
    y = np.arange(len(slopes)) + gap * np.array([contexts.index(one) for one in slopes["context"]])
    middle = (slopes["shuffled_low"] + slopes["shuffled_high"]) / 2
    half = (slopes["shuffled_high"] - slopes["shuffled_low"]) / 2
    value, low, high = ((slopes[name] - middle) / half for name in ("slope", "low", "high"))
    ax = axes_for(ax, show=show, size=(6.2, 1.2 + 0.24 * (len(slopes) + gap * len(contexts))))
    ax.axvspan(-1, 1, color="0.9", zorder=0)
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    outside = (value.abs() > 1).to_numpy()
    for is_outside, fill in ((False, "white"), (True, COLOURS[1])):
        here = outside == is_outside
        colour = COLOURS[1] if is_outside else COLOURS[0]
        ax.hlines(y[here], low[here], high[here], color=colour, linewidth=1.4, zorder=2)
        ax.plot(value[here], y[here], "o", color=colour, markerfacecolor=fill, markersize=5, zorder=3)
    ax.set_yticks(y, slopes["measure"], fontsize="small")
    ax.invert_yaxis()
    for context in contexts:
        first = y[(slopes["context"] == context).to_numpy()][0]
        ax.annotate(
            context, (0, first - 0.85), xycoords=("axes fraction", "data"), va="center", fontsize="small",
            fontweight="bold",
        )  # fmt: skip
    ax.set_xlabel("slope over age; in the grey band lie 95 % of the slopes of shuffled ages")
    ax.tick_params(axis="y", length=0)
    return finish(ax, show=show, save=save)
