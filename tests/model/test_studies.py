"""Sets and errors for studies never seen: leaves, sets that are never empty, against MAPIE, and the checkpoint."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from polygene.errors import CheckpointError
from polygene.model.calibration import COVERAGES, Calibration, least_probabilities, level
from polygene.model.studies import StudyCalibration, error_features, leaf_labels, leaf_probabilities, leaf_sets

TREE = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]], dtype=bool)
"""T cell above CD4 and CD8; monocyte above CD14 monocyte."""
STUDIES = StudyCalibration(
    studies=("a", "b"), cells=9, least_A=tuple(np.linspace(0.5, 0.01, len(COVERAGES))), held=0.9, size=2.0,
    weights=(1.0, 0.5, 2.0), bias=-1.0, novelty=1.5, auroc=0.8, auroc_unsure=0.7,
)  # fmt: skip


def drawn(n_cells: int, *, seed: int = 0, n_labels: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels drawn from flatter ones: the predictor is too sure."""
    rng = np.random.default_rng(seed)
    logits_CV = rng.normal(0, 2, (n_cells, n_labels))
    p_CV = np.exp(logits_CV) / np.exp(logits_CV).sum(1, keepdims=True)
    true_CV = np.exp(logits_CV / 2) / np.exp(logits_CV / 2).sum(1, keepdims=True)
    return p_CV, (true_CV.cumsum(1) < rng.random((n_cells, 1))).sum(1)


def test_what_a_coarse_label_has_goes_to_its_leaves_in_proportion() -> None:
    assert leaf_labels(TREE).tolist() == [False, True, True, False, True]
    p_CV = np.array([[0.3, 0.3, 0.1, 0.2, 0.1], [0.6, 0, 0, 0.4, 0]])
    expected = [[0, 0.3 + 0.225, 0.1 + 0.075, 0, 0.3], [0, 0.3, 0.3, 0, 0.4]]
    np.testing.assert_allclose(leaf_probabilities(p_CV, TREE), expected, atol=1e-9)
    own_CV = drawn(20)[0]
    np.testing.assert_allclose(leaf_probabilities(own_CV, np.eye(6, dtype=bool)), own_CV, atol=1e-9)


def test_a_set_is_never_empty_and_says_where_no_label_is_typical() -> None:
    p_CV = np.array([[0.5, 0.4, 0.1], [0.4, 0.35, 0.25], [0.9, 0.1, 0]])
    set_CV, none_C = leaf_sets(p_CV, 0.45)
    assert set_CV.tolist() == [[True, False, False], [True, False, False], [True, False, False]]
    assert none_C.tolist() == [1]
    assert leaf_sets(p_CV, 0.1)[0].sum(1).tolist() == [3, 3, 2]


class Known(ClassifierMixin, BaseEstimator):
    """A classifier whose data are its probabilities."""

    classes_ = np.arange(6)

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Known":
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("coverage", [0.6, 0.9])
def test_sets_of_exchangeable_cells_are_those_of_mapie(coverage: float) -> None:
    mapie = pytest.importorskip("mapie.classification")
    p_CV, truth_C = drawn(2000)
    least = least_probabilities(p_CV[np.arange(2000), truth_C], np.arange(2000))[level(coverage)]
    new_CV, new_C = drawn(2000, seed=1)
    theirs = mapie.SplitConformalClassifier(Known(), coverage, conformity_score="lac").conformalize(p_CV, truth_C)
    their_CV = theirs.predict_set(new_CV)[1][:, :, 0]
    our_CV, none_C = leaf_sets(new_CV, least)
    some_C = their_CV.any(1)
    assert np.flatnonzero(~some_C).tolist() == none_C.tolist()
    np.testing.assert_array_equal(our_CV[some_C], their_CV[some_C])
    assert our_CV[np.arange(2000), new_C].mean() >= coverage - 0.03


def test_errors_read_the_reported_label_the_leaves_and_the_novelty() -> None:
    p_CV = np.array([[0.0, 0.9, 0.05, 0.0, 0.05], [0.2, 0.2, 0.2, 0.2, 0.2]])
    features_CF = error_features(p_CV, TREE, np.array([1.0, 2.0]))
    np.testing.assert_allclose(features_CF[0], [np.log(0.1 / 0.9), 0.3944, 0], rtol=1e-3)
    # In the tree T cell wins with 0.6 and none of its own leaves has more than it has for itself.
    assert features_CF[1, 0] == pytest.approx(np.log(0.4 / 0.6))
    error_C = STUDIES.error(features_CF)
    logit_C = features_CF[:, 0] + 0.5 * features_CF[:, 1] + 2 * np.log([1, 2]) - 1
    np.testing.assert_allclose(error_C, 1 / (1 + np.exp(-logit_C)), rtol=1e-5)


def test_a_calibration_on_studies_goes_through_the_checkpoint(tmp_path) -> None:
    file = tmp_path / "calibration.json"
    Calibration(studies={"cell_type": STUDIES}).save(file)
    assert Calibration.load(file, {"cell_type": 5}).studies["cell_type"].least_A == list(STUDIES.least_A)
    Calibration(studies={"cell_type": replace(STUDIES, least_A=(0.1,))}).save(file)
    with pytest.raises(CheckpointError, match="is no calibration of this model"):
        Calibration.load(file, {"cell_type": 5})
    old = {name: one for name, one in json.loads(file.read_text()).items() if name != "studies"}
    file.write_text(json.dumps(old))
    assert Calibration.load(file, {"cell_type": 5}).studies == {}
