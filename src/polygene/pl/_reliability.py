"""Calibration: how right answers are beside how sure they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from polygene.errors import DataError
from polygene.pl._axes import axes_for, finish


def reliability(
    results: Mapping[str, Any],
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
    The axes. On the grey line answers are as right as they are sure; below it they are too sure.

    Raises
    ------
    DataError
        The phenotype was not scored.
    """
    one = of_phenotype(results, "calibration", phenotype)
    ax = axes_for(ax, show=show, size=(4.2, 4.2))
    bins = one["bins"]
    confidence, accuracy, low, high = (
        np.array([found[name] for found in bins]) for name in ("confidence", "accuracy", "low", "high")
    )
    ece = next(s for s in one["scores"] if s["predictor"] != "marginal" and s["score"] == "ece")
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="as right as sure")
    ax.vlines(confidence, low, high, color="tab:blue", linewidth=1, alpha=0.6)
    ax.plot(confidence, accuracy, "o", color="tab:blue", markersize=5, label="a fifteenth of the cells, 95 % interval")
    void = "" if one["counts"] else "\nvoid: no better than looking at no cell"
    ax.set_title(
        f"{phenotype.replace('_', ' ')}: ECE {ece['value']:.3f} [{ece['low']:.3f}, {ece['high']:.3f}]{void}",
        fontsize="medium",
    )
    lowest = max(0.0, min(confidence.min(), low.min()) - 0.05)
    ax.set(xlim=(lowest, 1.02), ylim=(lowest, 1.02), xlabel="confidence", ylabel="accuracy")
    ax.set_box_aspect(1)
    ax.legend(frameon=False, fontsize="small", loc="best")
    return finish(ax, show=show, save=save)


def of_phenotype(results: Mapping[str, Any], part: str, phenotype: str) -> Mapping[str, Any]:
    """Find what a part of the results says of a phenotype.

    Raises
    ------
    DataError
        It says nothing.
    """
    found = {one["phenotype"]: one for one in results.get(part, ())}
    if phenotype not in found:
        msg = f"the results hold no {part} of {phenotype!r}; they hold {', '.join(found) or 'none'}."
        raise DataError(msg)
    return found[phenotype]
