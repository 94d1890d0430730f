"""Which phenotypes a model can be trusted for, assessed by fixed rules and in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pandas as pd

from polygene.evaluation.metrics import LOWER_IS_BETTER
from polygene.evaluation.tables import (
    SPLITS,
    ResultTable,
    interval,
    main_score,
    number,
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
    "dependable": "dependable",
    "care": "use with care",
    "no": "do not use",
    "untested": "not tested",
}
TRIVIAL = ("majority", "source majority", "measured genes + library size", "training mean")
"""Baselines that see no gene's expression: what they reach is no merit."""
DEPENDABLE, DEPENDABLE_YEARS = 0.8, 5.0
"""Dependable is a macro-F1 of at least this at the lower end of its interval, an error of age of at most so many years
at the upper end. A convention, which the report names."""
CALIBRATED = 0.05
"""Probabilities are called calibrated if they are off by at most so much on average (expected calibration error)."""
MOST_NAMED = 5
"""Labels that a sentence lists; the table has the rest."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What a phenotype of a model is worth.

    Attributes
    ----------
    phenotype
        Its name; " in years" is added where an age is scored as a number.
    level
        "dependable" (surely above 0.8, donors held out), "care" (surely above what needs no expression, and its
        probabilities beat the frequencies in training), "no" or "untested".
    sentences
        Why.
    score
        By which it was assessed; "" where it was not tested.
    """

    phenotype: str
    level: Level
    sentences: tuple[str, ...]
    score: str = ""


def assess(results: Evaluation) -> list[Assessment]:
    """Assess each phenotype, the most dependable first."""
    names = list(pd.unique(results.scores.phenotype)) if len(results.scores) else []
    made = [
        _assess_scored(results, name)
        for name in names
        if not name.endswith(POOLED) and f"{name}{YEARS}" not in names  # an age is assessed in years
    ]
    order: list[Level] = list(LEVELS)
    made.sort(key=lambda one: order.index(one.level))
    why = "Every test cell of a source has the same label, or too few donors have another: nothing can be measured."
    untested = [name for name in results.not_scored if f"{name}{YEARS}" not in names]
    return [*made, *(Assessment(phenotype=name, level="untested", sentences=(why,)) for name in untested)]


def summary_table(results: Evaluation) -> ResultTable:
    """Lay out how good each phenotype is, beside what: the one table that a reader needs first."""
    rows = []
    for one in assess(results):
        row = dict.fromkeys(("score", MODEL, "regression, same genes", "gain", "without expression"), "–")
        if one.score:
            by_predictor = of_score(of_phenotype(results.scores, one.phenotype), one.score)
            trivial = by_predictor[by_predictor.index.isin(TRIVIAL)].value
            best = trivial.idxmin() if one.score in LOWER_IS_BETTER else trivial.idxmax()
            reference = YEARS_REFERENCE if one.phenotype.endswith(YEARS) else REFERENCE
            values = (
                words(one.score),
                interval(by_predictor.loc[MODEL]),
                number(by_predictor.value[reference]),
                interval(by_predictor.loc[MODEL], "gain", "+z.3f"),
                f"{number(trivial[best])}, {best}",
            )
            row = dict(zip(row, values, strict=True))
        rows.append({"phenotype": words(one.phenotype), **row, "": LEVELS[one.level]})
    donors = f" of {results.donors} donors" if results.donors else ""
    return ResultTable(
        section="summary",
        title=f"{results.cells['test']:,} test cells{donors}, {SPLITS[results.split]}",
        frame=pd.DataFrame(rows),
        note=f"95 % intervals {resampled_units(results)}; gains are over the regression.",
    )


def _assess_scored(results: Evaluation, name: str) -> Assessment:
    scores = of_phenotype(results.scores, name)
    main = main_score(scores)
    sign = -1 if main in LOWER_IS_BETTER else 1
    by_predictor = of_score(scores, main)
    trivial = by_predictor[by_predictor.index.isin(TRIVIAL)].value * sign
    low, high = by_predictor.loc[MODEL, ["low", "high"]]
    surely = low if sign > 0 else -high
    calibration = of_phenotype(results.calibration, name)
    sound = surely >= (DEPENDABLE if sign > 0 else -DEPENDABLE_YEARS) and results.split != "random"
    level: Level = "dependable" if sound else "care"
    if pd.isna(surely) or surely <= trivial.max() or (len(calibration) and not calibration.informative.iloc[0]):
        level = "no"
    if sign < 0:
        sentences = _years_sentences(by_predictor, trivial)
    else:
        sentences = [
            *_score_sentences(scores, by_predictor, trivial),
            *_class_sentences(results, name),
            *_confidence_sentences(results, name),
        ]
    return Assessment(phenotype=name, level=level, sentences=tuple(sentences), score=main)


