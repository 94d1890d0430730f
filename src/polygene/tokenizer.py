"""The tokenizer: a cell of an AnnData to tokens and back."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from polygene.binning import BinInverse, ExpressionBinner
from polygene.genes import GenePanel
from polygene.phenotypes import PhenotypeSchema
from polygene.scale import Scale


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedCells:
    """A batch of cells as tokens: expressed genes in CSR form, and labels."""

    offsets_C1: np.ndarray
    genes_N: np.ndarray
    bins_N: np.ndarray
    values_N: np.ndarray
    labels_CP: np.ndarray
    measured_G: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets_C1) - 1

    def rows(self, which: slice | np.ndarray) -> "EncodedCells":
        """These cells only, in the order asked."""
        raise NotImplementedError


def panel_values(
    adata: Any, panel: GenePanel, *, layer: str | None = None, totals: str | None = None, scale: Scale | None = None
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """(values_CM csr float32 log1p of the measured panel genes in panel order, measured_G bool)."""
    raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class CellTokenizer:
    """Panel, bins and phenotypes: everything needed to turn an AnnData into tokens and back."""

    panel: GenePanel
    binner: ExpressionBinner
    schema: PhenotypeSchema
    inverse: BinInverse

    @property
    def n_slots(self) -> int:
        raise NotImplementedError

    @property
    def n_tokens(self) -> int:
        raise NotImplementedError

    @property
    def tokens(self) -> list[str]:
        raise NotImplementedError

    @property
    def cls_id(self) -> int:
        raise NotImplementedError

    @property
    def start_id(self) -> int:
        raise NotImplementedError

    @property
    def end_id(self) -> int:
        raise NotImplementedError

    @property
    def mask_id(self) -> int:
        raise NotImplementedError

    def token_name(self, token_id: int) -> str:
        raise NotImplementedError

    def token_id(self, token: str, phenotype: str | None = None) -> int:
        raise NotImplementedError

    def absent_id(self, p: int) -> int:
        raise NotImplementedError

    def label_range(self, p: int) -> tuple[int, int]:
        raise NotImplementedError

    def phenotype_token_ids(self, labels_CP: np.ndarray) -> np.ndarray:
        """token_ids_CP int64 of labels; -1 gives the phenotype's [NO_*]."""
        raise NotImplementedError

    def encode(
        self,
        adata: Any,
        *,
        layer: str | None = None,
        totals: str | None = None,
        scale: Scale | None = None,
        use_labels: bool | Collection[str] = True,
        unknown: Literal["error", "not given"] = "error",
    ) -> EncodedCells:
        raise NotImplementedError

    def decode(self, cells: EncodedCells) -> tuple[sparse.csr_matrix, pd.DataFrame]:
        raise NotImplementedError

    def show(self, cells: EncodedCells, i: int = 0, n_genes: int = 12) -> str:
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, folder: str | Path) -> "CellTokenizer":
        raise NotImplementedError

    def fingerprint(self) -> str:
        raise NotImplementedError
