"""Which genes vary: highly variable genes in two streaming passes, ranks combined over sources.

Legend: C cells of a chunk, N their stored values, G genes of one source, U genes of all sources.
"""

import difflib
import logging
from collections.abc import Sequence
from copy import copy
from typing import Self

import numpy as np
import pandas as pd
from scipy import sparse
from skmisc.loess import loess

from polygene.errors import GeneError
from polygene.vocab.gene_names import human_genes
from polygene.vocab.panel import GenePanel

logger = logging.getLogger("polygene")

FEWEST_FOR_LOESS = 10
"""With fewer points in all than a neighbourhood of the curve needs, scikit-misc's loess can end the process."""


class _GeneSums:
    """Sums over cells, of each gene's counts per 10,000 and of their squares."""

    def __init__(self, n_genes: int) -> None:
        self.n_cells = 0
        self._sum_G, self._square_G = np.zeros(n_genes), np.zeros(n_genes)

    def _count(self, x_CG: sparse.csr_matrix, values_N: np.ndarray) -> None:
        self.n_cells += x_CG.shape[0]
        self._sum_G += np.bincount(x_CG.indices, values_N, len(self._sum_G))
        self._square_G += np.bincount(x_CG.indices, values_N**2, len(self._sum_G))

    def empty(self) -> Self:
        """Give one that has counted nothing yet, for other cells of the source."""
        other = copy(self)
        _GeneSums.__init__(other, len(self._sum_G))
        return other

    def merge(self, other: Self) -> None:
        """Take in what was counted of other cells."""
        self.n_cells += other.n_cells
        self._sum_G += other._sum_G
        self._square_G += other._square_G


class GeneMoments(_GeneSums):
    """First pass: mean and variance of the counts per 10,000 of every gene of a source."""

    def add(self, x_CG: sparse.csr_matrix) -> None:
        """Count a chunk of log1p counts per 10,000."""
        self._count(x_CG, np.expm1(x_CG.data).astype(np.float64))

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Give (mean_G, variance_G), the variance with n - 1; of one cell it is 0."""
        n = max(self.n_cells, 1)
        mean_G = self._sum_G / n
        return mean_G, np.maximum(self._square_G / n - mean_G**2, 0.0) * (n / max(n - 1, 1))


class GeneVariability(_GeneSums):
    """Second pass: how much more each gene varies than genes of like expression do.

    scanpy's flavor "seurat_v3" (Stuart et al. 2019, Cell 177:1888) on counts per 10,000, so that files of counts and of
    log1p values are treated alike: a gene's values less its mean are divided by the spread that its mean lets expect
    and clipped at sqrt(n); their variance is the score.
    """

    def __init__(self, moments: GeneMoments) -> None:
        self._n_all = max(moments.n_cells, 2)
        self._mean_G, variance_G = moments.finish()
        super().__init__(len(self._mean_G))
        self._varies_G = variance_G > 0
        self._spread_G = np.ones(len(self._mean_G))
        x, y = np.log10(self._mean_G[self._varies_G]), np.log10(variance_G[self._varies_G])
        self._spread_G[self._varies_G] = 10 ** (_trend(x, y) / 2)
        self._highest_G = self._mean_G + self._spread_G * np.sqrt(self._n_all)

    def add(self, x_CG: sparse.csr_matrix) -> None:
        """Count a chunk of log1p counts per 10,000, the same cells as in the first pass."""
        self._count(x_CG, np.minimum(np.expm1(x_CG.data), self._highest_G[x_CG.indices]))

    def finish(self) -> np.ndarray:
        """Give variability_G, 0 for a gene that does not vary."""
        squares_G = self._n_all * self._mean_G**2 + self._square_G - 2 * self._mean_G * self._sum_G
        return np.where(self._varies_G, squares_G / ((self._n_all - 1) * self._spread_G**2), 0.0)


def _trend(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Expect y at each x: a loess curve as scanpy fits it, or a parabola where there are too few genes for one."""
    if len(x) == 0:
        return x
    why = "too few"
    if len(x) >= FEWEST_FOR_LOESS:
        curve = loess(x, y, span=0.3, degree=2)
        try:
            curve.fit()
            return np.asarray(curve.outputs.fitted_values)
        except ValueError as error:
            why = str(error).strip("b'")
    logger.info("no loess curve can be fitted to %s genes (%s); a parabola is", f"{len(x):,}", why)
    return np.polynomial.Polynomial.fit(x, y, deg=min(2, len(np.unique(x)) - 1))(x)


