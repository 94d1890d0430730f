"""Fit a head: three logistic regressions, on what the network computes and on genes, mixed into one.

Legend: C cells, F features, E experts, V labels.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from polygene.evaluation.folds import donor_folds
from polygene.evaluation.metrics import label_scores, label_tally
from polygene.model.head import NEVER
from polygene.runtime.subsample import spread

logger = logging.getLogger("polygene")

STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse strengths of regularisation that are tried, for cells whose mean squared length is 1."""
CHOSEN_ON = 2_000
"""Labelled cells, at most, on which strengths and weights are chosen; on them the head is scored and calibrated."""
N_FOLDS = 5
PULL = 0.3
"""What a weight that is e times that of equal experts must gain, in nats, which keeps few cells from choosing one."""

MAX_ITERATIONS = 1_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A fitted classifier of features: its logits are `features_CF @ weights_FV + bias_V`.

    `held_out_CV` are the probabilities of the cells `held_out_C` by a head that did not see their donor, whose mix was
    chosen without them; `macro_f1` is their score over the `scored` labels, those that more than one donor has.
    """

    weights_FV: np.ndarray
    bias_V: np.ndarray
    held_out_C: np.ndarray
    held_out_CV: np.ndarray
    scored: np.ndarray
    macro_f1: float
    held_out: Literal["donors", "cells"]
    strengths_E: tuple[float, ...]
    mix_E: tuple[float, ...]


def fit_head(
    features_CF: np.ndarray,
    labels_C: np.ndarray,
    donors_C: np.ndarray,
    *,
    experts: Sequence[np.ndarray],
    n_labels: int | None = None,
    seed: int = 0,
) -> Fit:
    """Fit a head for labels 0 … V-1.

    Every expert is a logistic regression on some of the features, its regularisation chosen by cross-validation over
    donors (-1: not given). Their logits are added with the weights that predict held-out donors best: what misleads in
    this study counts little (a product of experts, Hinton 2002; stacking, Wolpert 1992).

    Parameters
    ----------
    experts
        For each the factors of the features, 0 for those that it does not read (see `scaled_alike`).
    n_labels
        V, or as many as the cells have; a label that no cell has is never predicted.
    """
    n_labels, held_out = n_labels or int(labels_C.max()) + 1, held_out_by(labels_C, donors_C)
    features_CF = features_CF.astype(float)  # in single precision a fit is not the same each time
    mean_F = features_CF.mean(axis=0)
    read_EF = [np.flatnonzero(factor_F) for factor_F in experts]
    scaled = [(features_CF[:, read] - mean_F[read]) * f[read] for read, f in zip(read_EF, experts, strict=True)]
    few = spread(len(labels_C), CHOSEN_ON)
    groups_C = donors_C[few] if held_out == "donors" else None
    folds = donor_folds(labels_C[few], groups_C, N_FOLDS, seed)
    tried = [_held_out_logits(x_CF[few], labels_C[few], n_labels, folds) for x_CF in scaled]
    strengths_E, mix_E = _choose(tried, labels_C[few])
    held_out_CV = np.zeros((len(few), n_labels), np.float32)
    for _, test in folds:  # chosen by the cells of the other folds
        others = np.setdiff1d(np.arange(len(few)), test)
        chosen = _choose([{c: x_CV[others] for c, x_CV in one.items()} for one in tried], labels_C[few][others])
        held_out_CV[test] = softmax(
            _mixed([one[c][test] for one, c in zip(tried, chosen[0], strict=True)], chosen[1]), axis=1
        )
    scored = _scored(labels_C, donors_C if held_out == "donors" else np.arange(len(labels_C)), n_labels)
    tally = label_tally(held_out_CV, labels_C[few], scorable_SV=np.isin(np.arange(n_labels), scored)[None])
    weights_FV, bias_V = np.zeros((len(mean_F), n_labels)), np.zeros(n_labels)
    for x_CF, read, factor_F, c, weight in zip(scaled, read_EF, experts, strengths_E, mix_E, strict=True):
        (of_expert,) = _fits(x_CF, labels_C, n_labels, [c])
        weights_FV[read] += weight * factor_F[read, None] * of_expert[0]
        bias_V += weight * of_expert[1]
    bias_V = np.where(np.isin(np.arange(n_labels), labels_C), bias_V - mean_F @ weights_FV, NEVER)
    return Fit(
        weights_FV=weights_FV, bias_V=bias_V, held_out_C=few, held_out_CV=held_out_CV, scored=scored,
        macro_f1=label_scores(tally)["macro_f1"], held_out=held_out, strengths_E=strengths_E, mix_E=mix_E,
    )  # fmt: skip


def scaled_alike(features_CF: np.ndarray, weights_F: np.ndarray, power: float) -> np.ndarray:
    """Give factors by which features are divided by a power of their spread, and cells have a mean squared length of 1.

    `weights_F` weighs the features before; a feature that does not vary gets 0.
    """
    spread_F = features_CF.std(axis=0, dtype=float)
    varies_F = spread_F > 1e-6
    factor_F = weights_F * np.where(varies_F, np.where(varies_F, spread_F, 1) ** -power, 0)
    length: float = np.sqrt(np.square(factor_F * spread_F).sum())
    return factor_F / max(length, 1e-12)


def held_out_by(labels_C: np.ndarray, donors_C: np.ndarray) -> Literal["donors", "cells"]:
    """Return what can be held out to score labels (-1: not given); warn if it is cells."""
    if len(_scored(labels_C[labels_C >= 0], donors_C[labels_C >= 0], int(labels_C.max()) + 1)) >= 2:
        return "donors"
    logger.warning("no two labels have two known donors each, so cells are held out, which flatters the score")
    return "cells"


def _scored(labels_C: np.ndarray, groups_C: np.ndarray, n_labels: int) -> np.ndarray:
    """List the labels that two groups or more have; cells whose group is not given are in none."""
    pairs = np.unique(np.stack([labels_C, groups_C])[:, groups_C >= 0], axis=1)
    return np.flatnonzero(np.bincount(pairs[0], minlength=n_labels) >= 2)


def _held_out_logits(
    x_CF: np.ndarray, labels_C: np.ndarray, n_labels: int, folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[float, np.ndarray]:
    """Predict every cell by a fit that did not see its fold: log-probabilities by strength, (C, V) each."""
    found = {c: np.zeros((len(x_CF), n_labels)) for c in STRENGTHS}
    for train, test in folds:
        fits = _fits(x_CF[train], labels_C[train], n_labels, STRENGTHS)
        for c, (weights_FV, bias_V) in zip(STRENGTHS, fits, strict=True):
            found[c][test] = log_softmax(x_CF[test] @ weights_FV + bias_V, axis=1)
    return found


def _choose(
    tried: Sequence[dict[float, np.ndarray]], labels_C: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Choose a strength for each expert and then their weights, by the log loss on what was held out.

    A cell does not count if no training cell of its fold has its label.
    """
    rows = np.arange(len(labels_C))
    known = np.flatnonzero(tried[0][STRENGTHS[0]][rows, labels_C] > NEVER / 2)
    labels_K = labels_C[known]

    def loss(log_p_CV: np.ndarray) -> float:
        return float(-log_p_CV[np.arange(len(known)), labels_K].sum())

    strengths = tuple(min(one, key=lambda c: loss(one[c][known])) for one in tried)
    of_experts = [one[c][known] for one, c in zip(tried, strengths, strict=True)]
    equal = np.log(1 / len(tried))

    def regret(log_weights_E: np.ndarray) -> float:
        mixed_CV = log_softmax(_mixed(of_experts, np.exp(log_weights_E)), axis=1)
        return loss(mixed_CV) + PULL * float(np.square(log_weights_E - equal).sum())

    found = minimize(regret, np.full(len(tried), equal), method="L-BFGS-B", bounds=[(-5, 3)] * len(tried))
    return strengths, tuple(np.exp(found.x).tolist())


