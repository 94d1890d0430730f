"""Denoising and imputing: counts and whole genes that the model was not shown, beside simple ways of filling them in.

    python -m benchmarks.control --data DIR --only denoise

From 500 cells of test donors a tenth of the molecules is taken out (binomial thinning of every gene of the file, as in
Batson et al. 2019 bioRxiv 786269), or a tenth of the panel's genes. What is left is a file of its own: its totals and
bins know nothing of what was taken. Every way says how many molecules to expect among those taken out, from how many
are left. PolyGene, as it ships, predicts each gene from the rest of the cell, having learned many studies; the other
ways learn the training donors of this one. scVI sees a gene's own remaining molecules as well, and the rows "with own"
and "knn" may add them. Scored are

* spearman: within a gene over the cells, mean over the genes that are found in at least 10 of the cells;
* expressed: average precision of "found at all", over all genes and cells together;
* error: mean Poisson deviance, once each gene's numbers are scaled to fit the validation donors.

Settings of the neighbours are those with the best spearman on validation donors. The last line is one JSON object.

Legend: C cells, M panel genes that the study measures, A of them asked, D components.
"""

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.stats import rankdata
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

from benchmarks.shared import effort, shipped, studies
from benchmarks.shared import scvi_baseline as scvi
from polygene.model.checkpoint import PolyGene
from polygene.model.denoising import expected_expression
from polygene.model.inference import label_probabilities
from polygene.vocab.cells import EncodedCells

log = logging.getLogger("polygene")

STUDIES = ("onek1k", "velmeshev")
MOST_CELLS = 500  # test cells, and as many validation cells, evenly spread
SHARE = 0.1  # of the molecules, or of the genes
FEWEST_CELLS = 10
OWNS = ((0, 1), (0,))  # whether neighbours may add the cell's own counts: tuned, or not
COMPONENTS, NEIGHBOURS, WEIGHTS = (10, 20, 50), (5, 15, 50, 150), (3, 10, 30, 100, 300)
SCORES = ("spearman", "expressed", "error")


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Cells of one split of a file, as counts of the panel's genes, and their totals over all genes of the file."""

    counts_CM: np.ndarray
    totals_C: np.ndarray
    types_C: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Cells of which something is hidden: what is left of them, and how many molecules were taken of which genes."""

    name: str
    left: Cells
    tokens: EncodedCells
    genes_A: np.ndarray
    panel_A: np.ndarray
    taken_CA: np.ndarray

    def expected(self, shares_CA: np.ndarray, totals_C: np.ndarray | None = None) -> np.ndarray:
        """Turn a gene's shares of a cell's molecules into how many are to be expected among those taken."""
        totals_C = self.left.totals_C if totals_C is None else totals_C
        if self.name == "counts":
            return shares_CA * (totals_C * SHARE / (1 - SHARE))[:, None]
        return shares_CA * (totals_C / (1 - shares_CA.sum(1)).clip(0.1))[:, None]


def cells_of(study: shipped.Study, split: str) -> Cells:
    adata = study.cells[split]
    return Cells(
        counts_CM=study.counts(split),
        totals_C=np.asarray(adata.X.sum(1)).ravel(),
        types_C=adata.obs["cell_type"].astype(str).to_numpy(),
    )


def hide(name: str, adata: ad.AnnData, study: shipped.Study, seed: int) -> Task:
    """Take out molecules of all genes ("counts"), or some genes whole ("genes")."""
    rng, columns_M = np.random.default_rng(seed), study.columns_M
    rest, n_genes = adata.copy(), len(columns_M)
    genes_A = np.arange(n_genes)
    if name == "counts":
        taken = rest.X.copy()
        taken.data = rng.binomial(taken.data.astype(np.int64), SHARE).astype(np.float32)
        rest.X = rest.X - taken
        rest.X.eliminate_zeros()
        taken_CA = taken[:, columns_M].toarray()
    else:
        genes_A = np.sort(rng.choice(n_genes, round(SHARE * n_genes), replace=False))
        taken_CA = rest.X[:, columns_M[genes_A]].toarray()
        rest = rest[:, np.setdiff1d(np.arange(rest.n_vars), columns_M[genes_A])].copy()
    counts_CM = adata.X[:, columns_M].toarray()
    counts_CM[:, genes_A] -= taken_CA
    left = Cells(counts_CM=counts_CM, totals_C=np.asarray(rest.X.sum(1)).ravel(), types_C=np.zeros(0, str))
    tokens = study.model.tokenizer.encode(rest, use_labels=False, scale="counts")
    return Task(name=name, left=left, tokens=tokens, genes_A=genes_A, panel_A=study.genes_M[genes_A], taken_CA=taken_CA)


@functools.cache
def by_polygene(model: PolyGene, task: Task) -> np.ndarray:
    """What `tl.denoise` writes, as shares."""
    return task.expected(np.expm1(expected_expression(model, task.tokens, task.panel_A)) / 10_000)


def by_probability(model: PolyGene, task: Task) -> np.ndarray:
    """The same with output="expressed", as it is: the more surely a gene is expressed, the more there is to find."""
    return expected_expression(model, task.tokens, task.panel_A, output="expressed")


def with_own(answered_CA: np.ndarray, task: Task, weight: float) -> np.ndarray:
    """Add the cell's own molecules to an answer that stands for `weight` times as many."""
    own_CA = task.expected(task.left.counts_CM[:, task.genes_A] / task.left.totals_C[:, None])
    return (weight * answered_CA + own_CA) / (weight + 1)


