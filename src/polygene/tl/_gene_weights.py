"""How alike two genes are in the cells of one context, by four definitions, and the nulls that act on cells or weights.

Legend: C cells, G panel genes, U units (donors, contexts), N expressed entries, D width.
"""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from scipy import sparse

from polygene.model.checkpoint import PolyGene
from polygene.model.gene_attention import attention_sums
from polygene.model.inference import key_states, static_genes
from polygene.nn.network import PolyGeneModel
from polygene.runtime.seeds import LARGEST
from polygene.tl._contexts import add_rows
from polygene.vocab.cells import EncodedCells

By = Literal["contextual", "static", "attention", "correlation"]
DEFINITIONS: tuple[str, ...] = get_args(By)
TOGETHER = 5
"""Attention between two genes is known where so many cells express both."""


def gene_weights(model: PolyGene, cells: EncodedCells, by: str, *, min_cells: int) -> np.ndarray:
    """Compute how alike genes are in these cells, symmetric (G, G); NaN on the diagonal and where a gene is no node.

    A node is a gene that `min_cells` cells express. `contextual`: cosine of mean states. `static`: cosine of the
    embeddings of slots. Of both the mean over nodes is taken away first, since it is common to all genes. `attention`:
    mean of both directions. `correlation`: Pearson, of log1p counts per 10,000.
    """
    n_genes = len(model.tokenizer.panel)
    node_G = np.bincount(cells.genes_N, minlength=n_genes) >= min_cells
    if by == "contextual":
        sums_UGD, counts_UG = state_sums(model, cells, np.zeros(len(cells), dtype=np.int64), 1)
        weights_GG = cosines(sums_UGD[0] / np.maximum(counts_UG[0], 1)[:, None], node_G)
    elif by == "static":
        weights_GG = cosines(static_genes(model), node_G)
    elif by == "attention":
        weights_GG = attention(model, cells)
        weights_GG = (weights_GG + weights_GG.T) / 2
    else:
        weights_GG = correlations(cells.as_csr(cells.values_N, n_genes))
    weights_GG[~node_G] = weights_GG[:, ~node_G] = np.nan
    np.fill_diagonal(weights_GG, np.nan)
    return weights_GG


def attention(model: PolyGene, cells: EncodedCells) -> np.ndarray:
    """Mean attention of each gene (row) to each other, 1 = as to any key, (G, G); NaN where few cells express both."""
    sums_GG, together_GG = attention_sums(model, cells)
    return np.divide(sums_GG, together_GG, out=np.full_like(sums_GG, np.nan), where=together_GG >= TOGETHER)


def state_sums(model: PolyGene, cells: EncodedCells, unit_C: np.ndarray, n_units: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the states of each gene over the cells of each unit that express it, float32 (U, G, D); count them, (U, G).

    Batch by batch: cells × genes × width never stand in memory.
    """
    n_genes, width = len(model.tokenizer.panel), model.network.config.hidden_size
    sums_KD = np.zeros((n_units * n_genes, width), dtype=np.float32)
    counts_K = np.zeros(len(sums_KD), dtype=np.int64)
    for part in key_states(model, cells):
        key_N = unit_C[part.rows][part.cells_N] * n_genes + part.genes_N
        add_rows(sums_KD, key_N, part.genes_ND)
        counts_K += np.bincount(key_N, minlength=len(counts_K))
    return sums_KD.reshape(n_units, n_genes, width), counts_K.reshape(n_units, n_genes)


def cosines(vectors_GD: np.ndarray, node_G: np.ndarray) -> np.ndarray:
    """Cosine of vectors less the mean of the nodes, (G, G)."""
    x_GD = vectors_GD - vectors_GD[node_G].mean(axis=0) if node_G.any() else vectors_GD
    length_G1 = np.linalg.norm(x_GD, axis=1, keepdims=True)
    x_GD = np.divide(x_GD, length_G1, out=np.zeros_like(x_GD), where=length_G1 > 0)
    return np.asarray(x_GD @ x_GD.T, dtype=np.float64)


def correlations(x_CG: sparse.csr_matrix, weight_C: np.ndarray | None = None) -> np.ndarray:
    """Pearson correlation of all pairs of genes, zeros counted, (G, G), from sparse rows; cells may have weights."""
    weight_C = np.ones(x_CG.shape[0]) if weight_C is None else weight_C
    x_CG, total = x_CG.astype(np.float64), weight_C.sum()
    weighted_CG = sparse.diags(weight_C / total) @ x_CG
    mean_G = np.asarray(weighted_CG.sum(axis=0)).ravel()
    covariance_GG = np.asarray((x_CG.T @ weighted_CG).todense()) - np.outer(mean_G, mean_G)
    spread_G = np.sqrt(np.clip(np.diag(covariance_GG), 0, None))
    scale_GG = np.outer(spread_G, spread_G)
    return np.divide(covariance_GG, scale_GG, out=np.full_like(covariance_GG, np.nan), where=scale_GG > 1e-12)


def shuffled(cells: EncodedCells, *, seed: int) -> EncodedCells:
    """Shuffle each gene among the cells by itself: its values stay, and what goes with what is lost."""
    rng, n_genes = np.random.default_rng(seed), len(cells.measured_G)
    order_N = np.argsort(cells.genes_N, kind="stable")
    counts_G = np.bincount(cells.genes_N, minlength=n_genes)
    cell_N = np.concatenate([rng.permutation(len(cells))[:n] for n in counts_G]) if len(order_N) else order_N
    back_N = np.lexsort((cells.genes_N[order_N], cell_N))  # by cell, then by gene
    take_N = order_N[back_N]
    offsets_C1 = np.concatenate([[0], np.cumsum(np.bincount(cell_N, minlength=len(cells)))]).astype(np.int64)
    entries = {name: getattr(cells, name)[take_N] for name in ("genes_N", "bins_N", "values_N")}
    return replace(cells, offsets_C1=offsets_C1, **entries)


def random_weights(model: PolyGene, *, seed: int = 0) -> PolyGene:
    """Give the same tokenizer and shape with weights that were never trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(LARGEST - seed)  # training starts from small seeds: these must not be its first weights
        network = PolyGeneModel(model.network.config).to(model.network.device).eval()
    return PolyGene(tokenizer=model.tokenizer, network=network)
