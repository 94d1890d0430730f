"""Network statistics: tables against the functions below them, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from polygene.errors import DataError
from polygene.tl import _graph, network_statistics
from polygene.tl._network_result import GeneNetwork
from polygene.tl._network_statistics import NetworkStatistics

N = 120


def a_network() -> GeneNetwork:
    """Two contexts of 120 genes: four modules of 30, and noise; genes 100 to 119 are nodes of the first alone."""
    rng = np.random.default_rng(0)
    weights, tables = {}, {}
    for context in ("modules", "noise"):
        x_GG = rng.normal(size=(N, N))
        x_GG += (np.arange(N)[:, None] // 30 == np.arange(N) // 30) * (2.5 if context == "modules" else 0)
        node_G = np.arange(N) < (N if context == "modules" else 100)
        x_GG[~node_G] = x_GG[:, ~node_G] = np.nan
        weights[context] = _graph.top_edges((x_GG + x_GG.T) / 2, round(0.05 * node_G.sum() * (node_G.sum() - 1) / 2))
        mean_G = np.arange(N) / N
        tables[context] = pd.DataFrame(
            {
                "context": context,
                "gene": [f"G{g}" for g in range(N)],
                "is_node": node_G,
                "n_cells": 50,
                "detection": 0.5,
                "mean_expression": mean_G,
            }
        )
    ones = {
        context: sparse.csr_matrix((np.ones(len(x.data)), x.indices, x.indptr), x.shape)
        for context, x in weights.items()
    }
    return GeneNetwork(
        by="contextual", null=None, density=0.05, models=("one",),
        symbols=tuple(f"G{g}" for g in range(N)), columns_M=np.arange(N),
        weights=weights, n_models=ones, n_cells={"modules": 50, "noise": 50}, tables=tables,
    )  # fmt: skip


@pytest.fixture(scope="module")
def found() -> NetworkStatistics:
    return network_statistics(a_network(), densities=[0.05, 0.02], n_rewired=5, n_bootstrap=10)


def test_planted_modules_stand_out_from_rewired_networks_and_noise_does_not(found: NetworkStatistics) -> None:
    rows = found.measures.query("density == 0.05").set_index("context")
    assert rows.loc["modules", "modularity"] > rows.loc["modules", "modularity_high"] + 0.1
    assert rows.loc["modules", "clustering"] > rows.loc["modules", "clustering_high"]
    assert (
        rows.loc["noise", "modularity_low"] - 0.03
        < rows.loc["noise", "modularity"]
        < rows.loc["noise", "modularity_high"] + 0.03
    )


def test_each_density_has_its_share_of_the_pairs(found: NetworkStatistics) -> None:
    for row in found.measures.itertuples():
        assert row.edges == round(row.density * row.nodes * (row.nodes - 1) / 2)
    assert list(found.measures["density"]) == [0.02, 0.05] * 2


def test_genes_have_the_degrees_of_the_network(found: NetworkStatistics) -> None:
    network = a_network()
    edges = network.edges.query("context == 'modules'")
    degrees = pd.concat([edges["gene_a"], edges["gene_b"]]).value_counts()
    genes = found.genes.query("context == 'modules'").set_index("gene")
    assert (genes["degree"] == degrees.reindex(genes.index).fillna(0)).all()
    assert genes["degree"].is_monotonic_decreasing
    assert genes.groupby("module").size().nlargest(4).to_list() == [30] * 4
    row = found.measures.query("context == 'modules' and density == 0.05").iloc[0]
    expected = stats.spearmanr(genes["degree"], genes["mean_expression"]).statistic
    assert row["degree_by_expression"] == pytest.approx(expected)


def test_overlap_is_counted_among_the_genes_of_both_contexts(found: NetworkStatistics) -> None:
    network = a_network()
    pairs = {
        context: {frozenset(p) for p in _graph.edge_pairs(kept).tolist() if max(p) < 100}
        for context, kept in network.weights.items()
    }
    (row,) = found.overlap.itertuples()
    a, b = pairs.values()
    assert row.shared_genes == 100
    assert row.jaccard == pytest.approx(len(a & b) / len(a | b))


@pytest.mark.parametrize("wrong", [None, "network", pd.DataFrame()])
def test_what_is_no_network_is_refused(wrong: object) -> None:
    with pytest.raises(DataError, match=r"network is what pg\.tl\.gene_network returned; got"):
        network_statistics(wrong)  # type: ignore[arg-type]


def test_a_context_has_a_verdict_over_all_densities(found: NetworkStatistics) -> None:
    assert list(found.verdicts["context"]) == ["modules", "noise"]
    noise = found.power_law.query("context == 'noise'")
    assert not (noise["verdict"] == "power law").any()
    assert found.power_law["n_nodes"].le(N).all()


def test_few_tail_nodes_cannot_be_told(found: NetworkStatistics) -> None:
    few = found.power_law[found.power_law["n_tail"] < 50]
    assert len(few)
    assert few["exponent"].isna().all()
    assert few["verdict"].str.startswith("cannot be told").all()


def test_a_density_above_that_of_the_network_is_refused() -> None:
    for densities in ([0.2], [], [0.0], 0.2, float("nan")):
        with pytest.raises(DataError, match=r"give shares above 0 and at most 0.05"):
            network_statistics(a_network(), densities=densities)


def test_the_same_seed_gives_the_same_tables(found: NetworkStatistics) -> None:
    again = network_statistics(a_network(), densities=[0.05, 0.02], n_rewired=5, n_bootstrap=10)
    pd.testing.assert_frame_equal(found.measures, again.measures)
    pd.testing.assert_frame_equal(found.power_law, again.power_law)