def by_type(model: PolyGene, train: Cells, task: Task) -> np.ndarray:
    """Mean of the training cells of the study's type that PolyGene finds most probable."""
    schema = model.tokenizer.schema
    answers_CV = label_probabilities(model, task.tokens, predict=["cell_type"])[0]
    labels = np.array(schema.labels[schema.index("cell_type")])
    there = np.flatnonzero(np.isin(labels, train.types_C))
    means = [_shares(train.counts_CM[train.types_C == v], train.totals_C[train.types_C == v]) for v in labels[there]]
    return task.expected(np.stack(means)[answers_CV[:, there].argmax(1)][:, task.genes_A])


def nearest(train: Cells, task: Task, n_components: int) -> np.ndarray:
    """Training cells nearest to each cell in the leading components of log1p counts per 10,000, nearest first."""
    seen_G = np.ones(train.counts_CM.shape[1], dtype=bool)
    if task.name == "genes":
        seen_G[task.genes_A] = False
    learned, asked = (
        np.log1p(1e4 * cells.counts_CM[:, seen_G] / cells.totals_C[:, None].clip(1)) for cells in (train, task.left)
    )
    mean_G = learned.mean(0)
    svd = TruncatedSVD(n_components, random_state=0).fit(learned - mean_G)
    search = NearestNeighbors(n_neighbors=max(effort.few(NEIGHBOURS, 2))).fit(svd.transform(learned - mean_G))
    return search.kneighbors(svd.transform(asked - mean_G), return_distance=False)


def by_neighbours(train: Cells, task: Task, nearest_CK: np.ndarray, k: int, own: int) -> np.ndarray:
    """Molecules of the nearest training cells (and with `own` the cell's own, Wagner et al. 2018 bioRxiv 217737)."""
    n_cells = len(nearest_CK)
    entries = (np.ones(n_cells * k), nearest_CK[:, :k].ravel(), np.arange(n_cells + 1) * k)
    which_CC = sparse.csr_matrix(entries, (n_cells, len(train.totals_C)))
    counts_CM = which_CC @ train.counts_CM + own * task.left.counts_CM
    totals_C = which_CC @ train.totals_C + own * task.left.totals_C
    return task.expected((counts_CM / totals_C[:, None])[:, task.genes_A])


def tuned_neighbours(train: Cells, task: Task, owns: tuple[int, ...]) -> tuple[int, int, int]:
    """Components, k, and whether the cell's own counts are added: what does best on a task of validation donors."""
    scores = {}
    for n_components in effort.few(COMPONENTS):
        nearest_CK = nearest(train, task, n_components)
        for k, own in product(effort.few(NEIGHBOURS, 2), owns):
            scores[n_components, k, own] = spearman(by_neighbours(train, task, nearest_CK, k, own), task.taken_CA)
    best = max(scores, key=scores.__getitem__)
    log.info("%s: neighbours (components, k, own counts): %s", task.name, best)
    return best


