"""Reconstruction of masked genes: 15 % of the measured genes of test cells are masked and predicted.

Legend: C cells, G panel genes, Q masked genes of cells, B bins, N expressed genes of cells.
"""

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from polygene.corpus.corpus import CorpusSplit
from polygene.evaluation.metrics import SMALLEST_PROBABILITY
from polygene.evaluation.test_cells import MODEL
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import bin_probabilities
from polygene.model.masking import MaskingConfig, mask_genes
from polygene.runtime.hashing import uniform
from polygene.runtime.subsample import spread
from polygene.vocab.cells import EncodedCells

MOST_GENE_CELLS = 2_000
"""Scored on at most so many cells; each gives dozens of predictions."""


def score_genes(model: PolyGene, split: CorpusSplit, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Score masked genes of at most MOST_GENE_CELLS cells of a split, see `score_masked_genes`."""
    rows = spread(len(split), MOST_GENE_CELLS)
    return score_masked_genes(model, split.cells(rows), split.measured_SG[split.sources_C[rows]], seed=seed)


def score_masked_genes(
    model: PolyGene, cells: EncodedCells, measured_CG: np.ndarray, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Mask 15 % of the measured genes of cells, no label given, and score the predictions.

    Returns
    -------
    Scores by predictor, those of `bin_scores` and `value_scores`: the model, and "training mean", which predicts the
    frequencies of each gene in training.
    """
    n_genes = measured_CG.shape[1]
    random_CG = uniform(seed, np.zeros(len(cells)), np.arange(len(cells)), np.arange(n_genes))
    cells_Q, genes_Q, bins_Q, weights_Q, visible_N = mask_genes(cells, measured_CG, random_CG, MaskingConfig())
    order = np.lexsort((genes_Q, cells_Q))
    cells_Q, genes_Q, bins_Q, weights_Q = cells_Q[order], genes_Q[order], bins_Q[order], weights_Q[order]
    values_Q = np.asarray(cells.as_csr(cells.values_N, n_genes)[cells_Q, genes_Q]).ravel()
    counts_GB = model.tokenizer.inverse.counts_GB + 0.5
    predictions = {
        MODEL: bin_probabilities(model, cells, cells_Q, genes_Q, visible_N),
        "training mean": (counts_GB / counts_GB.sum(1, keepdims=True))[genes_Q].astype(np.float32),
    }
    return {
        name: bin_scores(p_QB, bins_Q, weights_Q)
        | value_scores(model.tokenizer.inverse.expectation(p_QB, genes_Q), values_Q, genes_Q, weights_Q)
        for name, p_QB in predictions.items()
    }


def bin_scores(probabilities_QB: np.ndarray, bins_Q: np.ndarray, weights_Q: np.ndarray) -> dict[str, float]:
    """Score predicted bins of masked genes; bin 0 is "not expressed".

    `weights_Q` is how many genes each one stands for, where unexpressed genes were sampled.

    Returns
    -------
    `bin_accuracy`, `bin_accuracy_within_one`
        Share of the expressed genes whose most probable bin, bin 0 included, is the true one, or next to it.
    `cross_entropy`, `average_precision_expressed`
        Mean −ln p(true bin); of 1 − p(bin 0) against "expressed", NaN where no gene is expressed.
    """
    expressed_Q = bins_Q > 0
    distance_Q = np.abs(probabilities_QB.argmax(axis=1) - bins_Q.astype(int))
    p_Q = probabilities_QB[np.arange(len(bins_Q)), bins_Q].astype(float)
    scores = {
        "bin_accuracy": _mean(distance_Q[expressed_Q] == 0, weights_Q[expressed_Q]),
        "bin_accuracy_within_one": _mean(distance_Q[expressed_Q] <= 1, weights_Q[expressed_Q]),
        "cross_entropy": _mean(-np.log(np.clip(p_Q, SMALLEST_PROBABILITY, 1.0)), weights_Q),
        "average_precision_expressed": float("nan"),
    }
    if expressed_Q.any():
        expressed = average_precision_score(expressed_Q, 1 - probabilities_QB[:, 0], sample_weight=weights_Q)
        scores["average_precision_expressed"] = float(expressed)
    return scores


def value_scores(
    expected_Q: np.ndarray, values_Q: np.ndarray, genes_Q: np.ndarray, weights_Q: np.ndarray
) -> dict[str, float]:
    """Score expected values of masked genes against the true ones, log1p counts per 10,000.

    Returns
    -------
    `mse_value`, `spearman_gene`, `spearman_genes`
        Mean squared error; Spearman correlation over the queries of a gene, sampled zeros without weights, averaged
        over genes in which truth and prediction vary; and how many those are.
    """
    correlations = _spearman_by_gene(genes_Q, expected_Q, values_Q)
    return {
        "mse_value": _mean((expected_Q.astype(float) - values_Q) ** 2, weights_Q),
        "spearman_gene": _mean(correlations, np.ones(len(correlations))),
        "spearman_genes": float(len(correlations)),
    }


def _spearman_by_gene(genes_Q: np.ndarray, expected_Q: np.ndarray, values_Q: np.ndarray) -> np.ndarray:
    """Correlate the ranks of expectation and truth within each gene; genes in which one is constant are left out."""
    genes_Q = np.asarray(genes_Q)
    ranks = pd.DataFrame({"x": expected_Q, "y": values_Q}).groupby(genes_Q).rank()
    centred = ranks - ranks.groupby(genes_Q).transform("mean")
    products = pd.DataFrame({"xy": centred.x * centred.y, "xx": centred.x**2, "yy": centred.y**2})
    sums = products.groupby(genes_Q).sum()
    return (sums.xy / np.sqrt(sums.xx * sums.yy))[(sums.xx > 0) & (sums.yy > 0)].to_numpy()


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Give the weighted mean; NaN of nothing."""
    return float(np.average(values, weights=weights)) if weights.sum() > 0 else float("nan")
