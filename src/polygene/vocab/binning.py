"""Bins of expression: value to bin, and back (per gene and bin: mean and quantiles over training cells).

Shapes: C cells, G genes of the panel, M measured genes of the panel, N stored entries, B bins, R levels of quantiles.
All values are log1p counts per 10,000.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
from scipy import sparse

from polygene.errors import DataError, check_choice

Binning = Literal["cell_rank", "cell_quantile", "linear", "binary"]

# Below it a gene is "not expressed": the first edge of the published setting. One count in a cell of fewer than 95,000
# lies above it.
THRESHOLD = 0.1
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the quantiles that the inverse keeps
MAX_BINS = 256  # a bin is stored as uint8
MIN_CELLS = 10  # fewer make no mean of their own
GRID_TOP, GRID_STEPS = 10.0, 500  # steps of 0.02, so that quantiles are right to 0.02
UNIT = 2**28  # sums are kept as whole numbers of its inverse: 64 bits hold those of three billion cells
GRID = GRID_STEPS + 1  # place 0 holds the zeros alone; the last place holds everything above too


@dataclass(frozen=True, kw_only=True)
class ExpressionBinner:
    """A rule that turns log1p counts per 10,000 into bins; bin 0 is "not expressed".

    `edges` are the n_bins - 1 thresholds: a value of edges[i] or more is at least in bin i + 1 (compared in float32).
    Make one with `cell_rank` or `cell_quantile`, which have no edges because they rank the values of each cell, with
    `linear` or with `binary`.
    """

    kind: Binning
    n_bins: int
    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        check_choice("the kind of bins", self.kind, get_args(Binning))
        if not 2 <= self.n_bins <= MAX_BINS:
            msg = f"A binning has 2 to {MAX_BINS} bins, bin 0 included, got {self.n_bins}."
            raise DataError(msg)
        n_edges = 0 if self.ranks else self.n_bins - 1
        edges = np.array((0.0, *self.edges), dtype=np.float32)
        if len(self.edges) != n_edges or not (np.diff(edges) > 0).all():
            msg = f"{self.n_bins} {self.kind} bins need {n_edges} increasing edges above 0, got {self.edges}."
            raise DataError(msg)

    def __repr__(self) -> str:
        edges = f", edges {self.edges[0]:.3g} to {self.edges[-1]:.3g}" if self.edges else ""
        return f"ExpressionBinner({self.kind}, {self.n_bins} bins{edges})"

    @property
    def is_binary(self) -> bool:
        """Whether a gene is only expressed or not: two bins, whose network has one logit for each gene."""
        return self.n_bins == 2

    @property
    def ranks(self) -> bool:
        """Whether only the order of the values within a cell is read."""
        return self.kind in ("cell_rank", "cell_quantile")

    @classmethod
    def linear(cls, n_bins: int = 10, first: float = THRESHOLD, last: float = 9.0) -> Self:
        """Make equal steps from `first` to `last`; the last bin is open above (PolyGene paper, Methods: 10, 0.1, 9.0).

        Examples
        --------
        >>> ExpressionBinner.linear(n_bins=4, first=1.0, last=4.0).edges
        (1.0, 2.0, 3.0)
        """
        return cls(kind="linear", n_bins=n_bins, edges=tuple(np.linspace(first, last, n_bins)[:-1].tolist()))

    @classmethod
    def cell_rank(cls, n_bins: int = 10) -> Self:
        """Rank the values above 0 within each cell; the higher the bin, the fewer of the cell's genes it holds.

        With 10 bins the share of genes below the bins 2 to 9 is 0.21, 0.40, 0.56, 0.69, 0.80, 0.89, 0.95 and 0.99: most
        values of a cell are one or two counts, and what tells its type is among the highest (docs/decisions.md).
        """
        return cls(kind="cell_rank", n_bins=n_bins, edges=())

    @classmethod
    def cell_quantile(cls, n_bins: int = 10) -> Self:
        """Rank the values above 0 within each cell; bins 1, 2, … of a cell hold equally many of its genes."""
        return cls(kind="cell_quantile", n_bins=n_bins, edges=())

    @classmethod
    def binary(cls, threshold: float = THRESHOLD) -> Self:
        """Tell expressed (bin 1: `threshold` or more) from not expressed (bin 0)."""
        return cls(kind="binary", n_bins=2, edges=(float(threshold),))

    def bins(self, x_CM: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the bins (uint8, bin 0 not stored) of the measured genes of the panel, and of no others."""
        bins_N = self.bins_of_entries(x_CM)
        bins_CM = sparse.csr_matrix((bins_N, x_CM.indices, x_CM.indptr), shape=x_CM.shape, copy=True)
        bins_CM.eliminate_zeros()
        return bins_CM

    def bins_of_entries(self, x_CM: sparse.csr_matrix) -> np.ndarray:
        """bins_N uint8 of the stored entries of `x_CM`, bin 0 included, in their order."""
        if self.ranks:
            return self._bins_by_rank(x_CM)
        edges = np.array(self.edges, dtype=np.float32)
        return np.searchsorted(edges, x_CM.data.astype(np.float32, copy=False), side="right").astype(np.uint8)

    def _bins_by_rank(self, x_CM: sparse.csr_matrix) -> np.ndarray:
        """Bin by mid-rank: of n values above 0, one with `a` smaller and `b` equal ones (itself too) sits at a + b/2.

        Of equal bins each holds the same share of the ranks; of others the shares 1 - x² fall by equal steps of x.
        Only order enters, so any increasing map of a cell's values (counts, log1p) gives the same bins.
        """
        bins_N = np.zeros(x_CM.nnz, dtype=np.uint8)
        where = np.flatnonzero(x_CM.data > 0)
        if where.size == 0:
            return bins_N
        cells = np.repeat(np.arange(x_CM.shape[0], dtype=np.uint64), np.diff(x_CM.indptr))[where]
        # Floats above 0 have the order of their bits, so one integer sorts by cell, then by value.
        bits = x_CM.data[where].astype(np.float32).view(np.uint32)
        keys = (cells << np.uint64(32)) | bits
        order = np.argsort(keys)
        keys = keys[order]
        n = keys.size
        tie_starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        middles = (tie_starts + np.r_[tie_starts[1:], n]) / 2
        cell_of_sorted = keys >> np.uint64(32)
        cell_starts = np.flatnonzero(np.r_[True, cell_of_sorted[1:] != cell_of_sorted[:-1]])
        cell_sizes = np.diff(np.r_[cell_starts, n])
        middle_N = np.repeat(middles, np.diff(np.r_[tie_starts, n])) - np.repeat(cell_starts, cell_sizes)
        share_N = middle_N / np.repeat(cell_sizes, cell_sizes)  # in (0, 1)
        if self.kind == "cell_rank":
            share_N = 1 - np.sqrt(1 - share_N)
        bins_N[where[order]] = 1 + (share_N * (self.n_bins - 1)).astype(np.uint8)
        return bins_N

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(lowest_B, highest_B) float32: a value belongs to bin b just if it is from lowest_B[b] to highest_B[b]."""
        if self.ranks:
            ranked_B = np.arange(self.n_bins) > 0
            lowest_B = np.where(ranked_B, np.finfo(np.float32).tiny, np.float32(0))
            return lowest_B, np.where(ranked_B, np.float32(np.inf), np.float32(0))
        edges = np.array(self.edges, dtype=np.float32)
        return np.r_[np.float32(0), edges], np.r_[np.nextafter(edges, np.float32(0)), np.float32(np.inf)]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BinInverse:
    """What a bin stands for, per gene, in log1p counts per 10,000 over training cells.

    mean_GB float32, quantiles_GBR float32 (at `LEVELS`) and counts_GB int64, the number of cells behind them. Bin 0
    counts the cells that measured the gene and did not express it. Where a gene has fewer than `MIN_CELLS` cells in a
    bin, mean and quantiles are those of the bin over all genes. Means have four significant digits, quantiles half
    precision (an error of 0.004 at most, where the histogram has steps of 0.02).
    """

    mean_GB: np.ndarray
    quantiles_GBR: np.ndarray
    counts_GB: np.ndarray

    def __repr__(self) -> str:
        return f"BinInverse({self.mean_GB.shape[0]:,} genes x {self.mean_GB.shape[1]} bins)"

    def expectation(self, probabilities_B: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Return the expected values (...) of genes (panel indices, (...)) with bin probabilities (..., B)."""
        return (probabilities_B * self.mean_GB[genes]).sum(axis=-1)

    def tables(self) -> dict[str, np.ndarray]:
        """Return the arrays of tokenizer.safetensors."""
        quantiles_GBR, counts_GB = self.quantiles_GBR.astype(np.float16), self.counts_GB.astype(np.uint32)
        levels = np.array(LEVELS, dtype=np.float32)
        return {"mean": self.mean_GB, "quantiles": quantiles_GBR, "levels": levels, "counts": counts_GB}

    @classmethod
    def from_tables(cls, tables: Mapping[str, np.ndarray]) -> Self:
        """Read what `tables` returned."""
        counts_GB = tables["counts"].astype(np.int64)
        return cls(mean_GB=tables["mean"], quantiles_GBR=tables["quantiles"].astype(np.float32), counts_GB=counts_GB)


