import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from polygene.errors import ColumnError, DataError, ScaleError
from polygene.vocab.expression import counts_share, log1p_values, warn_totals
from polygene.vocab.gene_matching import GeneMatch
from polygene.vocab.scale import detect_scale

COUNTS = np.random.default_rng(0).poisson(0.6, (40, 30)).astype(np.float32)
COUNTS[7] = 0
LOG1P = np.log1p(COUNTS / np.maximum(COUNTS.sum(1, keepdims=True), 1) * 1e4)


def make(x, **kwargs):
    return ad.AnnData(x, obs=pd.DataFrame(index=[f"c{i}" for i in range(x.shape[0])]), **kwargs)


def taking(*columns):
    """Match the genes of a panel, each with these columns."""
    return GeneMatch.of(dict(enumerate(columns)), len(columns), found={})


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csr_array], ids=["dense", "csr", "csr_array"])
@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (COUNTS, "counts"),
        (COUNTS.astype(np.int32), "counts"),
        (np.zeros((5, 3)), "counts"),
        (LOG1P, "log1p"),
        (COUNTS * 1.002, "log1p"),
        (COUNTS * 100.37, "counts"),
    ],
    ids=["counts", "int", "zero", "log1p", "fractions below 20", "fractions of 20 and more"],
)
def test_whole_numbers_and_large_fractions_are_counts_and_small_fractions_are_log1p(values, scale, form):
    assert detect_scale(form(values)) == scale


def test_the_scale_is_told_from_rows_all_over_a_large_matrix():
    x = np.zeros((50_000, 1), dtype=np.float32)
    x[25_000:] = np.arange(25_000)[:, None] % 7 / 7
    assert detect_scale(sparse.csr_matrix(x)) == "log1p"


def test_a_gene_that_is_nan_in_every_cell_is_what_to_drop():
    x = COUNTS.astype(float)
    x[:, 1] = np.nan
    with pytest.raises(
        ScaleError, match=rf"in {len(x)} cells and 1 genes are NaN or infinite: drop or repair these genes"
    ):
        detect_scale(x)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (-1.5, "looks scaled: 1 of .* are negative, down to -1.5"),
        (np.nan, "1 expression values in 1 cells and 1 genes are NaN or infinite: drop or repair these cells"),
        (np.inf, "1 expression values in 1 cells and 1 genes are NaN or infinite: drop or repair these cells"),
    ],
)
@pytest.mark.parametrize("scale", [None, "counts", "log1p"])
def test_values_that_are_no_expression_are_refused_wherever_they_are(bad, problem, scale):
    x = np.tile(COUNTS, (100, 1))
    x[1_234, 5] = bad  # 4,000 rows, of which the scale is told from 1,000
    with pytest.raises(ScaleError, match=problem + ".*pass layer='counts' if there is one, or layer='raw'"):
        log1p_values(make(sparse.csr_matrix(x)), taking([0], [1]), scale=scale)


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        (np.log1p(np.expm1(LOG1P) * 100)[:, :20], "typical cell adds up to .*, so it is another log or another total"),
        (LOG1P[:, :20], None),
    ],
    ids=["per million, some genes", "per 10,000, some genes"],
)
def test_a_doubtful_log_scale_is_said(values, warning, caplog):
    with caplog.at_level(logging.WARNING, "polygene"):
        assert detect_scale(values) == "log1p"
    if warning is None:
        assert caplog.messages == []
    else:
        assert len(caplog.messages) == 1
        assert pd.Series(caplog.messages).str.contains(warning).all()


def test_counts_become_what_scanpy_makes_of_them():
    adata = make(sparse.csr_matrix(COUNTS[:7]))  # scanpy warns of cells without counts
    ours = log1p_values(adata)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours.toarray(), adata.X.toarray(), rtol=1e-6)


@pytest.mark.parametrize("values", [COUNTS, np.log1p(COUNTS), LOG1P], ids=["counts", "ln", "log1p"])
def test_a_cell_without_counts_stays_zero(values):
    log = log1p_values(make(sparse.csr_matrix(values)))
    assert np.isfinite(log.data).all()
    assert log[7].nnz == 0


