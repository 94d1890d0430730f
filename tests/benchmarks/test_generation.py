"""The attack that looks for training donors in generated cells."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from benchmarks.control.generation import donors_seen


def test_donors_whose_cells_were_copied_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    cells_CG, donor_C = rng.normal(size=(600, 30)), np.repeat([f"D{d}" for d in range(20)], 30)
    trained_C = np.repeat(np.arange(20) < 10, 30)
    copies_CG = cells_CG[trained_C][::3] + 0.01
    assert donors_seen(copies_CG, cells_CG, donor_C, trained_C) == 1.0
    fresh_CG = rng.normal(size=(100, 30))
    assert abs(donors_seen(fresh_CG, cells_CG, donor_C, trained_C) - 0.5) < 0.3
