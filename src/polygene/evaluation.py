"""A model's scores on held-out donors, with honest baselines in the same table.

Legend: C cells, G panel genes, P phenotypes, Q asked genes, B bins, V labels of a phenotype.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.table import Table
from scipy import sparse

from polygene.baselines import (
    LABEL_BASELINES,
    YEARS_BASELINES,
    CellTable,
    LabelBaseline,
    baseline_probabilities,
    baseline_years,
)
from polygene.checkpoint import PolyGene
from polygene.corpus import Corpus, CorpusSplit
from polygene.errors import CorpusError
from polygene.inference import bin_probabilities, label_probabilities
from polygene.losses import LossConfig
from polygene.masking import MaskingConfig, hide_genes, uniform
from polygene.metrics import (
    Tally,
    compare,
    expected_years,
    gene_scores,
    label_scores,
    label_tally,
    scorable,
    stack_splits,
    years_tally,
)
from polygene.ontology import SURE, LabelTree
from polygene.tokenizer import EncodedCells

log = logging.getLogger("polygene")

MODEL, YEARS_REFERENCE = "PolyGene", "ridge regression"
REFERENCE: LabelBaseline = "logistic regression"
ROWS: tuple[tuple[str, LabelBaseline, Literal["macro_f1", "log_loss"]], ...] = (
    *((baseline, baseline, "macro_f1") for baseline in LABEL_BASELINES),
    (f"{REFERENCE}, tuned for log loss", REFERENCE, "log_loss"),
)
"""The baselines of a table. Tuned for macro-F1, logistic regression can be far too sure: its log loss stands apart."""
POOLED = ", sources pooled"
MOST_VALIDATION_CELLS = 5_000
"""Validation during training scores at most so many cells, spread evenly over the split."""
MOST_GENE_CELLS = 2_000
"""Reconstruction of genes is scored on at most so many cells; each gives dozens of answers."""
MOST_BASELINE_CELLS = 100_000
"""Baselines learn from at most so many training cells, spread evenly: their matrices, unlike corpora, are in memory."""
BLOCK = 10_000
"""Test cells that are in memory at a time."""

Tallies = dict[str, dict[str, Tally]]
"""Phenotype (and "age in years") → predictor → what its scores need."""


def validation_scores(
    model: PolyGene, train: CorpusSplit, validation: CorpusSplit, loss: LossConfig
) -> dict[str, float]:
    """Score a model in training on the validation cells, nothing but expression being given.

    Returns
    -------
    For each phenotype `<name>_accuracy`, `_macro_f1`, `_balanced_accuracy`, `_log_loss` over all sources together, and
    `<name>_mae_years` where it is an age; `gene_…` as `metrics.gene_scores` names them; and `loss`, which decides about
    the best checkpoint: cross-entropy of the genes and mean log loss of the phenotypes, without smoothing, by the
    weights of the training loss. In it a phenotype costs at most what answering by the training frequencies would: one
    that cannot be learned from these donors grows overconfident and would otherwise decide alone. A score that the
    cells do not allow is left out; without cells there is none.
    """
    if not len(validation):
        return {}
    rows = _spread(len(validation), MOST_VALIDATION_CELLS)
    schema = model.tokenizer.schema
    answers = label_probabilities(model, validation.cells(rows), predict=schema.names)
    scores: dict[str, float] = {}
    label_losses = []
    for p, (name, probabilities_CV) in enumerate(zip(schema.names, answers, strict=True)):
        truth_C = validation.labels_CP[rows, p]
        scorable_SV = scorable(
            train.labels_CP[:, p], truth_C, len(schema.labels[p]), **_donors(train, validation, rows)
        )
        if scorable_SV.any():
            learned_C = train.labels_CP[:, p]
            counts_V = np.bincount(learned_C[learned_C >= 0], minlength=len(schema.labels[p]))
            marginal_CV = np.tile(counts_V / counts_V.sum(), (len(rows), 1))
            of_model, of_marginal = (
                label_scores(label_tally(p_CV, truth_C, scorable_SV=scorable_SV, donors_C=_named(validation, rows)))
                for p_CV in (probabilities_CV, marginal_CV)
            )
            wanted = ("accuracy", "macro_f1", "balanced_accuracy", "log_loss")
            scores |= {f"{name}_{score}": of_model[score] for score in wanted}
            label_losses.append(min(of_model["log_loss"], of_marginal["log_loss"]))
        if schema.phenotypes[p].ordinal == "age":
            scores[f"{name}_mae_years"] = _years_error(probabilities_CV, truth_C, schema.years(name))
    scores |= {f"gene_{name}": value for name, value in score_genes(model, validation)[MODEL].items()}
    scores["loss"] = loss.gene_weight * scores["gene_cross_entropy"]
    if label_losses:
        scores["loss"] += loss.phenotype_weight * float(np.mean(label_losses))
    return {name: value for name, value in scores.items() if np.isfinite(value)}


def score_genes(model: PolyGene, split: CorpusSplit, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Score hidden genes of at most MOST_GENE_CELLS cells of a split, see `score_hidden_genes`."""
    rows = _spread(len(split), MOST_GENE_CELLS)
    return score_hidden_genes(model, split.cells(rows), split.measured_SG[split.sources_C[rows]], seed=seed)


