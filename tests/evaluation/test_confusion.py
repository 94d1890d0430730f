"""Scores of each class are those of scikit-learn, with donors as replicates, and like labels stand side by side."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from polygene.evaluation.confusion import class_scores, confusion
from polygene.evaluation.metrics import label_tally

LABELS = ("B cell", "T cell", "monocyte", "never seen")
SCORABLE_1V = np.array([[True, True, True, False]])


@pytest.fixture
def answers():
    """300 cells of six donors; monocytes are of one donor alone."""
    rng = np.random.default_rng(0)
    donors_C = rng.integers(0, 6, 300).astype(str).astype(object)
    truth_C = np.where((donors_C == "0") & (rng.random(300) < 0.5), 2, rng.integers(0, 2, 300))
    p_CV = rng.dirichlet(np.ones(4), 300)
    p_CV[np.arange(300), truth_C] += 0.4
    return p_CV / p_CV.sum(1, keepdims=True), truth_C, donors_C


def scores_of(p_CV, truth_C, donors_C):
    tally = label_tally(p_CV, truth_C, scorable_SV=SCORABLE_1V, donors_C=donors_C, labels=LABELS)
    return class_scores(tally).to_dict("records")


def test_scores_of_a_label_are_those_of_scikit_learn(answers):
    p_CV, truth_C, donors_C = answers
    rows = scores_of(p_CV, truth_C, donors_C)
    assert [row["label"] for row in rows] == [LABELS[v] for v in np.argsort(-np.bincount(truth_C), kind="stable")]
    for row in rows:
        v = LABELS.index(row["label"])
        for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            expected = score(truth_C, p_CV.argmax(1), average=None, labels=range(3))[v]
            assert row[name] == pytest.approx(expected), (row["label"], name)
        assert row["cells"] == (truth_C == v).sum()
        assert row["donors"] == len(set(donors_C[truth_C == v]))


def test_a_label_of_several_donors_has_an_interval_and_one_of_a_single_donor_has_none(answers):
    rows = {row["label"]: row for row in scores_of(*answers)}
    for label in ("B cell", "T cell"):
        assert rows[label]["f1_low"] < rows[label]["f1"] < rows[label]["f1_high"]
    assert rows["monocyte"]["donors"] == 1
    assert np.isnan(rows["monocyte"]["f1_low"])


def test_without_donors_cells_are_drawn_and_no_donors_are_counted(answers):
    p_CV, truth_C, _ = answers
    for row in scores_of(p_CV, truth_C, None):
        assert row["donors"] == 0
        assert row["f1_low"] < row["f1_high"]


def test_confusion_counts_are_those_of_scikit_learn_in_the_order_of_the_labels(answers):
    p_CV, truth_C, _ = answers
    truth_C = np.where(np.arange(300) < 10, -1, truth_C)
    found = confusion(p_CV, truth_C, scorable_SV=SCORABLE_1V, sources_C=np.zeros(300, int), labels=LABELS)
    order = [LABELS.index(label) for label in found]
    assert sorted(order) == [0, 1, 2, 3]
    assert found.columns[-1] == "never seen", "only predicted, never true"
    expected = confusion_matrix(truth_C[10:], p_CV[10:].argmax(1), labels=order)
    np.testing.assert_array_equal(found.to_numpy(), expected)


def test_labels_that_are_confused_stand_side_by_side():
    labels = ("a", "x", "b", "y", "c", "z")  # a and x, b and y, c and z are alike
    truth_C = np.repeat(np.arange(6), 20)
    p_CV = np.full((120, 6), 0.01)
    for v in range(6):
        p_CV[truth_C == v, v] = 0.6
        p_CV[truth_C == v, v ^ 1] = 0.35
    shuffled = np.array([0, 2, 4, 1, 3, 5])  # where each label goes
    found = confusion(
        p_CV[:, np.argsort(shuffled)], shuffled[truth_C], scorable_SV=np.ones((1, 6), bool),
        sources_C=np.zeros(120, int), labels=[labels[v] for v in np.argsort(shuffled)],
    )  # fmt: skip
    pairs = [set(found.columns[i : i + 2]) for i in (0, 2, 4)]
    assert sorted(map(sorted, pairs)) == [["a", "x"], ["b", "y"], ["c", "z"]]
