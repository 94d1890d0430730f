"""Impute: the whole panel, in a new AnnData or a new file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from polygene.errors import DataError
from polygene.model.checkpoint import PolyGene
from polygene.tl import denoise, impute
from polygene.vocab.binning import ExpressionBinner
from polygene.vocab.panel import GenePanel
from polygene.vocab.tokenizer import CellTokenizer


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    return make_adata(60, 36)


def imputed(adata: ad.AnnData, model: PolyGene, **asked: str) -> ad.AnnData:
    new = impute(adata, model, **asked)
    assert new is not None
    return new


def test_the_whole_panel_comes_back_with_what_was_measured_marked(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    before = adata.copy()
    new = imputed(adata, tiny_model)
    assert (new.shape, new.X.dtype) == ((60, 40), np.float32)
    assert new.var_names.tolist() == list(tiny_model.tokenizer.panel.symbols)
    assert new.var["measured"].tolist() == [True] * 36 + [False] * 4
    assert (new.X > 0).all()
    pd.testing.assert_frame_equal(new.obs, before.obs)
    assert list(new.uns["polygene"]["impute"]["genes"]["missing"]) == [f"GENE{g}" for g in range(36, 40)]
    denoise(adata, tiny_model)
    np.testing.assert_allclose(new.X[:, :36], adata.layers["polygene"].toarray(), atol=1e-5)
    assert list(before.layers) == []


@pytest.mark.parametrize("kind", ["csr.h5ad", "csc.zarr", "mtx"])
def test_a_file_gives_what_the_object_gives(
    kind: str,
    adata: ad.AnnData,
    tiny_model: PolyGene,
    write_as: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polygene.io.read.CellSource.chunks.__defaults__", (None, 17))
    adata.obsm["X_pca"] = np.ones((60, 2))
    source, out = write_as(adata, tmp_path, kind), tmp_path / "out.h5ad"
    assert impute(source, tiny_model, out=out, output="expressed") is None
    new, expected = ad.read_h5ad(out), imputed(adata, tiny_model, output="expressed")
    np.testing.assert_allclose(new.X, expected.X, atol=1e-6)
    assert new.var.index.tolist() == expected.var.index.tolist()
    assert new.var["measured"].tolist() == expected.var["measured"].tolist()
    assert new.obs_names.tolist() == adata.obs_names.tolist()
    assert (not new.obsm, not new.layers, new.raw) == (True, True, None)
    if kind.endswith(("h5ad", "zarr")):
        pd.testing.assert_frame_equal(new.obs, adata.obs)
    with h5py.File(out) as file:
        assert file["X"].attrs["encoding-type"] == "array"


def test_raw_can_be_read_since_the_genes_are_new(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    expected = imputed(adata, tiny_model)
    adata.raw = adata.copy()
    new = imputed(adata[:, :5].copy(), tiny_model, layer="raw")
    np.testing.assert_allclose(new.X, expected.X, atol=1e-6)


def test_genes_without_a_name_of_their_own_go_by_id(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    symbols = ["GENE0", "GENE1", *(f"GENE{g}" for g in range(2, 39)), "GENE1"]
    ids = [f"ENSG{g:011d}" for g in range(40)]
    panel = GenePanel(symbols=("", *symbols[1:]), ensembl_ids=tuple(ids))
    adata.var["gene_ids"] = ids[:36]
    new = imputed(adata, replace(tiny_model, tokenizer=replace(tiny_model.tokenizer, panel=panel)))
    assert new.var_names.tolist() == [ids[0], ids[1], *symbols[2:39], ids[39]]


def test_a_binary_model_is_refused_before_a_file_is_begun(
    adata: ad.AnnData, make_tokenizer: Callable[..., CellTokenizer], tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(40, ExpressionBinner.binary())
    model = PolyGene.new(tokenizer, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(DataError, match="The model is binary"):
        impute(adata, model, out=tmp_path / "out.h5ad")
    assert not list(tmp_path.iterdir())
