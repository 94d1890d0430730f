"""Risk and coverage: how many errors there are among the cells that are answered."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from polygene.pl._axes import axes_for, finish
from polygene.pl._reliability import of_phenotype


def risk_coverage(
    results: Mapping[str, Any],
    phenotype: str,
    *,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> Axes:
    """Draw the share of errors among the cells that are answered, most sure first, against how many they are.

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
    The axes. The grey line is what answering cells in any order gives; the area below the curve is AURC.

    Raises
    ------
    DataError
        The phenotype was not scored.
    """
    one = of_phenotype(results, "sets", phenotype)
    curve = one["risk_coverage"]
    ax = axes_for(ax, show=show, size=(4.2, 3.6))
    ax.axhline(curve["risk"][-1], color="0.6", linewidth=1, label="all cells, in any order")
    ax.plot(curve["share"], curve["risk"], color="tab:blue", label="most sure first")
    if one.get("abstained") is not None and one["single_accuracy"] is not None:
        at = 1 - one["abstained"], 1 - one["single_accuracy"]
        ax.plot(*at, "o", color="tab:orange", label=f"sets of one label at coverage {one['asked']:g}")
    aurc = f"AURC {curve['aurc']:.3f} [{curve['low']:.3f}, {curve['high']:.3f}]"
    ax.set_title(f"{phenotype.replace('_', ' ')}: {aurc}", fontsize="medium")
    ax.set(xlim=(0, 1.02), ylim=(0, None), xlabel="share of cells answered", ylabel="share of errors among them")
    ax.legend(frameon=False, fontsize="small", loc="best")
    return finish(ax, show=show, save=save)
