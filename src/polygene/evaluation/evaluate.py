"""A model's scores on held-out donors, with honest baselines in the same table.

Legend: C cells, G panel genes, P phenotypes, Q asked genes, B bins, V labels of a phenotype.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from polygene.corpus.arrow import SPLITS
from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.errors import CorpusError
from polygene.evaluation.ages import interval_scores
from polygene.evaluation.baselines import YEARS_BASELINES, baseline_years
from polygene.evaluation.confusion import class_scores, confusion
from polygene.evaluation.metrics import (
    Tally,
    compare,
    expected_years,
    frequencies,
    gene_scores,
    label_scores,
    label_tally,
    stack_splits,
    years_tally,
)
from polygene.evaluation.novelty import score_novelty
from polygene.evaluation.reliability import reliability
from polygene.evaluation.test_cells import (
    MODEL,
    MOST_BASELINE_CELLS,
    REFERENCE,
    YEARS_REFERENCE,
    AskedCells,
    actual_years,
    cell_table,
    named,
    of_baselines,
    of_model,
    scored_labels,
)
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import bin_probabilities, label_probabilities
from polygene.model.masking import MaskingConfig, mask_genes
from polygene.nn.losses import LossConfig
from polygene.runtime.hashing import uniform
from polygene.runtime.json import finite
from polygene.runtime.seeds import check_seed
from polygene.runtime.subsample import spread
from polygene.vocab.cells import EncodedCells
from polygene.vocab.ontology import SURE, LabelTree

log = logging.getLogger("polygene")

POOLED, YEARS = ", sources pooled", " in years"
MOST_VALIDATION_CELLS = 5_000
"""Validation during training scores at most so many cells, spread evenly over the split."""
MOST_GENE_CELLS = 2_000
"""Reconstruction of genes is scored on at most so many cells; each gives dozens of answers."""

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
    rows = spread(len(validation), MOST_VALIDATION_CELLS)
    schema = model.tokenizer.schema
    answers = label_probabilities(model, validation.cells(rows), predict=schema.names)
    scores: dict[str, float] = {}
    label_losses = []
    for p, (name, probabilities_CV) in enumerate(zip(schema.names, answers, strict=True)):
        learned_C, truth_C = train.labels_CP[:, p], validation.labels_CP[rows, p]
        scorable_SV = scored_labels(train, validation, p, len(schema.labels[p]), rows, pooled=True)
        if scorable_SV.any():
            marginal_CV = np.tile(frequencies(learned_C, len(schema.labels[p])), (len(rows), 1))
            of_model, of_marginal = (
                label_scores(label_tally(p_CV, truth_C, scorable_SV=scorable_SV, donors_C=named(validation, rows)))
                for p_CV in (probabilities_CV, marginal_CV)
            )
            wanted = ("accuracy", "macro_f1", "balanced_accuracy", "log_loss")
            scores |= {f"{name}_{score}": of_model[score] for score in wanted}
            label_losses.append(min(of_model["log_loss"], of_marginal["log_loss"]))
        if schema.phenotypes[p].ordinal == "age":
            years_V = schema.years(name)
            actual_C = actual_years(validation, years_V, validation.labels_CP[:, p])[rows]
            error_C = np.abs(expected_years(probabilities_CV, years_V) - actual_C)
            scores[f"{name}_mae_years"] = float(np.nanmean(error_C)) if np.isfinite(error_C).any() else float("nan")
    scores |= {f"gene_{name}": value for name, value in score_genes(model, validation)[MODEL].items()}
    scores["loss"] = loss.gene_weight * scores["gene_cross_entropy"]
    if label_losses:
        scores["loss"] += loss.phenotype_weight * float(np.mean(label_losses))
    return {name: value for name, value in scores.items() if np.isfinite(value)}


def score_genes(model: PolyGene, split: CorpusSplit, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Score hidden genes of at most MOST_GENE_CELLS cells of a split, see `score_hidden_genes`."""
    rows = spread(len(split), MOST_GENE_CELLS)
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
    cells_Q, genes_Q, bins_Q, weights_Q, visible_N = mask_genes(cells, measured_CG, random_CG, MaskingConfig())
    order = np.lexsort((genes_Q, cells_Q))
    cells_Q, genes_Q, bins_Q, weights_Q = cells_Q[order], genes_Q[order], bins_Q[order], weights_Q[order]
    values_CG = cells.as_csr(cells.values_N, n_genes)
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


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What was answered for the cells that did not train, and its sums.

    Attributes
    ----------
    test
        The model's answers for the test cells, phenotype by phenotype, float32 (C, V), nothing but expression given.
    novelty_C
        How unlike training each test cell is; None where the model cannot say.
    tallies
        Of the test cells.
    ages
        Age phenotype → what its intervals hold, see `ages.interval_scores`.
    confusions
        Phenotype → which labels the model took for which, as `classes.confusion` gives it.
    """

    test: list[np.ndarray]
    novelty_C: np.ndarray | None
    tallies: Tallies = field(default_factory=dict)
    ages: dict[str, dict[str, Any]] = field(default_factory=dict)
    confusions: dict[str, dict[str, Any]] = field(default_factory=dict)


def tally(model: PolyGene, corpus: Corpus, *, seed: int = 0) -> Tallies:
    """Sum what the scores of the test cells need, see `answer`."""
    return answer(model, corpus, seed=seed).tallies


def answer(model: PolyGene, corpus: Corpus, *, seed: int = 0) -> Answered:
    """Answer for the cells that did not train with the model and with every baseline, and sum what the scores need.

    Baselines learn from the cells that trained the model, at most 100,000 of them, with class weights where its recipe
    had them. A phenotype is scored within the sources in which it varies; one that varies in none is left out. Where
    there are several sources, "<name>, sources pooled" scores their cells together, which naming the source can win: it
    is no target. Nothing but expression is given. A block of the cells is in memory at a time, and of all of them the
    model's answers and those of one baseline to one phenotype.

    Raises
    ------
    CorpusError
        If the corpus was made with another tokenizer than the model, or has no test cells.
    """
    check_seed(seed)
    corpus.check(model.tokenizer.fingerprint())
    train, test = corpus.split("train"), corpus.split("test")
    if not len(test):
        msg = (
            f"the corpus {corpus.folder} has no test cells, so there is nothing to score. "
            "Run polygene prepare with a share of test cells (fractions)."
        )
        raise CorpusError(msg)
    schema = corpus.tokenizer.schema
    learned = spread(len(train), MOST_BASELINE_CELLS)
    if len(learned) < len(train):
        log.info("baselines learn from %s of %s training cells, evenly spread", f"{len(learned):,}", f"{len(train):,}")
    train_cells, asked = cell_table(corpus, train, learned), AskedCells(corpus, test)
    answers, novelty_C = of_model(model, asked)
    found = Answered(test=answers, novelty_C=novelty_C)
    for p, name in enumerate(schema.names):
        baselines = of_baselines(name, model, train_cells, train.labels_CP[learned, p], asked, seed=seed)
        _sum_labels(found, corpus, p, (train, test), chain([(MODEL, answers[p])], baselines))
        if schema.phenotypes[p].ordinal == "age":
            years_V = schema.years(name)
            learned_years_C = actual_years(train, years_V, train.labels_CP[:, p])[learned]
            if np.isfinite(learned_years_C).any():
                years = {MODEL: expected_years(answers[p], years_V)} | {
                    baseline: baseline_years(baseline, train_cells, learned_years_C, asked, seed=seed)
                    for baseline in YEARS_BASELINES
                }
                _sum_years(found, corpus, p, test, years, seed)
    return found


def _sum_labels(
    found: Answered,
    corpus: Corpus,
    p: int,
    splits: tuple[CorpusSplit, CorpusSplit],
    answers: Iterable[tuple[str, np.ndarray]],
) -> None:
    """Sum what the scores of a phenotype's labels need, of every predictor; without any, none is asked."""
    train, test = splits
    name, labels = corpus.tokenizer.schema.names[p], corpus.tokenizer.schema.labels[p]
    truth_C = test.labels_CP[:, p]
    within_SV = scored_labels(train, test, p, len(labels))
    pooled_1V = scored_labels(train, test, p, len(labels), pooled=True)
    if not within_SV.any() and not pooled_1V.any():
        return
    for predictor, p_CV in answers:
        of_test = partial(label_tally, p_CV, truth_C, labels=labels, donors_C=named(test))
        within: dict[str, Any] = {"scorable_SV": within_SV, "sources_C": test.sources_C}
        if within_SV.any():
            found.tallies.setdefault(name, {})[predictor] = of_test(**within)
            if predictor == MODEL:
                found.confusions[name] = confusion(p_CV, truth_C, labels=labels, **within)
        if pooled_1V.any() and len(corpus.sources) > 1:
            found.tallies.setdefault(f"{name}{POOLED}", {})[predictor] = of_test(scorable_SV=pooled_1V)