def _score_sentences(scores: pd.DataFrame, by_predictor: pd.DataFrame, trivial: pd.Series) -> list[str]:
    accuracy, f1 = of_score(scores, "accuracy").loc[MODEL], by_predictor.loc[MODEL]
    return [
        f"Correct for {percent(accuracy.value)} of the test cells ({percent(accuracy.low)} to "
        f"{percent(accuracy.high)}); with rare labels counting as much as common ones, macro-F1 is "
        f"{number(f1.value)} ({number(f1.low)} to {number(f1.high)}). Without any gene's expression, "
        f"“{trivial.idxmax()}” reaches {number(trivial.max())}.",
        _beside(f1, REFERENCE, "macro-F1", "+z.3f"),
    ]


def _class_sentences(results: Evaluation, name: str) -> list[str]:
    """Name the labels that are weak, and those that one donor has."""
    classes = of_phenotype(results.classes, name)
    classes = classes[classes.predictor == MODEL] if len(classes) else classes
    if not len(classes):
        return []
    weak = classes[classes.f1 < DEPENDABLE].sort_values("f1")
    if len(weak):
        named = ", ".join(f"{row.label} ({number(row.f1)})" for row in weak.head(MOST_NAMED).itertuples())
        more = f" and {len(weak) - MOST_NAMED:,} more" if len(weak) > MOST_NAMED else ""
        sentences = [f"Labels with F1 below {DEPENDABLE}: {named}{more}."]
    else:
        sentences = [f"Each of its {len(classes):,} labels has F1 of {DEPENDABLE} or more."]
    if len(alone := classes[classes.donors == 1]):
        listed = ", ".join(alone.label.head(MOST_NAMED))
        sentences.append(f"A single test donor has {listed}: no measure for other donors.")
    return sentences


def _confidence_sentences(results: Evaluation, name: str) -> list[str]:
    """Say what its probabilities and its sets of labels are worth."""
    sentences = []
    for row in of_phenotype(results.calibration, name).itertuples():
        off = f"{percent(row.ece)} off on average ({percent(row.ece_low)} to {percent(row.ece_high)})"
        calibrated = "calibrated" if row.ece <= CALIBRATED else "not calibrated"
        worthless = f"Its probabilities are worth no more than a prediction that looks at no cell: {off}."
        sentences.append(f"Its probabilities are {calibrated}: {off}." if row.informative else worthless)
    for row in of_phenotype(results.sets, name).head(1).itertuples():
        covered = f"{percent(row.coverage)} ({percent(row.coverage_low)} to {percent(row.coverage_high)})"
        promised = f"Sets of labels that promise to cover {percent(row.level)} of the cells"
        sentences.append(f"{promised} cover {covered}, with {row.size:.2f} labels in a set.")
    return sentences


def _years_sentences(by_predictor: pd.DataFrame, trivial: pd.Series) -> list[str]:
    ours = by_predictor.loc[MODEL]
    return [
        f"Off by {ours.value:.1f} years a donor on average ({ours.low:.1f} to {ours.high:.1f}). "
        f"Predicting the mean age of training for every donor is off by {-trivial.max():.1f} years.",
        _beside(ours, YEARS_REFERENCE, "years", "+z.1f"),
    ]


def _beside(ours: pd.Series, reference: str, unit: str, spec: str) -> str:
    """Compare the model with its reference: better, worse or level."""
    if pd.isna(ours.gain_low):
        return f"It cannot be compared with {reference} on these cells."
    word = "Better than" if ours.gain_low > 0 else "Worse than" if ours.gain_high < 0 else "Level with"
    gain, low, high = (number(value, spec) for value in (ours.gain, ours.gain_low, ours.gain_high))
    return f"{word} {reference} on the same cells: gain {gain} {unit} ({low} to {high})."
