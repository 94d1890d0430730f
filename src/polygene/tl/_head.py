"""A head: logistic regression from the hidden state of a query, and from the bins of the genes, to any label.

Legend: C cells, D width, G panel genes, F features (D + G), V labels.
"""

import logging
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from polygene.evaluation.folds import donor_folds
from polygene.evaluation.metrics import label_scores, label_tally
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import predict_labels
from polygene.runtime.subsample import spread
from polygene.vocab.cells import EncodedCells

logger = logging.getLogger("polygene")

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of regularisation that are tried, for features whose variances add up to 1 in each part."""
SHARES = (1.0, 0.25, 0.0)
"""Weight of the query's state beside the genes: as much, or less where the cells are foreign to the network."""
CHOSEN_ON = 4_000
"""Labelled cells, at most, on which these two are chosen."""
N_FOLDS = 5

MAX_ITERATIONS = 1_000
NEVER = -100.0
"""Logit of a label that no cell has."""


def head_features(model: PolyGene, cells: EncodedCells, query: str) -> np.ndarray:
    """What a head reads, float32 (C, F): the state of a phenotype's query, nothing given, then a value a gene.

    The values are those of the network's `LinearBranch`, 0 where a gene is not expressed or not measured, so that the
    network itself can predict what the head predicts.
    """
    branch = model.network.linear_branch
    bins_B, genes_GD = (one.detach().float().cpu().numpy() for one in (branch.bins, branch.genes.weight))
    values_CG = cells.as_csr(bins_B[cells.bins_N], len(genes_GD)).toarray()
    (state_CD,) = predict_labels(model, cells, predict=[query])[1]
    return np.concatenate([state_CD + values_CG @ genes_GD, values_CG], axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A classifier of features: its logits are `features_CF @ weights_FV + bias_V`.

    `held_out_CV` are the probabilities of each cell from a head that did not see its donor, and `macro_f1` their score
    over the `scored` labels, those that more than one donor has. `strength` and `share` are those of `STRENGTHS` and
    `SHARES` with the least log loss on what was held out: "donors", or "cells" where donors do not serve.
    """

    weights_FV: np.ndarray
    bias_V: np.ndarray
    held_out_CV: np.ndarray
    scored: np.ndarray
    macro_f1: float
    held_out: Literal["donors", "cells"]
    strength: float
    share: float

    def probabilities(self, features_CF: np.ndarray) -> np.ndarray:
        return softmax(features_CF @ self.weights_FV + self.bias_V, axis=1).astype(np.float32)


def fit_head(
    features_CF: np.ndarray,
    labels_C: np.ndarray,
    donors_C: np.ndarray,
    *,
    width: int,
    n_labels: int | None = None,
    seed: int = 0,
) -> Head:
    """Fit a head for labels 0 … V-1, its regularisation chosen by cross-validation over donors (-1: not given).

    V is `n_labels`, or as many as the cells have; a label that no cell has is never predicted. The first `width`
    features are the state of the query, the others the genes.
    """
    n_labels, held_out = n_labels or int(labels_C.max()) + 1, held_out_by(labels_C, donors_C)
    groups_C = donors_C if held_out == "donors" else np.arange(len(labels_C))
    scored = _scored(labels_C, groups_C, n_labels)
    features_CF = features_CF.astype(float)  # in single precision a fit is not the same each time
    mean_F, scale_F = features_CF.mean(axis=0), features_CF.std(axis=0)
    # state and genes weigh alike, however many features they have, unless a smaller share of the state does better
    is_state_F = np.arange(len(mean_F)) < width
    n_alike_F = np.where(is_state_F, width, len(mean_F) - width)
    factor_F = 1 / np.where(scale_F > 1e-6, scale_F, np.inf) / np.sqrt(n_alike_F)
    scaled_CF = (features_CF - mean_F) * factor_F

    def cross_validated(cells: np.ndarray, strength: float, share: float) -> tuple[dict[str, float], np.ndarray]:
        shared_CF, known_C = scaled_CF[cells] * np.where(is_state_F, share, 1), labels_C[cells]
        p_CV = np.zeros((len(cells), n_labels), np.float32)
        for train, test in donor_folds(known_C, groups_C[cells], N_FOLDS, seed):
            weights_FV, bias_V = _fit(shared_CF[train], known_C[train], n_labels, strength)
            p_CV[test] = softmax(shared_CF[test] @ weights_FV + bias_V, axis=1)
        return label_scores(label_tally(p_CV, known_C, scorable_SV=np.isin(np.arange(n_labels), scored)[None])), p_CV

    few = spread(len(labels_C), CHOSEN_ON)
    options = [(strength, share) for strength in STRENGTHS for share in SHARES]
    strength, share = options[int(np.argmin([cross_validated(few, *one)[0]["log_loss"] for one in options]))]
    scores, held_out_CV = cross_validated(np.arange(len(labels_C)), strength, share)
    share_F = np.where(is_state_F, share, 1)
    weights_FV, bias_V = _fit(scaled_CF * share_F, labels_C, n_labels, strength)
    weights_FV *= (factor_F * share_F)[:, None]
    bias_V = bias_V - mean_F @ weights_FV
    return Head(
        weights_FV=weights_FV, bias_V=bias_V, held_out_CV=held_out_CV, scored=scored, macro_f1=scores["macro_f1"],
        held_out=held_out, strength=strength, share=share,
    )  # fmt: skip


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


def _fit(scaled_CF: np.ndarray, labels_C: np.ndarray, n_labels: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    weights_FV, bias_V = np.zeros((scaled_CF.shape[1], n_labels)), np.full(n_labels, NEVER)
    seen = np.unique(labels_C)
    if len(seen) == 1:
        bias_V[seen] = 0
        return weights_FV, bias_V
    regression = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
    # a second thread gains little here, and loses tenfold where other work keeps the cores busy
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        regression.fit(scaled_CF, labels_C)
    if (regression.n_iter_ >= MAX_ITERATIONS).any():
        logger.warning("the head did not settle within %d steps; its probabilities may be too sure", MAX_ITERATIONS)
    if len(seen) == 2:  # one logit, that of the second
        weights_FV[:, seen[1]], bias_V[seen] = regression.coef_[0], [0, regression.intercept_[0]]
    else:
        weights_FV[:, seen], bias_V[seen] = regression.coef_.T, regression.intercept_
    return weights_FV, bias_V
