import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from polygene.corpus.variable_genes import (
    GeneMoments,
    GeneVariability,
    choose_panel,
    rank_genes,
    score_genes,
    source_weights,
    union_of_genes,
)
from polygene.errors import GeneError


def log1p_of(adata):
    return sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True).X


def variability(x_CG, chunk):
    moments = GeneMoments(x_CG.shape[1])
    for first in range(0, x_CG.shape[0], chunk):
        moments.add(x_CG[first : first + chunk])
    second = GeneVariability(moments)
    for first in range(0, x_CG.shape[0], chunk):
        second.add(x_CG[first : first + chunk])
    return second.finish()


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_ranks_are_those_of_scanpys_seurat_v3_in_memory(make_adata, chunk):
    adata = make_adata(400, 200, seed=3)
    counts = adata.X.toarray()
    counts[5, 17], counts[9, 3] = 90_000, 40_000  # clipped
    counts[:, 40] = 0
    adata.X = sparse.csr_matrix(counts)
    x_CG = log1p_of(adata)
    linear = ad.AnnData(x_CG.expm1(), var=adata.var.copy())
    sc.pp.highly_variable_genes(linear, flavor="seurat_v3", n_top_genes=50, check_values=False)
    found = variability(x_CG, chunk)
    np.testing.assert_allclose(found, linear.var["variances_norm"], rtol=1e-5)
    rank_G = rank_genes(found, list(linear.var_names))
    assert np.array_equal(np.argsort(rank_G)[:150], np.argsort(-linear.var["variances_norm"].to_numpy())[:150])
    assert set(np.flatnonzero(rank_G < 50)) == set(np.flatnonzero(linear.var["highly_variable"]))


def test_ranks_do_not_depend_on_the_size_of_the_chunks(make_adata):
    x_CG = log1p_of(make_adata(300, 150))
    names = [f"GENE{g}" for g in range(150)]
    ranks = [rank_genes(variability(x_CG, chunk), names) for chunk in (1, 37, 300)]
    assert np.array_equal(ranks[0], ranks[1])
    assert np.array_equal(ranks[0], ranks[2])


