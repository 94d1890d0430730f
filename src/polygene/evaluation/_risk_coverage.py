"""Risk and coverage: how many errors there are among the cells that are predicted, most confident first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from polygene.evaluation.tables import interval, of_phenotype, words
from polygene.pl._axes import finish

if TYPE_CHECKING:
    from polygene.evaluation.results import Evaluation


def risk_coverage(results: Evaluation, phenotype: str, *, ax: Axes) -> Axes:
    """Draw the share of errors among the cells that are predicted against how many they are.

    The grey line is what predicting cells in any order gives; the area below the curve is AURC.
    """
    curve, sets = of_phenotype(results.risk_coverage, phenotype), of_phenotype(results.sets, phenotype)
    ax.axhline(curve.risk.iloc[-1], color="0.6", linewidth=1, label="all cells, in any order")
    ax.plot(curve.share, curve.risk, color="tab:blue", label="most confident first")
    for row in sets.head(1).itertuples():
        label = f"sets of one label at coverage {row.level:g}"
        ax.plot(1 - row.abstained, 1 - row.single_accuracy, "o", color="tab:orange", label=label)
    (row,) = of_phenotype(results.calibration, phenotype).to_dict("records")
    ax.set_title(f"{words(phenotype)}: AURC {interval(row, 'aurc')}", fontsize="medium")
    ax.set(xlim=(0, 1.02), ylim=(0, None), xlabel="share of cells predicted", ylabel="share of errors among them")
    ax.legend(frameon=False, fontsize="small", loc="best")
    return finish(ax, show=False, save=None)
