"""Bins of expression: value to bin, and back (per gene and bin: mean and quantiles over training cells)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True)
class ExpressionBinner:
    """A rule that turns log1p counts per 10,000 into bins; bin 0 is "not expressed"."""

    kind: Literal["linear", "quantile", "cell_quantile", "binary"]
    n_bins: int
    edges: tuple[float, ...]

    @classmethod
    def linear(cls, n_bins: int = 10, first: float = 0.1, last: float = 9.0) -> "ExpressionBinner":
        raise NotImplementedError

    @classmethod
    def quantile(cls, values: np.ndarray, n_bins: int = 10, threshold: float = 0.1) -> "ExpressionBinner":
        raise NotImplementedError

    @classmethod
    def cell_quantile(cls, n_bins: int = 10) -> "ExpressionBinner":
        raise NotImplementedError

    @classmethod
    def binary(cls, threshold: float = 0.1) -> "ExpressionBinner":
        raise NotImplementedError

    def bins(self, x_CM: sparse.csr_matrix) -> sparse.csr_matrix:
        """Bins (uint8, csr) of log1p values over measured panel genes; bin 0 is not stored."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class BinInverse:
    """What a bin stands for, per gene, in log1p counts per 10,000 (R = len(LEVELS))."""

    mean_GB: np.ndarray
    quantiles_GBR: np.ndarray
    counts_GB: np.ndarray

    def expectation(self, probabilities_B: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Expected value of genes (panel indices, shape (...)) given bin probabilities (..., B)."""
        raise NotImplementedError


class InverseFit:
    """Accumulates the inverse chunk by chunk: `add(values_CM, measured_G)` for every chunk, then `finish()`."""

    def __init__(self, binner: ExpressionBinner, n_genes: int) -> None:
        raise NotImplementedError

    def add(self, values_CM: sparse.csr_matrix, measured_G: np.ndarray) -> None:
        """Count a chunk: log1p values of the measured panel genes (M = measured_G.sum(), panel order)."""
        raise NotImplementedError

    def finish(self) -> BinInverse:
        """The inverse; with nothing added, every bin stands for the middle of its interval."""
        raise NotImplementedError
