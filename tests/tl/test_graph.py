"""Statistics of graphs, each against networkx or a count by hand."""

import networkx as nx
import numpy as np
import pytest
from scipy import sparse

from polygene.tl import _graph


@pytest.fixture(scope="module")
def graph() -> nx.Graph:
    return nx.planted_partition_graph(4, 12, 0.6, 0.05, seed=2)


def pairs_of(graph: nx.Graph) -> np.ndarray:
    return np.array(sorted(map(sorted, graph.edges)))


def test_measures_are_those_of_networkx(graph: nx.Graph) -> None:
    found = _graph.measure(48, pairs_of(graph), seed=1)
    parts = [set(np.flatnonzero(_graph.modules(48, pairs_of(graph), seed=1) == m)) for m in range(4)]
    degrees = np.array([degree for _, degree in graph.degree])
    assert found["clustering"] == pytest.approx(nx.transitivity(graph))
    assert found["modularity"] == pytest.approx(nx.community.modularity(graph, parts))
    assert found["assortativity"] == pytest.approx(nx.degree_assortativity_coefficient(graph))
    assert found["heterogeneity"] == pytest.approx(degrees.std() / degrees.mean())


def test_planted_modules_are_found(graph: nx.Graph) -> None:
    member_G = _graph.modules(48, pairs_of(graph))
    assert all(len(set(member_G[12 * m : 12 * m + 12])) == 1 for m in range(4))
    assert set(member_G) == {0, 1, 2, 3}


def test_rewiring_keeps_every_degree_and_breaks_the_modules(graph: nx.Graph) -> None:
    before_E2, after_E2 = pairs_of(graph), _graph.rewired(48, pairs_of(graph), seed=3)
    np.testing.assert_array_equal(np.bincount(after_E2.ravel()), np.bincount(before_E2.ravel()))
    assert len({tuple(pair) for pair in after_E2}) == len(before_E2)
    assert (after_E2[:, 0] < after_E2[:, 1]).all()
    assert _graph.measure(48, after_E2)["modularity"] < _graph.measure(48, before_E2)["modularity"] - 0.1


def test_the_same_seed_gives_the_same_graph_and_another_seed_another(graph: nx.Graph) -> None:
    one, again, other = (_graph.rewired(48, pairs_of(graph), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_top_edges_are_the_largest_weights_and_nan_never() -> None:
    weights_GG = np.random.default_rng(0).normal(size=(9, 9))
    weights_GG += weights_GG.T
    weights_GG[2] = weights_GG[:, 2] = np.nan
    kept = _graph.top_edges(weights_GG, 5)
    pairs = [(weights_GG[i, j], i, j) for i in range(9) for j in range(i) if 2 not in (i, j)]
    expected = {frozenset(pair[1:]) for pair in sorted(pairs)[-5:]}
    assert {frozenset(pair) for pair in _graph.edge_pairs(kept).tolist()} == expected
    np.testing.assert_allclose(kept.toarray(), kept.toarray().T)
    assert len(_graph.edge_pairs(_graph.top_edges(weights_GG, 1_000))) == 8 * 7 // 2


def test_equal_weights_are_kept_in_the_order_of_the_genes() -> None:
    kept = _graph.top_edges(np.zeros((4, 4)), 3)
    assert _graph.edge_pairs(kept).tolist() == [[0, 1], [0, 2], [0, 3]]
    assert _graph.edge_pairs(_graph.strongest(kept, 2)).tolist() == [[0, 1], [0, 2]]


def test_the_strongest_edges_of_a_network_are_the_top_edges_of_its_weights() -> None:
    weights_GG = np.random.default_rng(1).normal(size=(12, 12))
    weights_GG += weights_GG.T
    fewer = _graph.strongest(_graph.top_edges(weights_GG, 30), 11)
    np.testing.assert_array_equal(fewer.toarray(), _graph.top_edges(weights_GG, 11).toarray())


def test_overlap_and_turnover_are_counted_by_hand() -> None:
    a, b = (_graph.top_edges(np.zeros((4, 4)), n) for n in (3, 4))  # 0-1 0-2 0-3, and 1-2 besides
    assert _graph.jaccard(a, b) == pytest.approx(3 / 4)
    np.testing.assert_allclose(_graph.turnover(a, b), [0, 1 / 2, 1 / 2, 0])
    assert np.isnan(_graph.jaccard(sparse.csr_matrix((3, 3)), sparse.csr_matrix((3, 3))))


def test_a_hub_by_expression_alone_is_no_hub() -> None:
    expression_G = np.linspace(0, 3, 200)
    degrees_G = np.round(20 * expression_G)
    degrees_G[20] = 30
    percent_G = _graph.hub_percentile(degrees_G, expression_G)
    assert percent_G[20] > 95
    assert abs(percent_G[100] - 50) < 3
    assert degrees_G[180] > degrees_G[20]


def test_a_graph_without_edges_has_no_measures() -> None:
    assert all(np.isnan(value) for value in _graph.measure(5, np.zeros((0, 2), dtype=int)).values())
