"""Embed: one embedding a cell, from nothing but its expression."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from polygene.errors import DataError
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import cell_states, key_states, predict_labels
from polygene.tl import annotate, embed


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    return make_adata(60, 36)


def test_embeddings_are_the_states_of_the_cells(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    embed(adata, tiny_model)
    assert adata.obsm["X_polygene"].dtype == np.float32
    assert adata.obsm["X_polygene"].shape == (60, 32)
    cells = tiny_model.tokenizer.encode(adata, use_labels=False)
    np.testing.assert_allclose(adata.obsm["X_polygene"], cell_states(tiny_model, cells), atol=1e-6)


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
    with pytest.raises(DataError, match="cell_type, cls, phenotypes, genes, all; got 'mean'"):
        embed(adata, tiny_model, states="mean")
