"""Age as a number: intervals that hold what they say, and gaps that are taken by donor."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from polygene.evaluation.ages import age_gaps, age_report, years_interval

YEARS_V = np.array([60.0, np.nan, 20.0, 40.0])
"""Labels in no order, one of which is no age."""


def drawn(n_cells: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(4, 0.3), n_cells)


def test_at_most_a_twentieth_lies_on_either_side_of_the_interval_and_no_narrower_one_does_it():
    p_CV = drawn(200)
    low_C, high_C = years_interval(p_CV, YEARS_V)
    for p_V, low, high in zip(p_CV, low_C, high_C, strict=True):
        age_of = dict(zip([60.0, 20.0, 40.0], p_V[[0, 2, 3]] / p_V[[0, 2, 3]].sum(), strict=True))
        for end, beyond in ((low, lambda age, end: age < end), (high, lambda age, end: age > end)):
            outside = sum(p for age, p in age_of.items() if beyond(age, end))
            assert outside <= 0.05 + 1e-6
            assert outside + age_of[end] > 0.05 - 1e-6


def test_a_share_that_is_met_exactly_ends_the_interval_there():
    assert [float(end[0]) for end in years_interval(np.array([[0.05, 0.0, 0.05, 0.9]]), YEARS_V)] == [20, 40]


def test_there_is_no_interval_where_all_probability_is_on_what_is_no_age():
    low_C, high_C = years_interval(np.array([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]), YEARS_V)
    np.testing.assert_array_equal(low_C, [np.nan, 60])
    np.testing.assert_array_equal(high_C, [np.nan, 60])
    assert np.isnan(years_interval(np.ones((2, 1)), np.array([np.nan]))[0]).all()


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


def test_coverage_counts_each_donor_once_however_many_cells_it_has():
    sure_VV = np.eye(4)
    p_CV = sure_VV[[0] * 9 + [2]]  # nine cells of 60 years, one of 20
    report = age_report(p_CV, YEARS_V, np.array([60.0] * 9 + [40.0]), np.array(["a"] * 9 + ["b"], dtype=object))
    assert report["coverage_cells"]["value"] == report["coverage_donors"]["value"] == 0.5
    assert report["coverage_donors"]["low"] == 0
    assert report["coverage_donors"]["high"] == 1
    assert report["years_wide"]["value"] == 0
    assert pd.DataFrame(report["donors"]).gap.tolist() == [0, -20]


def test_without_a_known_age_there_is_an_empty_report():
    report = age_report(drawn(3), YEARS_V, np.full(3, np.nan), np.array(["a"] * 3, dtype=object))
    assert report["donors"] == []
    assert np.isnan(report["coverage_donors"]["value"])
