from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from scipy import sparse
from scipy.stats import rankdata

from polygene.errors import DataError
from polygene.vocab.binning import LEVELS, MIN_CELLS, BinInverse, ExpressionBinner, InverseFit

RNG = np.random.default_rng(0)
N_CELLS, N_GENES = 400, 12
VALUES = np.where(RNG.random((N_CELLS, N_GENES)) < 0.4, RNG.gamma(2.0, 1.4, (N_CELLS, N_GENES)), 0).astype(np.float32)
VALUES[:, 5] *= 0.01  # a gene that is there and stays below every edge
VALUES[3] = 0
VALUES = np.minimum(VALUES, 9.5)
ALL = np.ones(N_GENES, dtype=bool)

BINNERS = {
    "linear": ExpressionBinner.linear(),
    "cell_quantile": ExpressionBinner.cell_quantile(5),
    "cell_rank": ExpressionBinner.cell_rank(5),
    "binary": ExpressionBinner.binary(),
}
EDGED = ["linear", "binary"]
every_binner = pytest.mark.parametrize("binner", BINNERS.values(), ids=BINNERS)


def fit(binner, values=VALUES, measured=ALL, n_genes=N_GENES):
    accumulated = InverseFit(binner, n_genes)
    accumulated.add(sparse.csr_matrix(values), measured)
    return accumulated.finish()


def test_the_linear_default_is_the_published_setting():
    binner = ExpressionBinner.linear()
    assert binner.n_bins == 10
    np.testing.assert_allclose(binner.edges, [0.1 + i * (9.0 - 0.1) / 9 for i in range(9)])


@pytest.mark.parametrize("kind", EDGED)
def test_bins_are_those_of_pandas_cut(kind):
    binner = BINNERS[kind]
    intervals = [-np.inf, *np.float32(binner.edges), np.inf]
    expected = pd.cut(VALUES.ravel(), intervals, right=False, labels=False).reshape(VALUES.shape)
    assert (binner.bins(sparse.csr_matrix(VALUES)).toarray() == expected).all()


@pytest.mark.parametrize("kind", EDGED)
def test_a_value_on_an_edge_belongs_to_the_bin_above_and_bounds_say_so(kind):
    binner = BINNERS[kind]
    lowest, highest = binner.bounds()
    on = binner.bins_of_entries(sparse.csr_matrix(lowest[None, 1:]))
    below = binner.bins_of_entries(sparse.csr_matrix(highest[None, :-1]))
    assert on.tolist() == list(range(1, binner.n_bins))
    assert below.tolist() == list(range(binner.n_bins - 1))
    assert np.float32(binner.edges).tolist() == lowest[1:].tolist()


@every_binner
def test_bins_are_bytes_and_bin_0_is_not_stored(binner):
    bins = binner.bins(sparse.csr_matrix(VALUES))
    assert bins.dtype == np.uint8
    assert bins.shape == VALUES.shape
    assert bins.data.min() == 1
    assert bins.data.max() == binner.n_bins - 1
    assert bins[3].nnz == 0


@every_binner
def test_binning_changes_nothing_in_its_input(binner):
    x = sparse.csr_matrix(VALUES)
    binner.bins(x)
    assert (x.toarray() == VALUES).all()


def naive_ranks(values, n_bins, kind):
    """Count the lower edges of bins that the share of genes below a value reaches."""
    step = np.arange(1, n_bins - 1) / (n_bins - 1)
    edges = step if kind == "cell_quantile" else 1 - (1 - step) ** 2
    bins = np.zeros(values.shape, dtype=int)
    for cell, row in zip(bins, values, strict=True):
        expressed = np.flatnonzero(row > 0)
        ranks = rankdata(row[expressed])  # ties share the mean of their ranks
        shares = (ranks - 0.5) / len(expressed)
        cell[expressed] = 1 + (shares[:, None] >= edges - 1e-12).sum(axis=1)
    return bins


@pytest.mark.parametrize("n_bins", [2, 3, 5, 10, 256])
@pytest.mark.parametrize("ties", [False, True], ids=["all differ", "ties"])
@pytest.mark.parametrize("kind", ["cell_quantile", "cell_rank"])
def test_bins_by_rank_are_mid_ranks_within_each_cell(kind, n_bins, ties):
    values = np.ceil(VALUES) if ties else VALUES
    bins = getattr(ExpressionBinner, kind)(n_bins).bins(sparse.csr_matrix(values))
    assert (bins.toarray() == naive_ranks(values, n_bins, kind)).all()


