"""Features that are no genes, in every format: the values of the genes are those of a file without them."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.io.read import open_cells
from polygene.vocab.expression import log1p_values
from polygene.vocab.panel import GenePanel

OTHERS = ["CD4", "CD8A", "CD19"]  # antibodies under the names of genes
PANEL = GenePanel(symbols=(*OTHERS, *(f"GENE{g}" for g in range(27))), ensembl_ids=("",) * 30)


@pytest.fixture
def plain(make_adata):
    """Cells that measure the gene CD4, and not CD8A, which was filtered out."""
    adata = make_adata(n_genes=27)
    adata.var_names = ["CD4", *adata.var_names[1:]]
    return adata


def with_antibodies(plain, *, names=tuple(OTHERS), types=True):
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(60, (plain.n_obs, 3)).astype(np.float32))
    adata = ad.AnnData(sparse.hstack([plain.X, counts], format="csr"), obs=plain.obs.copy())
    adata.var_names = [*plain.var_names, *names]
    if types:
        adata.var["feature_types"] = ["Gene Expression"] * plain.n_vars + ["Antibody Capture"] * 3
    return adata


def values(source):
    cells = open_cells(source)
    match = PANEL.match(cells.var)
    scale = cells.scale
    chunks = [log1p_values(chunk, match, scale=scale) for chunk in cells.chunks(size=64)]
    return match.measured_G, sparse.vstack(chunks).toarray()


def same(found, expected, rtol=0.0):
    assert np.array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=rtol)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_antibodies_under_names_of_genes_change_no_value_in_any_format(plain, write_as, tmp_path, cell_format, caplog):
    if cell_format == "10x-v2.h5":
        pytest.skip("has no types of features")
    adata = with_antibodies(plain)
    with caplog.at_level(logging.WARNING, "polygene"):
        same(values(write_as(adata, tmp_path, cell_format)), values(plain))
    assert caplog.text.count("27 genes are read; left out are features that are none: 3 Antibody Capture") == 1
    same(values(adata), values(plain))


@pytest.mark.parametrize("names", [("CD4_TotalSeqB", "AB_CD8A", "ERCC-00002"), ("HTO-1", "sgCD4_1", "chr1:1000-2000")])
def test_without_types_names_tell_them(plain, names):
    same(values(with_antibodies(plain, names=names, types=False)), values(plain))


@pytest.mark.parametrize("log", [None, "ln", "log2"])
@pytest.mark.parametrize("target", [1.0, 1e4])
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_what_was_normalised_with_antibodies_is_normalised_again_without_them(plain, log, target):
    adata = with_antibodies(plain)
    sc.pp.normalize_total(adata, target_sum=target)
    if log:
        adata.X = adata.X.log1p() / (np.log(2) if log == "log2" else 1)
    same(values(adata), values(plain), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_log1p_values_of_genes_alone_stay_as_they_are(plain):
    sc.pp.normalize_total(plain, target_sum=1e4)
    sc.pp.log1p(plain)
    same(values(with_antibodies(plain)), values(plain))


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_no_antibody_becomes_a_gene_of_the_panel(plain, tmp_path):
    adata = with_antibodies(plain, names=("IgG2b", "CD45RA", "CD4"))
    corpora = [
        prepare(one, tmp_path / str(i), config=PrepareConfig(n_genes=27)) for i, one in enumerate((adata, plain))
    ]
    assert corpora[0].info["tokenizer"] == corpora[1].info["tokenizer"]
    assert (corpora[0].split("train").values() != corpora[1].split("train").values()).nnz == 0


def test_a_copy_holds_the_features_that_are_no_genes_too(plain, write_as, tmp_path, cell_format):
    if cell_format == "10x-v2.h5":
        pytest.skip("has no types of features")
    adata = with_antibodies(plain, names=("A", "B", "C"))
    open_cells(write_as(adata, tmp_path, cell_format)).write_h5ad(tmp_path / "copy.h5ad")
    copy = ad.read_h5ad(tmp_path / "copy.h5ad")
    assert np.array_equal(pd.DataFrame(copy.to_df()).to_numpy(), adata.to_df().to_numpy())
    assert copy.var["feature_types"].tolist() == adata.var["feature_types"].tolist()
