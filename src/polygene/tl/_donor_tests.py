"""Tests over donors: permutations, their p-values, and what replicates in donors that were held out.

Legend: D donors, C cells, G genes, V those that vary, B permutations.
"""

from itertools import combinations, product
from math import comb
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05
"""Of the false discovery rate in discovery donors, and of the one-sided p-value in held-out donors."""
FEWEST = 3
"""Donors that a test needs: pairs, or both sides together with two on each."""


class Tested(NamedTuple):
    """Effect and two-sided p-value of each gene, (G,); p is NaN where donors are too few."""

    effect_G: np.ndarray
    p_G: np.ndarray


class Found(NamedTuple):
    """Effect over all donors; p and q of discovery donors; whether it replicates in the others (NaN: not known)."""

    effect_G: np.ndarray
    p_G: np.ndarray
    q_G: np.ndarray
    replicates_G: np.ndarray


def halves_of_donors(label_D: np.ndarray, rest_D: np.ndarray, *, seed: int) -> np.ndarray:
    """Which donors are held out, bool (D,): half of those that have the label, the rest, both."""
    held_out_D, rng = np.zeros(len(label_D), dtype=bool), np.random.default_rng(seed)
    first = 0
    for one, other in ((True, True), (True, False), (False, True)):
        donors = rng.permutation(np.flatnonzero((label_D == one) & (rest_D == other)))
        held_out_D[donors[first::2]] = True
        first ^= len(donors) % 2  # where groups are odd, halves stay equal
    return held_out_D


def by_permutation(
    label_DG: np.ndarray, rest_DG: np.ndarray, *, paired: bool, n_permutations: int, seed: int
) -> Tested:
    """Test the difference of donors' means between cells with the label and the rest (NaN: a donor has none).

    Pairs change sign, or donors change sides; the statistic is the difference over its standard error and, as in SAM
    (Tusher et al. 2001), the median of that; p, how often that of any gene that varies is as large, permuted, else 1.
    """
    x_DG, sides = _arranged(label_DG, rest_DG, paired=paired)
    effect_G, error_G = _mean_and_error(x_DG, sides, paired=paired)
    if not _enough(sides, paired=paired):
        return Tested(effect_G, np.full(len(effect_G), np.nan))
    varies, p_G = error_G > 0, np.ones(len(effect_G))
    x_DV, steady = x_DG[:, varies], np.median(error_G[varies]) if varies.any() else 0.0
    null = [np.zeros(0)]
    for swapped in _permutations(sides, n_permutations, paired=paired, seed=seed):
        rows = x_DV * swapped[:, None] if paired else x_DV
        effects_V, errors_V = _mean_and_error(rows, swapped, paired=paired)
        null.append(np.abs(effects_V) / (errors_V + steady))
    null_BV = np.sort(np.concatenate(null))
    own_V = np.abs(effect_G[varies]) / (error_G[varies] + steady) * (1 - 1e-9)
    p_G[varies] = (1 + len(null_BV) - np.searchsorted(null_BV, own_V)) / (1 + len(null_BV))
    return Tested(effect_G, p_G)


def by_t(label_DG: np.ndarray, rest_DG: np.ndarray, *, paired: bool) -> Tested:
    """Student's test of pairs, or Welch's of two groups of donors: pseudobulk."""
    x_DG, sides = _arranged(label_DG, rest_DG, paired=paired)
    effect_G, error_G = _mean_and_error(x_DG, sides, paired=paired)
    if not _enough(sides, paired=paired):
        return Tested(effect_G, np.full(len(effect_G), np.nan))
    varies, p_G = error_G > 0, np.ones(len(effect_G))
    if paired:
        p_G[varies] = stats.ttest_1samp(x_DG[:, varies], 0).pvalue
    else:
        p_G[varies] = stats.ttest_ind(x_DG[sides > 0][:, varies], x_DG[sides < 0][:, varies], equal_var=False).pvalue
    return Tested(effect_G, p_G)


