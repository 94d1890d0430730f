"""Embed: one embedding a cell, from nothing but its expression."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

from polygene.errors import DataError
from polygene.model.checkpoint import PolyGene
from polygene.model.extend import extend_vocabulary
from polygene.model.inference import cell_states, key_states, label_probabilities, predict_labels
from polygene.tl import annotate, embed
from polygene.training.regression import without_regression
from polygene.vocab.tokenizer import CellTokenizer


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    return make_adata(60, 36)


def with_regression(tokenizer: CellTokenizer, width: int) -> PolyGene:
    """An untrained model with a regression whose weights are drawn."""
    shape = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = PolyGene.new(tokenizer, **shape, initializer_range=0.2, label_regression=True)
    branch, draws = model.network.linear_branch, torch.Generator().manual_seed(1)
    for weights in (branch.genes.weight, branch.bias):
        torch.nn.init.normal_(weights, generator=draws)
    return model


def logits_of_regression(model: PolyGene, adata: ad.AnnData) -> np.ndarray:
    """Its logits for cell types without its biases, from what the model predicts: the mean of its halves."""
    cells, alone = model.tokenizer.encode(adata, use_labels=False), without_regression(model.network).eval()
    halves = (model, replace(model, network=alone))
    both_CV, net_CV = (np.log(label_probabilities(one, cells, predict=["cell_type"])[0]) for one in halves)
    first = sum(model.network.config.phenotype_sizes[: model.tokenizer.schema.index("cell_type")])
    bias_V = model.network.linear_branch.bias.detach().numpy()[first : first + both_CV.shape[1]]
    logits_CV = 2 * both_CV - net_CV - bias_V
    return logits_CV - logits_CV.mean(axis=1, keepdims=True)


def cosines(x_CD: np.ndarray) -> np.ndarray:
    x_CD = x_CD / np.linalg.norm(x_CD, axis=1, keepdims=True)
    return x_CD @ x_CD.T


def test_an_embedding_joins_the_state_and_the_logits_of_the_regression_each_of_length_one(
    adata: ad.AnnData, toy_tokenizer: CellTokenizer
) -> None:
    model = with_regression(toy_tokenizer, 32)
    embed(adata, model)
    state_CD, logits_CK = np.split(adata.obsm["X_polygene"], [32], axis=1)
    assert state_CD.dtype == np.float32
    expected_CD = cell_states(model, model.tokenizer.encode(adata, use_labels=False))
    np.testing.assert_allclose(state_CD @ state_CD.T, cosines(expected_CD), atol=1e-5)
    np.testing.assert_allclose(logits_CK @ logits_CK.T, cosines(logits_of_regression(model, adata)), atol=1e-3)


def test_of_more_types_than_the_network_is_wide_the_dimensions_that_tell_most_stay(
    adata: ad.AnnData, toy_tokenizer: CellTokenizer
) -> None:
    model = with_regression(toy_tokenizer, 2)
    embed(adata, model)
    weights_GL = model.network.linear_branch.genes.weight.detach().numpy()
    first = 2 + sum(model.network.config.phenotype_sizes[: model.tokenizer.schema.index("cell_type")])
    weights_GV = weights_GL[
        :, first : first + len(model.tokenizer.schema.labels[model.tokenizer.schema.index("cell_type")])
    ]
    axes_VV = np.linalg.svd(weights_GV - weights_GV.mean(axis=1, keepdims=True))[2]
    expected_CC = cosines(logits_of_regression(model, adata) @ axes_VV[:2].T)
    found_CK = adata.obsm["X_polygene"][:, 2:]
    assert found_CK.shape == (60, 2)
    np.testing.assert_allclose(found_CK @ found_CK.T, expected_CC, atol=1e-3)


def test_without_a_regression_it_is_the_state(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    embed(adata, tiny_model)
    embed(adata, tiny_model, states="cell_type", key_added="state")
    cells = tiny_model.tokenizer.encode(adata, use_labels=False)
    np.testing.assert_allclose(adata.obsm["state"], cell_states(tiny_model, cells), atol=1e-6)
    lengths_C1 = np.linalg.norm(adata.obsm["state"], axis=1, keepdims=True)
    np.testing.assert_allclose(adata.obsm["X_polygene"], adata.obsm["state"] / lengths_C1, atol=1e-6)


def test_a_label_that_was_added_changes_no_embedding(adata: ad.AnnData, toy_tokenizer: CellTokenizer) -> None:
    model = with_regression(toy_tokenizer, 32)
    embed(adata, model)
    embed(adata, extend_vocabulary(model, "cell_type", ["a type of one's own"]), key_added="extended")
    np.testing.assert_allclose(adata.obsm["X_polygene"], adata.obsm["extended"], atol=1e-5)


def test_labels_are_not_used(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    embed(adata, tiny_model)
    adata.obs["cell_type"] = "nothing that the model knows"
    embed(adata, tiny_model, key_added="again")
    np.testing.assert_array_equal(adata.obsm["X_polygene"], adata.obsm["again"])


def test_an_embedding_depends_on_nothing_but_the_cell(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    rows = np.random.default_rng(0).permutation(60)[:7]
    some = adata[rows].copy()
    embed(adata, tiny_model)
    embed(some, tiny_model)
    np.testing.assert_allclose(some.obsm["X_polygene"], adata.obsm["X_polygene"][rows], atol=1e-5)


def test_a_file_gives_what_the_object_gives(adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    embed(tmp_path / "cells.h5ad", tiny_model, out=tmp_path / "out.h5ad")
    embed(adata, tiny_model)
    from_file = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(from_file.obsm["X_polygene"], adata.obsm["X_polygene"])
    assert from_file.obs_names.equals(adata.obs_names)


def test_what_other_verbs_wrote_stays(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    annotate(adata, tiny_model)
    embed(adata, tiny_model)
    assert set(adata.uns["polygene"]) == {"annotate", "embed"}
    assert "polygene_cell_type" in adata.obs


def test_other_states_are_those_of_the_network(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    for states in ("cls", "phenotypes", "genes", "all"):
        embed(adata, tiny_model, states=states, key_added=states)
    cells = tiny_model.tokenizer.encode(adata, use_labels=False)
    keys = list(key_states(tiny_model, cells))
    np.testing.assert_allclose(adata.obsm["cls"], np.concatenate([k.leading_CSD[:, 0] for k in keys]), atol=1e-6)
    queries = predict_labels(tiny_model, cells, predict=tiny_model.tokenizer.schema.names, branch=True)[1]
    np.testing.assert_allclose(adata.obsm["phenotypes"], np.concatenate(queries, axis=1), atol=1e-5)
    np.testing.assert_allclose(adata.obsm["phenotypes"][:, 64:96], cell_states(tiny_model, cells), atol=1e-5)
    together = np.concatenate([adata.obsm[name] for name in ("cls", "phenotypes", "genes")], axis=1)
    np.testing.assert_array_equal(adata.obsm["all"], together)
    assert adata.uns["polygene"]["embed"]["states"] == "all"


def test_unknown_states_are_refused_with_the_known_ones(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    with pytest.raises(DataError, match="joined, cell_type, cls, phenotypes, genes, all; got 'mean'"):
        embed(adata, tiny_model, states="mean")
