"""What `evaluate` returned, laid out as tables for the eye; needs no torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

HELD_OUT = {
    "donor": "split by donor, donors held out",
    "study": "split by study, studies held out",
    "random": "random split, cells, not donors, held out",
}
SHOWN = ("macro_f1", "accuracy", "balanced_accuracy", "log_loss", "mae_years", "mae_years_by_donor")


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Lay out what `evaluate` returned: a table for each phenotype, one for the genes."""
    held_out = HELD_OUT[results["split"]]
    rows = pd.DataFrame(results["scores"])
    laid_out = []
    for phenotype, of_phenotype in rows.groupby("phenotype", sort=False) if len(rows) else ():
        shown = [score for score in SHOWN if score in set(of_phenotype.score)]
        table = Table(title=f"{phenotype}: {held_out}", title_justify="left")
        table.add_column("predictor")
        for score in shown:
            table.add_column(score.replace("_", " "), justify="right")
        for predictor, of_predictor in of_phenotype.groupby("predictor", sort=False):
            by_score = of_predictor.set_index("score")
            table.add_row(str(predictor), *(_interval(by_score.loc[score]) for score in shown))
        laid_out.append(table)
    names = list(next(iter(results["genes"].values())))
    table = Table(title=f"hidden genes (15 %): {held_out}", title_justify="left")
    table.add_column("predictor")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for predictor, scores in results["genes"].items():
        table.add_row(predictor, *(_number(scores[name]) for name in names))
    return [*laid_out, table]


def _interval(row: pd.Series) -> str:
    return f"{_number(row.value)} [{_number(row.low)}, {_number(row.high)}]"


def _number(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"
