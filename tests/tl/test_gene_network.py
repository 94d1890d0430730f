"""Gene networks: the four definitions against sums by hand, the nulls, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import networkx as nx
import numpy as np
import pytest
import torch
from scipy import sparse

from polygene.errors import ColumnError, DataError, GeneError
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import key_states
from polygene.tl import ageing_topology, gene_network, network_statistics
from polygene.tl._gene_weights import attention, correlations, gene_weights, random_weights, shuffled
from polygene.vocab.binning import ExpressionBinner
from polygene.vocab.cells import EncodedCells

SETTINGS = {"min_cells": 3, "density": 0.2}


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    """90 cells of eight donors that measure 36 of the model's 40 genes; GENE5 is expressed in none."""
    adata = make_adata(90, 36)
    x = adata.X.toarray()
    x[:, 5] = 0
    adata.X = sparse.csr_matrix(x)
    return adata


@pytest.fixture
def cells(adata: ad.AnnData, tiny_model: PolyGene) -> EncodedCells:
    return tiny_model.tokenizer.encode(adata, use_labels=False)


def test_contextual_weights_are_cosines_of_centred_mean_states(cells: EncodedCells, tiny_model: PolyGene) -> None:
    sums, counts = np.zeros((40, 32)), np.zeros(40)
    for c in range(len(cells)):  # one cell after another, not in packed rows
        (part,) = key_states(tiny_model, cells.rows(slice(c, c + 1)))
        for gene, state in zip(part.genes_N, part.genes_ND, strict=True):
            sums[gene] += state
            counts[gene] += 1
    nodes = np.flatnonzero(counts >= 3)
    means = sums[nodes] / counts[nodes, None]
    means -= means.mean(axis=0)
    unit = means / np.linalg.norm(means, axis=1)[:, None]
    expected = unit @ unit.T
    np.fill_diagonal(expected, np.nan)
    found = gene_weights(tiny_model, cells, "contextual", min_cells=3)
    np.testing.assert_allclose(found[np.ix_(nodes, nodes)], expected, atol=1e-4)
    others = np.setdiff1d(np.arange(40), nodes)
    assert 5 in others
    assert np.isnan(found[others]).all()
    assert np.isnan(found[:, others]).all()


def test_attention_is_the_softmax_over_the_keys_of_each_cell(cells: EncodedCells, tiny_model: PolyGene) -> None:
    some = cells.rows(slice(0, 30))
    network = tiny_model.network
    bert, layer = network.bert, network.bert.layers[0]  # of two layers the last does not count
    sums, together = np.zeros((40, 40)), np.zeros((40, 40))
    with torch.inference_mode():
        for c in range(30):
            genes = some.genes_N[some.offsets_C1[c] : some.offsets_C1[c + 1]].astype(int)
            bins = some.bins_N[some.offsets_C1[c] : some.offsets_C1[c + 1]]
            tokenizer = tiny_model.tokenizer
            ids = [tokenizer.cls_id, *tokenizer.phenotype_token_ids(np.full((1, 5), -1))[0], tokenizer.start_id]
            ids, slots = [*ids, *bins, tokenizer.end_id], [*range(7), *(genes + 7), tokenizer.end_slot]
            types = [0] * 6 + [8] + [0] * (len(genes) + 1)
            words = bert.embeddings["word_embeddings"](torch.tensor(np.array(ids, dtype=np.int64)))
            if network.unmeasured is not None:
                words[6] += network.unmeasured(torch.from_numpy(~some.measured_G[None]))[0]
            x = words + bert.embeddings["position_embeddings"](torch.tensor(np.array(slots, dtype=np.int64)))
            x = bert.embeddings["LayerNorm"](x + bert.embeddings["token_type_embeddings"](torch.tensor(types)))
            own = layer.attention["self"]
            q, k = (own[name](x).unflatten(1, (2, 16)) for name in ("query", "key"))
            a = torch.softmax(torch.einsum("qhe,khe->hqk", q, k) / 4, dim=-1).mean(0)[7:-1, 7:-1] * len(ids)
            sums[np.ix_(genes, genes)] += a.numpy()
            together[np.ix_(genes, genes)] += 1
    expected = np.where(together >= 5, sums / np.maximum(together, 1), np.nan)
    np.testing.assert_allclose(attention(tiny_model, some), expected, atol=1e-4)


