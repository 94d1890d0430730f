"""What `evaluate` returned, laid out as tables for the eye; needs no torch."""

from collections.abc import Mapping, Sequence
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


MOST_DONORS = 40
"""Donors whose ages are shown; metrics.json has all."""


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Lay out what `evaluate` returned: by phenotype, by what is given, by donor, by what a split by cells flatters."""
    held_out = HELD_OUT[results["split"]]
    resampled = f"over {results['donors']} resampled donors" if results["donors"] else "over resampled cells, no donors"
    rows = pd.DataFrame(results["scores"])
    laid_out = []
    for phenotype, of_phenotype in rows.groupby("phenotype", sort=False) if len(rows) else ():
        shown = [score for score in SHOWN if score in set(of_phenotype.score)]
        table = _table(f"{phenotype}: {held_out}; 95 % intervals {resampled}", "predictor", *map(_words, shown))
        for predictor, of_predictor in of_phenotype.groupby("predictor", sort=False):
            by_score = of_predictor.set_index("score")
            table.add_row(str(predictor), *(_interval(by_score.loc[score]) for score in shown))
        laid_out.append(table)
    if results["conditions"]:
        laid_out.append(conditions_table(results["conditions"], held_out))
    for name, ages in results["ages"].items():
        laid_out.append(ages_table(name, ages, held_out))
    if results["leakage"]:
        laid_out.append(leakage_table(results["leakage"], held_out))
    names = list(next(iter(results["genes"].values())))
    table = _table(
        f"hidden genes (15 %), cells of all donors together, without intervals: {held_out}",
        "predictor",
        *map(_words, names),
    )
    for predictor, scores in results["genes"].items():
        table.add_row(predictor, *(_number(scores[name]) for name in names))
    return [*laid_out, table, *_unknown_table(results.get("unknown"), held_out)]


def conditions_table(rows: Sequence[Mapping[str, Any]], held_out: str) -> Table:
    """Lay out what knowing other phenotypes helps, rows of `conditions.conditions`."""
    frame = pd.DataFrame(rows)
    scores = list(dict.fromkeys(frame.score))
    columns = [word for score in scores for word in (_words(score), "gain")]
    table = _table(
        f"what knowing helps, every donor counting the same: {held_out}", "phenotype", "given", "of cells", *columns
    )
    for (phenotype, given), of_given in frame.groupby(["phenotype", "given"], sort=False):
        by_score = of_given.set_index("score")
        cells = [
            text
            for score in scores
            for text in (_interval(by_score.loc[score]), _interval(by_score.loc[score], "gain", sign="+"))
        ]
        table.add_row(str(phenotype), str(given), f"{by_score.known.iloc[0]:.0%}", *cells)
    return table


def ages_table(name: str, ages: Mapping[str, Any], held_out: str) -> Table:
    """Lay out the test donors' ages, see `age_gaps.age_report`."""
    held = {key: _interval(pd.Series(ages[key])) for key in ("coverage_cells", "coverage_donors", "years_wide")}
    table = _table(
        f"{name} in years by donor, {ages['level']:.0%} intervals: they hold the age of {held['coverage_donors']} of "
        f"the donors and {held['coverage_cells']} of their cells, and are {held['years_wide']} years wide: {held_out}",
        "donor", "cells", "actual", "predicted", "gap", "gap, regression to the mean removed",
    )  # fmt: skip
    for row in map(pd.Series, ages["donors"][:MOST_DONORS]):
        predicted = f"{row.predicted:.1f} [{row.low:.1f}, {row.high:.1f}]"
        gap = f"{row.gap:+.1f} [{row.gap_low:+.1f}, {row.gap_high:+.1f}]"
        corrected = "–" if pd.isna(row.gap_corrected) else f"{row.gap_corrected:+.1f}"
        table.add_row(row.donor, f"{row.cells:,}", f"{row.actual:.1f}", predicted, gap, corrected)
    if len(ages["donors"]) > MOST_DONORS:
        table.caption = f"{len(ages['donors']) - MOST_DONORS:,} more donors are in the file of the scores"
    return table


def leakage_table(rows: Sequence[Mapping[str, Any]], held_out: str) -> Table:
    """Lay out what a split by cells would flatter, rows of `leakage.leakage_gaps`."""
    columns = ("phenotype", "predictor", "score", "cells of training donors", "held out", "leakage gap")
    table = _table(f"leakage gap, other cells of what trained beside what did not: {held_out}", *columns)
    for row in map(pd.Series, rows):
        values = (_interval(row, "seen"), _interval(row, "held_out"), _interval(row, "gap", sign="+"))
        table.add_row(row.phenotype, row.predictor, _words(row.score), *values)
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _words(name: str) -> str:
    return name.replace("_", " ")


def _interval(row: pd.Series, name: str = "", *, sign: str = "") -> str:
    low, high = (f"{name}_low", f"{name}_high") if name else ("low", "high")
    value, low, high = (_number(row[key], sign) for key in (name or "value", low, high))
    return f"{value} [{low}, {high}]"


def _number(value: float | None, sign: str = "") -> str:
    return "–" if value is None or np.isnan(value) else f"{value:{sign}.3f}"


def _unknown_table(unknown: Mapping[str, Any] | None, held_out: str) -> list[Table]:
    """Lay out what `unknown_cells.score_familiarity` returned."""
    if unknown is None:
        return []
    title = f"known cells flagged as unknown, every donor counting the same: {held_out}"
    table = _table(title, "stated", "found", "donors", "cells")
    found = f"{_number(unknown['false_alarms'])} [{_number(unknown['low'])}, {_number(unknown['high'])}]"
    table.add_row(_number(unknown["stated"]), found, str(unknown["donors"] or "–"), f"{unknown['cells']:,}")
    return [table]
