"""Age as a number: an interval of years from the probabilities of age labels, and what it covers.

Legend: C cells, V labels of an age phenotype.
"""

import numpy as np
import pandas as pd

from polygene.evaluation.bootstrap import mean_of_donors

LEVEL = 0.9
"""How much of the probability lies within an interval of years; what it covers in truth, `evaluate` measures."""


def years_interval(probabilities_CV: np.ndarray, years_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the years between which the middle 90 % of the probability lies: (low_C, high_C), each the age of a label.

    Labels that cannot be read as years (`years_V` is NaN) are left out; NaN where all the probability lies on those.
    """
    order = np.argsort(years_V, kind="stable")[: np.isfinite(years_V).sum()]
    reached_CV = np.cumsum(probabilities_CV[:, order].astype(float), axis=1)
    known_C = reached_CV[:, -1] > 0 if len(order) else np.zeros(len(probabilities_CV), dtype=bool)
    ends = []
    for share in (0.5 - LEVEL / 2, 0.5 + LEVEL / 2):
        years_C = np.full(len(probabilities_CV), np.nan)
        if known_C.any():
            # A hair less, so that rounding does not push a share that is met exactly to the next label.
            wanted_C = reached_CV[known_C, -1] * (share - 1e-7)
            years_C[known_C] = years_V[order][(reached_CV[known_C] >= wanted_C[:, None]).argmax(axis=1)]
        ends.append(years_C)
    return ends[0], ends[1]


def interval_scores(
    probabilities_CV: np.ndarray, years_V: np.ndarray, actual_C: np.ndarray, donors_C: np.ndarray, *, seed: int = 0
) -> dict[str, float]:
    """Measure whether the intervals cover what they promise; cells without a known age or donor are left out.

    Returns
    -------
    `level` (what they promise); `coverage`, the share of a donor's cells whose interval holds the donor's age, averaged
    over donors, and `years_wide`, each with `_low` and `_high` of the 95 % interval over resampled donors.
    """
    low_C, high_C = years_interval(probabilities_CV, years_V)
    cells = pd.DataFrame({"donor": donors_C, "actual": actual_C, "years_wide": high_C - low_C})
    cells["coverage"] = (low_C <= actual_C) & (actual_C <= high_C)
    known = cells[np.isfinite(actual_C) & cells.donor.notna() & (cells.donor != "")]
    by_donor = known.groupby(["donor", "actual"])[["coverage", "years_wide"]].mean()
    scores = {"level": LEVEL}
    for name in by_donor:
        mean = mean_of_donors(by_donor[name].to_numpy(dtype=float), seed)
        scores |= {name: mean["value"], f"{name}_low": mean["low"], f"{name}_high": mean["high"]}
    return scores
