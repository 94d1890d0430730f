"""What calibration is worth on test donors: confidence beside accuracy, and what sets of labels cover.

Legend: C cells, V labels of one phenotype, U rows of donor and source, B bins of confidence, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from polygene.corpus.corpus import CorpusSplit
from polygene.evaluation.bootstrap import TAILS, compare, resampled
from polygene.evaluation.metrics import SMALLEST_PROBABILITY, Tally, donor_rows, frequencies, ratio
from polygene.evaluation.test_cells import MODEL, donor_names, scored_labels
from polygene.model.calibration import LabelCalibration, finest, summed, units_needed
from polygene.model.checkpoint import PolyGene
from polygene.runtime.subsample import spread
from polygene.vocab.ontology import reported_labels, table_of

COVERAGE, TOLERANCE = 0.9, 0.02
"""Sets are scored at this coverage; it fails where it is off by more."""
N_BINS = 15
MARGINAL, UNIFORM = "marginal", "uniform"
"""Predictions that look at no cell: the frequencies in training, and the same for every label."""
MOST_CELLS = 50_000
"""Scored are at most so many test cells, spread evenly."""
ALL_LABELS = ""
"""The label of the row of all labels together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """How far probabilities and sets of labels hold; every table has a column `phenotype`.

    Attributes
    ----------
    calibration
        `temperature` (NaN: not calibrated), `calibration_donors`, their `unit` ("donor" or "cell"); `ece`, `log_loss`
        and `brier`, each with `_low` and `_high`; `marginal_log_loss`, `uniform_log_loss` and `marginal_brier` of
        predictions that look at no cell; and `informative`, whether the log loss beats both by more than donors differ.
    bins
        `confidence`, `accuracy` with `low` and `high`, `cells`.
    sets
        By `label`, first of all labels (""): `level` (the coverage that is promised), `coverage` with `_low` and
        `_high` (averaged by donor), `size`, `donors`, `cells`, `off` and `why` (None where the coverage is as
        promised), `basis` ("own" or "all labels") and `calibration_donors`; of all labels also `abstained` (share of
        cells whose set is not one typical label) and `single_accuracy` (of the others).
    """

    calibration: pd.DataFrame
    bins: pd.DataFrame
    sets: pd.DataFrame


def score_reliability(
    model: PolyGene, train: CorpusSplit, test: CorpusSplit, predictions: Sequence[np.ndarray], *, seed: int = 0
) -> Reliability:
    """Score calibration and sets on the test cells, of every phenotype that varies within a source.

    `predictions` are the model's for all test cells with nothing given, phenotype by phenotype, (C, V). A model that is
    not calibrated has no sets.
    """
    schema, rows = model.tokenizer.schema, spread(len(test), MOST_CELLS)
    parts: dict[str, list[pd.DataFrame]] = {"calibration": [], "bins": [], "sets": []}
    sources_C, donors_C = test.sources_C[rows], donor_names(test, rows)
    units_C = np.arange(len(rows)) if donors_C is None else donors_C
    for p, name in enumerate(schema.names):
        labels, truth_C, p_CV = schema.labels[p], test.labels_CP[rows, p], predictions[p][rows]
        within_SV = scored_labels(train, test, p, len(labels), rows)
        if not within_SV.any():  # it does not vary, or the vocabulary has no label
            continue
        kept_C, below_VV = (truth_C >= 0) & within_SV[sources_C, truth_C], model.at_or_below(name)
        of_test = partial(confidence_tally, truth_C=truth_C, kept_C=kept_C, sources_C=sources_C, donors_C=donors_C)
        marginal_V, uniform_V = frequencies(train.labels_CP[:, p], len(labels)), np.full(len(labels), 1 / len(labels))
        known = {MARGINAL: marginal_V, UNIFORM: uniform_V, MODEL: p_CV}
        tallies = {who: of_test(np.broadcast_to(x, p_CV.shape), at_or_below_VV=below_VV) for who, x in known.items()}
        calibration = model.calibration.labels.get(name)
        row = {
            "temperature": calibration.temperature if calibration else np.nan,
            "calibration_donors": calibration.units if calibration else 0,
            "unit": "cell" if donors_C is None else "donor",
            **_calibration_scores(tallies, seed),
        }
        scores = {"calibration": pd.DataFrame([row]), "bins": _bins(tallies[MODEL], seed)}
        if calibration:
            of_kept = p_CV[kept_C], truth_C[kept_C], units_C[kept_C]
            scores["sets"] = set_scores(*of_kept, calibration, labels, below_VV, seed=seed)
        for part, table in scores.items():
            parts[part].append(table.assign(phenotype=name))
    return Reliability(
        **{part: pd.concat(tables, ignore_index=True) if tables else pd.DataFrame() for part, tables in parts.items()}
    )


