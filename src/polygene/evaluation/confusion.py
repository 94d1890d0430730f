"""How a model does class by class, and which classes it confuses.

Legend: C cells, V labels of a phenotype, S sources, R resamples, K sums of a row of a tally.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage

from polygene.evaluation.bootstrap import N_RESAMPLES, TAILS, resample
from polygene.evaluation.metrics import Tally, class_formula, credited


def class_scores(tally: Tally, *, seed: int = 0) -> pd.DataFrame:
    """Score each class of a `label_tally`: precision, recall and F1, taken within each source and averaged.

    Returns
    -------
    For each scored class, from the most to the least cells: `label`; `cells` and `donors` that have it (`donors` is 0
    where they are not known); `precision`, `recall` and `f1`; `f1_low` and `f1_high`, percentiles over resampled
    donors, NaN where one donor has the label, which is no sample of donors. A precision is NaN where the label was
    predicted for no cell.
    """
    by_label = replace(tally, formula=class_formula)
    values = {name: value_RV[0] for name, value_RV in by_label.scores().items()}
    f1_RV = resample({"": by_label}, N_RESAMPLES, seed)[""]["f1"]
    cells_V = tally.truths_UV.sum(axis=0)
    named = tally.donors_U.dtype == object  # else cells are their own donors
    rows = []
    for v in sorted(np.flatnonzero(cells_V), key=lambda v: -cells_V[v]):
        donors = len(np.unique(tally.donors_U[tally.truths_UV[:, v] > 0]))
        low, high = np.nanquantile(f1_RV[:, v], TAILS) if donors > 1 else (np.nan, np.nan)
        rows.append(
            {
                "label": tally.labels[v],
                "cells": int(cells_V[v]),
                "donors": donors if named else 0,
                **{name: value_V[v] for name, value_V in values.items()},
                "f1_low": low,
                "f1_high": high,
            }
        )
    return pd.DataFrame(rows)


def confusion(
    probabilities_CV: np.ndarray,
    truth_C: np.ndarray,
    *,
    scorable_SV: np.ndarray,
    sources_C: np.ndarray,
    labels: Sequence[str],
    at_or_below_VV: np.ndarray | None = None,
) -> pd.DataFrame:
    """Count the scored cells by true label (rows) and predicted label (columns).

    Both are the labels that a scored cell has or is predicted, like ones side by side. Labels are alike where the mean
    probabilities of their cells are (Hellinger distance, average linkage); those that no scored cell has come last.
    """
    kept_C = (truth_C >= 0) & scorable_SV[sources_C, truth_C]
    truth, p_CV = truth_C[kept_C], probabilities_CV[kept_C]
    counts_VV = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts_VV, (truth, credited(p_CV, truth, at_or_below_VV)[0]), 1)
    true = np.flatnonzero(counts_VV.any(axis=1))
    if len(true) > 2:
        roots = np.sqrt(np.stack([p_CV[truth == v].mean(axis=0, dtype=float) for v in true]))
        true = true[leaves_list(linkage(roots, "average", optimal_ordering=True))]
    order = [*true, *np.setdiff1d(np.flatnonzero(counts_VV.any(axis=0)), true)]
    names = [labels[v] for v in order]
    return pd.DataFrame(counts_VV[np.ix_(order, order)], index=names, columns=names)
