"""What calibration is worth on held-out donors: how sure answers are beside how right, and what sets of labels hold.

Legend: C cells, V labels of one phenotype, U rows of donor and source, B bins of confidence, R resamples, J steps of a
curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from polygene.corpus.corpus import CorpusSplit
from polygene.evaluation.metrics import (
    SMALLEST_PROBABILITY,
    Tally,
    compare,
    donor_draws,
    donor_rows,
    frequencies,
    ratio,
)
from polygene.evaluation.test_cells import MODEL, named, scored_labels
from polygene.model.calibration import LabelCalibration, finest, units_needed
from polygene.model.checkpoint import PolyGene
from polygene.runtime.subsample import spread

COVERAGE, TOLERANCE = 0.9, 0.02
"""Sets are scored at this coverage; it fails where it is off by more."""
N_BINS, N_STEPS, N_RESAMPLES = 15, 100, 1_000
MARGINAL, UNIFORM = "marginal", "uniform"
"""Answers that look at no cell: the frequencies in training, and the same for every label."""
MOST_CELLS = 50_000
"""Scored are at most so many test cells, spread evenly."""


def reliability(
    model: PolyGene, train: CorpusSplit, test: CorpusSplit, answers: Sequence[np.ndarray], *, seed: int = 0
) -> dict[str, Any]:
    """Score calibration and sets of every phenotype that varies within a source of the test cells.

    Scored are the cells that `metrics.scorable` keeps. Probabilities count where they beat both answers that look at no
    cell, in log loss: where test donors have the labels in other shares than training donors, the same answer for
    everybody can beat the marginal and has learned nothing.

    Parameters
    ----------
    answers
        Of the model for all test cells with nothing given, phenotype by phenotype, (C, V).

    Returns
    -------
    Two entries of what `evaluate` returns, each a list with a row for each phenotype.

    `calibration`
        `phenotype`, `temperature` (None: not calibrated), `calibration_donors`, `unit` ("donor" or "cell"), `scores`
        (rows of `metrics.compare` for PolyGene, "marginal", the frequencies in training, and "uniform": `ece`,
        `log_loss`, `brier`; gains are over the marginal), `counts` (whether the log loss beats both others', by the
        intervals of the gains), and `bins` of PolyGene's answers: `confidence`, `accuracy` with `low` and `high`,
        `cells`.
    `sets`
        `phenotype`, `asked` (0.9), `coverage` with `low` and `high` (averaged by donor), `size`, `abstained` (share of
        cells whose set is not one label), `single_accuracy` (of the others), `off` and `why` (None where the coverage
        is as asked), `by_label` (`label`, `basis`: "own" or "all labels", `calibration_donors`, `donors`, and
        `coverage`, `low`, `high`, `size`, `off`, `why` as above), and `risk_coverage`: `share` of cells answered, most
        sure first, `risk`, the share of errors among them, and the area below, `aurc` with `low` and `high`.
    """
    schema = model.tokenizer.schema
    rows = spread(len(test), MOST_CELLS)
    sources_C, donors_C = test.sources_C[rows], named(test, rows)
    calibrated, sets = [], []
    for p, (name, labels) in enumerate(zip(schema.names, schema.labels, strict=True)):
        within_SV = scored_labels(train, test, p, len(labels), rows)
        if not within_SV.any():  # also where the vocabulary has no label
            continue
        p_CV, truth_C, one = answers[p][rows], test.labels_CP[rows, p], model.calibration.labels.get(name)
        kept_C = (truth_C >= 0) & within_SV[sources_C, truth_C]
        of_test = partial(confidence_tally, truth_C=truth_C, kept_C=kept_C, sources_C=sources_C, donors_C=donors_C)
        constant = {
            MARGINAL: frequencies(train.labels_CP[:, p], len(labels)),
            UNIFORM: np.full(len(labels), 1 / len(labels)),
        }
        tallies = {MODEL: of_test(p_CV)} | {
            who: of_test(np.broadcast_to(p_V, p_CV.shape)) for who, p_V in constant.items()
        }
        tables = [compare(tallies, reference=who, n_resamples=N_RESAMPLES, seed=seed) for who in constant]
        gains = [table.set_index(["predictor", "score"]).gain_low[MODEL, "log_loss"] for table in tables]
        calibrated.append(
            {
                "phenotype": name,
                "temperature": one.temperature if one else None,
                "calibration_donors": one.units if one else 0,
                "unit": "cell" if donors_C is None else "donor",
                "scores": tables[0].to_dict("records"),
                "counts": bool(min(gains) > 0),
                "bins": bins_of(tallies[MODEL], seed=seed),
            }
        )
        units_C = np.arange(len(truth_C)) if donors_C is None else donors_C
        of_kept = p_CV[kept_C], truth_C[kept_C], units_C[kept_C]
        table_VV = model.at_or_below(name)
        held = (
            set_scores(*of_kept, one, labels, at_or_below_VV=table_VV, seed=seed)
            if one
            else {"why": "the model was not calibrated"}
        )
        sets.append({"phenotype": name, "asked": COVERAGE, **held, "risk_coverage": risk_coverage(*of_kept, seed=seed)})
    return {"calibration": calibrated, "sets": sets}


def confidence_tally(
    probabilities_CV: np.ndarray,
    *,
    truth_C: np.ndarray,
    kept_C: np.ndarray,
    sources_C: np.ndarray,
    donors_C: np.ndarray | None,
) -> Tally:
    """Sum by donor and source what expected calibration error, log loss and Brier score need.

    Bins of confidence, the probability of the most probable label, hold equally many cells, of all sources together.
    """
    truth, p_CV = truth_C[kept_C], probabilities_CV[kept_C].astype(float)
    at, confidence = np.arange(len(truth)), p_CV.max(axis=1)
    bin_C = steps_of(confidence, N_BINS)
    donors_U, sources_U, rows = donor_rows(donors_C, sources_C, kept_C)
    sums_UKB = np.zeros((len(donors_U), 3, N_BINS))
    for k, values in enumerate((np.ones(len(truth)), p_CV.argmax(axis=1) == truth, confidence)):
        np.add.at(sums_UKB[:, k], (rows, bin_C), values)
    surprise = -np.log(np.clip(p_CV[at, truth], SMALLEST_PROBABILITY, 1.0))
    brier = (p_CV**2).sum(axis=1) - 2 * p_CV[at, truth] + 1
    summed = [np.bincount(rows, weights=values, minlength=len(donors_U)) for values in (surprise, brier)]
    return Tally(
        donors_U=donors_U,
        sources_U=sources_U,
        splits_U=np.zeros(len(donors_U), dtype=int),
        sums_UK=np.column_stack([sums_UKB.reshape(len(donors_U), -1), *summed]),
        formula=_confidence_formula,
    )


def steps_of(confidence_C: np.ndarray, n_steps: int) -> np.ndarray:
    """Number steps of equally many cells, least sure first; equal values are in one step."""
    edges = np.quantile(confidence_C, np.arange(1, n_steps) / n_steps)
    return np.searchsorted(edges, confidence_C, side="right")


def _confidence_formula(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
    """Give the scores from cells, hits and confidence of each bin, and the summed log and quadratic losses."""
    cells_RB, hits_RB, confidence_RB = np.split(sums_RK[:, :-2], 3, axis=1)
    cells_R = cells_RB.sum(axis=1)
    sums = {"ece": np.abs(hits_RB - confidence_RB).sum(axis=1), "log_loss": sums_RK[:, -2], "brier": sums_RK[:, -1]}
    return {name: ratio(sum_R, cells_R) for name, sum_R in sums.items()}


def bins_of(tally: Tally, *, seed: int) -> list[dict[str, float]]:
    """Give mean confidence and accuracy of each bin, with donor-bootstrap intervals of the accuracy."""
    sums_UK = tally.sums_UK[:, :-2]
    (cells, hits, confidence), (cells_RB, hits_RB, _) = (
        np.split(sums, 3, axis=-1) for sums in (sums_UK.sum(axis=0), resampled(sums_UK, tally.donors_U, seed))
    )
    found = []
    for b in np.flatnonzero(cells):
        some_R = cells_RB[:, b] > 0
        low, high = np.quantile(hits_RB[some_R, b] / cells_RB[some_R, b], (0.025, 0.975))
        found.append(
            {
                "confidence": confidence[b] / cells[b],
                "accuracy": hits[b] / cells[b],
                "low": low,
                "high": high,
                "cells": int(cells[b]),
            }
        )
    return found


def set_scores(
    p_CV: np.ndarray,
    truth_C: np.ndarray,
    units_C: np.ndarray,
    calibration: LabelCalibration,
    labels: tuple[str, ...],
    *,
    at_or_below_VV: np.ndarray | None = None,
    seed: int,
) -> dict[str, Any]:
    """Score sets at `COVERAGE`: how often they hold the true label, by donor, and how many labels they hold."""
    set_CV = calibration.sets(p_CV, COVERAGE, at_or_below_VV)
    size_C, held_C = finest(set_CV, at_or_below_VV).sum(axis=1), set_CV[np.arange(len(truth_C)), truth_C]
    single_C, own_V = size_C == 1, calibration.own(COVERAGE)
    by_label = []
    for label in np.unique(truth_C):
        of_label = truth_C == label
        by_label.append(
            {
                "label": labels[label],
                "basis": "own" if own_V[label] else "all labels",
                "calibration_donors": calibration.units_V[label],
                **_covered(held_C[of_label], size_C[of_label], units_C[of_label], seed),
            }
        )
        by_label[-1] |= _failure(by_label[-1], calibration, calibration.units_V[label])
    whole = _covered(held_C, size_C, units_C, seed)
    return {
        **whole,
        **_failure(whole, calibration, calibration.units),
        "abstained": float(np.mean(~single_C)),
        "single_accuracy": float(held_C[single_C].mean()) if single_C.any() else None,
        "by_label": by_label,
    }


def _covered(held_C: np.ndarray, size_C: np.ndarray, units_C: np.ndarray, seed: int) -> dict[str, Any]:
    """Average coverage and size by unit, each counting once."""
    units, unit_C = np.unique(units_C, return_inverse=True)
    cells_U = np.bincount(unit_C)
    held_U, size_U = (np.bincount(unit_C, weights=values) / cells_U for values in (held_C, size_C))
    low, high = np.quantile(resampled(held_U[:, None], units, seed) / len(units), (0.025, 0.975))
    return {
        "donors": len(units),
        "cells": len(held_C),
        "coverage": float(held_U.mean()),
        "low": float(low),
        "high": float(high),
        "size": float(size_U.mean()),
    }


def _failure(found: dict[str, Any], calibration: LabelCalibration, units: int) -> dict[str, Any]:
    """Say by how much a coverage is off, and why."""
    off, needed, what = found["coverage"] - COVERAGE, units_needed(COVERAGE), f"{calibration.unit}s"
    if abs(off) <= TOLERANCE:
        return {"off": float(off), "why": None}
    if units < needed:
        why = f"{units} calibration {what} have it, {needed} are needed"
    elif found["low"] <= COVERAGE <= found["high"]:
        why = (
            f"as far as {found['donors']} test donors can be off by chance" if calibration.unit == "donor" else "chance"
        )
    elif calibration.unit == "cell":
        why = "calibrated on cells, not donors"
    else:
        why = f"test donors differ from the {units} calibration donors"
    return {"off": float(off), "why": why}


def risk_coverage(p_CV: np.ndarray, truth_C: np.ndarray, units_C: np.ndarray, *, seed: int) -> dict[str, Any]:
    """Give the share of errors among the most sure cells, as ever more are answered, and its mean, AURC.

    Steps hold a hundredth of the cells each; the interval of the AURC is a donor bootstrap.
    """
    step_C = N_STEPS - 1 - steps_of(p_CV.max(axis=1), N_STEPS)
    units, unit_C = np.unique(units_C, return_inverse=True)
    sums_UK = np.zeros((len(units), 2 * N_STEPS))
    np.add.at(sums_UK, (unit_C, step_C), 1)
    np.add.at(sums_UK, (unit_C, N_STEPS + step_C), p_CV.argmax(axis=1) != truth_C)

    def curve(sums_RK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        new_RJ = sums_RK[:, :N_STEPS]
        answered_RJ, errors_RJ = np.cumsum(new_RJ, axis=1), np.cumsum(sums_RK[:, N_STEPS:], axis=1)
        risk_RJ = errors_RJ / np.maximum(answered_RJ, 1)
        return answered_RJ / answered_RJ[:, -1:], risk_RJ, (risk_RJ * new_RJ).sum(axis=1) / answered_RJ[:, -1]

    share_1J, risk_1J, aurc = curve(sums_UK.sum(axis=0, keepdims=True))
    filled = np.flatnonzero(np.diff(share_1J[0], prepend=0))
    low, high = np.quantile(curve(resampled(sums_UK, units, seed))[2], (0.025, 0.975))
    return {
        "share": share_1J[0, filled].tolist(),
        "risk": risk_1J[0, filled].tolist(),
        "aurc": float(aurc[0]),
        "low": float(low),
        "high": float(high),
    }


def resampled(sums_UK: np.ndarray, donors_U: np.ndarray, seed: int) -> np.ndarray:
    """Sum over donors that are drawn with replacement, (R, K); the order of the rows changes nothing."""
    order = np.argsort(donors_U, kind="stable")
    draws = donor_draws(donors_U[order], N_RESAMPLES, seed)
    return np.concatenate([drawn_RU @ sums_UK[order] for drawn_RU in draws])
