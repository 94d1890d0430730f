"""Scores of masked genes against scikit-learn and plain loops."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from polygene.evaluation.masked_genes import bin_scores, value_scores

ALIKE = np.ones(400)
"""Weights of masked genes of which each stands for itself."""


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def genes(rng):
    bins_Q = np.where(rng.random(400) < 0.6, 0, rng.integers(1, 6, 400)).astype(np.uint8)
    logits_QB = rng.normal(size=(400, 6))
    logits_QB[np.arange(400), bins_Q] += 1
    return softmax(logits_QB, axis=1), bins_Q


def test_gene_scores_are_those_of_a_plain_loop(genes):
    probabilities_QB, bins_Q = genes
    exact, near, surprise = [], [], []
    for p_B, truth in zip(probabilities_QB, bins_Q, strict=True):
        surprise.append(-np.log(p_B[truth]))
        if truth > 0:
            exact.append(int(np.argmax(p_B)) == truth)
            near.append(abs(int(np.argmax(p_B)) - int(truth)) <= 1)
    scores = bin_scores(probabilities_QB, bins_Q, ALIKE)
    assert scores["bin_accuracy"] == pytest.approx(np.mean(exact))
    assert scores["bin_accuracy_within_one"] == pytest.approx(np.mean(near))
    assert scores["cross_entropy"] == pytest.approx(np.mean(surprise))
    hits = (bins_Q > 0)[np.argsort(probabilities_QB[:, 0])]
    precision = np.cumsum(hits) / np.arange(1, 401)
    assert scores["average_precision_expressed"] == pytest.approx(precision[hits].mean())


def test_bin_accuracy_does_not_see_what_is_said_of_unexpressed_genes(genes):
    probabilities_QB, bins_Q = genes
    worse_QB = probabilities_QB.copy()
    worse_QB[bins_Q == 0] = np.eye(6)[5] * 0.95 + 0.05 / 6
    better, worse = (bin_scores(p_QB, bins_Q, ALIKE) for p_QB in (probabilities_QB, worse_QB))
    assert better["bin_accuracy"] == worse["bin_accuracy"]
    assert better["bin_accuracy_within_one"] == worse["bin_accuracy_within_one"]
    assert better["cross_entropy"] < worse["cross_entropy"]
    assert better["average_precision_expressed"] > worse["average_precision_expressed"]


def test_a_weight_of_three_is_three_genes(genes, rng):
    probabilities_QB, bins_Q = genes
    weights_Q = np.where(bins_Q == 0, 3, 1)
    repeated = np.repeat(np.arange(400), weights_Q)
    weighted, plain = (
        bin_scores(probabilities_QB, bins_Q, weights_Q),
        bin_scores(probabilities_QB[repeated], bins_Q[repeated], np.ones(len(repeated))),
    )
    assert weighted == pytest.approx(plain)
    assert weighted["cross_entropy"] != pytest.approx(bin_scores(probabilities_QB, bins_Q, ALIKE)["cross_entropy"])


def test_values_are_scored_by_spearman_within_each_gene_that_varies(genes, rng):
    bins_Q = genes[1]
    genes_Q = rng.integers(0, 8, 400)
    values_Q = np.where(bins_Q > 0, bins_Q + rng.random(400), 0.0)
    values_Q[genes_Q == 3] = 0.0
    expected_Q = values_Q + 5 * genes_Q + rng.normal(0, 1, 400)
    expected_Q[genes_Q == 5] = 1.0
    scores = value_scores(expected_Q, values_Q, genes_Q, ALIKE)
    each = [spearmanr(expected_Q[genes_Q == g], values_Q[genes_Q == g]).statistic for g in range(8) if g not in (3, 5)]
    assert scores["spearman_gene"] == pytest.approx(np.mean(each))
    assert scores["spearman_genes"] == 6
    assert scores["mse_value"] == pytest.approx(np.mean((expected_Q - values_Q) ** 2))


def test_average_precision_is_nan_where_nothing_is_expressed(genes):
    scores = bin_scores(genes[0], np.zeros(400, dtype=np.uint8), ALIKE)
    assert np.isnan(scores["average_precision_expressed"])
    assert np.isnan(scores["bin_accuracy"])
    assert scores["cross_entropy"] == pytest.approx(-np.log(genes[0][:, 0]).mean())


def test_average_precision_agrees_with_sklearn_on_ties():
    probabilities_QB = np.array([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])
    bins_Q = np.array([0, 1, 1], dtype=np.uint8)
    expected = average_precision_score([0, 1, 1], [0.5, 0.5, 0.9])
    assert bin_scores(probabilities_QB, bins_Q, ALIKE[:3])["average_precision_expressed"] == pytest.approx(expected)


# Donor bootstrap
