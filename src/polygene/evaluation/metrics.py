"""Scores of predicted labels and ages, from sums by donor.

A cell is scored where its true label is *scorable* (`scorable.scorable`). Predictors do not know which labels those
are: any other predicted label is wrong.

What a score needs is first summed by donor, a `Tally`; resampling donors (`bootstrap`) is then one matrix product.

Legend: C cells, V labels of a phenotype, S sources, U rows of a tally (one donor within one source), K sums
of a row, R ways to weigh the rows (resamples).
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from polygene.vocab.ontology import reported_labels

SMALLEST_PROBABILITY = 1e-15
"""Log loss takes no probability for smaller, so one impossible label costs 34.5 nats and not infinity."""

FEWEST_LABELS = 2
"""With one label scored, always predicting it is perfect."""

LOWER_IS_BETTER = frozenset({"log_loss", "ece", "brier", "mae_years", "mae_years_by_donor"})


def frequencies(labels_C: np.ndarray, n_labels: int) -> np.ndarray:
    """Share of each label among the cells that have one, (V,)."""
    counts_V = np.bincount(labels_C[labels_C >= 0], minlength=n_labels)
    return counts_V / counts_V.sum()


def expected_years(probabilities_CV: np.ndarray, years_V: np.ndarray) -> np.ndarray:
    """Give the expected age of each cell, Σ p·years / Σ p over the labels that can be read as years.

    NaN where all the probability lies on labels that cannot (`years_V` is NaN).
    """
    readable_V = np.isfinite(years_V)
    p_CV = probabilities_CV[:, readable_V].astype(float)
    return ratio(p_CV @ years_V[readable_V], p_CV.sum(axis=1))


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a score needs, summed over the cells of each donor within each source.

    Attributes
    ----------
    donors_U
        Donor of each row; the same donor in another source is another row.
    sources_U
        Source of each row. A score is taken within each source, and its mean over the sources is the score.
    sums_UK
        float64, the sums.
    formula
        Turns sums_RK into the scores, each an array of R.
    labels
        The V labels whose hits, true and predicted cells are the first 3V of the sums; empty for ages.
    """

    donors_U: np.ndarray
    sources_U: np.ndarray
    sums_UK: np.ndarray
    formula: Callable[[np.ndarray], dict[str, np.ndarray]]
    labels: tuple[Hashable, ...] = ()

    @property
    def truths_UV(self) -> np.ndarray:
        """The cells that have each label."""
        return self.sums_UK[:, len(self.labels) : 2 * len(self.labels)]

    @property
    def n_labels(self) -> float:
        """How many labels are scored; NaN for ages."""
        return float(np.count_nonzero(self.truths_UV.sum(axis=0))) if self.labels else np.nan

    def __post_init__(self) -> None:
        if not np.isfinite(self.sums_UK).all():
            msg = "predictions of scored cells hold NaN or infinite values; a predictor must predict every cell"
            raise ValueError(msg)

    def scores(self, weights_RU: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Score with each row counted `weights_RU` times (once if not given): each score as an array of R.

        A label, or a source, that no counted cell has is left out of the averages.
        """
        weights = np.ones((1, len(self.donors_U))) if weights_RU is None else weights_RU
        sources = [self.sources_U == source for source in np.unique(self.sources_U)] or [np.zeros(0, dtype=bool)]
        by_source = [self.formula(weights[:, rows] @ self.sums_UK[rows]) for rows in sources]
        return {name: mean_of_known(np.stack([scores[name] for scores in by_source], axis=1)) for name in by_source[0]}


def label_tally(
    probabilities_CV: np.ndarray,
    truth_C: np.ndarray,
    *,
    scorable_SV: np.ndarray,
    sources_C: np.ndarray | None = None,
    donors_C: np.ndarray | None = None,
    labels: Sequence[Hashable] | None = None,
    at_or_below_VV: np.ndarray | None = None,
) -> Tally:
    """Sum by donor and source what accuracy, macro-F1, balanced accuracy and log loss need.

    Cells whose label is not given (-1) or not scorable in their source are left out. Predicted is the most probable
    of *all* labels (the first of equals). One that is not scorable misses the true label and is no false positive of a
    scored one; log loss takes the probability of the true label as it is, without renormalising.

    Parameters
    ----------
    scorable_SV
        Of `scorable`, with one row if `sources_C` is None.
    donors_C
        Donor of each cell, the unit of resampling. Cells without one (None, NaN, "") count as one donor together.
        None: each cell is a unit of its own.
    labels
        Names of the V labels; their numbers if None.
    at_or_below_VV
        Which labels (columns) are at or below which (rows) in their ontology.
    """
    sources_C = np.zeros(len(truth_C), dtype=int) if sources_C is None else sources_C
    kept_C = (truth_C >= 0) & scorable_SV[sources_C, truth_C]
    truth, p_CV = truth_C[kept_C], probabilities_CV[kept_C]
    predicted, p_true = credited(p_CV, truth, at_or_below_VV)
    surprise = -np.log(np.clip(p_true, SMALLEST_PROBABILITY, 1.0))
    donors_U, sources_U, rows = donor_rows(donors_C, sources_C, kept_C)
    n_labels = probabilities_CV.shape[1]
    hits_UV, truths_UV, predicted_UV = np.zeros((3, len(donors_U), n_labels))
    np.add.at(truths_UV, (rows, truth), 1)
    np.add.at(predicted_UV, (rows, predicted), 1)
    np.add.at(hits_UV, (rows, truth), predicted == truth)
    surprise_U = np.bincount(rows, weights=surprise, minlength=len(donors_U))
    return Tally(
        donors_U=donors_U,
        sources_U=sources_U,
        sums_UK=np.column_stack([hits_UV, truths_UV, predicted_UV, surprise_U]),
        formula=_label_formula,
        labels=tuple(range(n_labels) if labels is None else labels),
    )


def credited(p_CV: np.ndarray, truth_C: np.ndarray, at_or_below_VV: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Give each cell's predicted label, and the probability of the true one."""
    predicted_C, p_C = reported_labels(p_CV, at_or_below_VV), p_CV[np.arange(len(truth_C)), truth_C].astype(float)
    if at_or_below_VV is None:
        return predicted_C, p_C
    # A prediction below the true label is right: the truth is no finer. A label's probability is that of all below it.
    predicted_C = np.where(at_or_below_VV[truth_C, predicted_C], truth_C, predicted_C)
    return predicted_C, np.where(at_or_below_VV[truth_C], p_CV, 0).sum(axis=1, dtype=float)


def years_tally(
    years_C: np.ndarray,
    truth_years_C: np.ndarray,
    *,
    sources_C: np.ndarray | None = None,
    donors_C: np.ndarray | None = None,
) -> Tally:
    """Sum by donor and source what the mean absolute errors of age need.

    `mae_years` is the mean over cells. `mae_years_by_donor` first averages the predictions of a donor's cells and then
    the errors of the donors, each counting once. Cells of unknown age are left out, and so are sources in which all
    known ages are the same; a number needs no label, so ages that training has not seen are scored too.
    """
    sources_C = np.zeros(len(truth_years_C), dtype=int) if sources_C is None else sources_C
    kept_C = np.isfinite(truth_years_C)
    for source in np.unique(sources_C[kept_C]):
        here_C = kept_C & (sources_C == source)
        if np.ptp(truth_years_C[here_C]) == 0:
            kept_C &= ~here_C
    error = (years_C - truth_years_C)[kept_C]
    donors_U, sources_U, rows = donor_rows(donors_C, sources_C, kept_C)
    size_U = np.bincount(rows, minlength=len(donors_U))
    total_U = np.bincount(rows, weights=np.abs(error), minlength=len(donors_U))
    donor_error_U = np.abs(np.bincount(rows, weights=error, minlength=len(donors_U))) / size_U
    sums_UK = np.column_stack([total_U, size_U, donor_error_U, np.ones(len(donors_U))])
    return Tally(donors_U=donors_U, sources_U=sources_U, sums_UK=sums_UK, formula=_years_formula)


def label_scores(tally: Tally) -> dict[str, float]:
    """Give the scores of a `label_tally` as numbers, and how many cells, donors, labels and sources are scored.

    Over fewer than two labels hits and misses are no score: NaN. Log loss stays, since it chooses among fits.
    """
    support = {
        "cells": tally.truths_UV.sum(),
        "donors": len(pd.unique(tally.donors_U)),
        "labels": tally.n_labels,
        "sources": len(np.unique(tally.sources_U)),
    }
    scores = {name: value_R[0] for name, value_R in tally.scores().items()}
    if support["labels"] < FEWEST_LABELS:
        scores |= dict.fromkeys(("accuracy", "macro_f1", "balanced_accuracy"), np.nan)
    return {name: float(value) for name, value in (scores | support).items()}


def class_formula(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
    """Give precision, recall and F1 of every label, (R, V) each; NaN without such cells."""
    hits_RV, truths_RV, predicted_RV = np.split(sums_RK[:, :-1], 3, axis=1)
    f1_RV = np.where(truths_RV == 0, np.nan, ratio(2 * hits_RV, truths_RV + predicted_RV))
    return {"precision": ratio(hits_RV, predicted_RV), "recall": ratio(hits_RV, truths_RV), "f1": f1_RV}


def _label_formula(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
    """Give the label scores from hits, true and predicted cells of each label, and the summed −ln p(truth)."""
    hits_RV, truths_RV, _ = np.split(sums_RK[:, :-1], 3, axis=1)
    by_label, cells_R = class_formula(sums_RK), truths_RV.sum(axis=1)
    return {
        "accuracy": ratio(hits_RV.sum(axis=1), cells_R),
        "macro_f1": mean_of_known(by_label["f1"]),
        "balanced_accuracy": mean_of_known(by_label["recall"]),
        "log_loss": ratio(sums_RK[:, -1], cells_R),
    }


def _years_formula(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
    """Give the age scores from summed errors, cells, errors of donors, donors."""
    total_R, size_R, donor_error_R, donors_R = sums_RK.T
    return {"mae_years": ratio(total_R, size_R), "mae_years_by_donor": ratio(donor_error_R, donors_R)}


def donor_rows(
    donors_C: np.ndarray | None, sources_C: np.ndarray, kept_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the pairs of donor and source among the kept cells: donors_U, sources_U, and the row of each kept cell."""
    codes_C, donors = donor_codes(donors_C, len(kept_C))
    n_sources = int(sources_C.max(initial=0)) + 1
    pairs_U, rows = np.unique((codes_C * n_sources + sources_C)[kept_C], return_inverse=True)
    return donors[pairs_U // n_sources], pairs_U % n_sources, rows


def donor_codes(donors_C: np.ndarray | None, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the donors: the number of each cell, and the donors by number."""
    if donors_C is None:
        return np.arange(n_cells), np.arange(n_cells)
    donors = pd.Series(donors_C, dtype=object)
    codes_C, names = pd.factorize(donors.where(donors.notna(), ""))
    return codes_C, np.asarray(names, dtype=object)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


def mean_of_known(values_RV: np.ndarray) -> np.ndarray:
    """Average over the second axis without the NaNs."""
    known_RV = ~np.isnan(values_RV)
    return ratio(np.where(known_RV, values_RV, 0.0).sum(axis=1), known_RV.sum(axis=1))
