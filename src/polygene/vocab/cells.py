"""Cells as tokens.

Shapes: C cells, G genes of the panel, N expressed entries (cell, gene), P phenotypes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from scipy import sparse


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EncodedCells:
    """A batch of cells as tokens: cell i expresses the genes genes_N[offsets_C1[i] : offsets_C1[i + 1]]."""

    offsets_C1: np.ndarray  # int64, C + 1 of them
    genes_N: np.ndarray  # uint16, panel index, ascending within a cell
    bins_N: np.ndarray  # uint8, above 0
    values_N: np.ndarray  # float32, log1p counts per 10,000
    labels_CP: np.ndarray  # int16, index into the labels of the phenotype, -1 = not given
    measured_G: np.ndarray  # bool, whether the file measured the gene; of several files, whether all of them did
    measured_SG: np.ndarray | None = None  # of several files only: what each measured, bool
    sources_C: np.ndarray | None = None  # and the file of each cell
    own: Mapping[str, np.ndarray] = field(default_factory=dict)  # of heads: values of their genes, NaN: not measured

    def __len__(self) -> int:
        return len(self.offsets_C1) - 1

    @property
    def unmeasured_CG(self) -> np.ndarray:
        """Which genes each cell's file did not measure, bool (C, G); (1, G) where it is the same for all cells."""
        if self.measured_SG is None or self.sources_C is None:
            return ~self.measured_G[None]
        return ~self.measured_SG[self.sources_C]

    def __repr__(self) -> str:
        n_measured, n_entries = self.measured_G.sum(), len(self.genes_N)
        return f"EncodedCells({len(self):,} cells, {n_entries:,} entries, {n_measured:,} measured genes)"

    def rows(self, which: slice | np.ndarray) -> Self:
        """Return these cells only (a slice, indices or a mask), in this order."""
        chosen = np.arange(len(self))[which]
        starts, lengths = self.offsets_C1[chosen], np.diff(self.offsets_C1)[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        entries = ranges(starts, lengths)
        return type(self)(
            offsets_C1=offsets,
            genes_N=self.genes_N[entries],
            bins_N=self.bins_N[entries],
            values_N=self.values_N[entries],
            labels_CP=self.labels_CP[chosen],
            measured_G=self.measured_G,
            measured_SG=self.measured_SG,
            sources_C=None if self.sources_C is None else self.sources_C[chosen],
            own={name: values_CH[chosen] for name, values_CH in self.own.items()},
        )

    @property
    def cells_N(self) -> np.ndarray:
        """The cell of every expressed gene, int64, ascending."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets_C1))

    def as_csr(self, entries_N: np.ndarray, n_genes: int) -> sparse.csr_matrix:
        """Lay something of every expressed gene (values, bins) out as a matrix of cells x genes of the panel."""
        return sparse.csr_matrix((entries_N, self.genes_N.astype(np.int32), self.offsets_C1), (len(self), n_genes))


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Join start, start + 1, … of given lengths: ranges([5, 0], [2, 1]) is [5, 6, 0]."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
