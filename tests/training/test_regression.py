"""The regression that training joins to the network: recomputed by hand from weights, bins and frequencies."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from polygene.corpus.corpus import Corpus
from polygene.model.checkpoint import PolyGene
from polygene.model.extend import extend_vocabulary
from polygene.model.inference import cell_states, label_probabilities
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.training import regression
from polygene.training.regression import join_regression, without_regression
from polygene.training.setup import label_counts, new_model
from polygene.training.train import train

TINY = NetworkConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)


@pytest.fixture(scope="module")
def recipe(toy_corpus, tmp_path_factory) -> Recipe:
    out = str(tmp_path_factory.mktemp("joined") / "out")
    training = TrainingConfig(epochs=1, batch_size=32, evaluations=1)
    return Recipe(corpus=str(toy_corpus.folder), out=out, network=TINY, training=training)


@pytest.fixture(scope="module")
def alone(recipe, toy_corpus) -> PolyGene:
    """An untrained model whose linear branch is not zero."""
    model = new_model(recipe, toy_corpus)
    torch.nn.init.normal_(model.network.linear_branch.genes.weight, generator=torch.Generator().manual_seed(1))
    return replace(model, network=model.network.eval())


@pytest.fixture(scope="module")
def joined(alone, recipe, toy_corpus) -> PolyGene:
    return replace(alone, network=join_regression(alone.network, recipe, toy_corpus))


def by_hand(model: PolyGene, corpus: Corpus, phenotype: int) -> np.ndarray:
    """Logits of the regression alone for the training cells, from its weights and the bins of the cells."""
    cells, branch = corpus.split("train").cells(slice(None)), model.network.linear_branch
    first = model.network.config.hidden_size + sum(model.network.config.phenotype_sizes[:phenotype])
    columns = slice(first, first + model.network.config.phenotype_sizes[phenotype])
    weights_GV = branch.genes.weight[:, columns].detach().numpy()
    n_bins, n_genes = model.tokenizer.binner.n_bins, len(model.tokenizer.panel)
    x_CG = np.zeros((len(cells), n_genes))
    x_CG[cells.cells_N, cells.genes_N] = 0.5 + cells.bins_N / (n_bins - 1)
    bias_L = branch.bias.detach().numpy()
    return x_CG @ weights_GV + bias_L[columns.start - model.network.config.hidden_size :][: weights_GV.shape[1]]


def test_probabilities_are_the_mean_of_log_probabilities(alone, joined, toy_corpus):
    cells, names = toy_corpus.split("train").cells(slice(None)), alone.tokenizer.schema.names
    before, after = (label_probabilities(model, cells, predict=names) for model in (alone, joined))
    for p, (was_CV, is_CV) in enumerate(zip(before, after, strict=True)):
        of_regression_CV = log_softmax(by_hand(joined, toy_corpus, p), axis=1)
        expected_CV = softmax((np.log(was_CV) + of_regression_CV) / 2, axis=1)
        np.testing.assert_allclose(is_CV, expected_CV, atol=2e-5, err_msg=names[p])
    assert np.abs(before[2] - after[2]).max() > 0.05
    np.testing.assert_array_equal(cell_states(joined, cells), cell_states(alone, cells))


def test_it_learns_the_labels(joined, toy_corpus):
    """Better than always telling the frequencies; the toy's labels can be read off its genes."""
    labels_C = toy_corpus.split("train").labels_CP[:, 2]
    log_p_CV = log_softmax(by_hand(joined, toy_corpus, 2), axis=1)
    share_V = np.bincount(labels_C) / len(labels_C)
    assert -log_p_CV[np.arange(len(labels_C)), labels_C].mean() < 0.8 * -(share_V * np.log(share_V)).sum()


def test_few_cells_of_each_label_are_learned_and_the_frequencies_put_right(
    alone, joined, recipe, toy_corpus, monkeypatch
):
    monkeypatch.setattr(regression, "MOST_OF_A_LABEL", 5)
    labels_C, sources_C = toy_corpus.split("train").labels_CP[:, 2], toy_corpus.split("train").sources_C
    rows = regression._learned(labels_C, sources_C, np.random.default_rng(0))
    assert np.bincount(labels_C[rows]).tolist() == [5, 5, 5]
    assert (np.diff(rows) > 0).all()
    weighed = replace(recipe, training=replace(recipe.training, class_weights=True))
    bias, as_drawn = (join_regression(alone.network, one, toy_corpus).linear_branch.bias for one in (recipe, weighed))
    first, n_labels = sum(alone.network.config.phenotype_sizes[:2]), len(alone.tokenizer.schema.labels[2])
    counts_V = label_counts(replace(recipe, loss=replace(recipe.loss, granularity=False)), toy_corpus)[2] + 0.5
    expected_V = np.log(counts_V / counts_V.sum() * n_labels)
    moved_V = (bias - as_drawn)[first : first + n_labels].detach().numpy()
    np.testing.assert_allclose(moved_V, expected_V, atol=1e-5)


def test_without_labels_it_is_zero_but_for_the_bias(recipe, toy_corpus, alone, monkeypatch):
    monkeypatch.setattr(regression, "_learned", lambda *_: np.zeros(0, dtype=np.int64))
    assert not join_regression(alone.network, recipe, toy_corpus).linear_branch.genes.weight[:, 16:].any()


def test_a_network_is_trained_further_without_it_and_gets_a_new_one(alone, joined, recipe, toy_corpus, tmp_path):
    again = without_regression(joined.network)
    assert again.state_dict().keys() == alone.network.state_dict().keys()
    for name, weights in again.state_dict().items():
        torch.testing.assert_close(weights, alone.network.state_dict()[name], rtol=0, atol=0)
    still = replace(recipe, training=replace(recipe.training, learning_rate=1e-12), out=str(tmp_path / "further"))
    further = train(still, start=joined)
    for name, weights in further.network.state_dict().items():
        torch.testing.assert_close(weights, joined.network.state_dict()[name], rtol=0, atol=1e-6)


def test_it_is_saved_and_loaded(joined, toy_corpus, tmp_path):
    joined.save_pretrained(tmp_path / "model")
    cells = toy_corpus.split("test").cells(slice(None))
    loaded = PolyGene.from_pretrained(tmp_path / "model")
    for one_CV, other_CV in zip(
        *(label_probabilities(model, cells, predict=["sex", "cell_type"]) for model in (joined, loaded)), strict=True
    ):
        np.testing.assert_array_equal(one_CV, other_CV)


def test_new_labels_leave_its_answers_as_they_are(joined, toy_corpus):
    cells = toy_corpus.split("test").cells(slice(None))
    extended = extend_vocabulary(joined, "cell_type", ["zeta", "alpha"])
    for name in joined.tokenizer.schema.names:
        was_CV, is_CV = (label_probabilities(model, cells, predict=[name])[0] for model in (joined, extended))
        is_CV = is_CV[:, : was_CV.shape[1]]
        np.testing.assert_allclose(is_CV / is_CV.sum(axis=1, keepdims=True), was_CV, atol=2e-6, err_msg=name)
