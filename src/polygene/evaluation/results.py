"""What `evaluate` returns: tidy tables of numbers, and how they are written and shown."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from polygene.evaluation.assessment import summary_table
from polygene.evaluation.tables import ResultTable, result_tables
from polygene.runtime.json import finite


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Evaluation:
    """The scores of a model on test cells, beside its baselines. Printed, it is the summary; `tables` has the rest.

    Tables are empty where the cells do not allow a score. Columns `<name>_low` and `<name>_high`, or `low` and `high`,
    are 95 % intervals over resampled donors, too narrow with fewer than about ten.

    Attributes
    ----------
    split
        How the test cells were held out: "donor", "study" or "random" (cells).
    cells
        Cells of each split of the corpus.
    donors
        Test donors; 0 where they are not known, and cells are resampled.
    baseline_cells
        How many training cells the baselines learned from.
    seed
        Of masked genes, folds and resamples.
    scores
        `phenotype`, `predictor`, `score`, `value`, the `gain` over the reference, see `bootstrap.compare`; and over how
        many `labels`.
    classes
        `phenotype`, `predictor` (PolyGene, logistic regression), `label`, and its scores, see `confusion.class_scores`.
    confusion
        For each phenotype the scored cells by true label (rows) and predicted label (columns).
    not_scored
        Phenotypes that vary in no source.
    ages
        For each age phenotype what the intervals of years cover, see `ages.interval_scores`.
    calibration, reliability, sets
        How far probabilities and sets of labels hold, see `reliability.Reliability`.
    hierarchy
        Cell types scored by the Cell Ontology, see `evaluate.score_hierarchy`.
    genes
        `predictor`, and the scores of masked genes, see `masked_genes.bin_scores` and `value_scores`.
    novelty
        One row: how often test cells are flagged as novel, see `novelty.score_novelty`.
    """

    split: str
    cells: dict[str, int]
    donors: int
    baseline_cells: int
    seed: int
    scores: pd.DataFrame
    classes: pd.DataFrame
    confusion: dict[str, pd.DataFrame]
    not_scored: tuple[str, ...]
    ages: pd.DataFrame
    calibration: pd.DataFrame
    reliability: pd.DataFrame
    sets: pd.DataFrame
    hierarchy: pd.DataFrame
    genes: pd.DataFrame
    novelty: pd.DataFrame

    def summary(self) -> ResultTable:
        """Return how good each phenotype is, beside what."""
        return summary_table(self)

    def tables(self) -> list[ResultTable]:
        """Return all tables that the terminal and the report print."""
        return result_tables(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as JSON has them: a table is a list of rows, NaN is None."""
        written: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "confusion":
                value = {
                    name: {"labels": list(table), "counts": table.to_numpy().tolist()} for name, table in value.items()
                }
            elif isinstance(value, pd.DataFrame):
                value = value.to_dict("records")
            written[field.name] = value
        return finite(written)

    def __repr__(self) -> str:
        return repr(self.summary())

    def _repr_html_(self) -> str:
        return self.summary().to_html()
