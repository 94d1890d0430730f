"""How a model does label by label: which it finds, which it takes for which.

Legend: C cells, V labels of a phenotype, S sources, R resamples, K sums of a row of a tally.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage

from polygene.evaluation.metrics import Tally, class_formula, resample


def class_scores(tally: Tally, *, n_resamples: int = 1000, level: float = 0.95, seed: int = 0) -> list[dict[str, Any]]:
    """Score each label of a `label_tally`: precision, recall and F1, taken within each source and averaged.

    Returns
    -------
    For each scored label, from the most to the least cells: `label`; `cells` and `donors` that have it (None where
    donors are not known); `precision`, `recall` and `f1`; `f1_low` and `f1_high`, percentiles over resampled donors,
    NaN where one donor has the label, which says nothing of others. A precision is NaN where no cell was answered so.
    """
    by_label = replace(tally, formula=class_formula)
    values = {name: value_RV[0] for name, value_RV in by_label.scores().items()}
    f1_RV = resample({"": by_label}, n_resamples, seed)[""]["f1"]
    truths_UV = np.split(tally.sums_UK[:, :-1], 3, axis=1)[1]
    cells_V = truths_UV.sum(axis=0)
    named = tally.donors_U.dtype == object  # else cells are their own donors
    rows = []
    for v in sorted(np.flatnonzero(cells_V), key=lambda v: -cells_V[v]):
        donors = len(np.unique(tally.donors_U[truths_UV[:, v] > 0]))
        low, high = np.nanquantile(f1_RV[:, v], (0.5 - level / 2, 0.5 + level / 2)) if donors > 1 else (np.nan, np.nan)
        rows.append(
            {
                "label": tally.labels[v],
                "cells": int(cells_V[v]),
                "donors": donors if named else None,
                **{name: float(value_V[v]) for name, value_V in values.items()},
                "f1_low": float(low),
                "f1_high": float(high),
            }
        )
    return rows


def confusion(
    probabilities_CV: np.ndarray,
    truth_C: np.ndarray,
    *,
    scorable_SV: np.ndarray,
    sources_C: np.ndarray,
    labels: Sequence[str],
) -> dict[str, list[Any]]:
    """Count which label was answered for which, of the cells that are scored.

    Returns
    -------
    `labels`, those that a scored cell has or was given, like ones side by side; `counts`, of cells, a row for each true
    label, a column for each answer, in that order. Labels are alike where the mean probabilities of their cells are
    (Hellinger distance, average linkage); those that no scored cell has stand at the end.
    """
    kept_C = (truth_C >= 0) & scorable_SV[sources_C, truth_C]
    truth, p_CV = truth_C[kept_C], probabilities_CV[kept_C]
    counts_VV = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts_VV, (truth, p_CV.argmax(axis=1)), 1)
    true = np.flatnonzero(counts_VV.any(axis=1))
    if len(true) > 2:
        roots = np.sqrt(np.stack([p_CV[truth == v].mean(axis=0, dtype=float) for v in true]))
        true = true[leaves_list(linkage(roots, "average", optimal_ordering=True))]
    order = [*true, *np.setdiff1d(np.flatnonzero(counts_VV.any(axis=0)), true)]
    return {"labels": [labels[v] for v in order], "counts": counts_VV[np.ix_(order, order)].tolist()}
