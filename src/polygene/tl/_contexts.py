"""Sums of the states of genes by context, and what follows from them. One pass over the cells, no state is kept.

Legend: C cells of a batch, N their expressed genes, H halves of the donors, G panel genes, K contexts, D width.
"""

from typing import NamedTuple

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform

from polygene.model.inference import KeyStates

KINDS = ("raw", "relative", "shuffled")
"""States as they are; less what all genes of the cell share; the latter with shuffled contexts."""


class Spread(NamedTuple):
    """The share of variance between contexts, NaN where it is not known: of all donors, of each half of them."""

    all_G: np.ndarray
    halves_HG: np.ndarray


class ContextSums:
    """Counts, bins and states summed by half of the donors, gene and context.

    A state is D - 1 numbers, and the bin. `reference_GD` is the mean of each gene over all cells, `cells_K` how many
    cells each context has; without donors (`by_donor`) the halves are of cells.
    """

    def __init__(
        self, contexts: list[str], cells_K: np.ndarray, reference_GD: np.ndarray, *, by_donor: bool = True
    ) -> None:
        n_genes, width = reference_GD.shape
        shape = (2, n_genes, len(contexts))
        self.contexts, self.cells_K, self.reference_GD, self.by_donor = contexts, cells_K, reference_GD, by_donor
        self._n = {kind: np.zeros(shape) for kind in KINDS}
        self._sums = {kind: np.zeros((*shape, width), np.float32) for kind in KINDS}
        self._squares = {kind: np.zeros((n_genes, 1)) for kind in KINDS[:2]}
        self._products = {kind: np.zeros((n_genes, width)) for kind in KINDS[:2]}  # with the bin
        self._squares["shuffled"], self._products["shuffled"] = self._squares["relative"], self._products["relative"]

    @property
    def n_HGK(self) -> np.ndarray:
        """Cells that express the gene."""
        return self._n["raw"]

    @property
    def bins_HGK(self) -> np.ndarray:
        """Sum of their bins."""
        return self._sums["raw"][..., -1]

    def add(self, states: KeyStates, halves_C: np.ndarray, contexts_C: np.ndarray, shuffled_C: np.ndarray) -> None:
        """Add a batch of cells."""
        raw_ND = np.column_stack([states.genes_ND, states.bins_N])
        # a gene's own mean first: else the mean of a cell is that of the genes which it happens to express
        own_ND = raw_ND - self.reference_GD[states.genes_N]
        relative_ND = own_ND - states._replace(genes_ND=own_ND).means_CD[states.cells_N]
        kinds = zip(KINDS, (raw_ND, relative_ND, relative_ND), (contexts_C, contexts_C, shuffled_C), strict=True)
        for kind, x_ND, codes_C in kinds:
            at = (halves_C[states.cells_N], states.genes_N, codes_C[states.cells_N])
            np.add.at(self._n[kind], at, 1)
            add_rows(self._sums[kind].reshape(-1, x_ND.shape[1]), np.ravel_multi_index(at, self._n[kind].shape), x_ND)
            if kind != "shuffled":
                add_rows(self._squares[kind], states.genes_N, np.square(x_ND[:, :-1]).sum(axis=1, keepdims=True))
                add_rows(self._products[kind], states.genes_N, x_ND[:, -1:] * x_ND)

    def enough(self, min_cells: int, kind: str = "raw") -> np.ndarray:
        """Which contexts have so many cells that express the gene in each half, bool (G, K)."""
        return np.all(self._n[kind] >= min_cells, axis=0)

    def means(self) -> np.ndarray:
        """Mean relative state of each gene in each context over all donors, (G, K, D)."""
        sums_GKD = self._sums["relative"][..., :-1].sum(axis=0)
        return sums_GKD / np.maximum(self._n["relative"].sum(axis=0), 1)[:, :, None]

    def halves(self, kind: str, g: int) -> np.ndarray:
        """Mean states of a gene by half and context, with what its bin explains taken off, (H, K, D)."""
        n_HK, sums_HKD = self._n[kind][:, g], self._sums[kind][:, g].astype(float)
        means_HKD = sums_HKD / np.maximum(n_HK, 1)[:, :, None]
        bins_HK = means_HKD[..., -1] - sums_HKD[..., -1].sum() / max(n_HK.sum(), 1)
        return means_HKD[..., :-1] - bins_HK[:, :, None] * self._within(kind, g)[0]

    def spread(self, kind: str, min_cells: int) -> Spread:
        """Share of variance between contexts, of every gene with two contexts of enough cells."""
        enough_GK = self.enough(min_cells, kind)
        all_G, halves_HG = np.full(len(enough_GK), np.nan), np.full((2, len(enough_GK)), np.nan)
        for g in np.flatnonzero(enough_GK.sum(axis=1) >= 2).tolist():
            contexts = enough_GK[g]
            x_HKD, within = self.halves(kind, g)[:, contexts], self._within(kind, g)[1]
            x_HKD -= x_HKD.mean(axis=1, keepdims=True)
            # of one half the squares hold noise, which is taken off; the product of two halves holds none
            noise_H = (within / self._n[kind][:, g, contexts]).mean(axis=1) * (1 - 1 / contexts.sum())
            own_H = np.square(x_HKD).sum(axis=2).mean(axis=1) - noise_H
            between = (x_HKD[0] * x_HKD[1]).sum(axis=1).mean()
            all_G[g] = between / max(within + max(between, 0), 1e-12)
            halves_HG[:, g] = own_H / np.maximum(within + np.maximum(own_H, 0), 1e-12)
        return Spread(all_G, halves_HG)

    def _within(self, kind: str, g: int) -> tuple[np.ndarray, float]:
        """Slope of the state on the bin within contexts and halves, (D,), and the variance that it leaves there."""
        n_HK, sums_HKD = self._n[kind][:, g], self._sums[kind][:, g].astype(float)
        means_HKD = sums_HKD / np.maximum(n_HK, 1)[:, :, None]
        products_D = self._products[kind][g] - (means_HKD[..., -1:] * sums_HKD).sum(axis=(0, 1))
        bins, varies = products_D[-1], products_D[-1] > 1e-6
        slope_D = products_D[:-1] / bins if varies else np.zeros(len(products_D) - 1)
        left = self._squares[kind][g, 0] - (means_HKD * sums_HKD)[..., :-1].sum() - varies * bins * (slope_D**2).sum()
        return slope_D, max(left, 0) / max(n_HK.sum() - (n_HK > 0).sum() - varies, 1)


