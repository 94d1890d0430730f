"""The cells of the shipped example are drawn by type."""

import numpy as np
import pandas as pd

from benchmarks.models import pbmc_example


def test_rare_types_are_kept_and_others_drawn_in_proportion() -> None:
    type_C = pd.Series(["a"] * 1500 + ["b"] * 700 + ["c"] * 30 + ["d"] * 14)
    rows = pbmc_example.drawn(type_C)
    n_of = type_C.iloc[rows].value_counts()
    assert (n_of["c"], n_of["d"]) == (30, 14)
    assert abs(n_of.sum() - pbmc_example.N_CELLS) <= 2
    assert 2 < n_of["a"] / n_of["b"] < 2.3
    assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(pbmc_example.drawn(type_C), rows)
