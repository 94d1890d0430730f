"""Denoising and imputing: counts and whole genes that the model was not shown, beside simple ways of filling them in.

    python benchmarks/_control_denoise.py --data DIR --models FOLDER

From the cells of test donors a tenth of the molecules is taken out (binomial thinning of every gene of the file, as in
Batson et al. 2019 bioRxiv 786269), or a tenth of the panel's genes. What is left is a file of its own: its totals and
bins know nothing of what was taken. Every way says how many molecules to expect among those taken out, from how many
are left. PolyGene answers each gene from the rest of the cell; neighbours and scVI see a gene's own remaining molecules
as well. Scored are

* spearman: within a gene over the cells, mean over the genes that are found in at least 10 of the cells;
* expressed: average precision of "found at all", over all genes and cells together;
* error: mean Poisson deviance, once each gene's numbers are scaled by what validation donors say.

Settings of the neighbours are those with the best spearman on validation donors.

Legend: C cells, G panel genes, A genes asked, D components.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.stats import rankdata
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

import _data
import _scvi
import _train
from polygene.checkpoint import PolyGene
from polygene.denoising import expected_expression
from polygene.inference import label_probabilities
from polygene.tokenizer import EncodedCells

STUDIES = ("onek1k", "velmeshev")
SHARE = 0.1  # of the molecules, or of the genes
FEWEST_CELLS = 10
COMPONENTS, NEIGHBOURS = (10, 20, 50), (5, 15, 50, 150)
SCORES = ("spearman", "expressed", "error")


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Cells of one split of a file, as counts of the panel's genes, and their totals over all genes of the file."""

    counts_CG: np.ndarray
    totals_C: np.ndarray
    types_C: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Cells of which something is hidden: what is left of them, and how many molecules were taken of which genes."""

    name: str
    left: Cells
    tokens: EncodedCells
    genes_A: np.ndarray
    taken_CA: np.ndarray

    def expected(self, shares_CA: np.ndarray, totals_C: np.ndarray | None = None) -> np.ndarray:
        """Turn a gene's shares of a cell's molecules into how many are to be expected among those taken."""
        totals_C = self.left.totals_C if totals_C is None else totals_C
        if self.name == "counts":
            return shares_CA * (totals_C * SHARE / (1 - SHARE))[:, None]
        return shares_CA * (totals_C / (1 - shares_CA.sum(1)).clip(0.1))[:, None]


def read(adata: ad.AnnData, names: np.ndarray, columns_G: np.ndarray) -> tuple[ad.AnnData, Cells]:
    some = adata[names].copy()
    return some, Cells(
        counts_CG=some.X[:, columns_G].toarray(),
        totals_C=np.asarray(some.X.sum(1)).ravel(),
        types_C=some.obs["cell_type"].astype(str).to_numpy(),
    )


def hide(name: str, adata: ad.AnnData, model: PolyGene, columns_G: np.ndarray, seed: int) -> Task:
    """Take out molecules of all genes ("counts"), or some genes whole ("genes")."""
    rng = np.random.default_rng(seed)
    rest, n_genes = adata.copy(), len(columns_G)
    genes_A = np.arange(n_genes)
    if name == "counts":
        taken = rest.X.copy()
        taken.data = rng.binomial(taken.data.astype(np.int64), SHARE).astype(np.float32)
        rest.X = rest.X - taken
        rest.X.eliminate_zeros()
        taken_CA = taken[:, columns_G].toarray()
    else:
        genes_A = np.sort(rng.choice(n_genes, round(SHARE * n_genes), replace=False))
        taken_CA = rest.X[:, columns_G[genes_A]].toarray()
        rest = rest[:, np.setdiff1d(np.arange(rest.n_vars), columns_G[genes_A])].copy()
    counts_CG = adata.X[:, columns_G].toarray()
    counts_CG[:, genes_A] -= taken_CA
    left = Cells(counts_CG=counts_CG, totals_C=np.asarray(rest.X.sum(1)).ravel(), types_C=np.zeros(0, str))
    tokens = model.tokenizer.encode(rest, use_labels=False, scale="counts")
    return Task(name=name, left=left, tokens=tokens, genes_A=genes_A, taken_CA=taken_CA)


def by_polygene(model: PolyGene, task: Task) -> np.ndarray:
    """What `tl.denoise` and `tl.impute` write, as shares."""
    return task.expected(np.expm1(expected_expression(model, task.tokens, task.genes_A)) / 10_000)


def by_type(model: PolyGene, train: Cells, task: Task) -> np.ndarray:
    """Mean of the training cells of the type that PolyGene annotates."""
    schema = model.tokenizer.schema
    answers_CV = label_probabilities(model, task.tokens, predict=["cell_type"])[0]
    labels = schema.labels[schema.index("cell_type")]
    means = [_shares(train.counts_CG[train.types_C == v], train.totals_C[train.types_C == v]) for v in labels]
    return task.expected(np.stack(means)[answers_CV.argmax(1)][:, task.genes_A])


def by_neighbours(train: Cells, task: Task, n_components: int, k: int, own: int) -> np.ndarray:
    """Molecules of the nearest training cells (and with `own` the cell's own, Wagner et al. 2018 bioRxiv 217737)."""
    seen_G = np.ones(train.counts_CG.shape[1], dtype=bool)
    if task.name == "genes":
        seen_G[task.genes_A] = False
    points, asked = (np.log1p(1e4 * c.counts_CG[:, seen_G] / c.totals_C[:, None].clip(1)) for c in (train, task.left))
    pca = TruncatedSVD(n_components, random_state=0).fit(points - points.mean(0))
    nearest_CK = (
        NearestNeighbors(n_neighbors=k)
        .fit(pca.transform(points - points.mean(0)))
        .kneighbors(pca.transform(asked - points.mean(0)), return_distance=False)
    )
    which_CC = sparse.csr_matrix(
        (np.ones(nearest_CK.size), nearest_CK.ravel(), np.arange(len(nearest_CK) + 1) * k), (len(asked), len(points))
    )
    counts_CG, totals_C = which_CC @ train.counts_CG, which_CC @ train.totals_C
    if own and task.name == "counts":
        counts_CG, totals_C = counts_CG + own * task.left.counts_CG, totals_C + own * task.left.totals_C
    return task.expected((counts_CG / totals_C[:, None])[:, task.genes_A])


def by_scvi(fitted: "_scvi.Fitted", task: Task) -> np.ndarray:
    """Ask scVI, which does not know of genes that are not measured: these it sees as it expects them, after a first look."""
    counts_CG = task.left.counts_CG.copy()
    shares_CA = fitted.rates(counts_CG)[:, task.genes_A]
    totals_C = counts_CG.sum(1)
    if task.name == "genes":
        counts_CG[:, task.genes_A] = task.expected(shares_CA, totals_C)
        shares_CA = fitted.rates(counts_CG)[:, task.genes_A]
    return task.expected(shares_CA, totals_C)


def _shares(counts_CG: np.ndarray, totals_C: np.ndarray) -> np.ndarray:
    return counts_CG.sum(0) / max(totals_C.sum(), 1)


def spearman(expected_CA: np.ndarray, taken_CA: np.ndarray) -> float:
    """Mean over genes that are found in enough cells; a gene that gets the same number in all cells counts 0."""
    enough_A = (taken_CA > 0).sum(0) >= FEWEST_CELLS
    a, b = (rankdata(x[:, enough_A], axis=0) for x in (expected_CA, taken_CA))
    a, b = a - a.mean(0), b - b.mean(0)
    return float(((a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0)).clip(1e-9)).mean())


def score(expected_CA: np.ndarray, task: Task, factors_A: np.ndarray) -> dict[str, float]:
    y, m = task.taken_CA, (expected_CA * factors_A).clip(1e-6)
    deviance = 2 * (np.where(y > 0, y * np.log(np.maximum(y, 1) / m), 0) - (y - m)).mean()
    found = (y > 0).ravel()
    return {
        "spearman": spearman(expected_CA, y),
        "expressed": float(average_precision_score(found, m.ravel())),
        "error": float(deviance),
    }
