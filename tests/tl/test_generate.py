"""Generate and balance: drawn cells, marked as such."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from polygene.errors import DataError, GeneError, OutputError, PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.tl import balance, generate
from polygene.tl._generate import as_counts
from polygene.vocab.binning import ExpressionBinner


def drawn(model: PolyGene, **options: object) -> ad.AnnData:
    return generate(model, {"sex": "female", "cell_type": "B cell"}, n_cells=20, steps=3, **options)  # type: ignore[arg-type]


def test_cells_carry_their_labels_and_are_marked_as_generated(tiny_model: PolyGene) -> None:
    adata = drawn(tiny_model)
    assert adata.shape == (20, 40)
    assert list(adata.var_names) == list(tiny_model.tokenizer.panel.symbols)
    assert set(adata.obs["sex"]) == {"female"}
    assert set(adata.obs["cell_type"]) == {"B cell"}
    assert adata.obs["tissue"].isna().all(), "a phenotype without a label is not given"
    assert adata.obs["polygene_generated"].all()
    facts = adata.uns["polygene"]["generate"]
    assert facts["labels"] == {"sex": "female", "cell_type": "B cell"}
    assert facts["steps"] == 3


def test_values_lie_in_their_bins(tiny_model: PolyGene) -> None:
    adata = drawn(tiny_model)
    assert sparse.issparse(adata.X)
    assert adata.X.dtype == np.float32
    bins_CG = adata.layers["polygene_bins"]
    np.testing.assert_array_equal(adata.X.indices, bins_CG.indices)
    lowest_B, highest_B = tiny_model.tokenizer.binner.bounds()
    assert (adata.X.data >= lowest_B[bins_CG.data]).all()
    assert (adata.X.data <= highest_B[bins_CG.data]).all()


def test_the_first_cells_are_the_same_however_many_are_drawn(tiny_model: PolyGene) -> None:
    few, many = (generate(tiny_model, {}, n_cells=n, steps=3) for n in (5, 25))
    assert (many.X[:5] != few.X).nnz == 0


def test_drawn_labels_come_back_in_obs(tiny_model: PolyGene) -> None:
    adata = generate(tiny_model, {"sex": "male"}, n_cells=60, predict=["cell_type", "age"], steps=3)
    assert adata.obs["cell_type"].notna().all()
    assert adata.obs["cell_type"].nunique() > 1
    assert adata.obs["development_stage"].notna().all()


def test_given_genes_stay_as_given(tiny_model: PolyGene) -> None:
    adata = drawn(tiny_model, genes={"GENE3": 0, "GENE7": 4})
    bins_CG = adata.layers["polygene_bins"].toarray()
    assert (bins_CG[:, 3] == 0).all()
    assert (bins_CG[:, 7] == 4).all()


def test_cells_like_a_file_have_the_genes_that_it_measures(tiny_model: PolyGene, make_adata, tmp_path: Path) -> None:
    file = make_adata(5, 36)
    few = file[:, [g for g in range(file.n_vars) if g % 3]].copy()
    made = drawn(tiny_model, like=few)
    symbols = [one for one in tiny_model.tokenizer.panel.symbols if one in set(few.var_names)]
    assert list(made.var_names) == symbols
    assert 0 < len(symbols) < len(tiny_model.tokenizer.panel)
    few.write_h5ad(tmp_path / "few.h5ad")
    assert (drawn(tiny_model, like=tmp_path / "few.h5ad").X != made.X).nnz == 0
    assert (made.X != drawn(tiny_model)[:, symbols].X).nnz, "what is not measured must change what is drawn"


def test_a_full_disk_is_found_out_before_hdf5_does(
    tiny_model: PolyGene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"could not be written, and nothing was left behind: .*No space left"):
        drawn(tiny_model, out=tmp_path / "made.h5ad")
    assert list(tmp_path.iterdir()) == []


def test_the_file_holds_what_is_returned(tiny_model: PolyGene, tmp_path: Path) -> None:
    made = drawn(tiny_model, out=tmp_path / "made.h5ad")
    made.write_h5ad(tmp_path / "as-anndata-writes.h5ad")
    read, other = (ad.read_h5ad(tmp_path / name) for name in ("made.h5ad", "as-anndata-writes.h5ad"))
    pd.testing.assert_frame_equal(read.obs, other.obs)
    assert (read.X != other.X).nnz == (read.X != made.X).nnz == 0
    assert list(read.uns["polygene"]["generate"]) == list(other.uns["polygene"]["generate"])


def test_a_gene_that_is_not_measured_cannot_be_fixed(tiny_model: PolyGene, make_adata) -> None:
    few = make_adata(5, 36)
    few = few[:, few.var_names != "GENE3"].copy()
    with pytest.raises(GeneError, match="GENE3 has a fixed bin, but the cells of `like` do not measure it"):
        drawn(tiny_model, like=few, genes={"GENE3": 0})


def test_the_cells_that_others_are_like_are_not_written_over(tiny_model: PolyGene, make_adata, tmp_path: Path) -> None:
    file = tmp_path / "cells.h5ad"
    make_adata(5, 36).write_h5ad(file)
    with pytest.raises(OutputError):
        drawn(tiny_model, like=file, out=file)


def test_counts_are_whole_and_the_smallest_is_one(tiny_model: PolyGene) -> None:
    counts_CG = drawn(tiny_model, counts=True).layers["counts"]
    assert (counts_CG.data == np.rint(counts_CG.data)).all()
    for c in range(20):
        assert counts_CG[c].data.min() == 1


def test_counts_of_cells_that_were_counted_come_back() -> None:
    rng = np.random.default_rng(0)
    counts_CG = sparse.csr_matrix(rng.poisson(0.3, (30, 200)).astype(np.float32))
    log_CG = counts_CG.multiply(1e4 / counts_CG.sum(1)).tocsr().log1p().astype(np.float32)
    bins_CG = ExpressionBinner.cell_rank().bins(log_CG)
    np.testing.assert_array_equal(as_counts(log_CG, bins_CG).toarray(), counts_CG.toarray())


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"labels": {"cell_tipe": "B cell"}}, PhenotypeError, "Did you mean 'cell_type'"),
        ({"labels": {"cell_type": "B cel"}}, PhenotypeError, "the nearest is 'B cell'"),
        ({"labels": {"sex": "male"}, "predict": ["sex"]}, PhenotypeError, "given and drawn at once"),
        ({"labels": {}, "n_cells": 0}, DataError, "n_cells is 0; give a whole number from 1"),
        ({"labels": {}, "seed": -1}, DataError, "the seed is -1"),
        ({"labels": {}, "temperature": 0.0}, DataError, "temperature is a number of at least 0.001; got 0.0"),
        ({"labels": {}, "out": "cells.csv"}, OutputError, "must end with .h5ad"),
        ({"labels": {}, "genes": {"GATA1": 0}}, GeneError, "'GATA1' is not among the 40 genes"),
        ({"labels": {}, "genes": {"GENE1": 10}}, GeneError, "there is no bin 10"),
    ],
)
def test_a_wrong_option_is_refused(tiny_model: PolyGene, options: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        generate(tiny_model, **options)


def test_a_low_temperature_always_draws_the_most_probable_label(tiny_model: PolyGene) -> None:
    adata = generate(tiny_model, {"sex": "male"}, n_cells=40, predict="cell_type", steps=1, temperature=0.001)
    nothing = tiny_model.tokenizer.from_bins(
        np.zeros((1, 40), np.uint8), np.array([[1, -1, -1, -1, -1]], np.int16), np.ones(40, dtype=bool)
    )
    ((p_V,),) = label_probabilities(tiny_model, nothing, predict=["cell_type"], given=["sex"], visible_share=0.0)
    assert set(adata.obs["cell_type"]) == {tiny_model.tokenizer.schema.labels[2][p_V.argmax()]}


def test_generated_cells_are_written_to_a_file(tiny_model: PolyGene, tmp_path: Path) -> None:
    adata = drawn(tiny_model, out=tmp_path / "cells.h5ad")
    written = ad.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(written.X.toarray(), adata.X.toarray())
    assert list(written.obs["cell_type"]) == list(adata.obs["cell_type"])


def test_balancing_adds_cells_to_rare_labels_until_all_have_as_many(
    tiny_model: PolyGene, make_adata: Callable[..., ad.AnnData]
) -> None:
    adata = make_adata(90, 40)
    adata = adata[(adata.obs["cell_type"] != "monocyte") | (np.arange(90) % 5 == 0)].copy()
    both = balance(adata, tiny_model, steps=3, given=["sex"])
    real = both[~both.obs["polygene_generated"]]
    counts = both.obs["cell_type"].value_counts()
    assert counts.nunique() == 1
    assert counts.iloc[0] == adata.obs["cell_type"].value_counts().max()
    assert list(real.obs_names) == list(adata.obs_names), "the real cells come first, as they were"
    assert list(real.obs["donor_id"]) == list(adata.obs["donor_id"])
    encoded = tiny_model.tokenizer.encode(adata, use_labels=False)
    np.testing.assert_array_equal(real.layers["polygene_bins"].data, encoded.bins_N)
    added = both.obs[both.obs["polygene_generated"]]
    assert added["donor_id"].isna().all()
    assert added["sex"].notna().all()
    assert not both.obs_names.has_duplicates


def test_cells_that_are_even_stay_as_they_are(tiny_model: PolyGene, make_adata: Callable[..., ad.AnnData]) -> None:
    adata = make_adata(90, 40)
    both = balance(adata, tiny_model, n_cells=1)
    assert both.n_obs == 90
    assert not both.obs["polygene_generated"].any()


def test_balancing_by_a_phenotype_without_labels_is_refused(
    tiny_model: PolyGene, make_adata: Callable[..., ad.AnnData]
) -> None:
    adata = make_adata(30, 40)
    adata.obs["cell_type"] = np.nan
    with pytest.raises(DataError, match="nothing to balance"):
        balance(adata, tiny_model)
    with pytest.raises(DataError, match="the seed is -3"):
        balance(adata, tiny_model, seed=-3)
