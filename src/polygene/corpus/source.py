"""A source on its way into the corpus, and its entry in corpus.json.

Legend: C cells, G panel genes, P phenotypes.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from polygene.corpus.arrow import SPLITS
from polygene.corpus.config import PrepareConfig
from polygene.errors import PolyGeneError
from polygene.io.read import CellSource
from polygene.vocab.ages import age_in_years
from polygene.vocab.columns import by_code, given_texts, is_synthetic, some
from polygene.vocab.expression import TOTALS, log1p_values, warn_totals
from polygene.vocab.gene_matching import GeneMatch
from polygene.vocab.panel import merged_genes
from polygene.vocab.phenotypes import Phenotype, PhenotypeSchema, count_labels
from polygene.vocab.scale import Scale

logger = logging.getLogger("polygene")

BLOCK = 5_000
"""Rows of a source that one task of the process pool reads. Sums are added block by block, so that the number of
processes changes no digit of them."""

STRETCH = 100
"""Training cells that are chosen to rank genes, or left out, together: single ones would cost reading all of them."""


class PreparedSource:
    """A source whose split is drawn: its cells, their labels and parts, and how its values are read."""

    def __init__(self, cells: CellSource, frame: pd.DataFrame, part_C: np.ndarray, config: PrepareConfig) -> None:
        self.cells, self.frame, self.part_C = cells, frame, part_C
        self.n_train = int((part_C == 0).sum())
        with self.named():
            self.genes, self.gene_columns = merged_genes(cells.var)
            rows = np.flatnonzero(part_C == 0) if self.n_train else None
            self.scale: Scale = cells.find_scale(rows)
            self.totals = config.totals if self.scale == "counts" and config.totals in cells.columns else None
            warn_totals(cells.sample(rows, columns=TOTALS), totals=self.totals, scale=self.scale)
        if config.totals and not self.totals:
            logger.info("%s: no counts with a column %r; each cell's own sum is used", cells.label, config.totals)
        real_C = ~is_synthetic(frame) if config.thinned and self.scale == "counts" else np.zeros(len(frame), dtype=bool)
        self.ranking = np.zeros(0, dtype=np.int64)  # rows that rank the genes
        self.thinned_C = np.flatnonzero((part_C == 0) & real_C)
        self.donor_C, self.donors = np.full(cells.n_obs, -1, dtype=np.int32), list[str]()
        if config.donor in frame:
            self.donor_C, self.donors = given_texts(frame[config.donor])

    def values(
        self, rows: np.ndarray, match: GeneMatch, *, shares_C: np.ndarray | None = None, seed: Sequence[int] = ()
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Read (names of the cells, log1p counts per 10,000 of these genes) chunk by chunk.

        With `shares_C`, of cells whose counts are thinned to these shares: every molecule is kept with that chance.
        """
        rng, done = np.random.default_rng(seed), 0
        for chunk in self.cells.chunks(rows, columns=[self.totals] if self.totals else []):
            if shares_C is not None:
                shares = shares_C[done : done + chunk.n_obs]
                chunk.X = thinned(sparse.csr_matrix(chunk.X), shares, rng)
                if self.totals:
                    chunk.obs[self.totals] *= shares
                done += chunk.n_obs
            with self.named():  # not while others work: what they log is not of this source
                values = log1p_values(chunk, match, totals=self.totals, scale=self.scale)
            yield chunk.obs_names.to_numpy(dtype=object), values

    def choose_ranking(self, most: int) -> None:
        """Choose at most so many training cells to rank the genes, in stretches at even distances."""
        rows = np.flatnonzero(self.part_C == 0)
        share = min(1.0, most / max(len(rows), 1))
        stretch = np.arange(len(rows)) // STRETCH
        self.ranking = rows[np.floor((stretch + 1) * share) > np.floor(stretch * share)]

    def windows(self) -> Iterator[slice]:
        """Cut the rows into blocks of `BLOCK`."""
        for first in range(0, self.cells.n_obs, BLOCK):
            yield slice(first, min(first + BLOCK, self.cells.n_obs))

    def __getstate__(self) -> dict[str, Any]:
        """Send only what reads values to another process; labels and donors of cells come with their block."""
        return {name: vars(self)[name] for name in ("cells", "genes", "gene_columns", "scale", "totals")}

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the name of the source before what is logged, and before the message of an error."""

        def name(text: object) -> str:
            return str(text) if str(text).startswith(self.cells.label) else f"{self.cells.label}: {text}"

        def rename(record: logging.LogRecord) -> bool:
            record.msg, record.args = name(record.getMessage()), ()
            return True

        logger.addFilter(rename)
        try:
            yield
        except PolyGeneError as error:
            raise type(error)(name(error)) from error
        finally:
            logger.removeFilter(rename)


def within(rows: np.ndarray, window: slice) -> np.ndarray:
    """Give those of some rows, ascending, that are in a block."""
    return rows[slice(*np.searchsorted(rows, [window.start, window.stop]))]


def thinned(counts_CG: sparse.csr_matrix, shares_C: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Keep every molecule of a cell with the chance that is its cell's share."""
    kept_N = rng.binomial(counts_CG.data.astype(np.int64), np.repeat(shares_C, np.diff(counts_CG.indptr)))
    return sparse.csr_matrix((kept_N.astype(np.float32), counts_CG.indices, counts_CG.indptr), counts_CG.shape)


