"""The leakage gap: the difference of two plain scores, each donor counting the same."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks.trust.leakage import donors_alike, leakage_gaps
from polygene.evaluation.metrics import Tally, label_tally, years_tally

ALL = np.ones((1, 3), dtype=bool)


def tallied(n_cells: int, n_donors: int, hits: float, seed: int, first: int = 0) -> tuple[Tally, tuple]:
    """A predictor that is right with probability `hits`, and what it was asked."""
    rng = np.random.default_rng(seed)
    truth_C, donors_C = rng.integers(0, 3, n_cells), first + rng.integers(0, n_donors, n_cells) ** 2 // n_donors
    answer_C = np.where(rng.random(n_cells) < hits, truth_C, rng.integers(0, 3, n_cells))
    names_C = np.array([f"d{d}" for d in donors_C], dtype=object)
    return donors_alike(label_tally(np.eye(3)[answer_C], truth_C, scorable_SV=ALL, donors_C=names_C)), (
        truth_C, answer_C, donors_C,
    )  # fmt: skip


def row_of(table, score):
    return table[table.score == score].iloc[0]


def test_the_gap_is_that_of_two_scores_in_which_every_donor_counts_the_same():
    (seen, of_seen), (held_out, of_held_out) = tallied(300, 9, 0.9, 0), tallied(200, 6, 0.5, 1, first=50)
    table = leakage_gaps([{"sex": {"PolyGene": (seen, held_out)}}], n_resamples=50)
    values = {"accuracy": [], "macro_f1": []}
    for truth_C, answer_C, donors_C in (of_seen, of_held_out):
        by_donor = [(answer_C == truth_C)[donors_C == d].mean() for d in np.unique(donors_C)]
        weights = 1 / np.bincount(donors_C)[donors_C]
        values["accuracy"].append(np.mean(by_donor))
        values["macro_f1"].append(f1_score(truth_C, answer_C, average="macro", sample_weight=weights))
    for score, (of_seen_donors, of_others) in values.items():
        row = row_of(table, score)
        assert row.seen == pytest.approx(of_seen_donors)
        assert row.held_out == pytest.approx(of_others)
        assert row.gap == pytest.approx(of_seen_donors - of_others)
        assert row.gap_low <= row.gap <= row.gap_high


def test_the_interval_of_the_gap_has_the_spread_of_two_independent_means_of_donors():
    (seen, of_seen), (held_out, of_held_out) = tallied(2000, 40, 0.7, 2), tallied(2000, 30, 0.7, 3, first=90)
    row = row_of(leakage_gaps([{"sex": {"PolyGene": (seen, held_out)}}], n_resamples=2000), "accuracy")
    variance = 0.0
    for truth_C, answer_C, donors_C in (of_seen, of_held_out):
        by_donor = [(answer_C == truth_C)[donors_C == d].mean() for d in np.unique(donors_C)]
        variance += np.var(by_donor) / len(by_donor)
    assert row.gap_high - row.gap_low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.15)


def test_an_error_that_is_smaller_on_donors_that_trained_is_a_positive_gap():
    actual_C, donors = np.array([20.0, 30, 40, 50]), np.array(list("abcd"), dtype=object)
    pair = tuple(years_tally(actual_C + off, actual_C, donors_C=donors) for off in (1, 11))
    row = leakage_gaps([{"age in years": {"PolyGene": pair}}]).set_index("score").loc["mae_years_by_donor"]
    assert (row.seen, row.held_out, row.gap) == pytest.approx((1, 11, 10))


def test_without_cells_set_aside_there_is_no_row():
    assert not len(leakage_gaps([{}]))
