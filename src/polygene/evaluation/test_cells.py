"""The test cells as predictors read them, what is predicted for them, and which labels are scored.

Legend: C cells, G panel genes, V labels of a phenotype, S sources.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import numpy as np

from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.evaluation.baselines import LABEL_BASELINES, LabelBaseline, TuningScore, tuned_probabilities
from polygene.evaluation.estimators import CellTable
from polygene.evaluation.scorable import scorable
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import predict_labels
from polygene.vocab.columns import by_code

log = logging.getLogger("polygene")

MODEL, YEARS_REFERENCE = "PolyGene", "ridge regression"
REFERENCE: LabelBaseline = "logistic regression"
ROWS: dict[LabelBaseline, dict[str, TuningScore]] = {baseline: {baseline: "macro_f1"} for baseline in LABEL_BASELINES}
ROWS[REFERENCE][f"{REFERENCE}, tuned for log loss"] = "log_loss"
"""Of each baseline the rows of the table, and the score that each is tuned for. Tuned for macro-F1, logistic regression
can be far too sure: its log loss has a row of its own."""
POOLED, YEARS = ", sources pooled", " in years"
MOST_BASELINE_CELLS = 100_000
"""Baselines learn from at most so many training cells, spread evenly: their matrices, unlike corpora, are in memory."""
BLOCK = 10_000
"""Cells that are predicted at a time."""


class CellBlocks:
    """The cells of some splits, one after the other, as the model and the baselines read them: a block at a time."""

    def __init__(self, corpus: Corpus, *splits: CorpusSplit) -> None:
        self.sources_C = np.concatenate([split.sources_C for split in splits])
        self._corpus, self._splits = corpus, splits

    def __len__(self) -> int:
        return len(self.sources_C)

    def rows(self) -> Iterator[tuple[CorpusSplit, np.ndarray]]:
        """Give split and rows of each block."""
        for split in self._splits:
            for first in range(0, len(split), BLOCK):
                yield split, np.arange(first, min(first + BLOCK, len(split)))

    def blocks(self) -> Iterator[CellTable]:
        """Give the cells a block at a time."""
        return (cell_table(self._corpus, split, rows) for split, rows in self.rows())


def model_predictions(model: PolyGene, cells: CellBlocks) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Predict cells with the model, nothing but expression being given; states are in memory for a block at a time.

    Returns
    -------
    The probabilities of each phenotype's labels, float32 (C, V); and the novelty of each cell, float32 (C,), or None
    if the model has no detector.
    """
    names, detector = model.tokenizer.schema.names, model.novelty
    blocks = []
    for split, rows in cells.rows():
        predicted, states = predict_labels(model, split.cells(rows), predict=names)
        novelty = [] if detector is None else [detector.score(states[names.index(detector.query)])]
        blocks.append([*predicted, *novelty])
    joined = [np.concatenate(of_blocks) for of_blocks in zip(*blocks, strict=True)]
    return joined[: len(names)], None if detector is None else joined[-1]


def baseline_predictions(
    phenotype: str, model: PolyGene, train: CellTable, labels_C: np.ndarray, cells: CellBlocks, *, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Predict cells with each baseline of the table, one when the next is wanted: name, probabilities_CV."""
    n_labels = len(model.tokenizer.schema.labels[model.tokenizer.schema.index(phenotype)])
    weight = class_weight(model)
    for baseline, rows in ROWS.items():
        log.info("%s: %s", phenotype, baseline)
        predictions = tuned_probabilities(
            baseline, train, labels_C, cells, n_labels, class_weight=weight, tune_for=list(rows.values()), seed=seed
        )
        yield from zip(rows, predictions, strict=True)


def cell_table(corpus: Corpus, split: CorpusSplit, rows: np.ndarray) -> CellTable:
    """Read cells as a matrix."""
    return CellTable(
        x_CG=split.values(rows),
        sources_C=split.sources_C[rows],
        measured_SG=corpus.measured_SG,
        donors_C=donor_names(split, rows),
    )


def class_weight(model: PolyGene) -> Literal["balanced"] | None:
    """Give the baselines the class weights that the recipe gave the model."""
    return "balanced" if model.recipe and model.recipe.training.class_weights else None


def donor_names(split: CorpusSplit, rows: np.ndarray | slice = slice(None)) -> np.ndarray | None:
    """Donors of the cells; None where none has a name, and cells are the replicates."""
    donors_C = split.donors_C[rows]
    return donors_C if (donors_C != "").any() else None


def scored_labels(
    train: CorpusSplit,
    test: CorpusSplit,
    p: int,
    n_labels: int,
    rows: np.ndarray | slice = slice(None),
    *,
    pooled: bool = False,
) -> np.ndarray:
    """Which labels of a phenotype are scored in which source of these cells, or in all together: see `scorable`."""
    return scorable(
        train.labels_CP[:, p],
        test.labels_CP[rows, p],
        n_labels,
        train_donors_C=donor_names(train),
        test_donors_C=donor_names(test, rows),
        test_sources_C=None if pooled else test.sources_C[rows],
    )


def actual_years(split: CorpusSplit, years_V: np.ndarray, labels_C: np.ndarray) -> np.ndarray:
    """Age of each cell in years, also of ages that no training cell has, where the corpus wrote them down; else NaN."""
    return by_code(years_V, labels_C, np.nan) if split.years_C is None else split.years_C.astype(float)