def test_a_zero_stored_in_a_cell_without_counts_stays_zero():
    stored = sparse.csr_matrix((np.float32([0, 2]), [1, 0], [0, 1, 2]), shape=(2, 2))
    log = log1p_values(make(stored))
    assert log.toarray().tolist() == [[0, 0], [np.float32(np.log1p(1e4)), 0]]


def test_log1p_values_pass_unchanged():
    assert (log1p_values(make(sparse.csr_matrix(LOG1P))).toarray() == LOG1P.astype(np.float32)).all()


def test_some_genes_are_normalised_by_all_and_come_sorted_in_the_order_asked():
    columns = [20, 3, 11, 28]
    some = log1p_values(make(sparse.csr_matrix(COUNTS)), taking(*([column] for column in columns)))
    np.testing.assert_allclose(some.toarray(), LOG1P[:, columns], rtol=1e-5)
    assert all((np.diff(some.indices[some.indptr[i] : some.indptr[i + 1]]) > 0).all() for i in range(40))
    assert (some.data > 0).all()


@pytest.mark.parametrize(
    "form",
    [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, lambda x: sparse.csr_matrix(x.astype(int))],
)
def test_every_form_of_matrix_gives_the_same_values(form):
    assert (log1p_values(make(form(COUNTS))) != log1p_values(make(sparse.csr_matrix(COUNTS)))).nnz == 0


def test_entries_out_of_order_given_twice_or_zero_are_put_in_order():
    messy = sparse.csr_matrix((np.float32([2, 1, 3, 0]), [2, 0, 2, 1], [0, 4]), shape=(1, 3))
    log = log1p_values(make(messy))
    assert log.indices.tolist() == [0, 2]
    np.testing.assert_allclose(log.data, np.log1p([1e4 / 6, 5e4 / 6]), rtol=1e-6)


def test_reading_changes_nothing_in_the_anndata():
    messy = sparse.csr_matrix((np.float32([2, 1, 3, 0]), [2, 0, 2, 1], [0, 4]), shape=(1, 3))
    adata = make(messy.copy())
    log1p_values(adata)
    log1p_values(adata, taking([2], [0]))
    log1p_values(adata, taking([2, 0]))
    log1p_values(adata, scale="log2")
    assert adata.X.data.tolist() == messy.data.tolist()
    assert adata.X.indices.tolist() == messy.indices.tolist()


def test_totals_of_the_whole_genome_replace_the_sum_over_the_file():
    adata = make(sparse.csr_matrix(COUNTS))
    adata.obs["n_counts"] = 3 * COUNTS.sum(1)
    expected = np.log1p(np.expm1(LOG1P) / 3)
    np.testing.assert_allclose(log1p_values(adata, totals="n_counts").toarray(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (np.log1p(COUNTS.sum(1)), "39 of 40 cells"),
        (np.where(np.arange(40) == 3, np.nan, 1e3), "1 of 40 cells"),
        (np.where(np.arange(40) == 3, np.inf, 1e3), "1 of 40 cells"),
        (["many"] * 40, "40 of 40 cells"),
    ],
    ids=["log", "NaN", "infinite", "words"],
)
def test_totals_that_cannot_be_are_refused(column, problem):
    adata = make(sparse.csr_matrix(COUNTS))
    adata.obs["n_counts"] = column
    with pytest.raises(DataError, match=problem):
        log1p_values(adata, totals="n_counts")


def test_totals_that_are_not_there_or_would_do_nothing_are_refused():
    with pytest.raises(ColumnError, match="no column 'n_counts' in obs"):
        log1p_values(make(sparse.csr_matrix(COUNTS)), totals="n_counts")
    with pytest.raises(ScaleError, match="normalised already"):
        log1p_values(make(sparse.csr_matrix(LOG1P)), totals="n_counts")


