"""Age: predicted against actual, a point for each donor."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from polygene.errors import DataError
from polygene.pl._axes import axes_for, finish

COLUMNS = ("actual", "predicted", "low", "high")


def age(table: pd.DataFrame, *, ax: Axes | None = None, show: bool = False, save: str | Path | None = None) -> Axes:
    """Draw the predicted age of each donor against the actual one, with its 90 % interval.

    Parameters
    ----------
    table
        What `tl.age_gap` returned.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write.

    Returns
    -------
    The axes. The grey line is where predicted and actual ages are the same, the dashed one the straight line through
    the donors, from which corrected gaps are measured.

    Raises
    ------
    DataError
        The table is another one, or empty.
    """
    if missing := [column for column in COLUMNS if column not in table]:
        msg = f"the table has no column {', '.join(missing)}: give what pg.tl.age_gap returns."
        raise DataError(msg)
    if not len(table):
        msg = "the table has no donor: there is nothing to draw."
        raise DataError(msg)
    ax = axes_for(ax, show=show, size=(4.2, 4.0))
    actual, predicted, low, high = (table[column].to_numpy(dtype=float) for column in COLUMNS)
    values = np.concatenate([actual, low, high])
    ends = np.array([np.nanmin(values), np.nanmax(values)]) + np.array([-0.05, 0.05]) * max(np.nanmax(values), 1)
    ax.plot(ends, ends, color="0.6", linewidth=1, label="predicted = actual")
    off = np.abs(np.stack([predicted - low, high - predicted]))
    ax.errorbar(
        actual, predicted, yerr=off, fmt="o", markersize=5, color="tab:blue", ecolor="tab:blue", elinewidth=1,
        alpha=0.7, label="donor, 90 % interval",
    )  # fmt: skip
    if table.get("gap_corrected", pd.Series(dtype=float)).notna().any():
        ax.plot(
            ends,
            np.polyval(np.polyfit(actual, predicted, 1), ends),
            "--",
            color="tab:orange",
            label="line through the donors",
        )
    ax.set(xlim=ends, ylim=ends, xlabel="actual age, years", ylabel="predicted age, years")
    ax.set_box_aspect(1)
    ax.legend(frameon=False, fontsize="small", loc="best")
    return finish(ax, show=show, save=save)