def add_rows(into_MD: np.ndarray, rows_N: np.ndarray, x_ND: np.ndarray) -> None:
    """Add rows to rows, several to one too: `np.add.at`, a tenth of its time."""
    order = np.argsort(rows_N, kind="stable")
    rows, first = np.unique(rows_N[order], return_index=True)
    into_MD[rows] += np.add.reduceat(x_ND[order], first, axis=0)


def group_means(x_CD: np.ndarray, group_C: np.ndarray, n_groups: int) -> np.ndarray:
    """Mean over the cells of each group, (groups, D); NaN for a group without any."""
    sums_KD, counts_K = np.zeros((n_groups, x_CD.shape[1])), np.bincount(group_C, minlength=n_groups).astype(float)
    add_rows(sums_KD, group_C, x_CD)
    counts_K[counts_K == 0] = np.nan
    return sums_KD / counts_K[:, None]


def clusters_of(halves_HKD: np.ndarray) -> tuple[np.ndarray, float]:
    """Cluster contexts by their mean states, (K,) from 1, and the adjusted Rand index of the halves' own clusters.

    Average linkage; the number of clusters is that of the best silhouette. Fewer than four contexts are one cluster.
    """
    n = halves_HKD.shape[1]
    if n < 4:
        return np.ones(n, dtype=int), float("nan")
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    trees = [hierarchy.linkage(pdist(x_KD), "average") for x_KD in (halves_HKD.mean(axis=0), *halves_HKD)]
    distances = squareform(pdist(halves_HKD.mean(axis=0)))
    cuts = {k: hierarchy.fcluster(trees[0], k, "maxclust") for k in range(2, min(n - 1, 6) + 1)}
    cuts = {k: cut for k, cut in cuts.items() if 1 < len(set(cut)) < n}
    if not cuts:
        return np.ones(n, dtype=int), float("nan")
    best = max(cuts, key=lambda k: silhouette_score(distances, cuts[k], metric="precomputed"))
    first, second = (hierarchy.fcluster(tree, best, "maxclust") for tree in trees[1:])
    return cuts[best], float(adjusted_rand_score(first, second))