def rank_genes(variability_G: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Rank genes from most (0) to least variable; ties by name.

    Variabilities that differ by less than 1e-9 are ties, so that the order of a sum does not order genes.
    """
    rank_G = np.empty(len(variability_G), dtype=np.int64)
    rank_G[np.lexsort((np.asarray(names, dtype=str), -np.round(variability_G, 9)))] = np.arange(len(rank_G))
    return rank_G


def union_of_genes(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """List the genes of several sources, each once: by Ensembl id, or by symbol where a source gives no id.

    `tables` are what `merged_genes` gives for each source: columns symbol (the id where there is none) and ensembl_id
    ("" = unknown).
    """
    pairs = pd.concat(tables, ignore_index=True).drop_duplicates()
    has_id = pairs["ensembl_id"] != ""
    both = pairs[has_id & (pairs["symbol"] != pairs["ensembl_id"])].drop_duplicates("ensembl_id")
    only_symbol = pairs[~has_id & ~pairs["symbol"].isin(both["symbol"])]
    only_id = pairs[has_id & ~pairs["ensembl_id"].isin(both["ensembl_id"])].drop_duplicates("ensembl_id")
    return pd.concat([both, only_symbol, only_id], ignore_index=True)


def source_weights(synthetic: Sequence[bool]) -> np.ndarray:
    """Weigh the sources of a panel: those sampled from profiles count together at most as much as the real ones.

    A library of profiles brings a source for each tissue, and all of them measure the whole genome: unweighted, the
    genes of files that measured about a thousand genes fall out of the panel.
    """
    n_synthetic, n_real = sum(synthetic), len(synthetic) - sum(synthetic)
    share = min(1.0, n_real / n_synthetic) if n_synthetic and n_real else 1.0
    return np.where(synthetic, share, 1.0)


def score_genes(
    union: pd.DataFrame,
    tables: Sequence[pd.DataFrame],
    ranks: Sequence[np.ndarray],
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Give score_U, from 1 (first everywhere) down: the mean over sources of 1 - rank / number of genes measured there.

    `ranks` holds for each source the rank_G of its genes, 0 = most variable; a source that does not measure a gene
    gives it 0. `weights` say how much each source counts; None: all alike.
    """
    weights = np.ones(len(tables)) if weights is None else weights
    by_id, by_symbol = (
        pd.Series(names.index, index=names) for names in (_known(union["ensembl_id"]), _known(union["symbol"]))
    )
    score_U = np.zeros(len(union))
    for table, rank_G, weight in zip(tables, ranks, weights, strict=True):
        place_G = table["ensembl_id"].map(by_id).fillna(table["symbol"].map(by_symbol)).to_numpy(dtype=np.int64)
        score_U[place_G] += weight * (1 - rank_G / len(rank_G))
    return score_U / max(weights.sum(), 1)


def _known(names: pd.Series) -> pd.Series:
    """Drop unknown names and, of names met again, all but the first."""
    return names[(names != "") & ~names.duplicated()]


def choose_panel(union: pd.DataFrame, score_U: np.ndarray, n_genes: int, include: Sequence[str] = ()) -> GenePanel:
    """Take the genes with the highest scores, in their order; ties by name.

    Genes to `include` (symbols or Ensembl ids) are in whatever their score, in place of the least variable.
    """
    wanted_U = np.zeros(len(union), dtype=bool)
    wanted_U[_find(union, include)] = True
    if wanted_U.sum() > n_genes:
        msg = f"{wanted_U.sum():,} genes are to be included in a panel of {n_genes:,}; raise n_genes"
        raise GeneError(msg)
    if len(union) < n_genes:
        logger.warning("the training cells measure %s genes, fewer than n_genes=%s: all are taken", len(union), n_genes)
    best_first = np.lexsort((union["symbol"].to_numpy(dtype=str), -score_U))
    by_wish = best_first[np.argsort(~wanted_U[best_first], kind="stable")]
    chosen = union.iloc[best_first[np.isin(best_first, by_wish[:n_genes])]]
    return GenePanel(symbols=tuple(chosen["symbol"]), ensembl_ids=tuple(chosen["ensembl_id"]))


def _find(union: pd.DataFrame, names: Sequence[str]) -> list[int]:
    """Find genes by any of their names; GeneError names those that are not there and the nearest that are."""
    place = {name: u for column in ("ensembl_id", "symbol") for u, name in _known(union[column]).items()}
    ids = human_genes().ids
    names = [name if name in place else ids.get(name, name) for name in names]
    unknown = [name for name in names if name not in place]
    if unknown:
        near = {name: difflib.get_close_matches(name.upper(), list(place), n=1) for name in unknown[:5]}
        names_near = ", ".join(f"{name!r}" + (f" (near: {match[0]})" if match else "") for name, match in near.items())
        more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
        msg = f"genes to include that no training source measures: {names_near}{more}; correct or leave them out"
        raise GeneError(msg)
    return [place[name] for name in names]
