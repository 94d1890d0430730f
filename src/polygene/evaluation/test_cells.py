"""The cells of a split as predictors read them, what predictors answer for them, and which labels are scored.

Legend: C cells, G panel genes, V labels of a phenotype, S sources.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import numpy as np

from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.evaluation.baselines import LABEL_BASELINES, CellTable, LabelBaseline, baseline_probabilities
from polygene.evaluation.metrics import scorable
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import predict_labels
from polygene.model.recipe import TrainingConfig

log = logging.getLogger("polygene")

MODEL, YEARS_REFERENCE = "PolyGene", "ridge regression"
REFERENCE: LabelBaseline = "logistic regression"
ROWS: dict[str, tuple[LabelBaseline, Literal["macro_f1", "log_loss"]]] = {
    **{baseline: (baseline, "macro_f1") for baseline in LABEL_BASELINES},
    f"{REFERENCE}, tuned for log loss": (REFERENCE, "log_loss"),
}
"""The baselines of a table. Tuned for macro-F1, logistic regression can be far too sure: its log loss stands apart."""
MOST_BASELINE_CELLS = 100_000
"""Baselines learn from at most so many training cells, spread evenly: their matrices, unlike corpora, are in memory."""
BLOCK = 10_000
"""Cells to answer for that are in memory at a time."""


class AskedCells:
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


def of_model(model: PolyGene, asked: AskedCells) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Answer for cells with the model, nothing but expression being given; states are in memory for a block at a time.

    Returns
    -------
    The probabilities of each phenotype's labels, float32 (C, V); and the novelty of each cell, float32 (C,), or None
    if the model cannot say.
    """
    names, known = model.tokenizer.schema.names, model.novelty
    blocks = []
    for split, rows in asked.rows():
        answers, states = predict_labels(model, split.cells(rows), predict=names)
        blocks.append(answers if known is None else [*answers, known.score(states[names.index(known.query)])])
    found = [np.concatenate(of_blocks) for of_blocks in zip(*blocks, strict=True)]
    return found[: len(names)], None if known is None else found[-1]


def of_baselines(
    phenotype: str, model: PolyGene, train: CellTable, labels_C: np.ndarray, asked: AskedCells, *, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Answer for cells as each row of the table does, one when the next is asked for."""
    n_labels = len(model.tokenizer.schema.labels[model.tokenizer.schema.index(phenotype)])
    weight = class_weight(model, phenotype)
    for row, (baseline, tune_for) in ROWS.items():
        log.info("%s: %s", phenotype, row)
        yield (
            row,
            baseline_probabilities(
                baseline, train, labels_C, asked, n_labels, class_weight=weight, tune_for=tune_for, seed=seed
            ),
        )


def cell_table(corpus: Corpus, split: CorpusSplit, rows: np.ndarray) -> CellTable:
    """Read cells as a matrix."""
    return CellTable(
        x_CG=split.values(rows),
        sources_C=split.sources_C[rows],
        measured_SG=corpus.measured_SG,
        donors_C=named(split, rows),
    )


def class_weight(model: PolyGene, phenotype: str) -> Literal["balanced"] | None:
    """Give the baselines of a phenotype the class weights, or the balance, that the recipe gave the model."""
    training = model.recipe.training if model.recipe else TrainingConfig()
    return "balanced" if training.class_weights or training.balance == phenotype else None


def named(split: CorpusSplit, rows: np.ndarray | slice = slice(None)) -> np.ndarray | None:
    """Donors of the cells; None where none has a name, and cells are the replicates."""
    donors_C = split.donors_C[rows]
    return donors_C if (donors_C != "").any() else None


def scored_labels(
    train: CorpusSplit,
    held_out: CorpusSplit,
    p: int,
    n_labels: int,
    rows: np.ndarray | slice = slice(None),
    *,
    pooled: bool = False,
) -> np.ndarray:
    """Which labels of a phenotype are scored in which source of these cells, or in all together: `metrics.scorable`."""
    return scorable(
        train.labels_CP[:, p],
        held_out.labels_CP[rows, p],
        n_labels,
        train_donors_C=named(train),
        test_donors_C=named(held_out, rows),
        test_sources_C=None if pooled else held_out.sources_C[rows],
    )


def actual_years(split: CorpusSplit, years_V: np.ndarray, labels_C: np.ndarray) -> np.ndarray:
    """Age of each cell in years, also of ages that no training cell has, where the corpus wrote them down; else NaN."""
    return np.append(years_V, np.nan)[labels_C] if split.years_C is None else split.years_C.astype(float)