def test_the_highest_bins_by_rank_hold_the_fewest_genes_of_a_cell():
    values = np.arange(1, 1001, dtype=np.float32)[None]
    shares = np.bincount(ExpressionBinner.cell_rank().bins(sparse.csr_matrix(values)).data)[1:] / 1000
    assert np.cumsum(shares)[:-1].round(2).tolist() == [0.21, 0.4, 0.56, 0.69, 0.8, 0.89, 0.95, 0.99]


def test_cell_quantiles_are_the_same_for_counts_and_log1p():
    counts = RNG.poisson(0.7, (50, 300)) * RNG.integers(1, 40, (50, 300))
    log = np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4).astype(np.float32)
    binner = ExpressionBinner.cell_quantile(7)
    assert (binner.bins(sparse.csr_matrix(counts)) != binner.bins(sparse.csr_matrix(log))).nnz == 0


def test_cell_quantiles_skip_stored_zeros():
    x = sparse.csr_matrix((np.float32([0, 3, 0, 1, 2]), [0, 1, 2, 0, 2], [0, 3, 5]), shape=(2, 3))
    assert ExpressionBinner.cell_quantile(3).bins_of_entries(x).tolist() == [0, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"kind": "log", "n_bins": 3, "edges": (1.0, 2.0)},
            "the kind of bins is one of cell_rank, cell_quantile, linear, binary; got 'log'",
        ),
        ({"kind": "linear", "n_bins": 1, "edges": ()}, "2 to 256 bins, bin 0 included, got 1"),
        ({"kind": "cell_quantile", "n_bins": 257, "edges": ()}, "got 257"),
        ({"kind": "linear", "n_bins": 3, "edges": (1.0,)}, "need 2 increasing edges above 0"),
        ({"kind": "linear", "n_bins": 3, "edges": (2.0, 1.0)}, "need 2 increasing edges above 0"),
        ({"kind": "binary", "n_bins": 2, "edges": (0.0,)}, "need 1 increasing edges above 0"),
        ({"kind": "linear", "n_bins": 3, "edges": (1.0, float("nan"))}, "need 2 increasing edges above 0"),
    ],
)
def test_impossible_bins_are_refused(settings, problem):
    with pytest.raises(DataError, match=problem):
        ExpressionBinner(**settings)


@every_binner
def test_the_inverse_is_the_mean_and_the_quantiles_of_each_gene_in_each_bin_zeros_included(binner):
    inverse = fit(binner)
    table = pd.DataFrame(
        {
            "gene": np.tile(np.arange(N_GENES), N_CELLS),
            "bin": binner.bins(sparse.csr_matrix(VALUES)).toarray().ravel(),
            "value": VALUES.ravel().astype(float),
        }
    )
    groups = table.groupby(["gene", "bin"])["value"]
    n_checked = 0
    for (gene, b), values in groups:
        assert inverse.counts_GB[gene, b] == len(values)
        if len(values) >= MIN_CELLS:
            np.testing.assert_allclose(inverse.mean_GB[gene, b], values.mean(), rtol=5.1e-4)
            quantiles = np.quantile(values, LEVELS, method="inverted_cdf")
            np.testing.assert_allclose(inverse.quantiles_GBR[gene, b], quantiles, atol=0.0205)
            n_checked += 1
    assert inverse.counts_GB.sum() == N_CELLS * N_GENES
    assert n_checked >= N_GENES + 10


@every_binner
def test_bin_0_of_a_silent_gene_stands_for_zero(binner):
    inverse = fit(binner, np.where(np.arange(N_GENES) == 2, 0, VALUES))
    assert inverse.mean_GB[2, 0] == 0
    assert (inverse.quantiles_GBR[2, 0] == 0).all()
    assert inverse.counts_GB[2].tolist() == [N_CELLS] + [0] * (binner.n_bins - 1)


@every_binner
def test_a_gene_with_few_cells_in_a_bin_takes_the_mean_of_the_bin(binner):
    inverse = fit(binner)
    bins = binner.bins(sparse.csr_matrix(VALUES)).toarray()
    few = (inverse.counts_GB < MIN_CELLS) & (inverse.counts_GB.sum(0) > 0)
    assert few.any()
    for gene, b in zip(*np.nonzero(few), strict=True):
        np.testing.assert_allclose(inverse.mean_GB[gene, b], VALUES[bins == b].mean(), rtol=5.1e-4)


