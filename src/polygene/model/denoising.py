"""Expected expression of a cell's genes, given the rest of the cell.

Legend: C cells, G panel genes, M predicted genes, N expressed entries, Q queries, B bins.

The genes of the panel are dealt into folds, always the same, and each fold is predicted in a pass in which all of it is
masked::

    fold 0   [CLS] … [START] ····· gene gene gene … [END] | the genes of fold 0
    fold 1   [CLS] … [START] gene ····· gene gene … [END] | the genes of fold 1

Whether a gene of a fold is expressed changes neither the keys nor the queries of that pass, nor the share of masked
genes that the network reads. So a prediction is a function of the tokens outside the gene's fold and of nothing else.
(If unexpressed genes were predicted in a pass with every expressed gene visible, the pass itself would reveal which
kind a gene is.) A gene that was not measured has no value to reveal, and is predicted with nothing masked.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from polygene.model.checkpoint import PolyGene
from polygene.model.inference import bin_probabilities
from polygene.runtime.hashing import uniform
from polygene.vocab.cells import EncodedCells

Output = Literal["expression", "expressed"]

FOLDS = 7
"""In training at least 15 % of the genes are masked, about one in seven; others: see docs/decisions.md."""


def folds_of(n_genes: int, n_folds: int = FOLDS) -> np.ndarray:
    """Fold of each panel gene, (G,): equal in size, at random by index in the panel, never another."""
    zero = np.zeros(1, dtype=np.int64)
    order_G = np.argsort(uniform(0, zero, zero, np.arange(n_genes))[0], kind="stable")
    folds_G = np.empty(n_genes, dtype=np.int64)
    folds_G[order_G] = np.arange(n_genes) % n_folds
    return folds_G


def expected_expression(
    model: PolyGene,
    cells: EncodedCells,
    genes_M: np.ndarray,
    *,
    output: Output = "expression",
    given: Sequence[str] = (),
    n_folds: int = FOLDS,
) -> np.ndarray:
    """Predict genes given the rest of each cell.

    Parameters
    ----------
    genes_M
        Panel indices of the genes to predict, measured or not.
    output
        "expression": the expected log1p counts per 10,000. "expressed": the probability of not being in bin 0.
    given
        Phenotypes whose labels in `cells` are keys.

    Returns
    -------
    x_CM
        float32.
    """
    folds_G = np.where(cells.measured_G, folds_of(len(cells.measured_G), n_folds), n_folds)
    x_CM = np.empty((len(cells), len(genes_M)), dtype=np.float32)
    for fold in np.unique(folds_G[genes_M]):
        here_M = folds_G[genes_M] == fold
        genes_Q = np.tile(genes_M[here_M], len(cells))
        cells_Q = np.repeat(np.arange(len(cells)), here_M.sum())
        visible_share = 1.0 - float((folds_G == fold)[cells.measured_G].mean())
        visible_N = folds_G[cells.genes_N] != fold
        p_QB = bin_probabilities(model, cells, cells_Q, genes_Q, visible_N, given=given, visible_share=visible_share)
        x_Q = 1 - p_QB[:, 0] if output == "expressed" else model.tokenizer.inverse.expectation(p_QB, genes_Q)
        x_CM[:, here_M] = x_Q.reshape(len(cells), -1)
    return x_CM
