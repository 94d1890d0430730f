"""Polyfunctionality: planted genes stand out, and what all genes of a cell share does not count."""

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest

from polygene.errors import ColumnError, DataError, GeneError
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import KeyStates
from polygene.pl import polyfunctionality as draw
from polygene.tl import polyfunctionality
from polygene.tl._contexts import ContextSums, clusters_of
from polygene.tl._polyfunctionality import _shuffled, _table, among_like

N_CELLS, N_GENES, WIDTH, N_CONTEXTS, PLANTED = 240, 40, 16, 4, 7


@pytest.fixture(scope="module")
def planted() -> ContextSums:
    """States of genes in 12 donors and 4 contexts: what a cell shares, a bin's part, noise; gene 7 has contexts."""
    rng = np.random.default_rng(0)
    donors_C, contexts_C = np.arange(N_CELLS) % 12, np.arange(N_CELLS) // 12 % N_CONTEXTS
    own_GD, of_context_KD, bin_D = (rng.normal(size=(n, WIDTH)) for n in (N_GENES, N_CONTEXTS, 1))
    shared_CD = 2 * rng.normal(size=(N_CONTEXTS, WIDTH))[contexts_C] + rng.normal(size=(N_CELLS, WIDTH))
    cells_N, genes_N = np.nonzero(rng.random((N_CELLS, N_GENES)) < 0.5 + 0.4 * (contexts_C % 2)[:, None])
    bins_N = rng.integers(1, 5, len(cells_N)) + contexts_C[cells_N]  # bins differ between contexts too
    states_ND = own_GD[genes_N] + shared_CD[cells_N] + 0.3 * bins_N[:, None] * bin_D
    states_ND += 0.5 * rng.normal(size=states_ND.shape)
    states_ND[genes_N == PLANTED] += of_context_KD[contexts_C[cells_N[genes_N == PLANTED]]]
    with_bins_ND = np.column_stack([states_ND, bins_N])
    reference_GD = np.array([with_bins_ND[genes_N == g].mean(axis=0) for g in range(N_GENES)], np.float32)
    sums = ContextSums([f"context {k}" for k in range(N_CONTEXTS)], np.bincount(contexts_C), reference_GD)
    shuffled_C = _shuffled(contexts_C, donors_C, rng, by_donor=True)
    for first in range(0, N_CELLS, 50):
        part = (first <= cells_N) & (cells_N < first + 50)
        rows = slice(first, min(first + 50, N_CELLS))
        leading = np.zeros((rows.stop - first, 1, WIDTH), np.float32)
        states = KeyStates(
            rows, leading, cells_N[part] - first, genes_N[part], bins_N[part], states_ND[part].astype(np.float32)
        )
        sums.add(states, donors_C[rows] % 2, contexts_C[rows], shuffled_C[rows])
    return sums


def test_a_planted_gene_stands_out_and_what_a_cell_shares_does_not_count(planted: ContextSums) -> None:
    raw, relative, shuffled = (planted.spread(kind, 5).all_G for kind in ("raw", "relative", "shuffled"))
    others = np.arange(N_GENES) != PLANTED
    assert relative[PLANTED] > 0.6
    assert np.abs(relative[others]).max() < 0.15
    assert raw[others].min() > 0.4
    assert np.abs(shuffled).max() < 0.3
    table = _table(planted, [f"GENE{g}" for g in range(N_GENES)], 5)
    assert table["gene"][table["polyfunctional"]].tolist() == [f"GENE{PLANTED}"]
    assert table["q_value"][PLANTED] < 0.05


def test_the_slope_on_the_bin_is_that_of_least_squares_with_a_mean_for_each_half_and_context() -> None:
    rng = np.random.default_rng(1)
    n, halves, contexts = 60, np.arange(60) % 2, np.arange(60) // 2 % 3
    bins, x_ND = rng.integers(1, 8, n), rng.normal(size=(n, 3)).astype(np.float32)
    sums = ContextSums(["a", "b", "c"], np.full(3, 20), np.zeros((1, 4), np.float32))
    states = KeyStates(slice(0, n), np.zeros((n, 1, 3)), np.arange(n), np.zeros(n, int), bins, x_ND)
    sums.add(states, halves, contexts, contexts)
    design = np.column_stack([np.equal.outer(halves * 3 + contexts, np.arange(6)), bins])
    fitted, rest, *_ = np.linalg.lstsq(design, x_ND.astype(float), rcond=None)
    slope_D, within = sums._within("raw", 0)
    np.testing.assert_allclose(slope_D, fitted[-1], rtol=1e-5)
    assert within == pytest.approx(rest.sum() / (n - 7), rel=1e-5)


