"""Baselines that every result stands beside: simple predictors, trained on the same cells, tuned on training donors.

Labels are an argument of their own and those of the test cells are never passed, so no baseline can see them.

- majority: the frequencies of the labels in training, so its log loss is the marginal's.
- source majority: the same within the cell's source, shrunk to the former by one cell.
- measured genes + library size: logistic regression (C = 1) on which genes the source measured, the panel's total,
  the number of expressed genes and the smallest expressed value (one count, hence the depth). It sees no gene.
- k-nearest neighbours: Euclidean, on the leading principal components of the scaled genes; a label's probability is
  its share of the k cells and of one more that stands for the training frequencies. Components and k are tuned.
- logistic regression: multinomial with an L2 penalty on all genes, each divided by its training standard deviation.
  C is tuned.

Legend: C cells, G panel genes, V labels of a phenotype.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from polygene.evaluation.estimators import (
    Cells,
    CellTable,
    ClassWeight,
    depth_and_coverage,
    logistic,
    neighbours,
    ridge,
    source_frequencies,
)
from polygene.evaluation.folds import donor_folds
from polygene.evaluation.metrics import SMALLEST_PROBABILITY
from polygene.runtime.subsample import spread

log = logging.getLogger("polygene")

LabelBaseline = Literal[
    "majority",
    "source majority",
    "measured genes + library size",
    "k-nearest neighbours",
    "logistic regression",
]
YearsBaseline = Literal["training mean", "ridge regression"]
TuningScore = Literal["macro_f1", "log_loss"]
LABEL_BASELINES: tuple[LabelBaseline, ...] = get_args(LabelBaseline)
YEARS_BASELINES: tuple[YearsBaseline, ...] = get_args(YearsBaseline)

N_FOLDS, MOST_TUNING_CELLS = 3, 20_000  # settings are chosen on at most so many training cells, evenly spread
PENALTIES_C = tuple(10.0**power for power in range(-5, 1))
"""C of the logistic regression, from almost constant predictions to almost none penalised."""
PENALTIES_ALPHA = tuple(10.0**power for power in range(1, 8))
"""α of the ridge regression, whose columns have length √C."""
NEIGHBOURS = tuple((n_components, k) for k in (50, 15, 5) for n_components in (10, 20, 50))
"""Principal components and k of the nearest neighbours."""

Predict = Callable[[CellTable, np.ndarray, Cells, Sequence[Any]], Iterable[np.ndarray]]
"""Train on cells and their target, predict others: (train, target_C, test, settings) → an array for each setting."""


def baseline_probabilities(
    name: LabelBaseline,
    train: CellTable,
    labels_C: np.ndarray,
    test: Cells,
    n_labels: int,
    *,
    class_weight: ClassWeight = None,
    tune_for: TuningScore = "macro_f1",
    seed: int = 0,
) -> np.ndarray:
    """Train one baseline for one phenotype and predict the test cells: `tuned_probabilities` for one score."""
    return tuned_probabilities(
        name, train, labels_C, test, n_labels, class_weight=class_weight, tune_for=[tune_for], seed=seed
    )[0]


def tuned_probabilities(
    name: LabelBaseline,
    train: CellTable,
    labels_C: np.ndarray,
    test: Cells,
    n_labels: int,
    *,
    class_weight: ClassWeight = None,
    tune_for: Sequence[TuningScore],
    seed: int = 0,
) -> list[np.ndarray]:
    """Train one baseline for one phenotype and predict the test cells, tuned once for each of several scores.

    Tuning predicts training cells, at most 20,000, from the donors of other folds (three folds, by donor; by cell where
    there are no donors), and takes the setting with the best score over all of them, the most regular of equals.

    Parameters
    ----------
    labels_C
        int label of each training cell; cells with -1 are left out.
    n_labels
        Size of the vocabulary; labels without a training cell get probability 0.
    class_weight
        "balanced": every label weighs the same.

    Returns
    -------
    probabilities_CV for each score, float64; the same array where there is nothing to tune.
    """
    _check(name, LABEL_BASELINES)
    train, labels_C = train[labels_C >= 0], labels_C[labels_C >= 0].astype(int)
    counts_V = np.bincount(labels_C, minlength=n_labels)
    if name == "majority" or np.count_nonzero(counts_V) < 2:
        return [np.tile(counts_V / max(counts_V.sum(), 1), (len(test), 1))] * len(tune_for)
    if name == "source majority":
        return [source_frequencies(train, labels_C, test, n_labels)] * len(tune_for)
    if name == "measured genes + library size":
        return [depth_and_coverage(train, labels_C, test, n_labels, class_weight)] * len(tune_for)
    by_name: dict[str, tuple[Any, Sequence[Any]]] = {
        "logistic regression": (logistic, PENALTIES_C),
        "k-nearest neighbours": (neighbours, NEIGHBOURS),
    }
    predictor, settings = by_name[name]
    predict = partial(predictor, n_labels=n_labels, class_weight=class_weight)
    scores = [_TUNING_SCORES[score] for score in tune_for]
    best = _tune(name, predict, scores, settings, train, labels_C, labels_C, seed)
    # Fitted one by one, so that a prediction does not depend on which other scores it is tuned for.
    predictions = {setting: next(iter(predict(train, labels_C, test, [setting]))) for setting in set(best)}
    return [predictions[setting] for setting in best]


def baseline_years(
    name: YearsBaseline, train: CellTable, years_C: np.ndarray, test: Cells, *, seed: int = 0
) -> np.ndarray:
    """Train one baseline for age in years and predict the test cells, float64 (C,).

    - training mean: the mean age of the training cells; cells with NaN are left out.
    - ridge regression: on all genes, each divided by its training standard deviation, α tuned for the mean absolute
      error over cells as in `tuned_probabilities`.
    """
    _check(name, YEARS_BASELINES)
    given_C = np.isfinite(years_C)
    train, years_C = train[given_C], years_C[given_C]
    if name == "training mean":
        return np.full(len(test), years_C.mean())
    older_C = (years_C > np.median(years_C)).astype(int)
    settings = PENALTIES_ALPHA[::-1]
    best = _tune(name, ridge, [lambda y, p: -float(np.abs(y - p).mean())], settings, train, years_C, older_C, seed)
    return next(iter(ridge(train, years_C, test, best)))


def _check(name: str, names: Sequence[str]) -> None:
    if name not in names:
        msg = f"there is no baseline {name!r}; choose one of {', '.join(names)}"
        raise ValueError(msg)


def _macro_f1(truth_C: np.ndarray, probabilities_CV: np.ndarray) -> float:
    return float(f1_score(truth_C, probabilities_CV.argmax(axis=1), average="macro", labels=np.unique(truth_C)))


def _mean_log(truth_C: np.ndarray, probabilities_CV: np.ndarray) -> float:
    p_C = probabilities_CV[np.arange(len(truth_C)), truth_C]
    return float(np.log(np.maximum(p_C, SMALLEST_PROBABILITY)).mean())


_TUNING_SCORES: dict[TuningScore, Callable[[np.ndarray, np.ndarray], float]] = {
    "macro_f1": _macro_f1,
    "log_loss": _mean_log,
}
"""They can disagree: where labels belong to donors, as sex and age do, the best log loss is near the constant
prediction's, whose macro-F1 is the worst."""


