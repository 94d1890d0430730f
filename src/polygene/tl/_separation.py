"""How well a space separates labels, and how it mixes donors.

Legend: C cells, R a run of them, N neighbours, E edges, D dimensions or donors, K clusters, V labels.
"""

import warnings

import numpy as np

from polygene.tl._graph import seeded_graph

RESOLUTIONS = (0.25, 0.5, 1.0, 2.0)


def nearest(x_CD: np.ndarray, groups_C: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest neighbours of each cell among the cells of other groups, ascending: distances (inf: none) and cells."""
    n, found = min(n_neighbors, len(x_CD) - 1), []
    squares_C = np.square(x_CD).sum(axis=1)
    for first in range(0, len(x_CD), 500):
        rows = slice(first, first + 500)
        distance_RC = squares_C[rows, None] + squares_C - 2 * x_CD[rows] @ x_CD.T
        distance_RC[groups_C[rows, None] == groups_C] = np.inf
        near_RN = np.argpartition(distance_RC, n - 1, axis=1)[:, :n]
        of_RN = np.take_along_axis(distance_RC, near_RN, axis=1)
        order_RN = np.argsort(of_RN, axis=1, kind="stable")
        found.append([np.take_along_axis(one, order_RN, axis=1) for one in (of_RN, near_RN)])
    squares_CN, near_CN = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return np.sqrt(np.maximum(squares_CN, 0)), near_CN


def purity(x_CD: np.ndarray, codes_C: np.ndarray, donors_C: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Share of the nearest neighbours that have the label of a cell, (C,); of other donors, where there are two."""
    groups_C = donors_C if len(set(donors_C)) > 1 else np.arange(len(x_CD))
    distance_CN, near_CN = nearest(x_CD, groups_C, n_neighbors)
    there_CN = np.isfinite(distance_CN)
    same_CN = (codes_C[near_CN] == codes_C[:, None]) & there_CN
    return same_CN.sum(axis=1) / np.maximum(there_CN.sum(axis=1), 1)


def leiden(x_CD: np.ndarray, n_neighbors: int, seed: int) -> list[np.ndarray]:
    """Leiden clusters of the graph of nearest neighbours, by modularity, at each resolution."""
    _, near_CN = nearest(x_CD, np.arange(len(x_CD)), n_neighbors)
    pairs_E2 = np.column_stack([np.repeat(np.arange(len(x_CD)), near_CN.shape[1]), near_CN.ravel()])
    with seeded_graph(len(x_CD), np.unique(np.sort(pairs_E2, axis=1), axis=0), seed) as graph:
        return [
            np.array(graph.community_leiden("modularity", resolution=resolution, n_iterations=2).membership)
            for resolution in RESOLUTIONS
        ]


def counts_of(clusters_C: np.ndarray, codes_C: np.ndarray, donors_C: np.ndarray, n_donors: int) -> np.ndarray:
    """Count the cells of each donor, cluster and label, (D, K, V)."""
    count_DKV = np.zeros((n_donors, int(clusters_C.max()) + 1, int(codes_C.max()) + 1))
    np.add.at(count_DKV, (donors_C, clusters_C, codes_C), 1)
    return count_DKV


def ari(count_KV: np.ndarray) -> float:
    """Adjusted Rand index of a contingency table, whose counts may be weighted."""
    pairs, of_K, of_V, all_pairs = (
        float((one * (one - 1) / 2).sum())
        for one in (count_KV, count_KV.sum(axis=1), count_KV.sum(axis=0), count_KV.sum(keepdims=True))
    )
    expected, most = of_K * of_V / max(all_pairs, 1e-12), (of_K + of_V) / 2
    return (pairs - expected) / (most - expected) if most > expected else 1.0


def nmi(count_KV: np.ndarray) -> float:
    """Normalised mutual information of a contingency table, by the arithmetic mean of the entropies."""
    p_KV = count_KV / max(count_KV.sum(), 1e-12)
    h_KV, h_K, h_V = (-float((p[p > 0] * np.log(p[p > 0])).sum()) for p in (p_KV, p_KV.sum(axis=1), p_KV.sum(axis=0)))
    return (h_K + h_V - h_KV) / max((h_K + h_V) / 2, 1e-12)


def mixing_of(x_CD: np.ndarray, codes_C: np.ndarray, donors_C: np.ndarray, n_neighbors: int) -> dict[str, float]:
    """BRAS and iLISI of donors, by scib-metrics."""
    import scib_metrics
    from scib_metrics.nearest_neighbors import NeighborsResults

    distance_CN, near_CN = nearest(x_CD, np.arange(len(x_CD)), 3 * n_neighbors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        near = NeighborsResults(indices=near_CN, distances=distance_CN)
        return {
            "bras": float(scib_metrics.bras(x_CD, codes_C, donors_C)),
            "ilisi": float(scib_metrics.ilisi_knn(near, donors_C)),
        }
