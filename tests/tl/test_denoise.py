"""Denoise: expected expression as a layer, or of the whole panel as a new AnnData, in memory or in a file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from polygene.errors import DataError, OutputError, PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.model.denoising import expected_expression
from polygene.tl import denoise, embed
from polygene.vocab.binning import ExpressionBinner
from polygene.vocab.panel import GenePanel
from polygene.vocab.tokenizer import CellTokenizer


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    """60 cells; 36 of the model's 40 genes stand in other order among two that it does not know."""
    adata = make_adata(60, 38)
    adata.var_names = ["OTHER0", *(f"GENE{g}" for g in range(36)), "OTHER1"]
    return adata[:, np.random.default_rng(0).permutation(38)].copy()


def test_panel_columns_hold_the_expectations_and_others_nothing(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    before = adata.copy()
    denoise(adata, tiny_model)
    layer, is_panel_G = adata.layers["polygene"], adata.var["polygene_panel"].to_numpy()
    assert isinstance(layer, sparse.csr_matrix)
    assert (layer.dtype, layer.shape, layer.nnz) == (np.float32, (60, 38), 60 * 36)
    assert adata.var_names[~is_panel_G].sort_values().tolist() == ["OTHER0", "OTHER1"]
    cells = tiny_model.tokenizer.encode(adata, use_labels=False)
    expected_CG = expected_expression(tiny_model, cells, np.arange(40))
    for gene in (0, 7, 35):
        at = adata.var_names.get_loc(f"GENE{gene}")
        np.testing.assert_allclose(layer[:, at].toarray().ravel(), expected_CG[:, gene], atol=1e-5)
    assert (layer[:, np.flatnonzero(is_panel_G)].toarray() > 0).all()
    assert layer.has_canonical_format
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    assert adata.uns["polygene"]["denoise"]["output"] == "expression"


def test_probabilities_stand_beside_values(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    denoise(adata, tiny_model)
    denoise(adata, tiny_model, output="expressed")
    assert set(adata.layers) == {"polygene", "polygene_expressed"}
    p = adata.layers["polygene_expressed"].data
    assert ((p > 0) & (p < 1)).all()


def test_a_copy_of_the_file_holds_what_the_object_would(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polygene.io.read.CellSource.chunks.__defaults__", (None, 17))
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    denoise(tmp_path / "cells.h5ad", tiny_model, out=tmp_path / "once.h5ad")
    denoise(tmp_path / "once.h5ad", tiny_model, out=tmp_path / "twice.h5ad")  # in place of the first layer
    denoise(adata, tiny_model)
    for name in ("once", "twice"):
        written = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        np.testing.assert_allclose(written.layers["polygene"].toarray(), adata.layers["polygene"].toarray(), atol=1e-5)
        assert written.layers["polygene"].nnz == 60 * 36
        pd.testing.assert_frame_equal(written.var, adata.var)
        pd.testing.assert_frame_equal(written.obs, adata.obs)
        assert set(written.layers) == {"counts", "polygene"}
        np.testing.assert_array_equal(written.raw.X.toarray(), adata.raw.X.toarray())
        assert written.uns["polygene"]["denoise"]["genes"]["measured"] == 36
    with h5py.File(tmp_path / "twice.h5ad") as file:
        assert list(file["var"].attrs["column-order"]).count("polygene_panel") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "once.h5ad", "twice.h5ad"]


def test_columns_of_one_gene_get_one_prediction(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    twice = adata.copy()
    twice.var_names = ["GENE3" if name == "OTHER0" else name for name in twice.var_names]
    columns = np.flatnonzero(twice.var_names == "GENE3")
    denoise(twice, tiny_model)
    assert twice.var["polygene_panel"].to_numpy()[columns].tolist() == [True, False]
    assert twice.layers["polygene"][:, columns[1]].nnz == 0
    assert twice.layers["polygene"].nnz == 60 * 36


def test_what_other_verbs_wrote_stays(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    embed(adata, tiny_model)
    denoise(adata, tiny_model)
    assert set(adata.uns["polygene"]) == {"denoise", "embed"}


def binary(model: PolyGene, make_tokenizer: Callable[..., CellTokenizer]) -> PolyGene:
    tokenizer = make_tokenizer(len(model.tokenizer.panel), ExpressionBinner.binary())
    return PolyGene.new(tokenizer, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)


def test_a_binary_model_predicts_whether_and_not_how_much(
    adata: ad.AnnData, tiny_model: PolyGene, make_tokenizer: Callable[..., CellTokenizer]
) -> None:
    model = binary(tiny_model, make_tokenizer)
    with pytest.raises(DataError, match=r"The model is binary.*output='expressed'"):
        denoise(adata, model)
    denoise(adata, model, output="expressed")
    assert (adata.layers["polygene_expressed"].data < 1).all()


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"output": "values"}, DataError, "output is one of expression, expressed; got 'values'"),
        ({"panel": "some"}, DataError, "panel is one of measured, all; got 'some'"),
        ({"given": "cell_typ"}, PhenotypeError, "Did you mean 'cell_type'"),
        ({"given": "disease"}, PhenotypeError, "does not know the label 'gout'"),
        ({"layer": "raw"}, DataError, r"pass adata\.raw\.to_adata\(\)"),
        ({"out": "x.h5ad"}, DataError, "results go into the AnnData"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_is_written(
    asked: dict[str, Any], error: type, says: str, adata: ad.AnnData, tiny_model: PolyGene
) -> None:
    adata.raw = adata.copy()
    adata.obs["disease"] = "gout"
    with pytest.raises(error, match=says):
        denoise(adata, tiny_model, **asked)
    assert not adata.layers
    assert "polygene_panel" not in adata.var


def test_a_matrix_does_not_go_into_a_table(adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(OutputError, match=r"must end with \.h5ad"):
        denoise(tmp_path / "cells.h5ad", tiny_model, out=tmp_path / "out.csv")
    with pytest.raises(DataError, match=r"need a place: out='annotated\.h5ad'$"):
        denoise(tmp_path / "cells.h5ad", tiny_model)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_a_cell_without_counts_is_predicted(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    adata.X = sparse.diags((np.arange(60) > 0).astype(np.float32)).tocsr() @ adata.X
    caplog.set_level("WARNING", logger="polygene")
    denoise(adata, tiny_model)
    assert np.isfinite(adata.layers["polygene"].data).all()
    assert any("1 of 60 cells express no gene of the panel" in message for message in caplog.messages)


def test_a_given_label_changes_predictions_and_is_in_uns(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    given = adata.copy()
    denoise(adata, tiny_model)
    denoise(given, tiny_model, given="cell_type")
    assert list(given.uns["polygene"]["denoise"]["given"]) == ["cell_type"]
    assert (np.abs((given.layers["polygene"] - adata.layers["polygene"]).toarray()).max(1) > 1e-4).all()


def test_genes_are_found_by_every_name(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    tokenizer = tiny_model.tokenizer
    ids = tuple(f"ENSG{g:011d}" for g in range(40))
    model = replace(tiny_model, tokenizer=replace(tokenizer, panel=replace(tokenizer.panel, ensembl_ids=ids)))
    by_id = adata.copy()
    by_id.var_names = [ids[int(n[4:])] if n.startswith("GENE") else n for n in adata.var_names]
    denoise(adata, model)
    denoise(by_id, model)
    np.testing.assert_array_equal(by_id.layers["polygene"].toarray(), adata.layers["polygene"].toarray())


@pytest.fixture
def measured(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    """60 cells with the first 36 of the panel's 40 genes, in the panel's order."""
    return make_adata(60, 36)


def whole_panel(adata: ad.AnnData, model: PolyGene, **options: str) -> ad.AnnData:
    new = denoise(adata, model, panel="all", **options)
    assert new is not None
    return new


def test_the_whole_panel_comes_back_with_what_was_measured_marked(measured: ad.AnnData, tiny_model: PolyGene) -> None:
    before = measured.copy()
    new = whole_panel(measured, tiny_model)
    assert (new.shape, new.X.dtype) == ((60, 40), np.float32)
    assert new.var_names.tolist() == list(tiny_model.tokenizer.panel.symbols)
    assert new.var["measured"].tolist() == [True] * 36 + [False] * 4
    assert (new.X > 0).all()
    pd.testing.assert_frame_equal(new.obs, before.obs)
    assert list(new.uns["polygene"]["denoise"]["genes"]["missing"]) == [f"GENE{g}" for g in range(36, 40)]
    denoise(measured, tiny_model)
    np.testing.assert_allclose(new.X[:, :36], measured.layers["polygene"].toarray(), atol=1e-5)
    assert list(before.layers) == []


@pytest.mark.parametrize("kind", ["csr.h5ad", "csc.zarr", "mtx"])
def test_the_whole_panel_of_a_file_is_that_of_the_object(
    kind: str,
    measured: ad.AnnData,
    tiny_model: PolyGene,
    write_as: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("polygene.io.read.CellSource.chunks.__defaults__", (None, 17))
    measured.obsm["X_pca"] = np.ones((60, 2))
    source, out = write_as(measured, tmp_path, kind), tmp_path / "out.h5ad"
    assert denoise(source, tiny_model, panel="all", out=out, output="expressed") is None
    new, expected = ad.read_h5ad(out), whole_panel(measured, tiny_model, output="expressed")
    np.testing.assert_allclose(new.X, expected.X, atol=1e-6)
    assert new.var.index.tolist() == expected.var.index.tolist()
    assert new.var["measured"].tolist() == expected.var["measured"].tolist()
    assert new.obs_names.tolist() == measured.obs_names.tolist()
    assert (not new.obsm, not new.layers, new.raw) == (True, True, None)
    if kind.endswith(("h5ad", "zarr")):
        pd.testing.assert_frame_equal(new.obs, measured.obs)
    with h5py.File(out) as file:
        assert file["X"].attrs["encoding-type"] == "array"


def test_raw_can_be_read_since_the_genes_are_new(measured: ad.AnnData, tiny_model: PolyGene) -> None:
    expected = whole_panel(measured, tiny_model)
    measured.raw = measured.copy()
    new = whole_panel(measured[:, :5].copy(), tiny_model, layer="raw")
    np.testing.assert_allclose(new.X, expected.X, atol=1e-6)


def test_genes_without_a_name_of_their_own_go_by_id(measured: ad.AnnData, tiny_model: PolyGene) -> None:
    symbols = ["GENE0", "GENE1", *(f"GENE{g}" for g in range(2, 39)), "GENE1"]
    ids = [f"ENSG{g:011d}" for g in range(40)]
    panel = GenePanel(symbols=("", *symbols[1:]), ensembl_ids=tuple(ids))
    measured.var["gene_ids"] = ids[:36]
    new = whole_panel(measured, replace(tiny_model, tokenizer=replace(tiny_model.tokenizer, panel=panel)))
    assert new.var_names.tolist() == [ids[0], ids[1], *symbols[2:39], ids[39]]


def test_a_binary_model_is_refused_before_a_file_is_begun(
    measured: ad.AnnData, make_tokenizer: Callable[..., CellTokenizer], tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(40, ExpressionBinner.binary())
    model = PolyGene.new(tokenizer, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(DataError, match="The model is binary"):
        denoise(measured, model, panel="all", out=tmp_path / "out.h5ad")
    assert not list(tmp_path.iterdir())