class InverseFit:
    """Learns a `BinInverse` from training cells chunk by chunk; means are exact, quantiles from a histogram.

    Memory does not grow with the cells: 49 MB for 2432 genes and 10 bins.
    """

    def __init__(self, binner: ExpressionBinner, n_genes: int) -> None:
        self.binner, shape = binner, (n_genes, binner.n_bins)
        self._sums_GB = np.zeros(shape, dtype=np.int64)  # whole numbers: their order changes no digit
        self._counts_GB = np.zeros(shape, dtype=np.int64)
        self._histogram = np.zeros((*shape, GRID), dtype=np.uint32)

    def add(self, values_CM: sparse.csr_matrix, measured_G: np.ndarray) -> None:
        """Count a chunk of cells, as `vocab.expression.log1p_values` gives them."""
        genes_M = np.flatnonzero(measured_G)
        n_bins, size = self.binner.n_bins, self._counts_GB.size
        places_N = genes_M[values_CM.indices] * n_bins + self.binner.bins_of_entries(values_CM)
        sums_GB = np.bincount(places_N, values_CM.data, minlength=size).reshape(self._sums_GB.shape)
        self._sums_GB += np.rint(sums_GB * UNIT).astype(np.int64)
        self._counts_GB += np.bincount(places_N, minlength=size).reshape(self._counts_GB.shape)
        steps_N = np.ceil(values_CM.data * np.float32(GRID_STEPS / GRID_TOP)).astype(np.int64)
        np.add.at(self._histogram.reshape(-1), places_N * GRID + np.minimum(steps_N, GRID_STEPS), np.uint32(1))
        zeros_M = values_CM.shape[0] - np.bincount(values_CM.indices, minlength=len(genes_M))
        self._counts_GB[genes_M, 0] += zeros_M
        self._histogram[genes_M, 0, 0] += zeros_M.astype(np.uint32)

    def tables(self) -> dict[str, np.ndarray]:
        """Return what was counted, as arrays for a file or for another process.

        Of the histogram of 49 MB they have the steps with cells: some MB for 5,000 cells.
        """
        filled = np.flatnonzero(self._histogram).astype(np.uint32)
        steps = self._histogram.reshape(-1)[filled]
        return {"sums": self._sums_GB, "counts": self._counts_GB, "filled": filled, "steps": steps}

    def merge(self, tables: Mapping[str, np.ndarray]) -> None:
        """Take in the `tables` of other cells."""
        self._sums_GB += tables["sums"]
        self._counts_GB += tables["counts"]
        self._histogram.reshape(-1)[tables["filled"]] += tables["steps"]

    def finish(self) -> BinInverse:
        """Return the inverse. A bin that no cell of any gene has stands for the middle of its interval."""
        lowest_B, highest_B = self.binner.bounds()
        mean_B, quantiles_BR = self._middles(), np.repeat(self._middles()[:, None], len(LEVELS), axis=1)
        mean_GB = np.empty(self._counts_GB.shape)
        quantiles_GBR = np.empty((*mean_GB.shape, len(LEVELS)))
        for b in range(self.binner.n_bins):
            counts_G = self._counts_GB[:, b]
            if counts_G.any():
                mean_B[b] = self._sums_GB[:, b].sum() / UNIT / counts_G.sum()
                quantiles_BR[b] = _quantiles(self._histogram[:, b].sum(axis=0, dtype=np.int64)[None])[0]
            enough_G = counts_G >= MIN_CELLS
            mean_GB[:, b] = np.where(enough_G, self._sums_GB[:, b] / UNIT / np.maximum(counts_G, 1), mean_B[b])
            quantiles_GR = np.where(enough_G[:, None], _quantiles(self._histogram[:, b]), quantiles_BR[b])
            quantiles_GBR[:, b] = np.clip(quantiles_GR, lowest_B[b], highest_B[b])
        # Four significant digits: sums over chunks differ in the last ones, and the tokenizer must not.
        return BinInverse(
            mean_GB=np.char.mod("%.4g", mean_GB).astype(np.float64).astype(np.float32),
            quantiles_GBR=quantiles_GBR.astype(np.float16).astype(np.float32),
            counts_GB=self._counts_GB.copy(),
        )

    def _middles(self) -> np.ndarray:
        """Middles of the bins, the open ones closed at GRID_TOP; ranks have no intervals and share it equally."""
        if self.binner.ranks:
            return np.r_[0.0, (np.arange(self.binner.n_bins - 1) + 0.5) * GRID_TOP / (self.binner.n_bins - 1)]
        edges = np.array(self.binner.edges)
        return np.r_[0.0, (edges + np.r_[edges[1:], max(GRID_TOP, edges[-1] + 1)]) / 2]


def _quantiles(histogram_G: np.ndarray) -> np.ndarray:
    """quantiles_GR at LEVELS of histograms (G, GRID), linear within a step; 0 for empty ones."""
    cumulative = np.cumsum(histogram_G, axis=1, dtype=np.int64)
    rows = np.arange(len(histogram_G))
    columns = []
    for level in LEVELS:
        target_G = level * cumulative[:, -1]
        step_G = np.minimum((cumulative < target_G[:, None]).sum(axis=1), GRID_STEPS)
        inside_G = histogram_G[rows, step_G]
        share_G = 1 - (cumulative[rows, step_G] - target_G) / np.maximum(inside_G, 1)
        columns.append(np.where((step_G == 0) | (inside_G == 0), 0.0, (step_G - 1 + share_G) * GRID_TOP / GRID_STEPS))
    return np.stack(columns, axis=1)
