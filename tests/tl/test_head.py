"""Heads: what a fit learns, and what its held-out score is worth."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from polygene.tl._head import Fit, _fits, fit_head, scaled_alike


def fit(states_CD: np.ndarray, labels_C: np.ndarray, donors_C: np.ndarray) -> Fit:
    """Fit a head of one expert."""
    return fit_head(states_CD, labels_C, donors_C, experts=[scaled_alike(states_CD, np.ones(states_CD.shape[1]), 1.0)])


def probabilities(head: Fit, features_CF: np.ndarray) -> np.ndarray:
    return softmax(features_CF @ head.weights_FV + head.bias_V, axis=1)


def test_a_head_that_separates_donors_scores_low() -> None:
    """States that separate donors, and labels by donor: right about cells of known donors, wrong about new ones."""
    rng = np.random.default_rng(0)
    donors_C = np.arange(240) % 12
    labels_C = (donors_C < 6).astype(np.int64)
    states_CD = np.eye(12)[donors_C] + 0.01 * rng.normal(size=(240, 12))
    by_donor = fit(states_CD, labels_C, donors_C)
    by_cell = fit(states_CD, labels_C, np.full(240, -1))
    assert (by_donor.held_out, by_cell.held_out) == ("donors", "cells")
    assert by_donor.macro_f1 < 0.6 < 0.99 < by_cell.macro_f1


def test_a_label_of_one_donor_is_learned_and_not_scored() -> None:
    donors_C = np.arange(90) % 9
    labels_C = np.where(donors_C == 0, 2, (np.arange(90) // 9) % 2)
    states_CD = np.eye(3)[labels_C] + 0.1 * np.random.default_rng(0).normal(size=(90, 3))
    head = fit(states_CD, labels_C, donors_C)
    assert head.scored.tolist() == [0, 1]
    assert head.macro_f1 == pytest.approx(1)
    assert (probabilities(head, states_CD).argmax(1) == labels_C).all()


def test_a_fold_whose_training_donors_share_one_label_predicts_that_label() -> None:
    donors_C, labels_C = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 1, 0, 1, 0, 0, 0, 1])
    head = fit(np.eye(2)[labels_C], labels_C, donors_C)
    np.testing.assert_allclose(head.held_out_CV.sum(1), 1, rtol=1e-5)
    one_label = fit(np.eye(3)[[0, 1, 2, 0, 1, 2]], np.array([0, 0, 1, 0, 0, 1]), np.array([0, 0, 0, 1, 1, 2]))
    np.testing.assert_allclose(one_label.held_out_CV.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("n_labels", [2, 3])
def test_fewer_cells_than_features_give_the_fit_of_all_features(n_labels: int) -> None:
    rng = np.random.default_rng(1)
    x_CF, labels_C = rng.normal(size=(30, 80)), np.arange(30) % n_labels
    ((weights_FV, bias_V),) = _fits(x_CF, labels_C, n_labels, [1.0])
    whole = LogisticRegression(C=1.0, tol=1e-8, max_iter=5_000).fit(x_CF, labels_C)
    new_CF = rng.normal(size=(5, 80))
    np.testing.assert_allclose(softmax(new_CF @ weights_FV + bias_V, axis=1), whole.predict_proba(new_CF), atol=2e-3)


def test_an_expert_that_misleads_new_donors_weighs_little() -> None:
    """One expert sees the label and noise, the other the donor, whose labels it learns by heart."""
    rng = np.random.default_rng(2)
    donors_C = np.arange(240) % 12
    labels_C = rng.integers(0, 2, 12)[donors_C]
    features_CF = np.hstack([np.eye(2)[labels_C] + 0.5 * rng.normal(size=(240, 2)), 5 * np.eye(12)[donors_C]])
    first_F = np.arange(14) < 2
    experts = [scaled_alike(features_CF, weights_F.astype(float), 1.0) for weights_F in (first_F, ~first_F)]
    head = fit_head(features_CF, labels_C, donors_C, experts=experts)
    assert head.mix_E[0] > 3 * head.mix_E[1]
    alone = fit_head(features_CF, labels_C, donors_C, experts=experts[1:])
    assert head.macro_f1 > 0.75 > alone.macro_f1
    new_CF = np.hstack([np.eye(2)[[0, 1]], np.zeros((2, 12))])
    assert probabilities(head, new_CF).argmax(1).tolist() == [0, 1]