def test_a_backed_file_is_read(tmp_path):
    make(sparse.csr_matrix(COUNTS)).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    try:
        np.testing.assert_allclose(log1p_values(backed).toarray(), LOG1P, rtol=1e-5)
    finally:
        backed.file.close()


@pytest.mark.parametrize(
    ("thing", "problem"),
    [
        (pd.DataFrame({"CD74": [1]}), "Expected an AnnData, got DataFrame: read one with anndata.read_h5ad"),
        ("lung.h5ad", "Expected an AnnData, got str"),
        (make(sparse.csr_matrix((0, 5))), "empty: 0 cells x 5 genes"),
        (make(sparse.csr_matrix((5, 0))), "empty: 5 cells x 0 genes"),
        (ad.AnnData(shape=(3, 2), layers={"a": np.ones((3, 2))}), r"has no X; name the layer to read.*\['a'\]"),
    ],
    ids=["table", "path", "no cells", "no genes", "no X"],
)
def test_what_is_no_expression_is_refused(thing, problem):
    with pytest.raises(DataError, match=problem):
        log1p_values(thing)


def test_an_unknown_scale_is_refused():
    with pytest.raises(DataError, match="scale is one of counts, log1p, ln, log2, log10; got 'log'"):
        log1p_values(make(COUNTS), scale="log")


KEPT = COUNTS.sum(1) > 0
SHARES = COUNTS[KEPT] / COUNTS[KEPT].sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("values", "scale", "said"),
    [
        (SHARES * 1e6, "counts", "every cell adds up to 1,000,000), not logged: read like counts"),
        (SHARES, "counts", "every cell adds up to 1), not logged"),
        (np.log1p(SHARES * 1e4), "log1p", None),
        (np.log1p(SHARES * 1e6), "ln", "ln(1 + x) of values normalised to 1,000,0"),
        (np.log2(1 + SHARES * 1e4), "log2", "log2(1 + x) of values normalised to 10,000 a cell: undone"),
        (np.log10(1 + SHARES * 1e4), "log10", "log10(1 + x) of values normalised to 10,000 a cell: undone"),
        (np.log1p(COUNTS[KEPT]), "ln", "ln(1 + x) of counts that were never normalised: undone"),
        (np.log2(1 + COUNTS[KEPT]), "log2", "log2(1 + x) of counts that were never normalised: undone"),
        (COUNTS[KEPT] * 30.37, "counts", "too large for a log: read as corrected counts"),
    ],
    ids=["per million", "shares", "log1p", "ln", "log2", "log10", "ln of counts", "log2 of counts", "corrected"],
)
@pytest.mark.parametrize("digits", [None, 4], ids=["exact", "four digits"])
def test_every_scale_that_can_be_told_gives_the_same_values_and_is_said(values, scale, said, digits, caplog):
    values = (values if digits is None or values.max() < 1 else values.round(digits)).astype(np.float32)
    adata = make(sparse.csr_matrix(values))
    with caplog.at_level(logging.INFO, "polygene"):
        log = log1p_values(adata)
    np.testing.assert_allclose(log.toarray(), LOG1P[KEPT], rtol=5e-3 if digits else 1e-5)
    assert caplog.messages[-1] == f"expression: X holds {scale}"
    assert [said in message for message in caplog.messages[:-1]] == ([] if said is None else [True])


@pytest.mark.parametrize("scale", ["counts", "log1p", "ln", "log2", "log10"])
def test_columns_of_one_gene_are_summed_as_counts_whatever_the_scale(scale):
    logs = {"log1p": np.log1p, "ln": np.log1p, "log2": lambda x: np.log2(1 + x), "log10": lambda x: np.log10(1 + x)}
    linear = COUNTS if scale == "counts" else np.expm1(LOG1P)
    values = logs.get(scale, np.asarray)(linear).astype(np.float32)
    genes = ([5], [20, 3, 11], [28, 0])
    summed = log1p_values(make(sparse.csr_matrix(values)), taking(*genes), scale=scale)
    expected = np.log1p(np.stack([np.expm1(LOG1P)[:, columns].sum(1) for columns in genes], axis=1))
    np.testing.assert_allclose(summed.toarray(), expected, rtol=1e-5)
    assert summed.has_canonical_format


