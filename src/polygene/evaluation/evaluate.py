"""A model's scores on test cells, with baselines in the same table.

Legend: C cells, P phenotypes, S sources, V labels of a phenotype.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from polygene.corpus.arrow import SPLITS
from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.errors import CorpusError
from polygene.evaluation.ages import interval_scores
from polygene.evaluation.baselines import YEARS_BASELINES, baseline_years
from polygene.evaluation.bootstrap import compare
from polygene.evaluation.confusion import class_scores, confusion
from polygene.evaluation.masked_genes import score_genes
from polygene.evaluation.metrics import Tally, expected_years, label_tally, years_tally
from polygene.evaluation.novelty import score_novelty
from polygene.evaluation.reliability import score_reliability
from polygene.evaluation.results import Evaluation
from polygene.evaluation.test_cells import (
    MODEL,
    MOST_BASELINE_CELLS,
    POOLED,
    REFERENCE,
    YEARS,
    YEARS_REFERENCE,
    CellBlocks,
    actual_years,
    baseline_predictions,
    cell_table,
    donor_names,
    model_predictions,
    scored_labels,
)
from polygene.model.checkpoint import PolyGene
from polygene.runtime.ranks import one_process
from polygene.runtime.seeds import check_seed
from polygene.runtime.subsample import spread
from polygene.vocab.ontology import SURE, LabelTree

log = logging.getLogger("polygene")

MOST_HIERARCHY_CELLS = 5_000
"""Cell types are scored by the Cell Ontology on at most so many cells, spread evenly over the split."""

Tallies = dict[str, dict[str, Tally]]
"""Phenotype (and "age in years") → predictor → what its scores need."""


def evaluate(model: PolyGene | str | Path, corpus: Corpus | str | Path, *, seed: int = 0) -> Evaluation:
    """Score a model on the test cells of a corpus, beside its baselines; either may be named by its folder.

    Baselines learn from the cells that trained the model, at most 100,000 of them, with class weights where its recipe
    had them. A phenotype is scored within the sources in which it varies; one that varies in none is left out. Where
    there are several sources, "<name>, sources pooled" scores their cells together, which naming the source can win: it
    is no target. Nothing but expression is given. A block of the cells is in memory at a time, and of all of them the
    model's predictions and those of one baseline for one phenotype.

    Parameters
    ----------
    seed
        Decides which genes are masked, the folds of the baselines, and the resamples of donors.

    Raises
    ------
    CorpusError
        The corpus was made with another tokenizer than the model, or has no test cells.
    DataError
        The seed is negative.
    """
    one_process("evaluate")
    model = model if isinstance(model, PolyGene) else PolyGene.from_pretrained(model)
    corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
    if model.heads and model.tokenizer.fingerprint() != corpus.info["tokenizer"]:
        of, scores = ", ".join(model.heads), "its own scores on held-out donors are in `polygene info`"
        msg = f"the model was fine-tuned on {of}, which {corpus.folder} does not know: evaluate that before; {scores}."
        raise CorpusError(msg)
    predictions = predict_split(model, corpus, seed=seed)
    train, test, schema = corpus.split("train"), corpus.split("test"), corpus.tokenizer.schema
    classes = [
        class_scores(predictions.tallies[name][who], seed=seed).assign(phenotype=name, predictor=who)
        for name in predictions.confusion
        for who in (MODEL, REFERENCE)
    ]
    reliability = score_reliability(model, train, test, predictions.probabilities, seed=seed)
    return Evaluation(
        split=corpus.split_word,
        cells={name: len(corpus.split(name)) for name in SPLITS},
        donors=len(set(test.donors_C) - {""}),
        baseline_cells=min(len(train), MOST_BASELINE_CELLS),
        seed=seed,
        scores=summarise(predictions.tallies, seed=seed),
        classes=pd.concat(classes, ignore_index=True) if classes else pd.DataFrame(),
        confusion=predictions.confusion,
        not_scored=tuple(name for name in schema.names if name not in predictions.tallies),
        ages=pd.DataFrame(predictions.ages),
        calibration=reliability.calibration,
        reliability=reliability.bins,
        sets=reliability.sets,
        hierarchy=score_hierarchy(model, test, predictions.probabilities),
        genes=pd.DataFrame([{"predictor": who, **one} for who, one in score_genes(model, test, seed=seed).items()]),
        novelty=score_novelty(model, test, predictions.novelty_C, seed=seed),
    )


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What is predicted for the test cells, and its sums.

    Attributes
    ----------
    probabilities
        Of the model, phenotype by phenotype, float32 (C, V), nothing but expression given.
    novelty_C
        How unlike the training cells each test cell is; None where the model has no detector.
    confusion
        Phenotype → confusion matrix of the model.
    ages
        For each age phenotype what its intervals cover, see `ages.interval_scores`.
    """

    probabilities: list[np.ndarray]
    novelty_C: np.ndarray | None
    tallies: Tallies = field(default_factory=dict)
    confusion: dict[str, pd.DataFrame] = field(default_factory=dict)
    ages: list[dict[str, Any]] = field(default_factory=list)


