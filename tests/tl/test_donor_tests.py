"""Tests over donors: against scipy, against counting by hand, and on donors without any difference."""

import itertools

import numpy as np
import pytest
from scipy import stats

from polygene.tl import _donor_tests as tests


def test_halves_hold_like_donors() -> None:
    label_D, rest_D = np.repeat([True, True, False], [8, 5, 7]), np.repeat([False, True, True], [8, 5, 7])
    held_out_D = tests.halves_of_donors(label_D, rest_D, seed=0)
    assert [held_out_D[:8].sum(), held_out_D[8:13].sum(), held_out_D[13:].sum()] == [4, 3, 3]
    assert (held_out_D != tests.halves_of_donors(label_D, rest_D, seed=1)).any()


def test_pairs_change_sign_in_every_way() -> None:
    rng = np.random.default_rng(0)
    label_DG, rest_DG = rng.normal(size=(2, 6, 4))
    label_DG[:, 0] += 4
    found = tests.by_permutation(label_DG, rest_DG, paired=True, n_permutations=100, seed=0)
    difference_DG = label_DG - rest_DG

    def statistics(signs_D: np.ndarray) -> np.ndarray:
        x_DG = difference_DG * signs_D[:, None]
        steady = np.median(stats.sem(difference_DG))
        return np.abs(x_DG.mean(axis=0)) / (stats.sem(x_DG) + steady)

    every = [np.array(signs) for signs in itertools.product((1, -1), repeat=6) if abs(sum(signs)) < 6]
    null = np.concatenate([statistics(signs_D) for signs_D in every])
    by_hand_G = [(1 + (null >= one - 1e-9).sum()) / (1 + len(null)) for one in statistics(np.ones(6))]
    np.testing.assert_allclose(found.p_G, by_hand_G)
    assert found.p_G[0] == found.p_G.min() < 0.05
    np.testing.assert_allclose(found.effect_G, difference_DG.mean(axis=0))


@pytest.mark.parametrize("paired", [True, False])
def test_genes_that_no_cell_expresses_change_no_p_value(paired: bool) -> None:
    label_DG, rest_DG = np.random.default_rng(5).normal(size=(2, 8, 40))
    label_DG[:, 0] += 9
    if not paired:
        label_DG[4:], rest_DG[:4] = np.nan, np.nan
    alone = tests.by_permutation(label_DG, rest_DG, paired=paired, n_permutations=100, seed=0)
    silent_DG = [np.where(np.isnan(x_DG[:, :1]), np.nan, np.zeros((8, 60))) for x_DG in (label_DG, rest_DG)]
    both = [np.hstack([x_DG, more_DG]) for x_DG, more_DG in zip((label_DG, rest_DG), silent_DG, strict=True)]
    found = tests.by_permutation(*both, paired=paired, n_permutations=100, seed=0)
    np.testing.assert_array_equal(found.p_G[:40], alone.p_G)
    assert (found.p_G[40:] == 1).all()
    assert alone.p_G.min() < 0.1, "else there is nothing to change"


def test_donors_change_sides() -> None:
    rng = np.random.default_rng(1)
    x_DG = rng.normal(size=(20, 30))
    x_DG[:10, 0] += 5
    nothing = np.full((10, 30), np.nan)
    sides = np.concatenate([x_DG[:10], nothing]), np.concatenate([nothing, x_DG[10:]])
    found = tests.by_permutation(*sides, paired=False, n_permutations=200, seed=0)
    np.testing.assert_allclose(found.effect_G, x_DG[:10].mean(axis=0) - x_DG[10:].mean(axis=0))
    assert found.p_G[0] < 0.002
    assert 0.3 < np.median(found.p_G[1:]) < 0.7
    welch = tests.by_t(*sides, paired=False)
    np.testing.assert_allclose(welch.p_G, stats.ttest_ind(x_DG[:10], x_DG[10:], equal_var=False).pvalue)


def test_pseudobulk_of_pairs_is_the_paired_t_test() -> None:
    label_DG, rest_DG = np.random.default_rng(2).normal(size=(2, 7, 5))
    found = tests.by_t(label_DG, rest_DG, paired=True)
    np.testing.assert_allclose(found.p_G, stats.ttest_rel(label_DG, rest_DG).pvalue)


def test_cells_are_compared_by_the_area_under_the_curve() -> None:
    from sklearn.metrics import roc_auc_score

    x_CG = np.random.default_rng(3).poisson(1, (60, 6)).astype(np.float32)
    has_C = np.arange(60) < 25
    x_CG[has_C, 2] += 2
    x_CG[:, 5] = 0
    found = tests.by_cells(x_CG, has_C)
    np.testing.assert_allclose(found.effect_G, [roc_auc_score(has_C, x_C) - 0.5 for x_C in x_CG.T], atol=1e-9)
    kruskal_G = [stats.kruskal(x_C[has_C], x_C[~has_C]).pvalue for x_C in x_CG.T[:5]]  # the same, without continuity
    np.testing.assert_allclose(found.p_G[:5], kruskal_G, rtol=0.05, atol=0.01)
    assert found.p_G[5] == 1


def test_a_finding_comes_back_in_held_out_donors_with_its_sign() -> None:
    effect_G, p_G = np.ones(4), np.array([1e-4, 1e-4, 1e-4, 0.9])
    held_out = tests.Tested(np.array([1, -1, 1, 1.0]), np.array([0.01, 0.01, 0.5, 0.01]))
    found = tests.found(tests.Tested(effect_G, p_G), tests.Tested(effect_G, p_G), held_out)
    assert found.replicates_G.tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(found.q_G, stats.false_discovery_control(p_G))


@pytest.mark.parametrize("paired", [True, False])
def test_too_few_donors_give_no_p_value(paired: bool) -> None:
    rows = np.random.default_rng(4).normal(size=(2, 3))
    nothing = np.full((1, 3), np.nan)
    sides = (rows, rows + 1) if paired else (np.vstack([rows[:1], nothing]), np.vstack([nothing, rows[1:]]))
    for found in (
        tests.by_permutation(*sides, paired=paired, n_permutations=10, seed=0),
        tests.by_t(*sides, paired=paired),
    ):
        assert np.isnan(found.p_G).all()
    assert np.isnan(tests.found(found, found, found).replicates_G).all()
