"""Donor bootstrap: donors, not cells, are the replicates, so donors are drawn with all their cells.

Legend: U rows of a tally (one donor within one source), K sums of a row, R resamples, D donors.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from polygene.evaluation.metrics import LOWER_IS_BETTER, Tally

N_RESAMPLES = 1_000
TAILS = (0.025, 0.975)
"""The percentiles of a 95 % interval."""
_BLOCK = 2**24
"""Most resampling weights held at a time: 128 MiB of them."""


def donor_draws(donors_U: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw donors with replacement: how often each row counts, weights_RU, in blocks that bound the memory."""
    rng = np.random.default_rng(seed)
    donor_U, donors = pd.factorize(donors_U)
    block = max(1, _BLOCK // max(len(donor_U), 1))
    for first in range(0, n_resamples, block):
        size = min(block, n_resamples - first)
        if len(donors):
            drawn = rng.multinomial(len(donors), np.full(len(donors), 1 / len(donors)), size=size)
            yield drawn[:, donor_U].astype(float)
        else:
            yield np.ones((size, 0))


def resample(tallies: Mapping[str, Tally], n_resamples: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Score every tally, all of the same donors, under the same draws of them, in blocks that bound the memory."""
    parts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in tallies}
    for weights_RU in donor_draws(next(iter(tallies.values())).donors_U, n_resamples, seed):
        for name, tally in tallies.items():
            parts[name].append(tally.scores(weights_RU))
    return {
        name: {score: np.concatenate([part[score] for part in scored]) for score in scored[0]}
        for name, scored in parts.items()
    }


def resampled(sums_UK: np.ndarray, donors_U: np.ndarray, seed: int) -> np.ndarray:
    """Sum over donors that are drawn with replacement, (R, K); the order of the rows changes nothing."""
    order = np.argsort(donors_U, kind="stable")
    draws = donor_draws(donors_U[order], N_RESAMPLES, seed)
    return np.concatenate([drawn_RU @ sums_UK[order] for drawn_RU in draws])


def compare(
    tallies: Mapping[str, Tally], *, reference: str, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Tabulate the scores of several predictors on the same cells, with 95 % donor-bootstrap intervals.

    The same draws serve every predictor, so the interval of a difference is paired. Intervals are percentiles of the
    resampled scores (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13); with fewer than about
    ten donors they are too narrow.

    Returns
    -------
    A row for each predictor and score: `value`, `low`, `high`; `gain` over the reference, `gain_low`, `gain_high`,
    positive where the predictor is better, also for losses and errors; and `at_or_above`, whether the interval of the
    gain reaches 0 or more (None: nothing could be scored).
    """
    donors_U = tallies[reference].donors_U
    for name, tally in tallies.items():
        if not np.array_equal(tally.donors_U, donors_U):
            msg = f"{name!r} and {reference!r} were scored on other cells; compare needs the same cells for all"
            raise ValueError(msg)
    draws = resample(tallies, n_resamples, seed)
    values = {name: tally.scores() for name, tally in tallies.items()}
    rows = []
    for name in tallies:
        for score, drawn_R in draws[name].items():
            sign = -1 if score in LOWER_IS_BETTER else 1
            low, high = np.quantile(drawn_R, TAILS)
            gain_low, gain_high = np.quantile(sign * (drawn_R - draws[reference][score]), TAILS)
            rows.append(
                {
                    "predictor": name,
                    "score": score,
                    "value": values[name][score][0],
                    "low": low,
                    "high": high,
                    "gain": sign * (values[name][score][0] - values[reference][score][0]),
                    "gain_low": gain_low,
                    "gain_high": gain_high,
                    "at_or_above": None if np.isnan(gain_high) else bool(gain_high >= 0),
                }
            )
    return pd.DataFrame(rows)


def mean_of_donors(values_D: np.ndarray, seed: int) -> dict[str, float]:
    """Average over donors, with the interval of resampled donors."""
    if not len(values_D):
        return dict.fromkeys(("value", "low", "high"), float("nan"))
    drawn_RD = np.random.default_rng(seed).choice(values_D, (N_RESAMPLES, len(values_D)))
    low, high = np.quantile(drawn_RD.mean(axis=1), TAILS)
    return {"value": float(values_D.mean()), "low": float(low), "high": float(high)}
