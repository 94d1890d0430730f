"""Age as a number: the years that probabilities of age labels leave open, and how far donors are off.

Legend: C cells, D donors, V labels of an age phenotype.
"""

from typing import Any

import numpy as np
import pandas as pd

from polygene.evaluation.metrics import expected_years, mean_of_donors

LEVEL = 0.9
"""How much of the probability lies within an interval of years; what it covers in truth, `evaluate` measures."""
FEWEST_TO_CORRECT = 3
"""Donors, of two ages at least, that a line through predicted and actual ages needs."""


def years_interval(probabilities_CV: np.ndarray, years_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the years between which the middle 90 % of the probability lies: (low_C, high_C), each the age of a label.

    Labels that cannot be read as years (`years_V` is NaN) are left out; NaN where all the probability lies on those.
    """
    order = np.argsort(years_V, kind="stable")[: np.isfinite(years_V).sum()]
    reached_CV = np.cumsum(probabilities_CV[:, order].astype(float), axis=1)
    known_C = reached_CV[:, -1] > 0 if len(order) else np.zeros(len(probabilities_CV), dtype=bool)
    found = []
    for share in (0.5 - LEVEL / 2, 0.5 + LEVEL / 2):
        years_C = np.full(len(probabilities_CV), np.nan)
        if known_C.any():
            # A hair less, so that rounding does not push a share that is met exactly to the next label.
            wanted_C = reached_CV[known_C, -1] * (share - 1e-7)
            years_C[known_C] = years_V[order][(reached_CV[known_C] >= wanted_C[:, None]).argmax(axis=1)]
        found.append(years_C)
    return found[0], found[1]


def age_gaps(
    probabilities_CV: np.ndarray, years_V: np.ndarray, actual_C: np.ndarray, donors_C: np.ndarray
) -> pd.DataFrame:
    """Tabulate by donor how much older than they are the cells look.

    The probabilities of a donor's cells are averaged first: donors are the replicates, and cells of one donor share its
    error, so an interval from resampled cells would be far too narrow.

    Parameters
    ----------
    actual_C
        Age of each cell's donor in years; cells with NaN are left out. A donor met at two ages has two rows.
    donors_C
        Donor of each cell; cells without one (NaN, "") are left out.

    Returns
    -------
    A row for each donor: `donor`, `cells`, `actual`, `predicted` (expected years), `low`, `high` (`years_interval`),
    `gap` (predicted − actual), `gap_low`, `gap_high`, and `gap_corrected`, the gap to what a straight line through
    predicted over actual ages of these donors says. A predictor that knows little says the mean age to everybody, so
    that the young look old and the old young; the corrected gap does not depend on age. It is NaN for fewer than three
    donors or for donors of one age. Source: Beheshti et al. 2019 NeuroImage: Clinical 24:102071.
    """
    donors = pd.Series(donors_C, dtype=object).reset_index(drop=True)
    kept_C = np.isfinite(actual_C) & donors.notna().to_numpy() & (donors != "").to_numpy()
    groups = pd.DataFrame({"donor": donors[kept_C].to_numpy(), "actual": actual_C[kept_C].astype(float)})
    code_C = groups.groupby(["donor", "actual"], sort=True).ngroup().to_numpy()
    rows = groups.groupby(["donor", "actual"], sort=True).size().rename("cells").reset_index()
    sums_DV = np.zeros((len(rows), probabilities_CV.shape[1]))
    np.add.at(sums_DV, code_C, probabilities_CV[kept_C])
    mean_DV = sums_DV / np.maximum(rows.cells.to_numpy(), 1)[:, None]
    table = rows[["donor", "cells", "actual"]].assign(predicted=expected_years(mean_DV, years_V))
    table["low"], table["high"] = years_interval(mean_DV, years_V)
    for name, column in (("gap", "predicted"), ("gap_low", "low"), ("gap_high", "high")):
        table[name] = table[column] - table.actual
    table["gap_corrected"] = np.nan
    if len(table) >= FEWEST_TO_CORRECT and table.actual.nunique() > 1 and np.isfinite(table.predicted).all():
        slope, intercept = np.polyfit(table.actual, table.predicted, 1)
        table["gap_corrected"] = table.predicted - (intercept + slope * table.actual)
    return table


def age_report(
    probabilities_CV: np.ndarray, years_V: np.ndarray, actual_C: np.ndarray, donors_C: np.ndarray, *, seed: int = 0
) -> dict[str, Any]:
    """Say how far each donor is off, and whether the intervals hold what they promise.

    Returns
    -------
    `level` (what they promise), `donors` (rows of `age_gaps`), and with 95 % intervals over resampled donors (`value`,
    `low`, `high`): `coverage_cells`, the share of a donor's cells whose interval holds its age, averaged over donors;
    `coverage_donors`, the share of donors whose interval does; and `years_wide`, how wide those are.
    """
    table = age_gaps(probabilities_CV, years_V, actual_C, donors_C)
    low_C, high_C = years_interval(probabilities_CV, years_V)
    held = pd.DataFrame({"held": (low_C <= actual_C) & (actual_C <= high_C), "donor": donors_C, "actual": actual_C})
    by_donor = held[np.isfinite(actual_C)].groupby(["donor", "actual"]).held.mean()
    by_donor = by_donor.reindex(pd.MultiIndex.from_frame(table[["donor", "actual"]]))
    return {
        "level": LEVEL,
        "donors": table.to_dict("records"),
        "coverage_cells": mean_of_donors(by_donor.to_numpy(dtype=float), seed),
        "coverage_donors": mean_of_donors(((table.gap_low <= 0) & (table.gap_high >= 0)).to_numpy(dtype=float), seed),
        "years_wide": mean_of_donors((table.high - table.low).to_numpy(dtype=float), seed),
    }