@every_binner
def test_chunks_in_any_order_give_the_same_inverse(binner):
    chunked = InverseFit(binner, N_GENES)
    for part in np.array_split(VALUES, 7)[::-1]:
        chunked.add(sparse.csr_matrix(part), ALL)
    whole, chunks = fit(binner), chunked.finish()
    assert (whole.counts_GB == chunks.counts_GB).all()
    np.testing.assert_allclose(chunks.mean_GB, whole.mean_GB, rtol=1.1e-3)
    np.testing.assert_allclose(chunks.quantiles_GBR, whole.quantiles_GBR, rtol=1.1e-3)


def test_a_gene_that_a_source_did_not_measure_is_not_a_zero_there():
    binner = ExpressionBinner.linear()
    measured = np.arange(N_GENES) % 2 == 0
    accumulated = InverseFit(binner, N_GENES)
    accumulated.add(sparse.csr_matrix(VALUES), ALL)
    accumulated.add(sparse.csr_matrix(VALUES[:100, measured]), measured)
    inverse = accumulated.finish()
    assert inverse.counts_GB.sum(1).tolist() == [N_CELLS + 100 * m for m in measured]
    twice = np.concatenate([VALUES[:, 4], VALUES[:100, 4]])
    np.testing.assert_allclose(inverse.mean_GB[4, 0], twice[twice < 0.1].mean(), rtol=5.1e-4)


@pytest.mark.parametrize("kind", EDGED)
def test_without_cells_a_bin_stands_for_the_middle_of_its_interval(kind):
    binner = BINNERS[kind]
    inverse = InverseFit(binner, 3).finish()
    edges = [*binner.edges, max(10.0, binner.edges[-1] + 1)]
    expected = [0, *[(low + high) / 2 for low, high in pairwise(edges)]]
    np.testing.assert_allclose(inverse.mean_GB, [expected] * 3, rtol=5.1e-4)
    assert inverse.counts_GB.sum() == 0


def test_values_above_the_grid_count_as_its_top_in_quantiles_and_fully_in_means():
    inverse = fit(ExpressionBinner.binary(), np.full((20, 1), 12.0, dtype=np.float32), np.array([True]), 1)
    assert inverse.mean_GB[0, 1] == 12
    np.testing.assert_allclose(inverse.quantiles_GBR[0, 1], 10, atol=0.02)


@every_binner
def test_the_expectation_is_the_sum_over_bins_of_probability_times_mean(binner):
    inverse = fit(binner)
    probabilities = RNG.dirichlet(np.ones(binner.n_bins), (5, 3)).astype(np.float32)
    genes = RNG.integers(0, N_GENES, (5, 3))
    expected = [
        [sum(p * inverse.mean_GB[gene, b] for b, p in enumerate(row)) for row, gene in zip(rows, some, strict=True)]
        for rows, some in zip(probabilities, genes, strict=True)
    ]
    np.testing.assert_allclose(inverse.expectation(probabilities, genes), expected, rtol=1e-5)


def test_counts_of_other_cells_are_merged_from_tables_without_empty_steps():
    accumulated = InverseFit(BINNERS["cell_quantile"], N_GENES)
    accumulated.add(sparse.csr_matrix(VALUES), ALL)
    tables = accumulated.tables()
    assert sum(table.nbytes for table in tables.values()) < accumulated._histogram.nbytes / 5
    merged = InverseFit(BINNERS["cell_quantile"], N_GENES)
    merged.merge(tables)
    for name, table in accumulated.finish().tables().items():
        np.testing.assert_array_equal(merged.finish().tables()[name], table)


@every_binner
def test_an_inverse_survives_its_tables(binner, tmp_path):
    inverse = fit(binner)
    save_file(inverse.tables(), tmp_path / "tables.safetensors")
    again = BinInverse.from_tables(load_file(tmp_path / "tables.safetensors"))
    for name in ("mean_GB", "quantiles_GBR", "counts_GB"):
        assert (getattr(again, name) == getattr(inverse, name)).all()
        assert getattr(again, name).dtype == getattr(inverse, name).dtype