def _tune(
    name: str,
    predict: Predict,
    scores: Sequence[Callable[[np.ndarray, np.ndarray], float]],
    settings: Sequence[Any],
    train: CellTable,
    target_C: np.ndarray,
    labels_C: np.ndarray,
    seed: int,
) -> list[Any]:
    """Return for each score the setting that predicts held-out training donors best, the first of equals.

    Scored are the predictions of all folds together: a fold of few donors need not have every label, so that a mean
    over folds, as scikit-learn's GridSearchCV takes it, would choose by noise. `labels_C` balances the folds; for age
    it is the older and the younger half. Cells whose label only their own fold has are left out.
    """
    some = spread(len(train), MOST_TUNING_CELLS)
    train, target_C, labels_C = train[some], target_C[some], labels_C[some]
    truths: list[np.ndarray] = []
    predictions: list[list[np.ndarray]] = [[] for _ in settings]
    for fitted, held_out in _folds(train, labels_C, seed):
        known = held_out[np.isin(labels_C[held_out], labels_C[fitted])]
        if not len(known) or len(np.unique(labels_C[fitted])) < 2:
            continue
        truths.append(target_C[known])
        of_fold = predict(train[fitted], target_C[fitted], train[known], settings)
        for of_setting, predicted in zip(predictions, of_fold, strict=True):
            of_setting.append(predicted)
    if not truths:
        log.info("%s: too few donors to tune, taking %s", name, settings[len(settings) // 2])
        return [settings[len(settings) // 2]] * len(scores)
    truth_C, chosen = np.concatenate(truths), []
    for score in scores:
        reached = [score(truth_C, np.concatenate(of_setting)) for of_setting in predictions]
        best = int(np.argmax(reached))
        log.info("%s: chose %s of %s, held-out score %.4f", name, settings[best], list(settings), reached[best])
        chosen.append(settings[best])
    return chosen


def _folds(train: CellTable, labels_C: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split training cells by donor; a label with fewer cells than folds is counted to the most common one."""
    counts_V, donors_C = np.bincount(labels_C), _donors(train)
    strata_C = np.where(counts_V[labels_C] < N_FOLDS, counts_V.argmax(), labels_C)
    if donors_C is not None and len(np.unique(donors_C)) == 1:
        log.info("all training cells are of one donor: tuning on held-out cells")
        donors_C = None
    return donor_folds(strata_C, donors_C, N_FOLDS, seed) if len(labels_C) >= N_FOLDS else []


def _donors(train: CellTable) -> np.ndarray | None:
    """Number the donors; the cells of a source that have none count as one donor."""
    if train.donors_C is None:
        return None
    donors = pd.Series(train.donors_C, dtype=object)
    donors = donors.where(donors.notna() & (donors != ""), "\0" + pd.Series(train.sources_C).astype(str))
    return pd.factorize(donors)[0]
