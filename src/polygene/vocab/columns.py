"""Columns of obs as codes and texts."""

import numpy as np
import pandas as pd

from polygene.vocab.phenotypes import NOT_GIVEN

SYNTHETIC = "synthetic"
"""The column of `obs` that is true for cells sampled from profiles: they train, and never validate or test."""


def given_texts(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Read a column of names: (codes_C, -1 = not given; the name of each code).

    Names are compared as text without spaces around; 1 and 1.0 are one name, since a missing value turns a column of
    whole numbers into fractions.
    """
    categories = column.astype("category").cat
    used = np.bincount(categories.codes + 1, minlength=len(categories.categories) + 1)[1:] > 0
    texts = [
        str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        for value in categories.categories
    ]
    given = [is_used and text.lower() not in NOT_GIVEN for is_used, text in zip(used, texts, strict=True)]
    names = sorted({text for text, is_given in zip(texts, given, strict=True) if is_given})
    place = {name: code for code, name in enumerate(names)}
    code_of = [place[text] if is_given else -1 for text, is_given in zip(texts, given, strict=True)]
    return np.array([*code_of, -1], dtype=np.int32)[categories.codes], names  # the last entry serves the code -1


def is_synthetic(obs: pd.DataFrame) -> np.ndarray:
    """Tell which cells were sampled and not measured: bool (C,)."""
    if SYNTHETIC not in obs:
        return np.zeros(len(obs), dtype=bool)
    # A file may hold the flag as bool, as text, or with missing values where real cells were appended.
    return obs[SYNTHETIC].astype(str).str.lower().isin(["true", "1", "1.0"]).to_numpy()