def _sum_years(
    found: Answered, corpus: Corpus, p: int, test: CorpusSplit, years: dict[str, np.ndarray], seed: int
) -> None:
    """Sum what the scores of ages in years need, of every predictor."""
    name = corpus.tokenizer.schema.names[p]
    years_V = corpus.tokenizer.schema.years(name)
    actual_C = actual_years(test, years_V, test.labels_CP[:, p])
    for predictor, years_C in years.items():
        tally = years_tally(years_C, actual_C, sources_C=test.sources_C, donors_C=named(test))
        if not len(tally.donors_U):
            return
        found.tallies.setdefault(f"{name}{YEARS}", {})[predictor] = tally
    found.ages[name] = interval_scores(found.test[p], years_V, actual_C, test.donors_C, seed=seed)


def summarise(runs: Sequence[Tallies], *, seed: int = 0) -> pd.DataFrame:
    """Tabulate the scores over one or several splits: those of `metrics.compare`, with a column `phenotype`.

    Gains are over logistic regression, and over ridge regression for ages in years.
    """
    tables = []
    for phenotype in dict.fromkeys(name for run in runs for name in run):
        of_splits = [run[phenotype] for run in runs if phenotype in run]
        joined = {who: stack_splits([split[who] for split in of_splits]) for who in of_splits[0]}
        reference = YEARS_REFERENCE if phenotype.endswith(YEARS) else REFERENCE
        table = compare(joined, reference=reference, seed=seed)
        table.insert(0, "phenotype", phenotype)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def evaluate(model: PolyGene, corpus: Corpus, *, seed: int = 0) -> dict[str, Any]:
    """Score a model on the test cells of a corpus, beside its baselines.

    Returns
    -------
    What metrics.json holds: `split` (the word that says how the cells were held out), `cells`, `donors`,
    `baseline_cells` (how many the baselines learned from), `scores` (rows of `summarise`), `classes` (phenotype →
    PolyGene and logistic regression → rows of `classes.class_scores`), `confusion` (phenotype → see
    `classes.confusion`), `not_scored` (phenotypes that vary in no source), `ages` (see
    `ages.interval_scores`), `calibration` and `sets` (see
    `reliability.reliability`), `hierarchy` (see `score_hierarchy`), `genes` (see `score_genes`) and `unknown` (see
    `unknown_cells.score_novelty`). What the cells do not allow to compute is None, since JSON has no NaN.

    Raises
    ------
    CorpusError
        If the corpus was made with another tokenizer than the model, or has no test cells.
    """
    found = answer(model, corpus, seed=seed)
    train, test = corpus.split("train"), corpus.split("test")
    return finite(
        {
            "split": corpus.split_word,
            "cells": {name: len(corpus.split(name)) for name in SPLITS},
            "donors": len(set(test.donors_C) - {""}),
            "baseline_cells": min(len(train), MOST_BASELINE_CELLS),
            "seed": seed,
            "scores": summarise([found.tallies], seed=seed).to_dict("records"),
            "classes": {
                name: {who: class_scores(found.tallies[name][who], seed=seed) for who in (MODEL, REFERENCE)}
                for name in found.confusions
            },
            "confusion": found.confusions,
            "not_scored": [name for name in corpus.tokenizer.schema.names if name not in found.tallies],
            "ages": found.ages,
            **reliability(model, train, test, found.test, seed=seed),
            "hierarchy": score_hierarchy(model, test, found.test),
            "genes": score_genes(model, test, seed=seed),
            "unknown": score_novelty(model, test, found.novelty_C, seed=seed),
        }
    )


def score_hierarchy(model: PolyGene, split: CorpusSplit, answers: Sequence[np.ndarray]) -> dict[str, Any] | None:
    """Score cell types by the Cell Ontology, see `LabelTree.scores`, on at most MOST_VALIDATION_CELLS cells of a split.

    Returns
    -------
    `level` (from which an answer is sure), `terms` (how many labels are in the ontology, of how many), and the scores
    of the answers that are `backed_off` and of the most probable `label`; None without cell types in model and split.
    """
    schema, rows = model.tokenizer.schema, spread(len(split), MOST_VALIDATION_CELLS)
    p = schema.index("cell_type") if "cell_type" in schema.names else None
    if p is None or not (split.labels_CP[rows, p] >= 0).any():
        return None
    tree = LabelTree(schema.labels[p])
    terms = [len(schema.labels[p]) - len(tree.unknown), len(schema.labels[p])]
    return {
        "level": SURE,
        "terms": terms,
        **tree.scores(answers[p][rows], split.labels_CP[rows, p], named(split, rows)),
    }
