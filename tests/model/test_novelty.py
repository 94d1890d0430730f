"""Novelty: distances computed another way, a threshold that each donor sets alike, and its file."""

import json
from collections import Counter

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from polygene.errors import CheckpointError
from polygene.model.novelty import FALSE_ALARMS, NoveltyDetector, quantile_of_donors


def draw(n: int, seed: int) -> np.ndarray:
    """States of two clusters of cells, wide in one direction and narrow in the other."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0, 5.0], [6.0, 0.0, 5.0]])
    return (centres[rng.integers(0, 2, n)] + rng.normal(size=(n, 3)) * [1.0, 0.1, 0.5]).astype(np.float32)


@pytest.fixture(scope="module")
def detector() -> NoveltyDetector:
    return NoveltyDetector.learn(draw(2000, 1), draw(400, 2), None, query="cell_type")


def test_a_step_where_cells_do_not_vary_is_more_novel_than_one_where_they_do(detector):
    usual, along, across = np.array([[0, 0, 5], [1.0, 0, 5], [0, 1.0, 5]], dtype=np.float32)
    scores = detector.score(np.stack([usual, along, across]))
    assert scores[0] < 1
    assert scores[1] < 1 < scores[2]


def test_the_score_is_the_mahalanobis_distance_to_the_nearest_centre(detector):
    states_CD = draw(50, 3)
    inverse_DD = detector.whitening_DD.astype(float) @ detector.whitening_DD.T
    centres_KD = detector.centres_KD @ np.linalg.inv(detector.whitening_DD)
    expected_C = cdist(states_CD, centres_KD, "mahalanobis", VI=inverse_DD).min(axis=1) / detector.threshold
    np.testing.assert_allclose(detector.score(states_CD), expected_C, rtol=1e-3)


def test_the_stated_share_of_the_cells_it_was_set_on_lies_above_one(detector):
    flagged = (detector.score(draw(400, 2)) > 1).sum()
    assert abs(flagged - FALSE_ALARMS * 400) <= 1
    assert (detector.donors, detector.cells) == (0, 400)


def test_a_donor_with_many_cells_does_not_set_the_threshold_alone():
    donors_C = np.repeat(["many", "few", "few too"], [1000, 10, 10])
    values_C = np.concatenate([np.arange(1000.0), np.full(10, 2000.0), np.full(10, 3000.0)])
    assert quantile_of_donors(values_C, donors_C, 0.5) == 2000.0
    assert quantile_of_donors(values_C, None, 0.5) == np.sort(values_C)[509]
    share_of = [np.mean(values_C[donors_C == donor] <= 2000.0) for donor in Counter(donors_C)]
    assert np.mean(share_of) >= 0.5


def test_what_is_learned_depends_on_the_seed_alone():
    first, again = (NoveltyDetector.learn(draw(300, 1), draw(60, 2), None, query="x", seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.centres_KD, again.centres_KD)
    assert first.threshold == again.threshold


def test_fewer_training_cells_than_clusters_are_learned_too():
    few = NoveltyDetector.learn(draw(5, 1), draw(30, 2), np.repeat(["a", "b", "c"], 10), query="x")
    assert np.isfinite(few.score(draw(10, 3))).all()
    assert few.donors == 3


def test_a_file_gives_the_same_scores_again(detector, tmp_path):
    detector.save(tmp_path / "known.safetensors")
    loaded = NoveltyDetector.load(tmp_path / "known.safetensors", len(detector.whitening_DD))
    np.testing.assert_array_equal(loaded.score(draw(20, 5)), detector.score(draw(20, 5)))
    assert (loaded.query, loaded.false_alarms, loaded.cells) == ("cell_type", FALSE_ALARMS, 400)


@pytest.mark.parametrize("damage", ["cut off", "another header"])
def test_a_broken_file_is_refused_by_name(detector, damage, tmp_path):
    path = tmp_path / "known.safetensors"
    detector.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:40] if damage == "cut off" else whole.replace(json.dumps("cells").encode()[1:-1], b"cellz"))
    with pytest.raises(CheckpointError, match=r"known\.safetensors is broken"):
        NoveltyDetector.load(path, len(detector.whitening_DD))
