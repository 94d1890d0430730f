"""Scores of several donor splits: joined by donor and by label."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from benchmarks.shared.splits import stack_splits
from polygene.evaluation.bootstrap import compare
from polygene.evaluation.metrics import label_tally


@pytest.fixture
def cells():
    """600 cells of 12 donors; labels -1 … 4, of which 3 and 4 are not scorable."""
    rng = np.random.default_rng(0)
    truth_C, donor_C = rng.integers(-1, 5, 600), rng.integers(0, 12, 600)
    p_CV = rng.dirichlet(np.ones(5), 600)
    p_CV[np.arange(600), truth_C] += 0.3
    p_CV /= p_CV.sum(axis=1, keepdims=True)
    donors_C = np.array([f"donor {donor}" for donor in donor_C])
    return p_CV, truth_C, donors_C, np.array([[1, 1, 1, 0, 0]], dtype=bool)


def test_testing_the_same_donors_twice_narrows_no_interval(cells):
    probabilities_CV, truth_C, donors_C, scorable_SV = cells
    once = label_tally(probabilities_CV, truth_C, scorable_SV=scorable_SV[:1], donors_C=donors_C)
    table = compare({"a": once}, reference="a")
    pd.testing.assert_frame_equal(table, compare({"a": stack_splits([once, once, once])}, reference="a"))


def test_splits_are_scored_together(cells):
    probabilities_CV, truth_C, donors_C, scorable_SV = cells
    first = np.isin(donors_C, ["donor 0", "donor 1", "donor 2"])
    parts = [
        label_tally(probabilities_CV[part], truth_C[part], scorable_SV=scorable_SV[:1], donors_C=donors_C[part])
        for part in (first, ~first)
    ]
    table = compare({"a": stack_splits(parts)}, reference="a").set_index("score")
    kept = np.isin(truth_C, [0, 1, 2])
    truth, predicted = truth_C[kept], probabilities_CV[kept].argmax(1)
    assert table.value["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert table.value["macro_f1"] == pytest.approx(f1_score(truth, predicted, labels=[0, 1, 2], average="macro"))


def test_splits_that_learned_other_labels_are_joined_by_the_labels_names():
    """Against one tally over the vocabulary of both."""
    rng = np.random.default_rng(4)
    truth_C = rng.integers(0, 3, 60)
    donors_C = rng.choice(list("abcdef"), 60).astype(object)
    p_CV = rng.dirichlet(np.ones(4), 60)
    first, second = np.arange(60) < 30, np.arange(60) >= 30
    all_V = np.ones((1, 4), dtype=bool)
    whole = [
        label_tally(p_CV[part], truth_C[part], scorable_SV=all_V, donors_C=donors_C[part]) for part in (first, second)
    ]
    order = [2, 0, 1]  # the second split never saw label 3, and numbers the others in another order
    other_CV = np.column_stack([p_CV[second][:, order]])
    p_CV[second, 3] = 0
    whole[1] = label_tally(p_CV[second], truth_C[second], scorable_SV=all_V, donors_C=donors_C[second])
    named = [
        label_tally(
            p_CV[first], truth_C[first], scorable_SV=all_V, donors_C=donors_C[first], labels=["p", "q", "r", "s"]
        ),
        label_tally(
            other_CV,
            np.array([order.index(truth) for truth in truth_C[second]]),
            scorable_SV=all_V[:, :3],
            donors_C=donors_C[second],
            labels=["r", "p", "q"],
        ),
    ]
    expected, found = stack_splits(whole).scores(), stack_splits(named).scores()
    for score in ("accuracy", "macro_f1", "balanced_accuracy", "log_loss"):
        np.testing.assert_allclose(found[score], expected[score])
