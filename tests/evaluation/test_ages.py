"""Age as a number: intervals that hold the share of probability they promise, and what they cover."""

import numpy as np

from polygene.evaluation.ages import interval_scores, years_interval

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


def test_coverage_counts_each_donor_once_however_many_cells_it_has():
    p_CV = np.eye(4)[[0] * 9 + [2]]  # nine cells of 60 years, one of 20
    scores = interval_scores(p_CV, YEARS_V, np.array([60.0] * 9 + [40.0]), np.array(["a"] * 9 + ["b"], dtype=object))
    assert (scores["coverage"], scores["coverage_low"], scores["coverage_high"]) == (0.5, 0, 1)
    assert scores["years_wide"] == 0


def test_without_a_known_age_nothing_is_scored():
    scores = interval_scores(drawn(3), YEARS_V, np.full(3, np.nan), np.array(["a"] * 3, dtype=object))
    assert np.isnan(scores["coverage"])
