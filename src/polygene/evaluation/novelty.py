"""What training cells look like to a model, and how often cells of known kinds are flagged as unknown.

Legend: C cells, D width, U donors, R resamples.
"""

from typing import Any

import numpy as np
import pandas as pd

from polygene.corpus.corpus import CorpusSplit
from polygene.evaluation.metrics import mean_of_donors
from polygene.evaluation.test_cells import named
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import predict_labels
from polygene.model.novelty import NoveltyDetector
from polygene.runtime.subsample import spread

MOST_NOVELTY_CELLS = 5_000
"""Novelty is learned from at most so many training cells, set on as many validation and judged on as many test
cells."""


def learn_novelty(model: PolyGene, train: CorpusSplit, held_out: CorpusSplit, *, seed: int = 0) -> NoveltyDetector:
    """Learn what training cells look like to the model, and from held-out cells, which there must be, what is usual.

    The states are those of the question for cell types, or for the phenotype with most labels where there are none.
    """
    sizes = dict(zip(model.tokenizer.schema.names, model.network.config.phenotype_sizes, strict=True))
    asked = "cell_type" if sizes.get("cell_type") else max(sizes, key=lambda name: sizes[name])
    train_CD, held_out_CD = (asked_states(model, split, asked) for split in (train, held_out))
    donors_C = named(held_out, spread(len(held_out), MOST_NOVELTY_CELLS))
    return NoveltyDetector.learn(train_CD, held_out_CD, donors_C, query=asked, seed=seed)


def asked_states(model: PolyGene, split: CorpusSplit, asked: str) -> np.ndarray:
    """States of the question for a phenotype in at most MOST_NOVELTY_CELLS cells of a split, (C, D)."""
    rows = spread(len(split), MOST_NOVELTY_CELLS)
    return predict_labels(model, split.cells(rows), predict=[asked])[1][0]


def score_novelty(
    model: PolyGene, split: CorpusSplit, novelty_C: np.ndarray | None, *, seed: int = 0
) -> dict[str, Any] | None:
    """Say how often cells of a split, which are of known kinds, are flagged as unknown; None if the model cannot flag.

    Judged are at most MOST_NOVELTY_CELLS of them; `novelty_C` is of all, see `held_out.of_model`.

    Returns
    -------
    `stated`, the share of false alarms that the threshold was set for, on `set_on_donors` (0: without names of donors);
    `false_alarms`, the share of flagged cells, donors counting alike, with its donor-bootstrap interval (`low`,
    `high`); and on how many `cells` and `donors` that is.
    """
    known = model.novelty
    if known is None or novelty_C is None:
        return None
    rows = spread(len(split), MOST_NOVELTY_CELLS)
    donors_C, flagged_C = named(split, rows), novelty_C[rows] > 1
    by_donor_U = pd.Series(flagged_C).groupby(np.arange(len(flagged_C)) if donors_C is None else donors_C).mean()
    found = mean_of_donors(by_donor_U.to_numpy(dtype=float), seed)
    return {
        "stated": known.false_alarms,
        "set_on_donors": known.donors,
        "false_alarms": found["value"],
        "low": found["low"],
        "high": found["high"],
        "cells": len(flagged_C),
        "donors": 0 if donors_C is None else len(by_donor_U),
    }
