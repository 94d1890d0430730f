"""Calibration: accuracy beside confidence."""

from pathlib import Path
from typing import Protocol

import pandas as pd
from matplotlib.axes import Axes

from polygene.errors import DataError
from polygene.pl._axes import axes_for, check_drawable, finish


class Results(Protocol):
    """What `evaluate` returned, as far as it is drawn here."""

    @property
    def calibration(self) -> pd.DataFrame: ...

    @property
    def reliability(self) -> pd.DataFrame: ...


def reliability(
    results: Results,
    phenotype: str,
    *,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw accuracy against confidence, a point for each fifteenth of the cells, with donor-bootstrap intervals.

    Parameters
    ----------
    results
        What `evaluate` returned.
    phenotype
        Which phenotype.
    ax, show, save
        Axes to draw on; whether to show the picture; a file to write.

    Returns
    -------
    The axes. On the grey line predictions are as accurate as confident; below it they are overconfident.

    Raises
    ------
    DataError
        The phenotype was not scored.
    """
    check_drawable(results, "calibration reliability", "what pg.evaluate(model, corpus) returned")
    row = rows_of(results.calibration, phenotype).iloc[0]
    bins = rows_of(results.reliability, phenotype)
    ax = axes_for(ax, show=show, size=(4.2, 4.2))
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="accuracy = confidence")
    ax.vlines(bins.confidence, bins.low, bins.high, color="tab:blue", linewidth=1, alpha=0.6)
    ax.plot(
        bins.confidence, bins.accuracy, "o", color="tab:blue", markersize=5,
        label="a fifteenth of the cells, 95 % interval",
    )  # fmt: skip
    void = "" if row.informative else "\nvoid: no better than looking at no cell"
    title = f"{phenotype.replace('_', ' ')}: ECE {row.ece:.3f} [{row.ece_low:.3f}, {row.ece_high:.3f}]{void}"
    ax.set_title(title, fontsize="medium")
    lowest = max(0.0, min(bins.confidence.min(), bins.low.min()) - 0.05)
    ax.set(xlim=(lowest, 1.02), ylim=(lowest, 1.02), xlabel="confidence", ylabel="accuracy")
    ax.set_box_aspect(1)
    ax.legend(frameon=False, fontsize="small", loc="best")
    return finish(ax, show=show, save=save)


def rows_of(table: pd.DataFrame, phenotype: str) -> pd.DataFrame:
    """Take the rows of a phenotype.

    Raises
    ------
    DataError
        There is none.
    """
    scored = list(pd.unique(table.phenotype)) if len(table) else []
    if phenotype not in scored:
        msg = f"{phenotype!r} was not scored; scored are {', '.join(scored) or 'no phenotypes'}."
        raise DataError(msg)
    return table[table.phenotype == phenotype]