def _mixed(logits_ECV: Sequence[np.ndarray], weights_E: Sequence[float] | np.ndarray) -> np.ndarray:
    return sum(w * x_CV for w, x_CV in zip(weights_E, logits_ECV, strict=True))


def _fits(
    x_CF: np.ndarray, labels_C: np.ndarray, n_labels: int, strengths: Sequence[float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fit logistic regressions of several strengths: (weights_FV, bias_V) each."""
    seen, codes_C = np.unique(labels_C, return_inverse=True)
    bias_V = np.where(np.isin(np.arange(n_labels), seen), 0, NEVER)
    if len(seen) == 1:
        return [(np.zeros((x_CF.shape[1], n_labels)), bias_V)] * len(strengths)
    axes_FR = None if len(x_CF) >= x_CF.shape[1] else axes_of(x_CF)
    along_CR = x_CF if axes_FR is None else x_CF @ axes_FR
    fits = []
    for c in strengths:
        regression = LogisticRegression(C=c, max_iter=MAX_ITERATIONS)
        # a second thread gains little here, and loses tenfold where other work keeps the cores busy
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            regression.fit(along_CR, codes_C)
        weights_FV, biases_V = np.zeros((x_CF.shape[1], n_labels)), bias_V.astype(float)
        one_logit = int(len(seen) == 2)  # that of the second
        weights_RV = regression.coef_.T
        weights_FV[:, seen[one_logit:]] = weights_RV if axes_FR is None else axes_FR @ weights_RV
        biases_V[seen[one_logit:]] = regression.intercept_
        fits.append((weights_FV, biases_V))
    return fits


def axes_of(x_CF: np.ndarray) -> np.ndarray:
    """Give axes in which the cells lie, (F, R): a ridge has no weight outside them, so fewer cells need fewer axes."""
    lengths_R, cells_CR = np.linalg.eigh(x_CF @ x_CF.T)
    kept = lengths_R > 1e-9 * lengths_R[-1]
    return x_CF.T @ (cells_CR[:, kept] / np.sqrt(lengths_R[kept]))