@pytest.mark.parametrize("scale", ["counts", "log1p", "ln", "log2"])
def test_a_cells_values_do_not_depend_on_the_cells_beside_it(scale):
    match = taking([5], [20, 3], [0])
    values = COUNTS if scale == "counts" else LOG1P.astype(np.float32)
    whole = log1p_values(make(sparse.csr_matrix(values)), match, scale=scale).toarray()
    for i in (0, 7, 39):
        alone = log1p_values(make(sparse.csr_matrix(values[[i]])), match, scale=scale).toarray()
        assert np.array_equal(alone[0], whole[i])


@pytest.mark.parametrize("scale", ["counts", "log1p", "ln"])
def test_the_share_of_the_counts_is_taken_from_counts(scale):
    values = {"counts": COUNTS, "log1p": LOG1P, "ln": np.log1p(COUNTS)}[scale]
    linear = np.expm1(LOG1P) if scale == "log1p" else COUNTS
    share = counts_share(sparse.csr_matrix(values), taking([5], [20, 3]), scale)
    assert share == pytest.approx(linear[:, [5, 20, 3]].sum() / linear.sum())
    assert counts_share(sparse.csr_matrix((3, 30)), taking([5]), scale) == 0


@pytest.mark.parametrize(
    ("obs", "n_genes", "said"),
    [
        ({"nCount_RNA": 3.0}, 6_000, "obs['nCount_RNA'] records 3 times the counts that the file holds"),
        ({"total_counts": 1.0}, 6_000, None),
        ({"n_counts": 0.1}, 6_000, None),  # a log, or of something else
        ({}, 6_000, None),
        ({}, 30, "the file holds 30 genes only"),
        ({"total_counts": 1.0}, 30, "the file holds 30 genes only"),
        ({"total_counts": 2.0, "nCount_RNA": 3.0}, 30, "obs['total_counts'] records 2 times"),
    ],
)
def test_totals_that_would_help_are_named_once(obs, n_genes, said, caplog):
    sample = make(sparse.csr_matrix((COUNTS[COUNTS > 0], np.nonzero(COUNTS)), (40, n_genes)))
    for name, times in obs.items():
        sample.obs[name] = times * COUNTS.sum(1)
    with caplog.at_level(logging.INFO, "polygene"):
        warn_totals(sample, totals=None, scale="counts")
    assert [said in message for message in caplog.messages] == ([True] if said else [])
    caplog.clear()
    warn_totals(sample, totals="total_counts", scale="counts")
    warn_totals(sample, totals=None, scale="log1p")
    assert caplog.messages == []


def test_values_that_are_refused_name_the_layers_that_are_there():
    adata = make(sparse.csr_matrix(COUNTS - 1), layers={"spliced": COUNTS, "counts": COUNTS})
    adata.raw = make(sparse.csr_matrix(COUNTS))
    with pytest.raises(ScaleError, match="pass layer='spliced' or layer='counts' or layer='raw', whichever"):
        log1p_values(adata)


def test_values_that_are_all_one_are_doubted(caplog):
    expressed = sparse.csr_matrix((np.random.default_rng(0).random((20, 30)) < 0.3).astype(np.float32))
    with caplog.at_level(logging.WARNING, logger="polygene"):
        assert detect_scale(expressed) == "counts"
    assert "every value is 1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="polygene"):
        assert detect_scale(sparse.csr_matrix((20, 30), dtype=np.float32)) == "counts"
    assert not caplog.messages


def test_bins_by_rank_do_not_see_an_unknown_log_and_nothing_is_warned_of(caplog):
    values = sparse.csr_matrix(np.log2(1 + np.expm1(LOG1P))[:, :20])
    with caplog.at_level(logging.WARNING, "polygene"):
        assert detect_scale(values, ranks=True) == "log1p"
    assert not caplog.messages
    detect_scale(values)
    assert "bins will be wrong" in caplog.text
