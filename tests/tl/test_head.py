"""Heads: what a fit learns, and what its held-out score is worth."""

import numpy as np
import pytest

from polygene.tl._head import fit_head


def test_a_head_that_separates_donors_scores_low() -> None:
    """States that separate donors, and labels by donor: right about cells of known donors, wrong about new ones."""
    rng = np.random.default_rng(0)
    donors_C = np.arange(240) % 12
    labels_C = (donors_C < 6).astype(np.int64)
    states_CD = np.eye(12)[donors_C] + 0.01 * rng.normal(size=(240, 12))
    by_donor = fit_head(states_CD, labels_C, donors_C, width=1)
    by_cell = fit_head(states_CD, labels_C, np.full(240, -1), width=1)
    assert (by_donor.held_out, by_cell.held_out) == ("donors", "cells")
    assert by_donor.macro_f1 < 0.6 < 0.99 < by_cell.macro_f1


def test_a_label_of_one_donor_is_learned_and_not_scored() -> None:
    donors_C = np.arange(90) % 9
    labels_C = np.where(donors_C == 0, 2, (np.arange(90) // 9) % 2)
    states_CD = np.eye(3)[labels_C] + 0.1 * np.random.default_rng(0).normal(size=(90, 3))
    head = fit_head(states_CD, labels_C, donors_C, width=1)
    assert head.scored.tolist() == [0, 1]
    assert head.macro_f1 == pytest.approx(1)
    assert (head.probabilities(states_CD).argmax(1) == labels_C).all()


def test_a_fold_whose_training_donors_share_one_label_predicts_that_label() -> None:
    donors_C, labels_C = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 1, 0, 1, 0, 0, 0, 1])
    head = fit_head(np.eye(2)[labels_C], labels_C, donors_C, width=1)
    np.testing.assert_allclose(head.held_out_CV.sum(1), 1, rtol=1e-5)
    one_label = fit_head(
        np.eye(3)[[0, 1, 2, 0, 1, 2]], np.array([0, 0, 1, 0, 0, 1]), np.array([0, 0, 0, 1, 1, 2]), width=1
    )
    np.testing.assert_allclose(one_label.held_out_CV.sum(1), 1, rtol=1e-5)