def test_correlations_are_those_of_numpy_with_and_without_weights() -> None:
    rng = np.random.default_rng(0)
    x_CG = rng.poisson(0.7, (50, 6)).astype(float)
    np.testing.assert_allclose(correlations(sparse.csr_matrix(x_CG)), np.corrcoef(x_CG.T), atol=1e-10)
    times_C = rng.integers(0, 4, 50)
    repeated = np.repeat(x_CG, times_C, axis=0)
    np.testing.assert_allclose(correlations(sparse.csr_matrix(x_CG), times_C), np.corrcoef(repeated.T), atol=1e-10)


def test_a_network_has_the_strongest_pairs_of_every_context(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    network = gene_network(adata, tiny_model, **SETTINGS)
    assert network.contexts == ("B cell", "T cell", "monocyte")
    rows = np.flatnonzero(adata.obs["cell_type"] == "T cell")
    weights = gene_weights(
        tiny_model, tiny_model.tokenizer.encode(adata[rows], use_labels=False), "contextual", min_cells=3
    )
    pairs = sorted((w for w in weights[np.triu_indices(40, 1)] if np.isfinite(w)), reverse=True)
    n_nodes = int(network.nodes("T cell").sum())
    n_edges = round(0.2 * n_nodes * (n_nodes - 1) / 2)
    edges = network.edges.query("context == 'T cell'")
    np.testing.assert_allclose(edges["weight"], pairs[:n_edges], atol=1e-6)
    assert (edges["n_models"] == 1).all()
    genes = network.genes.query("context == 'T cell'").set_index("gene")
    assert genes.loc["GENE3", "n_cells"] == int((adata[rows, "GENE3"].X > 0).sum())
    assert not genes.loc["GENE5", "is_node"]


def test_an_anndata_gets_sparse_networks_in_varp_that_a_file_keeps(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"T cell": "naive/memory T cell"})
    network = gene_network(adata, tiny_model, **SETTINGS)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    kept = ad.read_h5ad(tmp_path / "cells.h5ad")
    written = kept.varp["polygene_contextual_naive|memory T cell"]
    edge = network.edges.query("context == 'naive/memory T cell'").iloc[0]
    a, b = kept.var_names.get_indexer([edge["gene_a"], edge["gene_b"]])
    assert written[a, b] == written[b, a] == edge["weight"]
    assert written.nnz == 2 * (network.edges["context"] == "naive/memory T cell").sum()
    assert list(kept.uns["polygene"]["gene_network"]["polygene_contextual"]["contexts"]) == list(network.contexts)


