"""Temperatures and sets: against plain searches and the definitions, and what is refused."""

import json
import os

import numpy as np
import pytest

from polygene.errors import CheckpointError, DataError
from polygene.model.calibration import (
    COVERAGES,
    Calibration,
    calibrate,
    check_coverage,
    finest,
    least_probabilities,
    level,
    units_needed,
)
from polygene.model.pooling import pooled, unit_weights


def cells_of(n_donors, n_cells, *, sharpness=1.0, seed=0, n_labels=3):
    """Labels drawn from known probabilities, and answers that are those, sharpened."""
    rng = np.random.default_rng(seed)
    logits_CV = rng.normal(0, 2, (n_donors * n_cells, n_labels))
    p_CV = np.exp(logits_CV) / np.exp(logits_CV).sum(1, keepdims=True)
    truth_C = (p_CV.cumsum(1) < rng.random((len(p_CV), 1))).sum(1)
    answer_CV = p_CV**sharpness / (p_CV**sharpness).sum(1, keepdims=True)
    donors_C = np.repeat([f"donor{d}" for d in range(n_donors)], n_cells).astype(object)
    return answer_CV.astype(np.float32), truth_C, donors_C


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_what_was_sharpened(sharpness):
    found = calibrate(*cells_of(20, 200, sharpness=sharpness))
    assert found.temperature == pytest.approx(sharpness, rel=0.1)
    assert found.log_loss <= found.log_loss_before


def test_the_temperature_has_the_least_log_loss_with_donors_alike():
    p_CV, truth_C, donors_C = cells_of(4, 100, sharpness=2)
    kept_C = (donors_C != "donor0") | (np.arange(400) < 5)
    p_CV, truth_C, donors_C = p_CV[kept_C], truth_C[kept_C], donors_C[kept_C]
    found = calibrate(p_CV, truth_C, donors_C)

    def loss(temperature):
        scaled_CV = p_CV.astype(float) ** (1 / temperature)
        scaled_CV /= scaled_CV.sum(1, keepdims=True)
        surprise_C = -np.log(scaled_CV[np.arange(len(truth_C)), truth_C])
        return np.mean([surprise_C[donors_C == donor].mean() for donor in np.unique(donors_C)])

    assert found.log_loss == pytest.approx(loss(found.temperature), rel=1e-5)
    assert found.log_loss_before == pytest.approx(loss(1.0), rel=1e-5)
    assert found.log_loss <= min(loss(t) for t in np.geomspace(0.1, 10, 60)) + 1e-6


def test_a_temperature_that_does_not_help_left_out_donors_is_not_kept():
    """Two donors of one label each: one is answered right, the other wrong, and neither speaks for the other."""
    p_CV = np.tile(np.float32([0.8, 0.2]), (100, 1))
    donors_C = np.repeat(["right", "wrong"], 50).astype(object)
    found = calibrate(p_CV, (donors_C == "wrong").astype(int), donors_C)
    assert found.temperature == 1
    assert found.log_loss == found.log_loss_before
    assert calibrate(p_CV[:50], np.zeros(50, int), donors_C[:50]).temperature == 1, "one donor says nothing of another"


def test_cells_without_a_label_say_nothing():
    p_CV, truth_C, donors_C = cells_of(12, 20)
    some_C = np.arange(len(truth_C)) % 3 > 0
    assert calibrate(p_CV, np.where(some_C, truth_C, -1), donors_C) == calibrate(
        p_CV[some_C], truth_C[some_C], donors_C[some_C]
    )
    assert calibrate(p_CV, np.full(len(truth_C), -1), donors_C) is None
    assert calibrate(np.ones((5, 1), np.float32), np.zeros(5, int), None) is None


def test_every_donor_weighs_the_same():
    weights = unit_weights(np.array([0, 0, 0, 7]))
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_nine_donors_are_needed_for_nine_tenths():
    assert [units_needed(coverage) for coverage in (0.5, 0.8, 0.9, 0.95)] == [1, 4, 9, 19]


def test_many_single_cells_are_plain_split_conformal():
    p_C = np.random.default_rng(0).random(250)
    least_A = least_probabilities(p_C, np.arange(250))
    for coverage, least in zip(COVERAGES, least_A, strict=True):
        assert least == np.sort(p_C)[::-1][int(np.ceil(coverage * 251 - 1e-9)) - 1]


