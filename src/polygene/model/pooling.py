"""Probabilities of many cells: the temperature with the least log loss, and the prediction for a group of cells.

Legend: C cells, G groups, V labels of one phenotype.
"""

from math import exp

import numpy as np

SMALLEST_PROBABILITY = 1e-30
"""What float32 rounds to 0 has no logarithm."""
LEAST_VOTE = 1e-4
TEMPERATURES = (0.05, 20.0)
MOST_FOLDS = 10


def pooled(probabilities_CV: np.ndarray, group_C: np.ndarray, weight: float) -> np.ndarray:
    """Let the cells of each group decide together, (G, V): softmax of weight × the mean of log probabilities.

    The weight is what many cells have; a group of one cell has weight 1 and keeps its prediction. No cell can veto a
    label: a probability counts as `LEAST_VOTE` at least.
    """
    mean_GV, n_G = mean_logs(np.log(np.maximum(probabilities_CV, SMALLEST_PROBABILITY)), group_C)
    scaled_GV = mean_GV * (1 + (weight - 1) * (1 - 1 / n_G))[:, None]
    p_GV: np.ndarray = np.exp(scaled_GV - log_sum_exp(scaled_GV)[:, None])
    return p_GV


def mean_logs(log_p_CV: np.ndarray, group_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average by group the log probabilities, (G, V), and count the cells; a group of one cell has them as they are."""
    n_G = np.bincount(group_C)
    sums_GV = np.zeros((len(n_G), log_p_CV.shape[1]))
    np.add.at(sums_GV, group_C, np.where(n_G[group_C, None] > 1, np.maximum(log_p_CV, np.log(LEAST_VOTE)), log_p_CV))
    return sums_GV / n_G[:, None], n_G


def unit_weights(unit_C: np.ndarray) -> np.ndarray:
    """Weigh cells so that every unit counts the same; they add up to 1."""
    _, inverse_C, counts = np.unique(unit_C, return_inverse=True, return_counts=True)
    return 1.0 / (len(counts) * counts[inverse_C])


def best_temperature(log_p_CV: np.ndarray, true_CV: np.ndarray, unit_C: np.ndarray) -> float:
    """Find the temperature with the least log loss, and keep it if it helps units that it was not found on."""
    from scipy.optimize import minimize_scalar  # takes half a second to import, and predictions do without

    def best(rows: np.ndarray) -> float:
        weights, log_p, true = unit_weights(unit_C[rows]), log_p_CV[rows], true_CV[rows]
        found = minimize_scalar(
            lambda log_t: weights @ surprise(log_p, true, exp(log_t)),
            bounds=tuple(np.log(TEMPERATURES)),
            method="bounded",
        )
        return exp(found.x)

    fold_C = np.unique(unit_C, return_inverse=True)[1] % MOST_FOLDS
    gain_C = np.zeros(len(true_CV))
    for fold in np.unique(fold_C) if fold_C.any() else ():
        out = fold_C == fold
        temperature = best(np.flatnonzero(~out))
        gain_C[out] = surprise(log_p_CV[out], true_CV[out], 1.0) - surprise(log_p_CV[out], true_CV[out], temperature)
    return best(np.arange(len(true_CV))) if unit_weights(unit_C) @ gain_C > 0 else 1.0


def surprise(log_p_CV: np.ndarray, true_CV: np.ndarray, temperature: float) -> np.ndarray:
    """Give −ln of the probability of the labels that are true of a cell together, at a temperature, (C,)."""
    scaled_CV = log_p_CV / temperature
    true_scaled_CV = np.where(true_CV, scaled_CV, -np.inf)
    return log_sum_exp(scaled_CV) - log_sum_exp(true_scaled_CV)


def log_sum_exp(x_CV: np.ndarray) -> np.ndarray:
    """Give the log of the sum of the exponentials of each row, (C,)."""
    most_C1 = x_CV.max(axis=1, keepdims=True)
    sums_C: np.ndarray = np.log(np.exp(x_CV - most_C1).sum(axis=1)) + most_C1[:, 0]
    return sums_C