def test_other_definitions_stand_beside_the_first(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    for by in ("contextual", "static", "attention", "correlation"):
        gene_network(adata, tiny_model, by=by, groupby=None, **SETTINGS)
    assert set(adata.uns["polygene"]["gene_network"]) == {
        f"polygene_{by}" for by in ("contextual", "static", "attention", "correlation")
    }
    assert len(adata.varp) == 4


def test_several_models_say_which_edges_survive(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    other = random_weights(tiny_model, seed=3)
    both = gene_network(adata, [tiny_model, other], groupby=None, **SETTINGS)
    alone = [gene_network(adata, one, groupby=None, **SETTINGS).edges for one in (tiny_model, other)]
    pairs = [set(zip(edges["gene_a"], edges["gene_b"], strict=True)) for edges in alone]
    for edge in both.edges.itertuples():
        assert edge.n_models == sum((edge.gene_a, edge.gene_b) in one for one in pairs)
    assert set(both.edges["n_models"]) >= {1, 2}


def test_shuffled_genes_keep_their_values_and_lose_their_company(cells: EncodedCells) -> None:
    after = shuffled(cells, seed=1)
    before_CG, after_CG = (one.as_csr(one.values_N, 40).toarray() for one in (cells, after))
    np.testing.assert_array_equal(np.sort(before_CG, axis=0), np.sort(after_CG, axis=0))
    assert not np.array_equal(before_CG, after_CG)
    assert all(
        (np.diff(after.genes_N[a:b].astype(int)) > 0).all()
        for a, b in zip(after.offsets_C1, after.offsets_C1[1:], strict=False)
    )
    size = [np.nanmean(np.abs(correlations(sparse.csr_matrix(x)))) for x in (before_CG, after_CG)]
    assert size[1] < 0.7 * size[0]


def test_random_weights_have_the_same_shape_and_forget_what_was_learned(tiny_model: PolyGene) -> None:
    one, again = (random_weights(tiny_model, seed=5).network.state_dict() for _ in range(2))
    for name, weights in tiny_model.network.state_dict().items():
        assert weights.shape == one[name].shape
        assert torch.equal(one[name], again[name])
    assert not torch.equal(one["decoder.weight"], tiny_model.network.state_dict()["decoder.weight"])


@pytest.mark.parametrize("null", ["genes", "weights", "donors"])
def test_a_null_changes_the_network_and_is_not_written(adata: ad.AnnData, tiny_model: PolyGene, null: str) -> None:
    plain = gene_network(adata.copy(), tiny_model, **SETTINGS)
    destroyed = gene_network(adata, tiny_model, null=null, **SETTINGS)
    assert destroyed.null == null
    assert not adata.varp
    assert not plain.edges.equals(destroyed.edges)


def test_nulls_agree_on_nothing_across_models_and_contexts(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    several = gene_network(adata, [tiny_model] * 3, groupby=None, null="weights", **SETTINGS)
    assert several.edges["n_models"].min() < 3
    both = ad.concat({"one": adata, "two": adata}, label="copy", index_unique="-")
    network = gene_network(both, tiny_model, groupby="copy", by="correlation", null="genes", **SETTINGS)
    assert network_statistics(network, densities=[0.2], n_rewired=1, n_bootstrap=1).overlap["jaccard"].item() < 0.5


def test_permuted_donors_move_together(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata.obs["side"] = np.where(adata.obs["donor_id"].astype(str) < "donor4", "left", "right")
    cells = [
        set(gene_network(adata, tiny_model, groupby="side", null="donors", seed=s, **SETTINGS).n_cells.values())
        for s in range(4)
    ]
    sizes = adata.obs["donor_id"].value_counts()
    assert all(sum(both) == 90 for both in cells if len(both) == 2)
    assert sizes.max() < 15  # whole donors are moved: the sides hold four each
    assert all(abs(n - 45) <= 4 for both in cells for n in both)


def test_the_same_seed_reads_the_same_cells_and_contexts_are_equal(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    one, again, other = (gene_network(adata, tiny_model, n_cells=12, seed=s, **SETTINGS) for s in (0, 0, 1))
    assert set(one.n_cells.values()) == {12}
    assert one.edges.equals(again.edges)
    assert not one.edges.equals(other.edges)


def test_a_graph_goes_to_networkx_and_graphml(adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path) -> None:
    network = gene_network(adata, tiny_model, groupby=None, **SETTINGS)
    network.write_graphml(tmp_path / "cells.graphml", "all cells")
    read = nx.read_graphml(tmp_path / "cells.graphml")
    graph = network.to_networkx("all cells")
    assert nx.utils.graphs_equal(read, graph) or set(map(frozenset, read.edges)) == set(map(frozenset, graph.edges))
    edge = network.edges.iloc[0]
    assert read.edges[edge["gene_a"], edge["gene_b"]]["weight"] == pytest.approx(edge["weight"])
    assert len(read) == network.nodes("all cells").sum()


def test_neighbours_are_the_edges_of_a_gene(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    network = gene_network(adata, tiny_model, **SETTINGS)
    gene = network.edges["gene_a"].iloc[0]
    listed = network.neighbours(gene)
    edges = network.edges
    assert len(listed) == ((edges["gene_a"] == gene) | (edges["gene_b"] == gene)).sum()
    assert listed["weight"].max() == edges["weight"][(edges["gene_a"] == gene) | (edges["gene_b"] == gene)].max()


def test_a_gene_outside_the_panel_or_never_expressed_is_named_with_the_reason(
    adata: ad.AnnData, tiny_model: PolyGene
) -> None:
    network = gene_network(adata, tiny_model, groupby=None, **SETTINGS)
    with pytest.raises(GeneError, match=r"'GENE77' is not among the 36 genes .* Did you mean GENE7"):
        network.neighbours("GENE77")
    with pytest.raises(GeneError, match="GENE5 is expressed in 0 cells of a context at most"):
        network.neighbours("GENE5")


def test_one_donor_cannot_be_permuted(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata.obs["donor_id"] = "donor0"
    with pytest.raises(DataError, match="has 1 donor; null='donors' permutes the cells of two at least"):
        gene_network(adata, tiny_model, null="donors", **SETTINGS)
    assert gene_network(adata, tiny_model, **SETTINGS).contexts  # and is no hindrance to anything else


def test_one_context_has_a_network_and_no_overlap(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    network = gene_network(adata, tiny_model, contexts=["T cell"], **SETTINGS)
    found = network_statistics(network, densities=[0.1, 0.2], n_rewired=2, n_bootstrap=5)
    assert found.overlap.empty
    assert list(found.verdicts["context"]) == ["T cell"]


def test_a_context_without_cells_is_named_or_ignored(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories("platelet")
    assert "platelet" not in gene_network(adata, tiny_model, **SETTINGS).contexts
    with pytest.raises(DataError, match=r"has no cells of 'platelet' .*; it has B cell, T cell, monocyte"):
        gene_network(adata, tiny_model, contexts=["platelet"], **SETTINGS)
    with pytest.raises(ColumnError, match="no column 'celltype' in obs, which should hold the context"):
        gene_network(adata, tiny_model, groupby="celltype")
    adata.obs["nothing"] = np.nan
    with pytest.raises(DataError, match=r"No cell of adata has a label in obs\['nothing'\]"):
        gene_network(adata, tiny_model, groupby="nothing")


def test_a_context_of_few_cells_is_left_out_with_a_warning_or_refused(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories("rare")
    adata.obs.iloc[:3, adata.obs.columns.get_loc("cell_type")] = "rare"
    assert "rare" not in gene_network(adata, tiny_model, min_cells=4).contexts
    assert "rare: 3 cells express 0 genes often enough" in caplog.text
    with pytest.raises(DataError, match="rare: 3 cells express 0 genes often enough, and a network has 20 or more"):
        gene_network(adata, tiny_model, min_cells=4, contexts=["rare"])
    with pytest.raises(DataError, match="No context has 20 genes that 1000 cells express"):
        gene_network(adata, tiny_model, min_cells=1_000)


def test_a_binary_model_has_networks(adata: ad.AnnData, make_tokenizer: Callable) -> None:
    model = PolyGene.new(
        make_tokenizer(40, ExpressionBinner.binary()),
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, initializer_range=0.2,
    )  # fmt: skip
    for by in ("contextual", "attention"):
        assert len(gene_network(adata, model, by=by, **SETTINGS).edges)


def test_a_model_without_the_phenotype_has_networks_of_any_column(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata.obs["cluster"] = np.where(np.arange(90) % 2, "1", "2")
    assert gene_network(adata, tiny_model, groupby="cluster", **SETTINGS).contexts == ("1", "2")


def test_what_cannot_be_is_refused_before_any_cell_is_read(
    adata: ad.AnnData, tiny_model: PolyGene, make_tokenizer: Callable
) -> None:
    for wrong, said in (
        ({"by": "cosine"}, "by is one of contextual, static, attention, correlation; got 'cosine'"),
        ({"null": "cells"}, "null is one of None, genes, weights, donors; got 'cells'"),
        ({"by": "correlation", "null": "weights"}, "reads none: choose null='genes'"),
        ({"density": 0}, "density is a share of the pairs of genes, above 0 and at most 1; got 0"),
    ):
        with pytest.raises(DataError, match=said):
            gene_network(adata, tiny_model, **wrong)
    other = replace(tiny_model, tokenizer=make_tokenizer(41))
    with pytest.raises(DataError, match="different gene panels"):
        gene_network(adata, [tiny_model, other])
    with pytest.raises(DataError, match="different gene panels"):
        ageing_topology(adata, [tiny_model, other])