@pytest.mark.parametrize("n_donors", [10, 20])
def test_donors_that_differ_wholly_are_counted_and_not_their_cells(n_donors):
    """All cells of a donor are alike: ten donors must all be held for 0.9, and no share is enough for 0.95."""
    of_donor = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, n_donors))
    least_A = least_probabilities(np.repeat(of_donor, 50), np.repeat(np.arange(n_donors), 50))
    asked = 1 - 1 / n_donors
    assert least_A[level(asked)] == pytest.approx(0.1)
    assert least_A[level(asked) + 3] == 0


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_new_donors_are_covered_as_asked_however_much_donors_differ(spread):
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(300):
        unit_C = np.repeat(np.arange(13), 30)
        p_C = 1 / (1 + np.exp(-rng.normal(0, spread, 13)[unit_C] - rng.normal(0, 1, len(unit_C))))
        least = least_probabilities(p_C[unit_C > 0], unit_C[unit_C > 0])[level(0.9)]
        covered.append((p_C[unit_C == 0] >= least).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.03)


def test_a_higher_coverage_never_asks_for_more():
    for n_donors in (1, 2, 5, 30):
        p_CV, truth_C, donors_C = cells_of(n_donors, 20)
        found = calibrate(p_CV, truth_C, donors_C)
        assert (np.diff(found.least_A) <= 0).all()
        assert (np.diff(found.least_AV, axis=0) <= 0).all()


def test_a_label_of_too_few_donors_is_held_to_what_all_labels_ask_for():
    p_CV, truth_C, donors_C = cells_of(12, 40)
    rare_C = (truth_C != 2) | np.isin(donors_C, ["donor0", "donor1"])
    found = calibrate(p_CV[rare_C], truth_C[rare_C], donors_C[rare_C])
    assert found.units_V == (12, 12, 2)
    assert found.own(0.9).tolist() == [True, True, False]
    a = level(0.9)
    least_V = np.array([found.least_AV[a][0], found.least_AV[a][1], found.least_A[a]])
    assert least_V[2] != found.least_AV[a][2]
    typical_CV = p_CV >= least_V - 1e-6
    typical_CV[~typical_CV.any(axis=1)] = np.eye(3, dtype=bool)[p_CV[~typical_CV.any(axis=1)].argmax(axis=1)]
    np.testing.assert_array_equal(found.sets(p_CV, 0.9)[0], typical_CV)


def test_what_is_saved_is_loaded(tmp_path):
    calibration = Calibration(labels={"cell_type": calibrate(*cells_of(10, 20))})
    calibration.save(tmp_path / "calibration.json")
    loaded = Calibration.load(tmp_path / "calibration.json", {"cell_type": 3, "sex": 2})
    p_CV = cells_of(5, 20, seed=1)[0]
    assert loaded.temperature("cell_type") == calibration.temperature("cell_type")
    assert loaded.temperature("sex") == 1
    for coverage in (0.5, 0.9, 0.99):
        ours, theirs = (one.labels["cell_type"].sets(p_CV, coverage)[0] for one in (calibration, loaded))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("damage", ["other labels", "cut off", "another file"])
def test_a_calibration_of_another_model_is_refused(tmp_path, damage):
    file = tmp_path / "calibration.json"
    Calibration(labels={"cell_type": calibrate(*cells_of(10, 20))}).save(file)
    if damage != "other labels":
        file.write_text(file.read_text()[:-20] if damage == "cut off" else json.dumps({"labels": {"sex": 1}}))
    with pytest.raises(CheckpointError, match="no calibration of this model"):
        Calibration.load(file, {"cell_type": 4 if damage == "other labels" else 3})


@pytest.mark.parametrize(("size", "says"), [(33_000_000, "more than the 32,000,000 bytes"), (0, "is a folder")])
def test_a_calibration_that_no_model_has_is_not_read(size, says, tmp_path):
    file = tmp_path / "calibration.json"
    if size:
        file.touch()
        os.truncate(file, size)
    else:
        file.mkdir()
    with pytest.raises(CheckpointError, match=says):
        Calibration.load(file, {})


@pytest.mark.parametrize("coverage", [0.0, 0.3, 1.0, 90, float("nan")])
def test_a_coverage_that_sets_cannot_have_is_refused(coverage):
    with pytest.raises(DataError, match=r"0\.5 to 0\.99"):
        check_coverage(coverage)