def predict_split(model: PolyGene, corpus: Corpus, *, seed: int = 0) -> Predictions:
    """Predict the test cells with the model and with every baseline, and sum what the scores need."""
    check_seed(seed)
    corpus.check(model.tokenizer.fingerprint())
    train, test, schema = corpus.split("train"), corpus.split("test"), corpus.tokenizer.schema
    if not len(test):
        msg = (
            f"the corpus {corpus.folder} has no test cells, so there is nothing to score. "
            "Run polygene prepare with a share of test cells (fractions)."
        )
        raise CorpusError(msg)
    learned = spread(len(train), MOST_BASELINE_CELLS)
    if len(learned) < len(train):
        log.info("baselines learn from %s of %s training cells, evenly spread", f"{len(learned):,}", f"{len(train):,}")
    train_cells, cells = cell_table(corpus, train, learned), CellBlocks(corpus, test)
    probabilities, novelty_C = model_predictions(model, cells)
    found = Predictions(probabilities=probabilities, novelty_C=novelty_C)
    for p, name in enumerate(schema.names):
        baselines = baseline_predictions(name, model, train_cells, train.labels_CP[learned, p], cells, seed=seed)
        _tally_labels(found, corpus, p, model.at_or_below(name), chain([(MODEL, probabilities[p])], baselines))
        if schema.phenotypes[p].ordinal == "age":
            years_V = schema.years(name)
            learned_years_C = actual_years(train, years_V, train.labels_CP[:, p])[learned]
            if np.isfinite(learned_years_C).any():
                years = {MODEL: expected_years(probabilities[p], years_V)} | {
                    baseline: baseline_years(baseline, train_cells, learned_years_C, cells, seed=seed)
                    for baseline in YEARS_BASELINES
                }
                _tally_years(found, corpus, p, years, seed)
    return found


def _tally_labels(
    found: Predictions,
    corpus: Corpus,
    p: int,
    at_or_below_VV: np.ndarray | None,
    predictions: Iterable[tuple[str, np.ndarray]],
) -> None:
    """Sum what the scores of a phenotype's labels need, of every predictor; without any, none is run."""
    train, test = corpus.split("train"), corpus.split("test")
    name, labels = corpus.tokenizer.schema.names[p], corpus.tokenizer.schema.labels[p]
    truth_C = test.labels_CP[:, p]
    within_SV = scored_labels(train, test, p, len(labels))
    pooled_1V = scored_labels(train, test, p, len(labels), pooled=True)
    if not within_SV.any() and not pooled_1V.any():
        return
    for predictor, p_CV in predictions:
        of_test = partial(
            label_tally, p_CV, truth_C, labels=labels, donors_C=donor_names(test), at_or_below_VV=at_or_below_VV
        )
        within: dict[str, Any] = {"scorable_SV": within_SV, "sources_C": test.sources_C}
        if within_SV.any():
            found.tallies.setdefault(name, {})[predictor] = of_test(**within)
            if predictor == MODEL:
                found.confusion[name] = confusion(p_CV, truth_C, labels=labels, at_or_below_VV=at_or_below_VV, **within)
        if pooled_1V.any() and len(corpus.sources) > 1:
            found.tallies.setdefault(f"{name}{POOLED}", {})[predictor] = of_test(scorable_SV=pooled_1V)


def _tally_years(found: Predictions, corpus: Corpus, p: int, years: dict[str, np.ndarray], seed: int) -> None:
    """Sum what the scores of ages in years need, of every predictor; nothing where no test cell's age is known."""
    test, name = corpus.split("test"), corpus.tokenizer.schema.names[p]
    years_V = corpus.tokenizer.schema.years(name)
    actual_C = actual_years(test, years_V, test.labels_CP[:, p])
    for predictor, years_C in years.items():
        tally = years_tally(years_C, actual_C, sources_C=test.sources_C, donors_C=donor_names(test))
        if not len(tally.donors_U):
            return
        found.tallies.setdefault(f"{name}{YEARS}", {})[predictor] = tally
    scores = interval_scores(found.probabilities[p], years_V, actual_C, test.donors_C, seed=seed)
    found.ages.append({"phenotype": name, **scores})


def summarise(tallies: Tallies, *, seed: int = 0) -> pd.DataFrame:
    """Tabulate the scores: those of `bootstrap.compare`, with columns `phenotype` and `labels`, how many are scored.

    Gains are over logistic regression, and over ridge regression for ages in years.
    """
    tables = []
    for phenotype, by_predictor in tallies.items():
        reference = YEARS_REFERENCE if phenotype.endswith(YEARS) else REFERENCE
        table = compare(by_predictor, reference=reference, seed=seed)
        table.insert(0, "phenotype", phenotype)
        table["labels"] = by_predictor[reference].n_labels
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def score_hierarchy(model: PolyGene, split: CorpusSplit, predictions: Sequence[np.ndarray]) -> pd.DataFrame:
    """Score cell types by the Cell Ontology, see `LabelTree.scores`; empty without cell types in model and split.

    Returns
    -------
    The shares of `LabelTree.scores`, a row for predictions that are "backed off" to a term of at least `level`, and one
    for the "most probable label"; `labels_found` of the `labels` are in the ontology.
    """
    schema, rows = model.tokenizer.schema, spread(len(split), MOST_HIERARCHY_CELLS)
    p = schema.index("cell_type") if "cell_type" in schema.names else None
    if p is None or not (split.labels_CP[rows, p] >= 0).any():
        return pd.DataFrame()
    tree, n_labels = LabelTree(schema.labels[p]), len(schema.labels[p])
    cells = (predictions[p][rows], split.labels_CP[rows, p], donor_names(split, rows))
    scores = tree.scores(*cells, at_or_below_VV=model.at_or_below("cell_type"))
    table = pd.DataFrame([scores["backed_off"], scores["label"]])
    table.insert(0, "prediction", ["backed off", "most probable label"])
    return table.assign(level=SURE, labels_found=n_labels - len(tree.unknown), labels=n_labels)