def _calibration_scores(tallies: dict[str, Tally], seed: int) -> dict[str, Any]:
    """Give the model's scores with intervals, those of the constant predictions, and whether it beats both."""
    by_reference = {
        who: compare(tallies, reference=who, seed=seed).set_index(["predictor", "score"]) for who in (MARGINAL, UNIFORM)
    }
    table = by_reference[MARGINAL]
    scores: dict[str, float] = {}
    for score in ("ece", "log_loss", "brier"):
        value, low, high = table.loc[(MODEL, score), ["value", "low", "high"]]
        scores |= {score: value, f"{score}_low": low, f"{score}_high": high}
    # Both must be beaten: where test donors have the labels in other shares than training donors, the same prediction
    # for every cell can beat the marginal and has learned nothing.
    return {
        **scores,
        "marginal_log_loss": table.value[MARGINAL, "log_loss"],
        "uniform_log_loss": table.value[UNIFORM, "log_loss"],
        "marginal_brier": table.value[MARGINAL, "brier"],
        "informative": all(one.gain_low[MODEL, "log_loss"] > 0 for one in by_reference.values()),
    }


def confidence_tally(
    probabilities_CV: np.ndarray,
    *,
    truth_C: np.ndarray,
    kept_C: np.ndarray,
    sources_C: np.ndarray,
    donors_C: np.ndarray | None,
    at_or_below_VV: np.ndarray | None = None,
) -> Tally:
    """Sum by donor and source what expected calibration error, log loss and Brier score need.

    Bins of confidence, the probability of the reported label, hold equally many cells, of all sources together. All
    labels at and below the true one count as it, and all at and below the reported one are its probability.
    """
    truth, p_CV = truth_C[kept_C], probabilities_CV[kept_C].astype(float)
    below_VV = table_of(at_or_below_VV, p_CV.shape[1])
    at, summed_CV, reported = np.arange(len(truth)), summed(p_CV, at_or_below_VV), reported_labels(p_CV, at_or_below_VV)
    p_true, confidence = summed_CV[at, truth], summed_CV[at, reported]
    # Bins of equally many cells, least confident first; equal values are in one bin.
    edges = np.quantile(confidence, np.arange(1, N_BINS) / N_BINS)
    bin_C = np.searchsorted(edges, confidence, side="right")
    donors_U, sources_U, rows = donor_rows(donors_C, sources_C, kept_C)
    sums_UKB = np.zeros((len(donors_U), 3, N_BINS))
    for k, values in enumerate((np.ones(len(truth)), below_VV[truth, reported], confidence)):
        np.add.at(sums_UKB[:, k], (rows, bin_C), values)
    surprise = -np.log(np.clip(p_true, SMALLEST_PROBABILITY, 1.0))
    brier = (np.where(below_VV[truth], 0, p_CV) ** 2).sum(axis=1) + (1 - p_true) ** 2
    sums = [np.bincount(rows, weights=values, minlength=len(donors_U)) for values in (surprise, brier)]
    return Tally(
        donors_U=donors_U,
        sources_U=sources_U,
        sums_UK=np.column_stack([sums_UKB.reshape(len(donors_U), -1), *sums]),
        formula=_confidence_formula,
    )