def test_percentiles_are_among_genes_of_like_expression() -> None:
    rng = np.random.default_rng(2)
    level_G2 = np.repeat(rng.random(200), 2).reshape(200, 2)
    spread_G = level_G2[:, 0] + 0.01 * rng.normal(size=200)
    lowest = int(np.argmin(level_G2[:, 0]))
    spread_G[lowest] += 0.1  # far below most genes, and far above those like it
    expected_G, percentile_G = among_like(spread_G, level_G2)
    assert percentile_G[lowest] == 100
    assert (spread_G < spread_G[lowest]).mean() < 0.3
    assert np.corrcoef(expected_G, level_G2[:, 0])[0, 1] > 0.99


def test_clusters_of_contexts_are_stable_where_the_halves_agree() -> None:
    rng = np.random.default_rng(3)
    centres_KD = np.repeat(5 * rng.normal(size=(2, 8)), 3, axis=0)
    clusters_K, stability = clusters_of(centres_KD + 0.1 * rng.normal(size=(2, 6, 8)))
    assert len(set(clusters_K[:3])) == len(set(clusters_K[3:])) == 1
    assert clusters_K[0] != clusters_K[3]
    assert stability == 1
    assert clusters_of(rng.normal(size=(2, 6, 8)))[1] < 0.9
    assert clusters_of(centres_KD[None, :3].repeat(2, axis=0))[0].tolist() == [1, 1, 1]


def test_the_verb_writes_genes_and_contexts(make_adata: Callable[..., ad.AnnData], tiny_model: PolyGene) -> None:
    adata = make_adata(150, 36)
    found = polyfunctionality(adata, tiny_model, genes=["GENE3", "GENE99"], min_cells=3)
    again = polyfunctionality(adata, tiny_model, genes=["GENE3", "GENE99"], min_cells=3)
    assert found.genes.equals(again.genes)
    written = adata.uns["polygene"]["polyfunctionality"]
    assert len(written["table"]) == 41
    reasons = found.genes.set_index("gene")["reason"]
    assert reasons["GENE99"] == "GENE99 is not in the panel of not saved, so the model has no state for it."
    assert reasons["GENE39"] == "GENE39 is not measured in adata."
    assert found.genes["replicates"][found.genes["spread"].isna()].isna().all()
    assert set(found.contexts["gene"]) == {"GENE3"}
    assert found.contexts["n_cells"].sum() <= (adata.X[:, 3] > 0).sum()
    two = polyfunctionality(adata, [tiny_model, tiny_model], min_cells=3).genes
    assert two["model"].unique().tolist() == ["not saved", "not saved (2)"]
    np.testing.assert_array_equal(two["survives"], two["polyfunctional"])
    assert draw(adata, genes="GENE3").get_xlabel().startswith("spread expected")
    assert draw(found).get_ylim() == draw(found.genes).get_ylim()
    with pytest.raises(DataError, match="No gene has an expected spread"):
        draw(found.genes.assign(expected=np.nan))


def test_bad_input_is_refused_or_said(
    make_adata: Callable[..., ad.AnnData], tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    adata = make_adata(90, 36)
    with pytest.raises(DataError, match=r"obs\['tissue'\].*has 1 label"):
        polyfunctionality(adata, tiny_model, context="tissue")
    with pytest.raises(ColumnError, match="'organ'"):
        polyfunctionality(adata, tiny_model, context="organ")
    with pytest.raises(GeneError, match=r"GENE99 is not in the panel.*GENE39 is not measured"):
        polyfunctionality(adata, tiny_model, genes=["GENE99", "GENE39"])
    adata.X = adata.X.toarray()
    adata.X[:, 5] = 0
    with pytest.raises(GeneError, match="GENE5 is expressed by fewer than 10 cells"):
        polyfunctionality(adata, tiny_model, genes="GENE5")
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories("a context without cells")
    with pytest.raises(DataError, match="No gene is expressed by 1,000 cells of each half in two contexts"):
        polyfunctionality(adata, tiny_model, min_cells=1_000)
    adata.obs["donor_id"] = "one donor"
    found = polyfunctionality(adata, tiny_model, min_cells=3)
    assert found.genes["replicates"].isna().all()
    assert not found.genes["polyfunctional"].any()
    assert "nothing is claimed" in caplog.text


def test_a_binary_model_has_one_bin_which_explains_nothing(
    make_adata: Callable[..., ad.AnnData], make_tokenizer: Callable
) -> None:
    from polygene.vocab.binning import ExpressionBinner

    model = PolyGene.new(
        make_tokenizer(36, ExpressionBinner.binary()), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    found = polyfunctionality(make_adata(120, 36), model, min_cells=3).genes
    assert (found["expression"][found["n_cells"] > 0] == 1).all()
    assert np.isfinite(found["spread"]).any()