def by_scvi(fitted: "scvi.Fitted", task: Task) -> np.ndarray:
    """Ask scVI, which knows no unmeasured genes: after a first look it sees these as it expects them."""
    counts_CM = task.left.counts_CM.copy()
    shares_CA = fitted.rates(counts_CM)[:, task.genes_A]
    totals_C = counts_CM.sum(1)
    if task.name == "genes":
        counts_CM[:, task.genes_A] = task.expected(shares_CA, totals_C)
        shares_CA = fitted.rates(counts_CM)[:, task.genes_A]
    return task.expected(shares_CA, totals_C)


def _shares(counts_CM: np.ndarray, totals_C: np.ndarray) -> np.ndarray:
    return counts_CM.sum(0) / max(totals_C.sum(), 1)


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


def ways(model: PolyGene, train: Cells, validation: Mapping[str, Task], seed: int) -> dict[str, dict[str, Any]]:
    """For each way, how it answers each of the tasks."""
    best = {(name, owns): tuned_neighbours(train, task, owns) for name, task in validation.items() for owns in OWNS}
    counts = validation["counts"]
    answered_CA = by_polygene(model, counts)
    weight = max(WEIGHTS, key=lambda w: spearman(with_own(answered_CA, counts, w), counts.taken_CA))

    def by_tuned_neighbours(task: Task, owns: tuple[int, ...]) -> np.ndarray:
        n_components, k, own = best[task.name, owns]
        return by_neighbours(train, task, nearest(train, task, n_components), k, own)

    found: dict[str, Callable[[Task], np.ndarray]] = {
        "polygene": lambda task: by_polygene(model, task),
        "polygene_expressed": lambda task: by_probability(model, task),
        "polygene_with_own": lambda task: (
            with_own(by_polygene(model, task), task, weight) if task.name == "counts" else by_polygene(model, task)
        ),
        "type_mean": lambda task: by_type(model, train, task),
        "knn": lambda task: by_tuned_neighbours(task, OWNS[0]),
        "knn_without_own": lambda task: by_tuned_neighbours(task, OWNS[1]),
    }
    if scvi.AVAILABLE:
        started = time.process_time()
        fitted = scvi.fit(train.counts_CM, seed=seed)
        log.info("scVI trained in %.0f s of processor time", time.process_time() - started)
        found["scvi"] = lambda task: by_scvi(fitted, task)
    return found


def run(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Score every way on every study: study → task → way → score; prints the tables."""
    console, results = Console(width=140), {}
    for name in effort.few(STUDIES):
        results[name] = compare(shipped.study(studies.STUDIES[name].file, folder, data=data), seed)
        console.print(table(name, results[name]))
    if not scvi.AVAILABLE:
        console.print(f"scVI {scvi.MISSING}")
    spearmans = {way: scores["spearman"] for way, scores in results[STUDIES[0]]["counts"].items()}
    headline = {"denoise_spearman": spearmans.get("polygene")}
    headline |= {f"denoise_spearman_{way}": spearmans.get(way) for way in ("knn", "scvi")}
    return {"model": shipped.NAME, **headline, "denoise": results}


def compare(study: shipped.Study, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Score every way on one study: task → way → score."""
    tasks = {}
    for split in ("validation", "test"):
        cells = study.cells[split]
        some = cells[np.unique(np.linspace(0, cells.n_obs - 1, MOST_CELLS, dtype=int))]
        tasks[split] = {name: hide(name, some, study, seed) for name in ("counts", "genes")}
    results: dict[str, dict[str, dict[str, float]]] = {"counts": {}, "genes": {}}
    for way, answer in ways(study.model, cells_of(study, "train"), tasks["validation"], seed).items():
        for name, task in tasks["test"].items():
            learned = tasks["validation"][name]
            factors_A = (learned.taken_CA.sum(0) + 1) / (answer(learned).sum(0) + 1)
            results[name][way] = score(answer(task), task, factors_A)
    return results


def table(study: str, results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    laid_out = Table(title=f"{study}: test donors, a tenth hidden", title_justify="left")
    laid_out.add_column("")
    for name, column in product(results, SCORES):
        laid_out.add_column(f"{name}: {column}", justify="right")
    for way in results["counts"]:
        laid_out.add_row(way, *(f"{results[name][way][column]:.4f}" for name, column in product(results, SCORES)))
    return laid_out
