"""Which phenotypes a model can be trusted for: fixed rules, and the summary that a reader needs first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pandas as pd

from polygene.evaluation.metrics import LOWER_IS_BETTER
from polygene.evaluation.tables import (
    SPLITS,
    ResultTable,
    interval,
    main_score,
    number,
    of_labels,
    of_phenotype,
    of_score,
    percent,
    resampled_units,
    words,
)
from polygene.evaluation.test_cells import MODEL, POOLED, REFERENCE, YEARS, YEARS_REFERENCE

if TYPE_CHECKING:
    from polygene.evaluation.results import Evaluation

Level = Literal["dependable", "care", "no", "untested"]
LEVELS: dict[Level, str] = {
    "dependable": "●\N{NO-BREAK SPACE}dependable",
    "care": "◐\N{NO-BREAK SPACE}use with care",
    "no": "○\N{NO-BREAK SPACE}do not use",
    "untested": "–\N{NO-BREAK SPACE}not tested",
}
TRIVIAL = ("majority", "source majority", "measured genes + library size", "training mean")
"""Baselines that see no gene's expression: what they reach is no merit."""
DEPENDABLE, DEPENDABLE_YEARS = 0.8, 5.0
"""Dependable is a macro-F1 of at least this at the lower end of its interval, an error of age of at most so many years
at the upper end. A convention, which the report names."""


def assess(results: Evaluation) -> dict[str, Level]:
    """Assess each phenotype, the most dependable first; an age that is scored in years is assessed in years.

    "dependable": surely above 0.8, donors held out. "care": surely above what needs no expression, with probabilities
    that beat the frequencies in training. "no": neither. "untested": it varies in no source.
    """
    scored = list(pd.unique(results.scores.phenotype)) if len(results.scores) else []
    made = {
        name: _level(results, name)
        for name in [*scored, *results.not_scored]
        if not name.endswith(POOLED) and f"{name}{YEARS}" not in scored
    }
    return {name: level for known in LEVELS for name, level in made.items() if level == known}


def summary_table(results: Evaluation) -> ResultTable:
    """Lay out how good each phenotype is, beside what."""
    rows = []
    for name, level in assess(results).items():
        row = dict.fromkeys(("correct", "score", MODEL, "regression, same genes", "gain", "no expression"), "–")
        if level != "untested":
            scores = of_phenotype(results.scores, name)
            main = main_score(scores)
            by_predictor = of_score(scores, main)
            trivial = by_predictor[by_predictor.index.isin(TRIVIAL)].value
            best = trivial.idxmin() if main in LOWER_IS_BETTER else trivial.idxmax()
            accuracy = scores[(scores.score == "accuracy") & (scores.predictor == MODEL)].value
            values = (
                percent(accuracy.iloc[0]) if len(accuracy) else "–",
                of_labels(main, scores),
                interval(by_predictor.loc[MODEL]),
                number(by_predictor.value[YEARS_REFERENCE if name.endswith(YEARS) else REFERENCE]),
                interval(by_predictor.loc[MODEL], "gain", "+z.3f"),
                f"{number(trivial[best])}, {best}",
            )
            row = dict(zip(row, values, strict=True))
        rows.append({"phenotype": words(name), **row, "assessment": LEVELS[level]})
    donors = f" of {results.donors} donor{'s' * (results.donors > 1)}" if results.donors else ""
    return ResultTable(
        section="summary",
        title=f"{results.cells['test']:,} test cells{donors}, {SPLITS[results.split]}",
        frame=pd.DataFrame(rows),
        note=f"Brackets: 95 % intervals {resampled_units(results)}. Gain: over the regression; negative is worse.",
    )


def _level(results: Evaluation, name: str) -> Level:
    if name in results.not_scored:
        return "untested"
    scores = of_phenotype(results.scores, name)
    main = main_score(scores)
    sign = -1 if main in LOWER_IS_BETTER else 1
    by_predictor = of_score(scores, main)
    trivial = by_predictor[by_predictor.index.isin(TRIVIAL)].value * sign
    surely = by_predictor.low[MODEL] if sign > 0 else -by_predictor.high[MODEL]
    calibration = of_phenotype(results.calibration, name)
    informative = calibration.informative.iloc[0] if len(calibration) else True
    if pd.isna(surely) or surely <= trivial.max() or not informative:
        return "no"
    enough = DEPENDABLE if sign > 0 else -DEPENDABLE_YEARS
    # Cells of the same donor are alike: held out at random, they say little of a new donor.
    return "dependable" if surely >= enough and results.split != "random" else "care"
