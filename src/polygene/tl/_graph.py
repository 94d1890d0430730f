"""Statistics of graphs, from weights and edges alone.

Legend: G nodes, E edges, R rewired copies.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy import sparse

from polygene.runtime import extras

MEASURES = ("clustering", "modularity", "assortativity", "heterogeneity")
SWAPS = 10
"""Swaps an edge in a rewired copy; Milo et al. 2003 (arXiv:cond-mat/0312028) find that 10 forget the graph."""
ALIKE = 50
"""Genes of like expression among which a gene's degree is ranked."""


def top_edges(weights_GG: np.ndarray, n_edges: int) -> sparse.csr_matrix:
    """Keep the pairs of largest weight, symmetric, without loops; pairs that are NaN are never kept.

    Of equal weights those first in the order of the genes are kept, so that the same weights give the same edges.
    """
    row_E, column_E = np.triu_indices(len(weights_GG), k=1)
    weight_E = weights_GG[row_E, column_E]
    known_E = np.flatnonzero(np.isfinite(weight_E))
    if n_edges < len(known_E):
        least = np.partition(weight_E[known_E], -n_edges)[-n_edges] if n_edges else np.inf
        above_E = known_E[weight_E[known_E] > least]
        equal_E = known_E[weight_E[known_E] == least]
        known_E = np.concatenate([above_E, equal_E[: n_edges - len(above_E)]])
    return _symmetric(row_E[known_E], column_E[known_E], weight_E[known_E], len(weights_GG))


def _symmetric(row_E: np.ndarray, column_E: np.ndarray, weight_E: np.ndarray, n: int) -> sparse.csr_matrix:
    """Lay edges out in both directions; zeros are stored, as an edge of weight 0 is an edge."""
    places = (np.concatenate([row_E, column_E]), np.concatenate([column_E, row_E]))
    kept = sparse.coo_matrix((np.tile(weight_E, 2), places), (n, n)).tocsr()
    kept.sort_indices()
    return kept


def edge_pairs(kept: sparse.csr_matrix) -> np.ndarray:
    """List the edges, (E, 2), the smaller node first, ordered."""
    half = kept.tocoo()
    upper_E = half.row < half.col
    pairs_E2 = np.stack([half.row[upper_E], half.col[upper_E]], axis=1).astype(np.int64)
    return pairs_E2[np.lexsort((pairs_E2[:, 1], pairs_E2[:, 0]))]


def strongest(kept: sparse.csr_matrix, n_edges: int) -> sparse.csr_matrix:
    """Keep only the strongest edges of a sparse network, by the rule of `top_edges`."""
    half = sparse.triu(kept, k=1).tocoo()
    order_E = np.lexsort((half.col, half.row, -half.data))[:n_edges]
    return _symmetric(half.row[order_E], half.col[order_E], half.data[order_E], kept.shape[0])


@contextmanager
def seeded_graph(n_nodes: int, pairs_E2: np.ndarray, seed: int) -> Iterator[Any]:
    """Give a graph of igraph, which draws from a seed here, and from Python's generator again afterwards."""
    igraph = extras.load("igraph")
    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield igraph.Graph(n_nodes, pairs_E2.tolist())
    finally:
        igraph.set_random_number_generator(random)


def modules(n_nodes: int, pairs_E2: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Number the modules by Leiden with modularity, from the largest one, int64 (G,)."""
    with seeded_graph(n_nodes, pairs_E2, seed) as graph:
        found = graph.community_leiden(objective_function="modularity", n_iterations=5)
    member_G = np.array(found.membership, dtype=np.int64)
    sizes = np.bincount(member_G)
    return np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")[member_G]


def measure(n_nodes: int, pairs_E2: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """Compute `MEASURES` of a graph without weights.

    `clustering` is the share of closed triples, `modularity` that of the best division found, `assortativity` the
    correlation of degrees over edges, `heterogeneity` the standard deviation of degrees over their mean. NaN where
    there are no edges.
    """
    if not len(pairs_E2):
        return dict.fromkeys(MEASURES, float("nan"))
    igraph = extras.load("igraph")
    graph = igraph.Graph(n_nodes, pairs_E2.tolist())
    degrees_G = np.asarray(graph.degree())
    member_G = modules(n_nodes, pairs_E2, seed=seed)
    values = [graph.transitivity_undirected(mode="zero"), graph.modularity(member_G.tolist())]
    values += [graph.assortativity_degree(directed=False), degrees_G.std() / degrees_G.mean()]
    return dict(zip(MEASURES, map(float, values), strict=True))


def rewired(n_nodes: int, pairs_E2: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Swap ends of edges at random, (E, 2): every node keeps its degree."""
    with seeded_graph(n_nodes, pairs_E2, seed) as graph:
        graph.rewire(n=SWAPS * len(pairs_E2))
        return np.sort(np.array(graph.get_edgelist(), dtype=np.int64).reshape(-1, 2), axis=1)


def jaccard(a: sparse.csr_matrix, b: sparse.csr_matrix) -> float:
    """Share of the edges of two networks that both have; NaN where neither has any."""
    a, b = (_ones(x) for x in (a, b))
    both = float(a.multiply(b).sum())
    either = float(a.sum() + b.sum()) - both
    return both / either if either else float("nan")


def turnover(a: sparse.csr_matrix, b: sparse.csr_matrix) -> np.ndarray:
    """Share of a gene's neighbours in either network that only one has, (G,); NaN of a gene without neighbours."""
    a, b = (_ones(x) for x in (a, b))
    both_G = np.asarray(a.multiply(b).sum(axis=1), dtype=float).ravel()
    either_G = np.asarray((a + b).sum(axis=1), dtype=float).ravel() - both_G
    return 1 - np.divide(both_G, either_G, out=np.full(len(both_G), np.nan), where=either_G > 0)


def _ones(kept: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(kept.indices)), kept.indices, kept.indptr), kept.shape)


def hub_percentile(degrees_G: np.ndarray, expression_G: np.ndarray) -> np.ndarray:
    """Rank each gene's degree among the `ALIKE` genes of nearest mean expression, percent (G,).

    50 is a gene with as many neighbours as its expression leads one to expect; ties count half.
    """
    n = len(degrees_G)
    order = np.argsort(expression_G, kind="stable")
    sorted_G, percent_G = degrees_G[order], np.empty(n)
    width = min(ALIKE + 1, n)
    for place in range(n):
        first = min(max(place - width // 2, 0), n - width)
        window = sorted_G[first : first + width]
        below, equal = (window < sorted_G[place]).sum(), (window == sorted_G[place]).sum()
        percent_G[place] = 100 * (below + equal / 2) / width
    return percent_G[np.argsort(order, kind="stable")]
