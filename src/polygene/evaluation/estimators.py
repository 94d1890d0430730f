"""The predictors behind the baselines: scikit-learn's, fitted on sparse matrices and applied to cells block by block.

Legend: C cells, G panel genes, S sources, V labels of a phenotype, D components, K neighbours, F features.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

log = logging.getLogger("polygene")

ClassWeight = Literal["balanced"] | None
TOLERANCE, RIDGE_TOLERANCE = 1e-5, 1e-12
"""Largest entry of the gradient of the mean loss at which logistic regression has converged; residual of the ridge."""
MAX_ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class CellTable:
    """The cells a baseline sees: what PolyGene sees, as a matrix.

    Attributes
    ----------
    x_CG
        CSR, log1p counts per 10,000 of the panel genes; a gene that was not measured is 0.
    sources_C
        int, row of `measured_SG`.
    measured_SG
        bool, which panel genes each source measured.
    donors_C
        Donor of each cell, None, NaN or "" where not known; None where no cell has one. Used in training only.
    """

    x_CG: sparse.csr_matrix
    sources_C: np.ndarray
    measured_SG: np.ndarray
    donors_C: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sources_C)

    def blocks(self) -> Iterable["CellTable"]:
        """Give the cells a few at a time; here, all are in memory already."""
        return [self]

    def __getitem__(self, rows: np.ndarray) -> "CellTable":
        """Take some of the cells."""
        donors_C = None if self.donors_C is None else np.asarray(self.donors_C, dtype=object)[rows]
        return CellTable(
            x_CG=self.x_CG[rows], sources_C=self.sources_C[rows], measured_SG=self.measured_SG, donors_C=donors_C
        )


class Cells(Protocol):
    """Cells to predict, of which only a block is in memory at a time."""

    @property
    def sources_C(self) -> np.ndarray:
        """Row of `measured_SG` of each cell."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterable[CellTable]:
        """Give the cells a few at a time, in order."""


def source_frequencies(train: CellTable, labels_C: np.ndarray, test: Cells, n_labels: int) -> np.ndarray:
    """Give the label frequencies within the source of each test cell."""
    counts_SV = np.zeros((len(train.measured_SG), n_labels))
    np.add.at(counts_SV, (train.sources_C, labels_C), 1)
    counts_SV += counts_SV.sum(axis=0) / counts_SV.sum()
    return (counts_SV / counts_SV.sum(axis=1, keepdims=True))[test.sources_C]


def depth_and_coverage(
    train: CellTable, labels_C: np.ndarray, test: Cells, n_labels: int, class_weight: ClassWeight
) -> np.ndarray:
    """Predict by logistic regression from depth and from which genes were measured, without seeing a gene."""
    model = Pipeline([("scale", StandardScaler()), ("fit", _regression(class_weight))])
    (fitted,) = _fits(model, _features(train, train), labels_C, "C", [1.0])
    return _probabilities(fitted, (_features(block, train) for block in test.blocks()), n_labels)


def _features(cells: CellTable, train: CellTable) -> np.ndarray:
    """Describe cells without naming a gene: depth three ways, and which of the training panels was measured, (C, F)."""
    x_CG = cells.x_CG.tocsr()
    n_expressed_C = np.diff(x_CG.indptr)
    rows_N = np.repeat(np.arange(len(cells)), n_expressed_C)
    smallest_C = np.full(len(cells), np.inf)
    np.minimum.at(smallest_C, rows_N, x_CG.data)
    total_C = np.bincount(rows_N, weights=np.expm1(x_CG.data), minlength=len(cells))
    depth = [np.log1p(total_C), np.log1p(n_expressed_C), np.where(np.isfinite(smallest_C), smallest_C, 0.0)]
    panels = np.unique(train.measured_SG[np.unique(train.sources_C)], axis=0)
    coverage = [(cells.measured_SG == panel_G).all(axis=1)[cells.sources_C] for panel_G in panels]
    return np.column_stack([*depth, *coverage]).astype(float)


def logistic(
    train: CellTable,
    labels_C: np.ndarray,
    test: Cells,
    penalties: Sequence[float],
    n_labels: int,
    class_weight: ClassWeight,
) -> Iterator[np.ndarray]:
    """Predict by logistic regression for each C, (C, V) each.

    Columns are divided by their training standard deviation and not centred: the intercept is not penalised, so
    centring would move it and change no prediction, while the matrix stays sparse.
    """
    model = Pipeline([("scale", StandardScaler(with_mean=False)), ("fit", _regression(class_weight))])
    for fitted in _fits(model, train.x_CG.astype(float), labels_C, "C", penalties):
        yield _probabilities(fitted, (block.x_CG.astype(float) for block in test.blocks()), n_labels)