def _confidence_formula(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
    cells_RB, hits_RB, confidence_RB = np.split(sums_RK[:, :-2], 3, axis=1)
    cells_R = cells_RB.sum(axis=1)
    sums = {"ece": np.abs(hits_RB - confidence_RB).sum(axis=1), "log_loss": sums_RK[:, -2], "brier": sums_RK[:, -1]}
    return {name: ratio(sum_R, cells_R) for name, sum_R in sums.items()}


def _bins(tally: Tally, seed: int) -> pd.DataFrame:
    """Give mean confidence and accuracy of each bin, with donor-bootstrap intervals of the accuracy."""
    sums_UK = tally.sums_UK[:, :-2]
    (cells, hits, confidence), (cells_RB, hits_RB, _) = (
        np.split(sums, 3, axis=-1) for sums in (sums_UK.sum(axis=0), resampled(sums_UK, tally.donors_U, seed))
    )
    rows = []
    for b in np.flatnonzero(cells):
        low, high = np.nanquantile(ratio(hits_RB[:, b], cells_RB[:, b]), TAILS)
        rows.append((confidence[b] / cells[b], hits[b] / cells[b], low, high, int(cells[b])))
    return pd.DataFrame(rows, columns=["confidence", "accuracy", "low", "high", "cells"])


def set_scores(
    p_CV: np.ndarray,
    truth_C: np.ndarray,
    units_C: np.ndarray,
    calibration: LabelCalibration,
    labels: tuple[str, ...],
    at_or_below_VV: np.ndarray | None = None,
    *,
    seed: int,
) -> pd.DataFrame:
    """Score sets at `COVERAGE`: how often they hold the true label, by donor, and how many labels they hold."""
    set_CV, none_C = calibration.sets(p_CV, COVERAGE, at_or_below_VV)
    size_C, held_C = finest(set_CV, at_or_below_VV).sum(axis=1), set_CV[np.arange(len(truth_C)), truth_C]
    single_C, own_V = size_C == 1, calibration.own(COVERAGE)
    single_C[none_C] = False
    choices = [(ALL_LABELS, truth_C >= 0, False, calibration.units)] + [
        (labels[v], truth_C == v, own_V[v], int(calibration.units_V[v])) for v in np.unique(truth_C)
    ]
    rows = [
        {
            "label": label,
            "basis": "own" if own else "all labels",
            "calibration_donors": units,
            **_covered(held_C[of_label_C], size_C[of_label_C], units_C[of_label_C], seed),
        }
        for label, of_label_C, own, units in choices
    ]
    rows[0] |= {
        "abstained": float(np.mean(~single_C)),
        "single_accuracy": float(held_C[single_C].mean()) if single_C.any() else np.nan,
    }
    table = pd.DataFrame([row | {"level": COVERAGE, "off": row["coverage"] - COVERAGE} for row in rows])
    return table.assign(why=[_why_off(row, calibration.unit) for row in table.to_dict("records")])


def _covered(held_C: np.ndarray, size_C: np.ndarray, units_C: np.ndarray, seed: int) -> dict[str, Any]:
    units, unit_C = np.unique(units_C, return_inverse=True)
    held_U, size_U = (np.bincount(unit_C, weights=values) / np.bincount(unit_C) for values in (held_C, size_C))
    low, high = np.quantile(resampled(held_U[:, None], units, seed) / len(units), TAILS)
    return {
        "donors": len(units),
        "cells": len(held_C),
        "coverage": float(held_U.mean()),
        "coverage_low": float(low),
        "coverage_high": float(high),
        "size": float(size_U.mean()),
    }


def _why_off(row: dict[str, Any], unit: str) -> str | None:
    units, needed = row["calibration_donors"], units_needed(COVERAGE)
    if abs(row["off"]) <= TOLERANCE:
        return None
    if row["off"] > 0 and row["size"] < 1 + TOLERANCE:
        return "a set holds one label at least"
    if units < needed:
        return f"{units} calibration {unit}s have it, {needed} are needed"
    if row["coverage_low"] <= COVERAGE <= row["coverage_high"]:
        return f"as far as {row['donors']} test donors can be off by chance" if unit == "donor" else "chance"
    if unit == "cell":
        return "calibrated on cells, not donors"
    return f"test donors differ from the {units} calibration donors"
