"""Phenotypes: columns of `obs` to labels and back, "not given", and age in years."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Phenotype:
    """One thing known about a cell besides its expression."""

    name: str
    column: str
    ordinal: Literal["age"] | None = None

    @property
    def absent_token(self) -> str:
        """The token of its slot where no label is given, such as [NO_CELL_TYPE]."""
        return f"[NO_{self.name.upper()}]"


CELLXGENE: tuple[Phenotype, ...] = (
    Phenotype(name="sex", column="sex"),
    Phenotype(name="tissue", column="tissue"),
    Phenotype(name="cell_type", column="cell_type"),
    Phenotype(name="age", column="development_stage", ordinal="age"),
    Phenotype(name="disease", column="disease"),
)


def count_labels(obs: pd.DataFrame, phenotypes: Sequence[Phenotype] = CELLXGENE) -> dict[str, dict[str, int]]:
    """Count the given labels of each phenotype: {name: {label: cells}}."""
    raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PhenotypeSchema:
    """The phenotypes of a model and the labels of each."""

    phenotypes: tuple[Phenotype, ...]
    labels: tuple[tuple[str, ...], ...]

    @classmethod
    def fit(
        cls, counts: Mapping[str, Mapping[str, int]], phenotypes: Sequence[Phenotype] = CELLXGENE, *, min_cells: int = 1
    ) -> "PhenotypeSchema":
        """Make the vocabulary from label counts of training donors, as `count_labels` gives them."""
        raise NotImplementedError

    @property
    def names(self) -> tuple[str, ...]:
        raise NotImplementedError

    def index(self, name: str) -> int:
        raise NotImplementedError

    def encode(
        self,
        obs: pd.DataFrame,
        *,
        use: Collection[str] | None = None,
        unknown: Literal["error", "not given"] = "error",
    ) -> np.ndarray:
        """labels_CP int16, -1 = not given. With `use`, only these phenotypes are read, and their columns must exist."""
        raise NotImplementedError

    def decode(self, labels_CP: np.ndarray) -> pd.DataFrame:
        """The `obs` columns (named `Phenotype.column`) of labels, NaN where not given."""
        raise NotImplementedError

    def years(self, name: str) -> np.ndarray:
        """years_V of the labels of a phenotype, NaN where unreadable."""
        raise NotImplementedError


def age_in_years(label: str) -> float | None:
    """Read a development stage as years relative to birth, None where it cannot be read."""
    raise NotImplementedError
