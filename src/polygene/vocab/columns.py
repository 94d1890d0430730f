"""Columns of obs as codes and texts, and the tables that ship with PolyGene."""

import gzip
from collections.abc import Iterable
from importlib.resources import files

import numpy as np
import pandas as pd

from polygene.errors import repeated_column

NOT_GIVEN = frozenset(
    {"", "-", "?", "nan", "na", "n/a", "<na>", "none", "null", "missing", "not applicable", "not given"}
    | {"not available", "not provided", "not reported", "not specified", "unassigned", "undefined", "unknown"}
    | {"unlabeled", "unspecified"}
)
"""Labels, in any case, that mean "no label"; NaN and None do too."""

SYNTHETIC = "synthetic"
"""The column of `obs` that is true for cells sampled from profiles: they train, and never validate or test."""


def factorize(column: pd.Series) -> tuple[np.ndarray, list[str], list[int]]:
    """Return (codes_C with -1 = NaN, text of each code, cells of each code); only values that occur."""
    if isinstance(column, pd.DataFrame):
        raise repeated_column(column.columns[0])
    categories = column.astype("category").cat.remove_unused_categories().cat
    codes_C = categories.codes.to_numpy()  # a byte a cell, where pandas.factorize takes eight
    values = categories.categories.tolist()
    # 1 and 1.0 are one text: a missing value turns a column of whole numbers into fractions.
    texts = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v).strip() for v in values]
    return codes_C, texts, np.bincount(codes_C[codes_C >= 0], minlength=len(texts)).tolist()


def given_texts(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Read a column of names: (codes_C, -1 = not given; the name of each code), 1 and 1.0 being one name."""
    codes_C, texts, _ = factorize(column)
    names = sorted(set(filter(is_given, texts)))
    place = {name: code for code, name in enumerate(names)}
    return by_code(np.array([place.get(text, -1) for text in texts], dtype=np.int32), codes_C, -1), names


def by_code(values: np.ndarray, codes_C: np.ndarray, absent: object) -> np.ndarray:
    """Give each cell the value of its code, and `absent` where the code is -1."""
    taken_C: np.ndarray = np.append(values, np.array([absent], dtype=values.dtype))[codes_C]
    return taken_C


def is_given(label: str) -> bool:
    """Whether a text is a label, and not a word for "not given"."""
    return label.lower() not in NOT_GIVEN


def is_synthetic(obs: pd.DataFrame) -> np.ndarray:
    """Tell which cells were sampled and not measured: bool (C,)."""
    if SYNTHETIC not in obs:
        return np.zeros(len(obs), dtype=bool)
    # A file may hold the flag as bool, as text, or with missing values where real cells were appended.
    return obs[SYNTHETIC].astype(str).str.lower().isin(["true", "1", "1.0"]).to_numpy()


def shipped_table(name: str) -> list[list[str]]:
    """Read the rows of a table of this folder; its head names the source and the day."""
    text = gzip.decompress(files("polygene.vocab").joinpath(f"{name}.tsv.gz").read_bytes()).decode()
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")]


def some(names: Iterable[object], n: int = 5) -> str:
    """List the first names; "…" stands for the others."""
    listed = list(map(str, names))
    return ", ".join(listed[:n]) + (", …" if len(listed) > n else "")
