"""Sets and errors for studies that the model never saw: leaf labels, thresholds, and the probability of being wrong.

Donors of known studies say nothing of a new one, whose platform, depth and labels differ. So networks that leave whole
studies out predict those, and the study is the exchangeable unit. What is learned from them
(`benchmarks.models.calibrate`) goes with the network that is trained on all.

Legend: C cells, V labels of one phenotype, N terms of an ontology, A coverages, F features.
"""

from dataclasses import dataclass, field

import numpy as np

from polygene.vocab.ontology import reported_labels

FEATURES = ("unsure", "entropy", "novelty")
"""What the probability of being wrong is read from; which others were tried: docs/tables.md."""
LEAST = 1e-4
NOTHING = 1e-12


@dataclass(frozen=True, kw_only=True)
class StudyCalibration:
    """What left-out studies taught of one phenotype.

    Attributes
    ----------
    studies, cells
        Names of the groups of studies that were left out together, and how many of their cells were used.
    least_A
        The lowest probability with which a leaf is in the set, for each of `calibration.COVERAGES`.
    held, size
        At 0.9 the mean coverage of each group by the threshold of the others, and the mean size of the sets.
    weights, bias
        Of the logistic regression of "the reported label is wrong" on `FEATURES`, or the first of them.
    novelty
        The novelty that 5 % of their cells of known types exceed; 1 is what donors of known studies set.
    auroc, auroc_unsure
        Of wrong labels: mean over the groups, each by the regression on the others; and of 1 − probability alone.
    """

    studies: tuple[str, ...]
    cells: int
    least_A: tuple[float, ...] = field(repr=False)
    held: float
    size: float
    weights: tuple[float, ...]
    bias: float
    novelty: float
    auroc: float
    auroc_unsure: float

    @property
    def units(self) -> int:
        """How many groups of studies there are."""
        return len(self.studies)

    def error(self, features_CF: np.ndarray) -> np.ndarray:
        """Probability that the reported label of each cell is wrong, float32 (C,)."""
        logit_C = features_CF[:, : len(self.weights)] @ np.array(self.weights) + self.bias
        p_C: np.ndarray = 1 / (1 + np.exp(-logit_C))
        return p_C.astype(np.float32)


def leaf_labels(at_or_below_VV: np.ndarray) -> np.ndarray:
    """Which labels have no finer one, bool (V,)."""
    leaf_V: np.ndarray = ~(at_or_below_VV & ~at_or_below_VV.T).any(axis=1)
    return leaf_V


def leaf_probabilities(probabilities_CV: np.ndarray, at_or_below_VV: np.ndarray) -> np.ndarray:
    """Share what a coarse label has for itself among the leaves below it, in proportion to theirs, (C, V).

    A cell of a coarse label is of one of its leaves; the others are zero.
    """
    leaf_V = leaf_labels(at_or_below_VV)
    leaves_CV = np.where(leaf_V, probabilities_CV.astype(float) + NOTHING, 0)
    below_VV = at_or_below_VV[~leaf_V].astype(float)
    shares_CV = (probabilities_CV[:, ~leaf_V] / (leaves_CV @ below_VV.T)) @ below_VV
    shared_CV = leaves_CV * (1 + shares_CV)
    p_CV: np.ndarray = shared_CV / shared_CV.sum(axis=1, keepdims=True)
    return p_CV


def leaf_sets(leaves_CV: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Make the sets, bool (C, V), and say which cells, by number, have no typical label.

    A leaf is in the set if it is at least so probable. A set is never empty: without such a leaf it holds the most
    probable one.
    """
    set_CV = leaves_CV >= least
    none_C = np.flatnonzero(~set_CV.any(axis=1))
    set_CV[none_C, leaves_CV[none_C].argmax(axis=1)] = True
    return set_CV, none_C


def error_features(probabilities_CV: np.ndarray, at_or_below_VV: np.ndarray, novelty_C: np.ndarray) -> np.ndarray:
    """Give what the probability of being wrong is read from, (C, F) in the order of `FEATURES`.

    The log odds that the reported label is not the true one, the entropy of the leaves, and the log of the novelty.
    """
    label_C = reported_labels(probabilities_CV, at_or_below_VV)
    p_C = np.where(at_or_below_VV[label_C], probabilities_CV, 0).sum(axis=1).clip(LEAST, 1 - LEAST)
    leaves_CV = leaf_probabilities(probabilities_CV, at_or_below_VV)
    entropy_C = -(leaves_CV * np.log(np.maximum(leaves_CV, NOTHING))).sum(axis=1)
    return np.column_stack([np.log(1 - p_C) - np.log(p_C), entropy_C, np.log(np.maximum(novelty_C, 1e-3))])