def score_hidden_genes(
    model: PolyGene, cells: EncodedCells, measured_CG: np.ndarray, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Hide 15 % of the measured genes of cells, labels not given, ask for them, and score the answers.

    Returns
    -------
    Scores by predictor: the model, and "training mean", which answers every gene by its frequencies in training.
    """
    n_genes = measured_CG.shape[1]
    random_CG = uniform(seed, np.zeros(len(cells)), np.arange(len(cells)), np.arange(n_genes))
    cells_Q, genes_Q, bins_Q, weights_Q, visible_N = hide_genes(cells, measured_CG, random_CG, MaskingConfig())
    order = np.lexsort((genes_Q, cells_Q))
    cells_Q, genes_Q, bins_Q, weights_Q = cells_Q[order], genes_Q[order], bins_Q[order], weights_Q[order]
    values_CG = sparse.csr_matrix((cells.values_N, cells.genes_N, cells.offsets_C1), shape=measured_CG.shape)
    counts_GB = model.tokenizer.inverse.counts_GB + 0.5
    answers = {
        MODEL: bin_probabilities(model, cells, cells_Q, genes_Q, visible_N),
        "training mean": (counts_GB / counts_GB.sum(1, keepdims=True))[genes_Q].astype(np.float32),
    }
    return {
        name: gene_scores(
            probabilities_QB,
            bins_Q,
            weights_Q=weights_Q,
            genes_Q=genes_Q,
            expected_Q=model.tokenizer.inverse.expectation(probabilities_QB, genes_Q),
            values_Q=np.asarray(values_CG[cells_Q, genes_Q]).ravel(),
        )
        for name, probabilities_QB in answers.items()
    }


def tally(model: PolyGene, corpus: Corpus, *, seed: int = 0) -> Tallies:
    """Answer for the test cells with the model and with every baseline, and sum what the scores need.

    Baselines learn from the cells that trained the model, at most 100,000 of them, with class weights where its recipe
    had them. A phenotype is scored within the sources in which it varies; one that varies in none is left out. Where
    there are several sources, "<name>, sources pooled" scores their cells together, which naming the source can win: it
    is no target. Nothing but expression is given. A block of the test cells is in memory at a time, and the answers for
    all of them to one phenotype.

    Raises
    ------
    CorpusError
        If the corpus was made with another tokenizer than the model, or has no test cells.
    """
    corpus.check(model.tokenizer.fingerprint())
    train, test = corpus.split("train"), corpus.split("test")
    if not len(test):
        msg = (
            f"the corpus {corpus.folder} has no test cells, so there is nothing to score. "
            "Run polygene prepare with a share of test cells (fractions)."
        )
        raise CorpusError(msg)
    schema = corpus.tokenizer.schema
    learned = _spread(len(train), MOST_BASELINE_CELLS)
    if len(learned) < len(train):
        log.info("baselines learn from %s of %s training cells, evenly spread", f"{len(learned):,}", f"{len(train):,}")
    train_cells, test_cells = _table(corpus, train, learned), _TestCells(corpus, test)
    blocks = [label_probabilities(model, test.cells(rows), predict=schema.names) for rows in test_cells.rows()]
    answers = [np.concatenate(of_blocks) for of_blocks in zip(*blocks, strict=True)]
    del blocks
    found: Tallies = {}
    for p, name in enumerate(schema.names):
        learned_C, truth_C = train.labels_CP[:, p], test.labels_CP[:, p]
        n_labels = len(schema.labels[p])
        within = {"sources_C": test.sources_C, "donors_C": _named(test, slice(None))}
        donors = _donors(train, test, slice(None))
        scorable_SV = scorable(learned_C, truth_C, n_labels, test_sources_C=test.sources_C, **donors)
        pooled_1V = scorable(learned_C, truth_C, n_labels, **donors)
        rows = (MODEL, *(row for row, _, _ in ROWS)) if scorable_SV.any() or pooled_1V.any() else ()
        for predictor in rows:
            p_CV = answers[p]
            if predictor != MODEL:
                p_CV = _of_baseline(predictor, name, model, train_cells, learned_C[learned], test_cells, n_labels, seed)
            if scorable_SV.any():
                found.setdefault(name, {})[predictor] = label_tally(
                    p_CV, truth_C, scorable_SV=scorable_SV, labels=schema.labels[p], **within
                )
            if pooled_1V.any() and len(corpus.sources) > 1:
                found.setdefault(f"{name}{POOLED}", {})[predictor] = label_tally(
                    p_CV, truth_C, scorable_SV=pooled_1V, labels=schema.labels[p], donors_C=within["donors_C"]
                )
        if schema.phenotypes[p].ordinal == "age":
            years_V = schema.years(name)
            learned_years_C, truth_years_C = _years_of(years_V, learned_C), _years_of(years_V, truth_C)
            if np.isfinite(learned_years_C[learned]).any() and np.isfinite(truth_years_C).any():
                years = {MODEL: expected_years(answers[p], years_V)} | {
                    baseline: baseline_years(baseline, train_cells, learned_years_C[learned], test_cells, seed=seed)
                    for baseline in YEARS_BASELINES
                }
                tallies = {who: years_tally(years_C, truth_years_C, **within) for who, years_C in years.items()}
                if len(tallies[MODEL].donors_U):
                    found[f"{name} in years"] = tallies
    return found


def _of_baseline(
    row: str,
    phenotype: str,
    model: PolyGene,
    train: CellTable,
    labels_C: np.ndarray,
    test: _TestCells,
    n_labels: int,
    seed: int,
) -> np.ndarray:
    """Answer for the test cells as a row of the table does."""
    log.info("%s: %s", phenotype, row)
    baseline, tune_for = {name: (baseline, tune_for) for name, baseline, tune_for in ROWS}[row]
    weight = _class_weight(model, phenotype)
    return baseline_probabilities(
        baseline, train, labels_C, test, n_labels, class_weight=weight, tune_for=tune_for, seed=seed
    )


class _TestCells:
    """The test cells as the baselines read them, a block at a time."""

    def __init__(self, corpus: Corpus, split: CorpusSplit) -> None:
        self.sources_C, self._corpus, self._split = split.sources_C, corpus, split

    def __len__(self) -> int:
        return len(self._split)

    def rows(self) -> Iterator[np.ndarray]:
        for first in range(0, len(self), BLOCK):
            yield np.arange(first, min(first + BLOCK, len(self)))

    def blocks(self) -> Iterator[CellTable]:
        return (_table(self._corpus, self._split, rows) for rows in self.rows())


def _table(corpus: Corpus, split: CorpusSplit, rows: np.ndarray) -> CellTable:
    """Read cells as a matrix."""
    return CellTable(
        x_CG=split.values(rows),
        sources_C=split.sources_C[rows],
        measured_SG=corpus.measured_SG,
        donors_C=_named(split, rows),
    )


def summarise(runs: Sequence[Tallies], *, seed: int = 0) -> pd.DataFrame:
    """Tabulate the scores over one or several splits: those of `metrics.compare`, with a column `phenotype`.

    Gains are over logistic regression, and over ridge regression for ages in years.
    """
    tables = []
    for phenotype in dict.fromkeys(name for run in runs for name in run):
        of_splits = [run[phenotype] for run in runs if phenotype in run]
        joined = {who: stack_splits([split[who] for split in of_splits]) for who in of_splits[0]}
        reference = YEARS_REFERENCE if phenotype.endswith(" in years") else REFERENCE
        table = compare(joined, reference=reference, seed=seed)
        table.insert(0, "phenotype", phenotype)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def evaluate(model: PolyGene, corpus: Corpus, *, seed: int = 0) -> dict[str, Any]:
    """Score a model on the test cells of a corpus, beside its baselines.

    Returns
    -------
    What metrics.json holds: `split` (the word that says how the cells were held out), `cells`, `donors`,
    `baseline_cells` (how many the baselines learned from), `scores` (rows of `summarise`), `not_scored` (phenotypes
    that vary in no source), `hierarchy` (see `score_hierarchy`) and `genes` (see `score_genes`). What the cells do not
    allow to compute is None, since JSON has no NaN.

    Raises
    ------
    CorpusError
        If the corpus was made with another tokenizer than the model, or has no test cells.
    """
    test = corpus.split("test")
    tallies = tally(model, corpus, seed=seed)
    donors = set(test.donors_C) - {""}
    return _without_nan(
        {
            "split": corpus.split_word,
            "cells": {name: len(corpus.split(name)) for name in ("train", "validation", "test")},
            "donors": len(donors),
            "baseline_cells": min(len(corpus.split("train")), MOST_BASELINE_CELLS),
            "seed": seed,
            "scores": summarise([tallies], seed=seed).to_dict("records"),
            "not_scored": [name for name in corpus.tokenizer.schema.names if name not in tallies],
            "hierarchy": score_hierarchy(model, test),
            "genes": score_genes(model, test, seed=seed),
        }
    )


def score_hierarchy(model: PolyGene, split: CorpusSplit) -> dict[str, Any] | None:
    """Score cell types by the Cell Ontology, see `LabelTree.scores`, on at most MOST_VALIDATION_CELLS cells of a split.

    Returns
    -------
    `level` (from which an answer is sure), `terms` (how many labels are in the ontology, of how many), and the scores
    of the answers that are `backed_off` and of the most probable `label`; None without cell types in model and split.
    """
    schema = model.tokenizer.schema
    if "cell_type" not in schema.names or not schema.labels[p := schema.index("cell_type")]:
        return None
    rows = _spread(len(split), MOST_VALIDATION_CELLS)
    truth_C, tree = split.labels_CP[rows, p], LabelTree(schema.labels[p])
    if not (truth_C >= 0).any():
        return None
    (p_CV,) = label_probabilities(model, split.cells(rows), predict=["cell_type"])
    terms = [len(schema.labels[p]) - len(tree.unknown), len(schema.labels[p])]
    return {"level": SURE, "terms": terms, **tree.scores(p_CV, truth_C, _named(split, rows))}


HELD_OUT = {
    "donor": "split by donor, donors held out",
    "study": "split by study, studies held out",
    "random": "random split, cells, not donors, held out",
}
SHOWN = ("macro_f1", "accuracy", "balanced_accuracy", "log_loss", "mae_years", "mae_years_by_donor")


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Lay out what `evaluate` returned: a table for each phenotype, one for the genes."""
    held_out = HELD_OUT[results["split"]]
    rows = pd.DataFrame(results["scores"])
    laid_out = []
    for phenotype, of_phenotype in rows.groupby("phenotype", sort=False) if len(rows) else ():
        shown = [score for score in SHOWN if score in set(of_phenotype.score)]
        table = Table(title=f"{phenotype}: {held_out}", title_justify="left")
        table.add_column("predictor")
        for score in shown:
            table.add_column(score.replace("_", " "), justify="right")
        for predictor, of_predictor in of_phenotype.groupby("predictor", sort=False):
            by_score = of_predictor.set_index("score")
            table.add_row(str(predictor), *(_interval(by_score.loc[score]) for score in shown))
        laid_out.append(table)
    names = list(results["genes"][MODEL])
    table = Table(title=f"hidden genes (15 %): {held_out}", title_justify="left")
    table.add_column("predictor")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for predictor, scores in results["genes"].items():
        table.add_row(predictor, *(_number(scores[name]) for name in names))
    return [*laid_out, table]


def _interval(row: pd.Series) -> str:
    return f"{_number(row.value)} [{_number(row.low)}, {_number(row.high)}]"


def _number(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.3f}"


def _without_nan(value: Any) -> Any:
    """Replace every NaN in nested dicts and lists by None."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _class_weight(model: PolyGene, phenotype: str) -> Literal["balanced"] | None:
    """Give the baselines of a phenotype the class weights, or the balance, that the recipe gave the model."""
    training = tomllib.loads(model.recipe).get("training", {}) if model.recipe else {}
    return "balanced" if training.get("class_weights") or training.get("balance") == phenotype else None


def _spread(n: int, most: int) -> np.ndarray:
    """At most so many of n rows, evenly spread."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)


def _named(split: CorpusSplit, rows: np.ndarray | slice) -> np.ndarray | None:
    """Donors of the cells; None where none has a name, and cells are the replicates."""
    donors_C = split.donors_C[rows]
    return donors_C if (donors_C != "").any() else None


def _donors(train: CorpusSplit, held_out: CorpusSplit, rows: np.ndarray | slice) -> dict[str, np.ndarray | None]:
    return {"train_donors_C": _named(train, slice(None)), "test_donors_C": _named(held_out, rows)}


def _years_of(years_V: np.ndarray, labels_C: np.ndarray) -> np.ndarray:
    """Age of each cell in years; NaN where no label is given."""
    return np.where(labels_C >= 0, np.append(years_V, np.nan)[labels_C], np.nan)


def _years_error(probabilities_CV: np.ndarray, truth_C: np.ndarray, years_V: np.ndarray) -> float:
    error_C = np.abs(expected_years(probabilities_CV, years_V) - _years_of(years_V, truth_C))
    return float(np.nanmean(error_C)) if np.isfinite(error_C).any() else float("nan")
