"""Scores against scikit-learn and plain loops; intervals against what donors, not cells, can tell."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score

from polygene.evaluation import bootstrap
from polygene.evaluation.bootstrap import compare
from polygene.evaluation.metrics import expected_years, label_scores, label_tally, years_tally
from polygene.evaluation.scorable import scorable
from polygene.vocab.ontology import at_or_below

N_LABELS = 5


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def cells(rng):
    """600 cells of 12 donors in 2 sources; labels -1 … 4, of which 4 is nowhere scorable and 3 only in source 1."""
    donor_C = rng.integers(0, 12, 600)
    source_C = donor_C % 2
    truth_C = rng.integers(-1, N_LABELS, 600)
    logits_CV = rng.normal(size=(600, N_LABELS))
    logits_CV[np.arange(600), truth_C] += 1.5 * rng.random(12)[donor_C]
    scorable_SV = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], dtype=bool)
    donors_C = np.array([f"donor {donor}" for donor in donor_C])
    return softmax(logits_CV), truth_C, source_C, donors_C, scorable_SV


def scores_by_sklearn(probabilities_CV, truth_C, scorable_V):
    kept = np.isin(truth_C, np.flatnonzero(scorable_V))
    truth, p = truth_C[kept], probabilities_CV[kept]
    labels = np.unique(truth)
    return {
        "accuracy": accuracy_score(truth, p.argmax(1)),
        "macro_f1": f1_score(truth, p.argmax(1), labels=labels, average="macro"),
        "balanced_accuracy": recall_score(truth, p.argmax(1), labels=labels, average="macro"),
        "log_loss": log_loss(truth, p, labels=np.arange(p.shape[1])),
    }


@pytest.mark.parametrize("labels", [(0, 1, 2), (0, 2, 4)])
def test_label_scores_are_those_of_sklearn_over_the_cells_with_a_scorable_label(labels, cells):
    probabilities_CV, truth_C, _, donors_C, _ = cells
    scorable_V = np.isin(np.arange(N_LABELS), labels)
    scores = label_scores(label_tally(probabilities_CV, truth_C, scorable_SV=scorable_V[None], donors_C=donors_C))
    expected = scores_by_sklearn(probabilities_CV, truth_C, scorable_V)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert expected["macro_f1"] != pytest.approx(f1_score(truth_C, probabilities_CV.argmax(1), average="macro"))
    kept_C = np.isin(truth_C, labels)
    assert (scores["cells"], scores["donors"], scores["labels"], scores["sources"]) == (kept_C.sum(), 12, 3, 1)


def test_an_answer_that_is_not_scorable_is_a_miss_and_no_false_positive():
    truth_C = np.array([0, 0, 1, 1, 2])
    probabilities_CV = np.eye(4)[[0, 3, 1, 2, 2]]
    tally = label_tally(probabilities_CV, truth_C, scorable_SV=np.array([[True, True, False, False]]))
    scores = label_scores(tally)
    assert scores["accuracy"] == 2 / 4
    assert scores["macro_f1"] == pytest.approx(2 / 3)  # each label: one hit, one miss, no false positive
    assert scores["log_loss"] == pytest.approx(-2 * np.log(1e-15) / 4)


def test_the_score_is_the_mean_over_sources_and_the_pooled_number_is_one_source(cells):
    probabilities_CV, truth_C, source_C, donors_C, scorable_SV = cells
    tally = label_tally(probabilities_CV, truth_C, scorable_SV=scorable_SV, sources_C=source_C, donors_C=donors_C)
    each = [
        scores_by_sklearn(probabilities_CV[source_C == s], truth_C[source_C == s], scorable_SV[s]) for s in range(2)
    ]
    for name, value in tally.scores().items():
        assert value[0] == pytest.approx(np.mean([scores[name] for scores in each]))
    pooled = label_tally(probabilities_CV, truth_C, scorable_SV=scorable_SV[1:], donors_C=donors_C)
    assert pooled.scores()["macro_f1"][0] == pytest.approx(
        scores_by_sklearn(probabilities_CV, truth_C, scorable_SV[1])["macro_f1"]
    )


def test_a_phenotype_without_a_scorable_label_scores_nan_and_says_no_cells(cells):
    probabilities_CV, truth_C, _, donors_C, _ = cells
    none = label_tally(probabilities_CV, truth_C, scorable_SV=np.zeros((1, N_LABELS), dtype=bool), donors_C=donors_C)
    scores = label_scores(none)
    assert np.isnan([scores["accuracy"], scores["macro_f1"], scores["log_loss"]]).all()
    assert scores["cells"] == scores["donors"] == scores["labels"] == scores["sources"] == 0
    table = compare({"a": none, "b": none}, reference="a", n_resamples=10)
    assert table["value"].isna().all()
    assert table["at_or_above"].isna().all()


def test_a_predictor_that_leaves_out_cells_is_refused(cells):
    probabilities_CV, truth_C, _, donors_C, scorable_SV = cells
    probabilities_CV[np.flatnonzero(truth_C == 0)[0]] = np.nan
    with pytest.raises(ValueError, match="must predict every cell"):
        label_tally(probabilities_CV, truth_C, scorable_SV=scorable_SV[:1], donors_C=donors_C)


# What is scorable


@pytest.mark.parametrize("with_donors", [True, False])
@pytest.mark.parametrize("with_sources", [True, False])
def test_scorable_labels_are_those_a_plain_loop_finds(rng, with_donors, with_sources):
    n_found = 0
    for _ in range(30):
        train_C, test_C = rng.integers(-1, 4, 12), rng.integers(-1, 4, 14)
        train_donors, test_donors = rng.integers(0, 4, 12).astype(str), rng.integers(5, 8, 14).astype(str)
        sources_C = rng.integers(0, 3, 14)
        found = scorable(
            train_C,
            test_C,
            4,
            train_donors_C=train_donors if with_donors else None,
            test_donors_C=test_donors if with_donors else None,
            test_sources_C=sources_C if with_sources else None,
        )
        train_units = train_donors if with_donors else np.arange(12)
        seen = {label for label in range(4) if len(set(train_units[train_C == label])) >= 2}
        for source in range(3 if with_sources else 1):
            here = sources_C == source if with_sources else np.ones(14, dtype=bool)
            labels = seen & set(test_C[here])
            expected = labels if len(labels) >= 2 else set()
            assert set(np.flatnonzero(found[source])) == expected if source < len(found) else not here.any()
            n_found += len(expected)
    assert n_found > 50


def test_a_label_of_one_training_donor_is_not_scorable_however_many_cells_it_has():
    train_C, donors = np.array([0] * 50 + [1, 1, 2, 2]), np.array(["a"] * 50 + ["a", "b", "c", "b"])
    test_C = np.array([0, 1, 2])
    test_donors = np.array(["d", "d", "e"])
    found = scorable(train_C, test_C, 3, train_donors_C=donors, test_donors_C=test_donors)
    assert found.tolist() == [[False, True, True]]
    assert scorable(train_C, test_C, 3).tolist() == [[True, True, True]]


def test_a_source_in_which_the_phenotype_does_not_vary_is_not_scored():
    train_C = np.array([0, 0, 1, 1])
    found = scorable(train_C, np.array([0, 1, 1, 1]), 2, test_sources_C=np.array([0, 0, 2, 2]))
    assert found.tolist() == [[True, True], [False, False], [False, False]]


@pytest.mark.parametrize("missing", [None, np.nan, ""])
def test_cells_without_a_donor_count_as_one_donor_together(missing):
    donors = np.array([missing, missing, "a"], dtype=object)
    train_C, test_C = np.array([0, 0, 0, 1, 1]), np.array([0, 1])
    found = scorable(train_C, test_C, 2, train_donors_C=np.append(donors, ["b", missing]))
    assert found.tolist() == [[True, True]]
    found = scorable(train_C, test_C, 2, train_donors_C=np.array([missing, missing, missing, "b", "c"], dtype=object))
    assert not found.any()


# Age


def test_expected_years_weigh_the_readable_labels_only():
    years_V = np.array([10.0, np.nan, 40.0])
    probabilities_CV = np.array([[0.2, 0.0, 0.8], [0.3, 0.4, 0.3], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(expected_years(probabilities_CV, years_V), [34.0, 25.0, np.nan])


def test_age_errors_are_those_of_a_pandas_groupby_and_leave_out_what_cannot_be_scored(rng):
    donors_C = rng.choice(["a", "b", "c", "d"], 200, p=[0.6, 0.2, 0.1, 0.1])
    truth_C = pd.Series({"a": 20.0, "b": 50.0, "c": 70.0, "d": np.nan})[donors_C].to_numpy()
    years_C = 45 + rng.normal(0, 10, 200)
    sources_C = np.zeros(200, dtype=int)
    alone = np.array(["e"] * 5)  # a source of one age says nothing
    tally = years_tally(
        np.append(years_C, np.zeros(5)),
        np.append(truth_C, np.full(5, 30.0)),
        sources_C=np.append(sources_C, np.ones(5, dtype=int)),
        donors_C=np.append(donors_C, alone),
    )
    frame = pd.DataFrame({"donor": donors_C, "truth": truth_C, "years": years_C}).dropna()
    by_donor = frame.groupby("donor").mean()
    scores = tally.scores()
    assert scores["mae_years"][0] == pytest.approx((frame.years - frame.truth).abs().mean())
    assert scores["mae_years_by_donor"][0] == pytest.approx((by_donor.years - by_donor.truth).abs().mean())
    assert scores["mae_years"][0] != pytest.approx(scores["mae_years_by_donor"][0])


def test_a_smaller_age_error_is_a_gain():
    truth_C, donors_C = np.array([20.0, 40.0, 60.0]), np.array(["a", "b", "c"])
    near, far = (years_tally(truth_C + error, truth_C, donors_C=donors_C) for error in (1, 5))
    table = compare({"near": near, "far": far}, reference="far").set_index(["predictor", "score"])
    assert table.loc[("near", "mae_years"), ["gain", "gain_low", "gain_high"]].tolist() == pytest.approx([4, 4, 4])
    table = compare({"near": near, "far": far}, reference="near").set_index(["predictor", "score"])
    assert table.loc[("far", "mae_years"), "gain"] == pytest.approx(-4)
    assert not table.loc[("far", "mae_years"), "at_or_above"]


# Genes


def test_scores_of_a_resample_are_those_of_the_drawn_donors_cells_put_together(cells, rng):
    probabilities_CV, truth_C, source_C, donors_C, scorable_SV = cells
    tally = label_tally(probabilities_CV, truth_C, scorable_SV=scorable_SV, sources_C=source_C, donors_C=donors_C)
    donors = np.unique(donors_C)
    drawn = [rng.choice(donors, len(donors)) for _ in range(20)]
    drawn.append(np.array([donors[0]] * len(donors)))  # of one source only
    weights_RU = np.array([[np.sum(draw == donor) for donor in tally.donors_U] for draw in drawn], dtype=float)
    scores = tally.scores(weights_RU)
    for r, draw in enumerate(drawn):
        rows = np.concatenate([np.flatnonzero(donors_C == donor) for donor in draw])
        by_source = [
            scores_by_sklearn(probabilities_CV[here], truth_C[here], scorable_SV[s])
            for s in range(2)
            if len(here := rows[source_C[rows] == s])
        ]
        for name, value_R in scores.items():
            assert value_R[r] == pytest.approx(np.mean([of_source[name] for of_source in by_source]), abs=1e-12)


def test_the_interval_is_that_of_a_plain_loop_over_donors(rng):
    donors_C = rng.integers(0, 9, 300)
    truth_C = rng.integers(0, 2, 300)
    right = rng.random(300) < rng.random(9)[donors_C]
    probabilities_CV = np.eye(2)[np.where(right, truth_C, 1 - truth_C)]
    tally = label_tally(probabilities_CV, truth_C, scorable_SV=np.ones((1, 2), dtype=bool), donors_C=donors_C)
    row = compare({"a": tally}, reference="a", n_resamples=4000).query("score == 'accuracy'").iloc[0]
    cells_of = [right[donors_C == donor] for donor in range(9)]
    loop = [np.concatenate([cells_of[d] for d in rng.integers(0, 9, 9)]).mean() for _ in range(4000)]
    assert [row.low, row.high] == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=0.02)
    assert row.high - row.low > 2 * 1.96 * np.sqrt(row.value * (1 - row.value) / 300)  # wider than for cells


def test_repeating_every_cell_ten_times_narrows_no_interval(cells):
    probabilities_CV, truth_C, _, donors_C, scorable_SV = cells
    once = label_tally(probabilities_CV, truth_C, scorable_SV=scorable_SV[:1], donors_C=donors_C)
    ten = label_tally(
        np.repeat(probabilities_CV, 10, axis=0),
        np.repeat(truth_C, 10),
        scorable_SV=scorable_SV[:1],
        donors_C=np.repeat(donors_C, 10),
    )
    pd.testing.assert_frame_equal(compare({"a": once}, reference="a"), compare({"a": ten}, reference="a"))


def test_the_interval_of_a_difference_is_paired():
    rng = np.random.default_rng(1)
    donors_C, truth_C = np.repeat(np.arange(20), 50), np.tile([0, 1], 500)
    p_right_C = rng.uniform(0.1, 0.9, 20)[donors_C]
    surprise = {"a": 0.0, "b": 0.05}  # b's log loss is worse by 0.05 in every cell; donors differ much more
    tallies = {}
    for name, more in surprise.items():
        p_C = p_right_C * np.exp(-more)
        probabilities_CV = np.where(np.eye(2)[truth_C] == 1, p_C[:, None], 1 - p_C[:, None])
        tallies[name] = label_tally(
            probabilities_CV, truth_C, scorable_SV=np.ones((1, 2), dtype=bool), donors_C=donors_C
        )
    row = compare(tallies, reference="a").set_index(["predictor", "score"]).loc[("b", "log_loss")]
    assert row.high - row.low > 0.3
    assert [row.gain, row.gain_low, row.gain_high] == pytest.approx([-0.05, -0.05, -0.05])
    assert not row.at_or_above


def test_at_or_above_means_that_the_interval_of_the_gain_does_not_lie_below_zero(cells):
    probabilities_CV, truth_C, _, donors_C, scorable_SV = cells
    uniform_CV = np.full_like(probabilities_CV, 1 / N_LABELS)
    tallies = {
        name: label_tally(p_CV, truth_C, scorable_SV=scorable_SV[:1], donors_C=donors_C)
        for name, p_CV in {"model": probabilities_CV, "same": probabilities_CV, "uniform": uniform_CV}.items()
    }
    table = compare(tallies, reference="model").set_index(["predictor", "score"])
    assert table.loc["same", "at_or_above"].all()
    assert (table.loc["same", ["gain", "gain_low", "gain_high"]] == 0).all(axis=None)
    assert table.loc[("uniform", "macro_f1"), "gain_high"] < 0
    assert not table.loc[("uniform", "macro_f1"), "at_or_above"]
    assert compare(tallies, reference="uniform").query("predictor == 'model'")["at_or_above"].all()


def test_resampling_in_blocks_changes_nothing_and_the_seed_does(cells, monkeypatch):
    probabilities_CV, truth_C, _, donors_C, scorable_SV = cells
    tally = label_tally(probabilities_CV, truth_C, scorable_SV=scorable_SV[:1], donors_C=donors_C)
    whole = compare({"a": tally}, reference="a", n_resamples=50)
    monkeypatch.setattr(bootstrap, "_BLOCK", 12 * 7)
    pd.testing.assert_frame_equal(whole, compare({"a": tally}, reference="a", n_resamples=50))
    assert not whole.equals(compare({"a": tally}, reference="a", n_resamples=50, seed=1))


def test_without_donors_cells_are_drawn(cells):
    probabilities_CV, truth_C, _, _, scorable_SV = cells
    tally = label_tally(probabilities_CV, truth_C, scorable_SV=scorable_SV[:1])
    row = compare({"a": tally}, reference="a").query("score == 'accuracy'").iloc[0]
    n = len(tally.donors_U)
    assert n == ((truth_C >= 0) & (truth_C <= 2)).sum()
    normal = 1.96 * np.sqrt(row.value * (1 - row.value) / n)
    assert [row.value - row.low, row.high - row.value] == pytest.approx([normal, normal], rel=0.15)


def test_predictors_scored_on_other_cells_cannot_be_compared(cells):
    probabilities_CV, truth_C, _, donors_C, scorable_SV = cells
    tallies = {
        "a": label_tally(probabilities_CV, truth_C, scorable_SV=scorable_SV[:1], donors_C=donors_C),
        "b": label_tally(probabilities_CV[:9], truth_C[:9], scorable_SV=scorable_SV[:1], donors_C=donors_C[:9]),
    }
    with pytest.raises(ValueError, match="'b' and 'a' were scored on other cells"):
        compare(tallies, reference="a")


def test_a_prediction_below_the_true_label_is_right_and_the_label_is_as_probable_as_all_below_it():
    labels = ("T cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "B cell")
    table_VV = at_or_below("cell_type", labels)
    p_CV = np.array([[0.1, 0.3, 0.2, 0.4], [0.1, 0.3, 0.2, 0.4], [0.1, 0.2, 0.1, 0.6], [0.5, 0.2, 0.2, 0.1]])
    truth_C = np.array([0, 2, 0, 1])  # T cell: right, as CD4; CD8: wrong; T cell: wrong; CD4: wrong, the label is above
    tally = label_tally(p_CV, truth_C, scorable_SV=np.ones((1, 4), dtype=bool), at_or_below_VV=table_VV)
    scores = label_scores(tally)
    assert scores["accuracy"] == pytest.approx(1 / 4)
    assert scores["log_loss"] == pytest.approx(-np.log([0.6, 0.2, 0.4, 0.2]).mean())
    assert label_scores(label_tally(p_CV, truth_C, scorable_SV=np.ones((1, 4), dtype=bool)))["accuracy"] == 0


def test_over_fewer_than_two_labels_there_is_no_score():
    p_CV, truth_C = np.eye(2)[[0] * 300], np.array([0] * 299 + [1])
    for scored, n_labels in (((True, False), 1), ((True, True), 2)):
        scores = label_scores(label_tally(p_CV, truth_C, scorable_SV=np.array([scored])))
        is_score = [not np.isnan(scores[name]) for name in ("accuracy", "macro_f1", "balanced_accuracy")]
        assert is_score == [n_labels == 2] * 3
        assert scores["labels"] == n_labels
        assert np.isfinite(scores["log_loss"])