def test_the_mean_and_variance_are_those_of_numpy(make_adata):
    x_CG = log1p_of(make_adata())
    moments = GeneMoments(30)
    moments.add(x_CG)
    mean_G, variance_G = moments.finish()
    dense = np.expm1(x_CG.toarray()).astype(np.float64)
    np.testing.assert_allclose(mean_G, dense.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance_G, dense.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("n_cells", [0, 1, 2])
def test_too_few_cells_rank_genes_by_name_rather_than_fail(n_cells):
    x_CG = sparse.csr_matrix(np.ones((n_cells, 3), dtype=np.float32))
    assert rank_genes(variability(x_CG, 10), ["B", "C", "A"]).tolist() == [1, 2, 0]


@pytest.mark.parametrize("n_genes", [1, 2, 3, 9])
def test_too_few_genes_for_a_loess_curve_are_ranked_rather_than_end_the_process(n_genes):
    counts = np.random.default_rng(0).poisson(5.0, (50, n_genes)).astype(np.float32)
    found = variability(sparse.csr_matrix(np.log1p(counts)), 10)
    assert np.isfinite(found).all()
    assert (found > 0).any()


def test_equal_variability_is_ranked_by_name_and_what_does_not_vary_comes_last():
    assert rank_genes(np.array([0.0, 2.0, 1.0, 2.0 + 1e-12]), ["A", "C", "D", "B"]).tolist() == [3, 1, 2, 0]


def genes(*pairs):
    return pd.DataFrame(pairs, columns=["symbol", "ensembl_id"])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_a_gene_is_one_by_ensembl_id_and_by_symbol_where_a_source_has_no_id(order):
    tables = [
        genes(("TP53", ""), ("ONLY", "")),
        genes(("ENSG00000141510", "ENSG00000141510"), ("ENSG00000000001", "ENSG00000000001")),
        genes(("TP53", "ENSG00000141510"), ("CD4", "ENSG00000010610")),
    ]
    union = union_of_genes([tables[i] for i in order])
    assert sorted(zip(union["symbol"], union["ensembl_id"], strict=True)) == [
        ("CD4", "ENSG00000010610"),
        ("ENSG00000000001", "ENSG00000000001"),
        ("ONLY", ""),
        ("TP53", "ENSG00000141510"),
    ]


def test_the_score_is_the_mean_over_sources_and_0_where_a_gene_is_not_measured():
    tables = [genes(("A", ""), ("B", ""), ("C", ""), ("D", "")), genes(("C", ""), ("A", ""))]
    union = union_of_genes(tables)
    score_U = score_genes(union, tables, [np.array([0, 1, 2, 3]), np.array([0, 1])])
    score = dict(zip(union["symbol"], score_U, strict=True))
    assert score == {"A": (1 + 0.5) / 2, "B": (0.75 + 0) / 2, "C": (0.5 + 1) / 2, "D": (0.25 + 0) / 2}


def test_sources_sampled_from_profiles_count_together_at_most_as_much_as_the_real_ones():
    assert source_weights([False, True, True, False]).tolist() == [1, 1, 1, 1]
    weights = source_weights([False, *[True] * 4, False])
    assert weights.tolist() == [1, *[0.5] * 4, 1]
    assert source_weights([True, True]).tolist() == source_weights([False, False]).tolist() == [1, 1]
    table = pd.DataFrame({"symbol": ["A", "B"], "ensembl_id": ["", ""]})
    union, ranks = union_of_genes([table]), [np.array([0, 1]), *[np.array([1, 0])] * 4, np.array([0, 1])]
    scores = score_genes(union, [table] * 6, ranks, weights)
    assert scores == pytest.approx([(2 * 1 + 4 * 0.5 * 0.5) / 4, (2 * 0.5 + 4 * 0.5 * 1) / 4])


def test_the_panel_goes_from_most_to_least_variable_and_ties_by_name():
    union = genes(("B", ""), ("A", ""), ("D", ""), ("C", "ENSG1"))
    panel = choose_panel(union, np.array([0.5, 0.5, 0.1, 0.9]), 3)
    assert panel.symbols == ("C", "A", "B")
    assert panel.ensembl_ids == ("ENSG1", "", "")


def test_genes_to_include_replace_the_least_variable_and_stand_in_their_own_place():
    union = genes(("A", ""), ("B", ""), ("C", ""), ("D", "ENSG00000010610"), ("E", ""))
    score_U = np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    assert choose_panel(union, score_U, 3, ["ENSG00000010610"]).symbols == ("A", "B", "D")
    assert choose_panel(union, score_U, 3, ["E", "D", "A"]).symbols == ("A", "D", "E")
    assert choose_panel(union, score_U, 2, ["A"]).symbols == ("A", "B")


def test_genes_to_include_go_by_any_of_their_names():
    union = genes(("MARCH1", "ENSG00000145416"), ("B", ""), ("C", ""))
    assert choose_panel(union, np.array([0.1, 0.8, 0.7]), 2, ["MARCHF1"]).symbols == ("B", "MARCH1")


def test_genes_to_include_that_are_in_no_source_are_an_error_that_names_the_nearest():
    union = genes(("CD3D", ""), ("CD4", ""))
    with pytest.raises(GeneError, match=r"'CD3DD' \(near: CD3D\), 'XYZ123'; correct"):
        choose_panel(union, np.array([0.5, 0.4]), 2, ["CD3DD", "CD4", "XYZ123"])
    with pytest.raises(GeneError, match="2 genes are to be included in a panel of 1"):
        choose_panel(union, np.array([0.5, 0.4]), 1, ["CD3D", "CD4"])


def test_if_fewer_genes_are_measured_all_are_taken_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING, logger="polygene"):
        panel = choose_panel(genes(("A", ""), ("B", "")), np.array([0.1, 0.2]), 512)
    assert panel.symbols == ("B", "A")
    assert "measure 2 genes, fewer than n_genes=512" in caplog.text
