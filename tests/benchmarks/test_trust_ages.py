"""The age gap of a donor: the mean of its cells less its age, and what is left over a line through all donors."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.trust.ages import age_gaps

YEARS_V = np.array([60.0, np.nan, 20.0, 40.0])


def drawn(n_cells: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(4, 0.3), n_cells)


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, actual years and donors of 60 cells: five donors, a sixth without age, and cells without donor."""
    donors_C = np.array([f"d{i % 7}" for i in range(60)], dtype=object)
    actual_C = np.array([20.0, 35, 50, 50, 70, np.nan, 33])[np.arange(60) % 7]
    donors_C[donors_C == "d6"] = ""
    return drawn(60, seed=1), actual_C, donors_C


def test_a_gap_is_the_mean_of_the_donors_cells_less_its_age(cells):
    p_CV, actual_C, donors_C = cells
    table = age_gaps(p_CV, YEARS_V, actual_C, donors_C).set_index("donor")
    assert list(table.index) == ["d0", "d1", "d2", "d3", "d4"]
    for donor, row in table.iterrows():
        mean_V = p_CV[donors_C == donor].mean(axis=0)
        expected = (mean_V[[0, 2, 3]] * [60, 20, 40]).sum() / mean_V[[0, 2, 3]].sum()
        assert row.gap == pytest.approx(expected - actual_C[donors_C == donor][0])
        assert row.gap_low <= row.gap <= row.gap_high
        assert row.cells == (donors_C == donor).sum()


def test_corrected_gaps_are_the_residuals_of_a_line_and_do_not_depend_on_age(cells):
    table = age_gaps(cells[0], YEARS_V, *cells[1:])
    line = stats.linregress(table.actual, table.predicted)
    np.testing.assert_allclose(
        table.gap_corrected, table.predicted - line.intercept - line.slope * table.actual, atol=1e-9
    )
    assert abs(stats.pearsonr(table.gap_corrected, table.actual).statistic) < 1e-9
    assert stats.pearsonr(table.gap, table.actual).statistic < -0.5


@pytest.mark.parametrize("ages", [[20.0, 30.0], [40.0, 40.0, 40.0, 40.0]], ids=["two donors", "one age"])
def test_too_few_donors_or_ages_give_no_corrected_gap(ages):
    donors = np.array([f"d{i}" for i in range(len(ages))], dtype=object)
    table = age_gaps(drawn(len(ages)), YEARS_V, np.array(ages), donors)
    assert table.gap_corrected.isna().all()
    assert table.gap.notna().all()


def test_a_donor_met_at_two_ages_has_two_rows():
    table = age_gaps(drawn(4), YEARS_V, np.array([20.0, 20, 25, 25]), np.array(["d"] * 4, dtype=object))
    assert table.actual.tolist() == [20, 25]
    assert table.cells.tolist() == [2, 2]