# --- labels of several granularities ---

TREE = np.array([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=bool)


def coarse_cells():
    """Cells whose label is 0 (which stands above 1 and 2) or 3, and predictions that are finer."""
    rng = np.random.default_rng(0)
    p_CV = rng.dirichlet([0.3, 2, 2, 0.5], 400).astype(np.float32)
    truth_C = np.where(rng.random(400) < p_CV[:, 3] ** 0.5, 3, 0)
    return p_CV, truth_C, np.array([f"donor{d}" for d in rng.integers(0, 20, 400)], dtype=object)


def test_a_label_is_as_probable_as_all_labels_at_and_below_it():
    p_CV, truth_C, donors_C = coarse_cells()
    found = calibrate(p_CV, truth_C, donors_C, TREE)
    weights_C = unit_weights(np.unique(donors_C, return_inverse=True)[1])

    def log_loss(temperature):
        scaled_CV = p_CV.astype(float) ** (1 / temperature)
        scaled_CV /= scaled_CV.sum(1, keepdims=True)
        return weights_C @ -np.log(np.where(truth_C == 3, scaled_CV[:, 3], 1 - scaled_CV[:, 3]))

    assert found.log_loss_before == pytest.approx(log_loss(1), abs=1e-4)
    assert found.log_loss == pytest.approx(log_loss(found.temperature), abs=1e-4)
    assert found.log_loss == pytest.approx(min(log_loss(t) for t in np.geomspace(0.2, 5, 400)), abs=1e-4)
    assert found.log_loss < calibrate(p_CV, truth_C, donors_C).log_loss


def test_sets_hold_a_coarse_label_where_a_finer_one_is_likely_and_name_the_finest():
    p_CV, truth_C, donors_C = coarse_cells()
    found = calibrate(p_CV, truth_C, donors_C, TREE)
    p_CV = p_CV ** (1 / found.temperature)
    p_CV /= p_CV.sum(1, keepdims=True)
    set_CV, none_C = found.sets(p_CV, 0.8, TREE)
    least_V = np.where(found.own(0.8), found.least_AV[30], found.least_A[30])
    by_hand = np.stack([p_CV[:, :3].sum(1), p_CV[:, 1], p_CV[:, 2], p_CV[:, 3]], axis=1) >= least_V - 1e-6
    assert none_C.tolist() == np.flatnonzero(~by_hand.any(axis=1)).tolist()
    assert (set_CV == by_hand)[by_hand.any(axis=1)].all()
    assert set_CV[np.arange(400), truth_C].mean() > 0.75
    finest_CV = finest(set_CV, TREE)
    assert (finest_CV[:, 1:] == set_CV[:, 1:]).all()
    assert (finest_CV[:, 0] == set_CV[:, 0] & ~set_CV[:, 1] & ~set_CV[:, 2]).all()
    assert (finest(set_CV, None) == set_CV).all()


@pytest.mark.parametrize("copies", [1, 10])
def test_the_weight_of_a_vote_has_the_least_log_loss_of_groups(copies):
    """Cells that are copies of each other know no more together than one; others do, and the weight says how much."""
    rng = np.random.default_rng(0)
    truth_G = rng.integers(0, 3, 120)
    logits_CV = np.repeat(np.eye(3)[truth_G], 10, axis=0) + np.repeat(rng.normal(size=(1200 // copies, 3)), copies, 0)
    p_CV = np.exp(logits_CV) / np.exp(logits_CV).sum(1, keepdims=True)
    donors_C = np.repeat([f"donor{g}" for g in range(120)], 10).astype(object)
    found = calibrate(p_CV, np.repeat(truth_G, 10), donors_C)
    p_CV = p_CV ** (1 / found.temperature)
    p_CV /= p_CV.sum(1, keepdims=True)

    def loss(weight):
        p_GV = pooled(p_CV, np.repeat(np.arange(120), 10), 1 + (weight - 1) / 0.9)
        return -np.log(p_GV[np.arange(120), truth_G]).mean()

    assert loss(found.vote) <= min(loss(w) for w in np.geomspace(0.1, 15, 60)) + 1e-4
    assert found.vote == pytest.approx(1, abs=0.2) if copies == 10 else found.vote > 3