def by_cells(x_CG: np.ndarray, has_label_C: np.ndarray) -> Tested:
    """Wilcoxon's rank sum test over cells, which are no replicates: the effect is the area under the curve less 0.5."""
    n, m = int(has_label_C.sum()), int((~has_label_C).sum())
    if not n or not m:
        return Tested(*np.full((2, x_CG.shape[1]), np.nan))
    x_CG = x_CG.astype(float)  # ranks get its precision
    u_G, p_G = stats.mannwhitneyu(x_CG[has_label_C], x_CG[~has_label_C], method="asymptotic")
    return Tested(u_G / (n * m) - 0.5, np.where(np.isnan(p_G), 1.0, p_G))


def found(whole: Tested, discovery: Tested, held_out: Tested) -> Found:
    """Adjust p of discovery donors (Benjamini–Hochberg), and mark what replicates, with its sign, in the others."""
    q_G = benjamini_hochberg(discovery.p_G)
    again_G = (np.sign(discovery.effect_G) == np.sign(held_out.effect_G)) & (held_out.p_G / 2 <= LEVEL)
    replicates_G = np.where(np.isnan(held_out.p_G) | np.isnan(q_G), np.nan, (q_G <= LEVEL) & again_G)
    return Found(whole.effect_G, discovery.p_G, q_G, replicates_G)


def benjamini_hochberg(p_G: np.ndarray) -> np.ndarray:
    """Adjust p-values for the false discovery rate, (G,); what is NaN stays so and does not count."""
    q_G, known = np.full(len(p_G), np.nan), np.isfinite(p_G)
    q_G[known] = stats.false_discovery_control(p_G[known])
    return q_G


def are_paired(label_D: np.ndarray, rest_D: np.ndarray) -> bool:
    """Whether donors are compared with themselves: most of them have cells of both kinds."""
    return bool(2 * (label_D & rest_D).sum() >= (label_D | rest_D).sum())


def _arranged(label_DG: np.ndarray, rest_DG: np.ndarray, *, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """Differences of the donors that have both, with sides of 1; or a row for each donor, sides 1 (label) and -1."""
    label_D, rest_D = np.isfinite(label_DG[:, 0]), np.isfinite(rest_DG[:, 0])
    if paired:
        both = label_D & rest_D
        return label_DG[both] - rest_DG[both], np.ones(int(both.sum()))
    one = label_D ^ rest_D  # the few that have both belong to no side
    return np.where(label_D[one, None], label_DG[one], rest_DG[one]), np.where(label_D[one], 1.0, -1.0)


def _enough(sides: np.ndarray, *, paired: bool) -> bool:
    return len(sides) >= FEWEST if paired else min((sides > 0).sum(), (sides < 0).sum()) >= 2 and len(sides) > FEWEST


def _mean_and_error(x_DG: np.ndarray, sides: np.ndarray, *, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    groups = [x_DG] if paired else [x_DG[sides > 0], x_DG[sides < 0]]
    nothing = np.full(x_DG.shape[1], np.nan)
    means = [group.mean(axis=0) if len(group) else nothing for group in groups]
    squares = [group.var(axis=0, ddof=1) / len(group) if len(group) > 1 else nothing for group in groups]
    return means[0] if paired else means[0] - means[1], np.sqrt(sum(squares))


def _permutations(sides: np.ndarray, n_permutations: int, *, paired: bool, seed: int) -> list[np.ndarray]:
    """Signs or sides, without those that change nothing or everything: all of them if they are few, else drawn."""
    n, k = len(sides), int((sides > 0).sum())
    rng = np.random.default_rng(seed)
    if paired and 2**n <= n_permutations:
        drawn = [np.array(signs) for signs in product((1.0, -1.0), repeat=n)]
    elif paired:
        drawn = list(rng.choice((1.0, -1.0), (n_permutations, n)))
    elif comb(n, k) <= n_permutations:
        drawn = [np.where(np.isin(np.arange(n), some), 1.0, -1.0) for some in combinations(range(n), k)]
    else:
        drawn = [rng.permutation(sides) for _ in range(n_permutations)]
    return [one for one in drawn if not np.array_equal(one, sides) and not np.array_equal(one, -sides)]
