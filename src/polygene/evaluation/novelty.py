"""The novelty detector of a model: how it is learned, and how often cells of known kinds are flagged.

Legend: C cells, D width, U donors, R resamples.
"""

import numpy as np
import pandas as pd

from polygene.corpus.corpus import CorpusSplit
from polygene.evaluation.bootstrap import mean_of_donors
from polygene.evaluation.test_cells import donor_names
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import predict_labels
from polygene.model.novelty import NoveltyDetector
from polygene.runtime.subsample import spread

MOST_NOVELTY_CELLS = 5_000
"""The detector is learned from at most so many training cells, set on as many validation cells, and scored on as many
test cells."""


def learn_novelty(model: PolyGene, train: CorpusSplit, held_out: CorpusSplit, *, seed: int = 0) -> NoveltyDetector:
    """Learn the states of training cells, and from held-out cells, which there must be, the usual distance from them.

    The states are those of the query for cell types, or for the phenotype with most labels where there are none.
    """
    sizes = dict(zip(model.tokenizer.schema.names, model.network.config.phenotype_sizes, strict=True))
    query = "cell_type" if sizes.get("cell_type") else max(sizes, key=lambda name: sizes[name])
    train_CD, held_out_CD = (query_states(model, split, query) for split in (train, held_out))
    donors_C = donor_names(held_out, spread(len(held_out), MOST_NOVELTY_CELLS))
    return NoveltyDetector.learn(train_CD, held_out_CD, donors_C, query=query, seed=seed)


def query_states(model: PolyGene, split: CorpusSplit, query: str) -> np.ndarray:
    """States of the query for a phenotype in at most MOST_NOVELTY_CELLS cells of a split, (C, D)."""
    rows = spread(len(split), MOST_NOVELTY_CELLS)
    return predict_labels(model, split.cells(rows), predict=[query])[1][0]


def score_novelty(model: PolyGene, split: CorpusSplit, novelty_C: np.ndarray | None, *, seed: int = 0) -> pd.DataFrame:
    """Measure how often cells of a split, which are of known kinds, are flagged; empty if the model has no detector.

    At most MOST_NOVELTY_CELLS of them count; `novelty_C` is of all, see `test_cells.model_predictions`.

    Returns
    -------
    One row: `stated`, the share of false alarms that the threshold was set for, on `set_on_donors` (0: without names of
    donors); `false_alarms`, the share of flagged cells, donors counting alike, with its donor-bootstrap interval
    (`low`, `high`); and on how many `cells` and `donors` that is.
    """
    detector = model.novelty
    if detector is None or novelty_C is None:
        return pd.DataFrame()
    rows = spread(len(split), MOST_NOVELTY_CELLS)
    donors_C, flagged_C = donor_names(split, rows), novelty_C[rows] > 1
    by_donor_U = pd.Series(flagged_C).groupby(np.arange(len(flagged_C)) if donors_C is None else donors_C).mean()
    mean = mean_of_donors(by_donor_U.to_numpy(dtype=float), seed)
    row = {
        "stated": detector.false_alarms,
        "set_on_donors": detector.donors,
        "false_alarms": mean["value"],
        "low": mean["low"],
        "high": mean["high"],
        "cells": len(flagged_C),
        "donors": 0 if donors_C is None else len(by_donor_U),
    }
    return pd.DataFrame([row])
