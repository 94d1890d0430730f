"""Is an effect larger than genes of like expression have? Donors are replicates, matched genes are the null.

Legend: P perturbations, R replicates (donors), T targets, G panel genes, K matched perturbations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from polygene.tl._perturb_cells import Perturbation

MATCHED = 30
"""Genes of like expression that an effect is compared with."""

FEWEST = 10
"""With fewer there is no test."""


@dataclass(eq=False)
class Sums:
    """What perturbed cells answered, summed a donor at a time; one donor of all cells where donors are not known."""

    n_PR: np.ndarray
    before_PRT: np.ndarray
    effect_PRT: np.ndarray
    squares_PT: np.ndarray

    @classmethod
    def zeros(cls, n_perturbations: int, n_donors: int, n_targets: int) -> "Sums":
        """Start with no cell."""
        shape = (n_perturbations, n_donors, n_targets)
        return cls(np.zeros(shape[:2], np.int64), np.zeros(shape), np.zeros(shape), np.zeros(shape[::2]))

    def add(self, which_S: np.ndarray, donors_S: np.ndarray, before_ST: np.ndarray, effect_ST: np.ndarray) -> None:
        """Take in copies of cells."""
        np.add.at(self.n_PR, (which_S, donors_S), 1)
        np.add.at(self.before_PRT, (which_S, donors_S), before_ST)
        np.add.at(self.effect_PRT, (which_S, donors_S), effect_ST)
        np.add.at(self.squares_PT, which_S, effect_ST**2)

    def means(self, *, donors: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Mean answer before, mean effect and its standard error, (P, T) each, and the number of replicates, (P,).

        With donors as replicates it is the mean over donors of their means, each counting once.
        """
        n_PR1 = self.n_PR[:, :, None]
        with np.errstate(invalid="ignore"):
            before_PRT, effect_PRT = self.before_PRT / n_PR1, self.effect_PRT / n_PR1
        there_PR1 = n_PR1 > 0
        n_P = there_PR1.sum(axis=(1, 2)) if donors else self.n_PR[:, 0]
        n_P1, n_donors_P1 = n_P[:, None], np.maximum(there_PR1.sum(axis=1), 1)
        before_PT, effect_PT = (np.where(there_PR1, x, 0).sum(axis=1) / n_donors_P1 for x in (before_PRT, effect_PRT))
        squares_PT = np.where(there_PR1, effect_PRT**2, 0).sum(axis=1) if donors else self.squares_PT
        with np.errstate(invalid="ignore", divide="ignore"):
            variance_PT = np.maximum(squares_PT - n_P1 * effect_PT**2, 0) / (n_P1 - 1)
            return before_PT, effect_PT, np.where(n_P1 > 1, np.sqrt(variance_PT / n_P1), np.nan), n_P


def nearest_genes(detection_G: np.ndarray, level_G: np.ndarray, eligible_G: np.ndarray) -> dict[int, list[int]]:
    """List for each eligible gene the others, from most to least alike in expression.

    Alike in the share of cells that express them and in the mean of these cells, by rank.
    """
    genes = np.flatnonzero(eligible_G)
    ranks_G2 = np.stack([stats.rankdata(x_G[genes]) for x_G in (detection_G, level_G)], axis=1) if len(genes) else genes
    found = {}
    for i, g in enumerate(genes):
        order = np.argsort(((ranks_G2 - ranks_G2[i]) ** 2).sum(axis=1), kind="stable")
        found[int(g)] = [int(other) for other in genes[order] if other != g]
    return found


def matched(
    perturbation: Perturbation, like_off: Mapping[int, Sequence[int]], like_up: Mapping[int, Sequence[int]]
) -> list[Perturbation]:
    """List up to `MATCHED` perturbations of genes of like expression, each gene replaced by one of its nearest."""
    found: dict[Perturbation, None] = {}
    for first in range(len(next(iter([*like_off.values(), *like_up.values()])))):
        used = {*perturbation.off, *perturbation.up}
        sides: list[list[int]] = [[], []]
        for side, genes, like in ((0, perturbation.off, like_off), (1, perturbation.up, like_up)):
            for g in genes:
                other = next((other for other in like[g][first:] if other not in used), None)
                if other is None:
                    return list(found)
                used.add(other)
                sides[side].append(other)
        found[Perturbation(tuple(sides[0]), tuple(sides[1]))] = None
        if len(found) == MATCHED:
            break
    return list(found)


def against_matched(
    effect_PT: np.ndarray, error_PT: np.ndarray, n_P: np.ndarray, test: int, controls: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Compare the effects of one perturbation with those of matched ones: their mean, and a two-sided p, (T,) each.

    Effects of matched genes differ truly (variance τ²) and by chance (each by its standard error). This one lies
    outside of them as far as t = (effect − mean) / √(τ² + error² + spread² / K) says, with degrees of freedom after
    Satterthwaite (1946 Biometrics Bulletin 2:110). For one gene without error it is the test of a single case against a
    small sample of Crawford & Howell (1998 Clin Neuropsychol 12:482).
    """
    there_KT = np.isfinite(effect_PT[controls])
    K_T = there_KT.sum(axis=0)
    few_T = K_T < FEWEST
    if few_T.all():
        return np.full(len(K_T), np.nan), np.full(len(K_T), np.nan)
    K_T = np.maximum(K_T, 2)
    effect_KT = np.where(there_KT, effect_PT[controls], 0)
    mean_T = effect_KT.sum(axis=0) / K_T
    spread_T = np.where(there_KT, (effect_KT - mean_T) ** 2, 0).sum(axis=0) / (K_T - 1)
    own_T = np.nan_to_num(error_PT[test] ** 2)
    others_T = np.where(there_KT, np.nan_to_num(error_PT[controls] ** 2), 0).sum(axis=0) / K_T
    true_T = np.maximum(spread_T - others_T, 0) if n_P[test] > 1 else spread_T
    between_T = true_T + spread_T / K_T
    with np.errstate(invalid="ignore", divide="ignore"):
        t_T = (effect_PT[test] - mean_T) / np.sqrt(between_T + own_T)
        freedom_T = (between_T + own_T) ** 2 / (between_T**2 / (K_T - 1) + own_T**2 / max(n_P[test] - 1, 1))
        p_T = 2 * stats.t.sf(np.abs(t_T), freedom_T)
    return np.where(few_T, np.nan, mean_T), np.where(few_T, np.nan, p_T)
