"""The gene panel: which genes the model reads, in which order, and where they are in a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True, kw_only=True)
class GenePanel:
    """The ordered genes of a model, from most to least variable."""

    symbols: tuple[str, ...]
    ensembl_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.symbols)

    def match(self, var: pd.DataFrame) -> np.ndarray:
        """Find the panel in a file: columns_G int64, the row of `var` of each panel gene, -1 = not measured."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the panel as a table with the columns rank, ensembl_id, symbol."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: str | Path) -> "GenePanel":
        """Read a table written by `save`."""
        raise NotImplementedError


def gene_table(var: pd.DataFrame) -> pd.DataFrame:
    """Name the genes of a file: a row for each row of `var`, columns symbol and ensembl_id ("" = unknown)."""
    raise NotImplementedError


def unique_genes(var: pd.DataFrame) -> pd.DataFrame:
    """Return `gene_table(var)`, or raise GeneError naming the genes that are there more than once."""
    raise NotImplementedError