def ridge(train: CellTable, years_C: np.ndarray, test: Cells, penalties: Sequence[float]) -> Iterator[np.ndarray]:
    """Predict years by ridge regression for each α, (C,) each; genes are scaled as for `logistic`."""
    regression = Ridge(solver="sparse_cg", tol=RIDGE_TOLERANCE)
    model = Pipeline([("scale", StandardScaler(with_mean=False)), ("fit", regression)])
    for fitted in _fits(model, train.x_CG.astype(float), years_C, "alpha", penalties):
        yield np.concatenate([fitted.predict(block.x_CG.astype(float)) for block in test.blocks()])


def neighbours(
    train: CellTable,
    labels_C: np.ndarray,
    test: Cells,
    settings: Sequence[tuple[int, int]],
    n_labels: int,
    class_weight: ClassWeight,
) -> list[np.ndarray]:
    """Let the k nearest training cells vote, for each number of components and k, (C, V) each.

    Genes are scaled because that was as good or better: macro-F1 0.50 for 0.41 on ten T cell types of seven donors,
    0.98 for 0.98 on four blood cell types of forty. The components are those of the centred matrix, which stays sparse;
    all settings share them, which a pipeline for each would compute anew.
    """
    classes, codes_C = np.unique(labels_C, return_inverse=True)
    counts_V = np.bincount(codes_C)
    weights_V = 1.0 / counts_V if class_weight == "balanced" else np.ones(len(classes))
    prior_V = counts_V * weights_V / (counts_V * weights_V).sum()
    most = min(max(n_components for n_components, _ in settings), min(train.x_CG.shape) - 1)
    scaler = StandardScaler(with_mean=False)
    components = Pipeline([("scale", scaler), ("pca", PCA(most, svd_solver="arpack", random_state=0))])
    train_CD = components.fit_transform(train.x_CG.astype(float))
    indices = {}
    for n_components in dict.fromkeys(n for n, _ in settings):
        n_neighbours = min(max(k for n, k in settings if n == n_components), len(train))
        index = NearestNeighbors(n_neighbors=n_neighbours, algorithm="brute")
        indices[n_components] = index.fit(train_CD[:, :n_components])
    predictions: list[list[np.ndarray]] = [[] for _ in settings]
    for block in test.blocks():
        block_CD = components.transform(block.x_CG.astype(float))
        nearest = {n: index.kneighbors(block_CD[:, :n], return_distance=False) for n, index in indices.items()}
        for of_setting, (n_components, k) in zip(predictions, settings, strict=True):
            votes_CK = codes_C[nearest[n_components][:, :k]]
            votes_CV = np.stack([(votes_CK == v).sum(axis=1) for v in range(len(classes))], axis=1) * weights_V
            scale_C = votes_CV.sum(axis=1, keepdims=True) / votes_CK.shape[1]
            shares_CV = (votes_CV + scale_C * prior_V) / (votes_CV.sum(axis=1, keepdims=True) + scale_C)
            of_setting.append(_all_columns(shares_CV, classes, n_labels))
    return [np.concatenate(of_setting) for of_setting in predictions]


def _regression(class_weight: ClassWeight) -> LogisticRegression:
    # Newton-CG takes the missing centre well (lbfgs does not) and reaches the tolerance in 10 to 20 steps.
    return LogisticRegression(
        solver="newton-cg", tol=TOLERANCE, max_iter=MAX_ITERATIONS, class_weight=class_weight, warm_start=True
    )


def _fits(
    model: Pipeline, x: np.ndarray | sparse.csr_matrix, target_C: np.ndarray, parameter: str, settings: Sequence[float]
) -> Iterator[Pipeline]:
    """Fit the same model for each setting, where it can from the solution of the one before."""
    for setting in settings:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.set_params(**{f"fit__{parameter}": setting}).fit(x, target_C)
        for warning in caught:
            log.warning("%s with %s=%g: %s", type(model[-1]).__name__, parameter, setting, warning.message)
        yield model


def _probabilities(model: Pipeline, blocks: Iterable[np.ndarray | sparse.csr_matrix], n_labels: int) -> np.ndarray:
    return np.concatenate([_all_columns(model.predict_proba(block), model.classes_, n_labels) for block in blocks])


def _all_columns(probabilities: np.ndarray, classes: np.ndarray, n_labels: int) -> np.ndarray:
    """Place the columns of the labels that training had among those of the whole vocabulary."""
    probabilities_CV = np.zeros((len(probabilities), n_labels))
    probabilities_CV[:, classes] = probabilities
    return probabilities_CV