def describe(
    source: PreparedSource, schema: PhenotypeSchema, measured_G: np.ndarray, labels_CP: np.ndarray
) -> dict[str, Any]:
    """Return the entry of a source in corpus.json."""
    return {
        "name": source.cells.name,
        "file": source.cells.path.name if source.cells.path else None,
        "scale": source.scale,
        "cells": {split: int((source.part_C == part).sum()) for part, split in enumerate(SPLITS)},
        "donors": {split: _n_donors(source.donor_C[source.part_C == part]) for part, split in enumerate(SPLITS)},
        "donors_in_all": _n_donors(source.donor_C),
        "thinned": len(source.thinned_C),
        "synthetic": int(is_synthetic(source.frame).sum()),
        "cells_without_panel_genes": 0,
        "genes": len(source.genes),
        "panel_genes": int(measured_G.sum()),
        "measured": "".join("01"[int(one)] for one in measured_G),
        "not_given": {
            name: {split: int((labels_CP[source.part_C == part, p] < 0).sum()) for part, split in enumerate(SPLITS)}
            for p, name in enumerate(schema.names)
        },  # labels that no training cell has included
        "unseen_in_training": _unseen(source, schema),
    }


def years_of(frame: pd.DataFrame, phenotypes: Sequence[Phenotype]) -> np.ndarray:
    """Return the age of each cell in years, float32, NaN where unknown; also for labels outside the vocabulary."""
    for phenotype in phenotypes:
        if phenotype.ordinal == "age" and phenotype.column in frame:
            codes_C, texts = given_texts(frame[phenotype.column])
            years = np.array([age_in_years(text) for text in texts], dtype=np.float32)  # None becomes NaN
            return by_code(years, codes_C, np.nan)
    return np.full(len(frame), np.nan, np.float32)


def warn_of_ages(schema: PhenotypeSchema) -> None:
    """Name the labels of ages that are no number of years: no mean and no order holds them."""
    for one, labels in zip(schema.phenotypes, schema.labels, strict=True):
        if one.ordinal == "age" and (other := [label for label in labels if age_in_years(label) is None]):
            logger.warning("%s: %d of %d labels name no years: %s", one.name, len(other), len(labels), some(other))


def _n_donors(donor_C: np.ndarray) -> int:
    return len(np.unique(donor_C[donor_C >= 0]))


def _unseen(source: PreparedSource, schema: PhenotypeSchema) -> dict[str, dict[str, int]]:
    """Count the cells of each label that no training cell has: {phenotype: {label: cells}}."""
    held_out = count_labels(source.frame[source.part_C != 0], schema.phenotypes)
    unseen = {
        name: {label: n for label, n in sorted(held_out[name].items()) if schema.find(p, label) < 0}
        for p, name in enumerate(schema.names)
    }
    return {name: labels for name, labels in unseen.items() if labels}
