"""Classify: learn any label of one's own on top of the model.

Legend: C cells, D width, V labels.
"""

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from polygene.checkpoint import PolyGene
from polygene.errors import PhenotypeError
from polygene.inference import cell_states
from polygene.metrics import label_scores, label_tally
from polygene.reading import CellSource, Source, open_cells
from polygene.splitting import given_texts
from polygene.tl._cells import CellReader, best_labels, check_model, made_by
from polygene.tl._progress import watched
from polygene.writing import Answers, Block, deliver

logger = logging.getLogger("polygene")

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse strengths of regularisation that are tried; on scaled states larger ones only overfit, slowly."""

MAX_ITERATIONS = 1_000


def classify(
    adata: Source,
    model: PolyGene,
    *,
    key: str,
    reference: Source | None = None,
    donor: str = "donor_id",
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> None:
    """Train a head on the frozen model for any column of `obs`, and answer with it.

    The head is a logistic regression on the scaled states of the cells. Its regularisation is chosen by
    cross-validation over donors, and how well it does on donors it has not seen is said aloud.

    Parameters
    ----------
    adata
        The cells to answer for, with counts or log1p values, an AnnData or a file.
    model
        Places the cells; it is not changed.
    key
        The column of `obs` with the labels to learn.
    reference
        The labelled cells, an AnnData or a file. None: those of `adata` that have a label; then a cell with a label is
        answered by a head that did not see its donor, and a cell without by the head of all.
    donor
        The column of `obs` with the donor. Without it cells are cross-validated instead, which flatters the score.
    layer, totals
        Where the expression is, as for `annotate`; the same in the reference.
    seed
        Decides which donors are cross-validated together.
    out
        Of a file, where the answers go, as for `annotate`.

    Notes
    -----
    Written are, for the key `subtype`: `obs["polygene_subtype"]`, `obs["polygene_subtype_probability"]` and
    `obsm["polygene_subtype"]` as `annotate` writes them, and `uns["polygene"]["classify_subtype"]` with the labels, the
    number of labelled cells and the cross-validated macro-F1.

    Raises
    ------
    PhenotypeError
        There is no such column, or it does not hold two labels at least.
    DataError, GeneError, ScaleError
        The expression cannot be read; the message says what to do.
    """
    answers = classification(
        adata, model, key=key, reference=reference, donor=donor, layer=layer, totals=totals, seed=seed
    )
    deliver(answers, adata, out)


def classification(
    source: Source,
    model: PolyGene,
    *,
    key: str,
    reference: Source | None = None,
    donor: str = "donor_id",
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> Answers:
    """Train the head, and return what `classify` writes, found out when it is asked for.

    The states of the labelled cells are in memory, and of the others a few at a time.
    """
    check_model(model)
    cells = open_cells(source, layer=layer)
    labelled = cells if reference is None else open_cells(reference, layer=layer)
    labels_C, labels = labels_of(labelled, key)
    known = np.flatnonzero(labels_C >= 0)
    reader = CellReader(cells, model.tokenizer, totals=totals)
    learned = reader if reference is None else CellReader(labelled, model.tokenizer, totals=totals)
    known_CD = np.concatenate([cell_states(model, encoded) for _, encoded in learned.chunks(known)])
    head = fit_head(known_CD, labels_C[known], _donors(labelled, donor)[known], seed=seed)
    logger.info(
        "%s: trained on %s cells with %d labels; cross-validated macro-F1 %.3f (held-out %s, %d labels scored)",
        key, f"{len(known):,}", len(labels), head.macro_f1, head.held_out, len(head.scored),
    )  # fmt: skip
    own = known if reference is None else known[:0]  # cells whose answer is a held-out one

    def blocks(rows: range) -> Iterator[Block]:
        first = rows.start
        for names_C, encoded in reader.chunks(rows):
            held_out = slice(*np.searchsorted(own, [first, first + len(encoded)]))
            asked_C = np.delete(np.arange(len(encoded)), own[held_out] - first)
            probabilities_CV = np.empty((len(encoded), len(labels)), np.float32)
            probabilities_CV[own[held_out] - first] = head.held_out_CV[held_out]
            if len(asked_C):
                probabilities_CV[asked_C] = head.probabilities(cell_states(model, encoded.rows(asked_C)))
            first += len(encoded)
            columns = best_labels(key, labels, probabilities_CV)
            yield Block(pd.DataFrame(columns, index=names_C), {f"polygene_{key}": probabilities_CV})

    uns = {
        **made_by(model),
        "genes": reader.genes,
        "labels": np.array(labels, dtype=str),
        "cells_trained": len(known),
        "macro_f1": head.macro_f1,
        "held_out": head.held_out,
        "C": head.strength,
    }
    return Answers(
        verb=f"classify_{key}",
        cells=cells,
        blocks=lambda rows: watched(blocks(rows), len(rows), done=f"classified ({key})", device=model.network.device),
        uns=uns,
    )


def labels_of(cells: CellSource, key: str) -> tuple[np.ndarray, list[str]]:
    """Read the labels to learn: (labels_C, -1 = not given; the labels).

    Raises
    ------
    PhenotypeError
        There is no such column, or it does not hold two labels at least, or no two cells share one.
    """
    if key not in cells.columns:
        msg = f"{cells.label} has no column {key!r} in obs to learn; it has {', '.join(cells.columns[:10]) or 'none'}."
        raise PhenotypeError(msg)
    if "/" in key:
        msg = f"{key!r} cannot be written to a file, in whose names '/' parts folders: rename the column of obs."
        raise PhenotypeError(msg)
    labels_C, labels = given_texts(cells.frame([key])[key])
    n_labelled = int((labels_C >= 0).sum())
    if len(labels) < 2 or len(labels) > n_labelled / 2:
        msg = (
            f"{cells.label}: obs[{key!r}] holds {len(labels):,} labels for {n_labelled:,} labelled cells. "
            "To learn, it needs two labels or more, of two cells each on average (a number is no label: bin it first)."
        )
        raise PhenotypeError(msg)
    return labels_C, labels


def _donors(cells: CellSource, donor: str) -> np.ndarray:
    """Read the donor of each cell, -1 = not given; only a column that nobody named may be missing."""
    if donor not in cells.columns:
        if donor != "donor_id":
            msg = (
                f"{cells.label} has no column {donor!r} in obs with the donor; it has {', '.join(cells.columns[:10])}."
            )
            raise PhenotypeError(msg)
        return np.full(cells.n_obs, -1)
    return given_texts(cells.frame([donor])[donor])[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A classifier of states, trained on all labelled cells.

    Attributes
    ----------
    pipeline
        Scales states and answers.
    held_out_CV
        The probabilities of each labelled cell from a head that did not see its donor, float32.
    scored
        The labels that more than one donor has.
    macro_f1
        Of the held-out answers, over the scored labels.
    held_out
        "donors", or "cells" where donors are not known or tell the labels apart.
    strength
        The inverse strength of regularisation with the least log loss on what was held out.
    """

    pipeline: Pipeline
    held_out_CV: np.ndarray
    scored: np.ndarray
    macro_f1: float
    held_out: Literal["donors", "cells"]
    strength: float

    def probabilities(self, states_CD: np.ndarray) -> np.ndarray:
        """Answer for cells, float32 (C, V)."""
        return self.pipeline.predict_proba(states_CD).astype(np.float32)


def fit_head(states_CD: np.ndarray, labels_C: np.ndarray, donors_C: np.ndarray, *, seed: int = 0) -> Head:
    """Train a head for labels 0 … V-1, its regularisation chosen by cross-validation over donors (-1: not given)."""
    n_labels = int(labels_C.max()) + 1
    held_out: Literal["donors", "cells"] = "donors"
    groups_C, scored = donors_C, _scored(labels_C, donors_C, n_labels)
    if len(scored) < 2:
        held_out, groups_C = "cells", np.arange(len(labels_C))
        scored = _scored(labels_C, groups_C, n_labels)
        logger.warning(
            "no two labels have two known donors each, so cells are cross-validated, which flatters the score"
        )
    folds = _folds(labels_C, groups_C, seed)
    tried = []
    for strength in STRENGTHS:
        held_out_CV = np.zeros((len(labels_C), n_labels), np.float32)
        for train, test in folds:
            seen = np.unique(labels_C[train])
            held_out_CV[np.ix_(test, seen)] = (
                _fit(states_CD[train], labels_C[train], strength).predict_proba(states_CD[test]) if len(seen) > 1 else 1
            )
        tally = label_tally(held_out_CV, labels_C, scorable_SV=np.isin(np.arange(n_labels), scored)[None])
        tried.append((label_scores(tally), strength, held_out_CV))
    scores, strength, held_out_CV = min(tried, key=lambda one: one[0]["log_loss"])
    return Head(
        pipeline=_fit(states_CD, labels_C, strength),
        held_out_CV=held_out_CV,
        scored=scored,
        macro_f1=scores["macro_f1"],
        held_out=held_out,
        strength=strength,
    )


def _scored(labels_C: np.ndarray, groups_C: np.ndarray, n_labels: int) -> np.ndarray:
    """List the labels that two groups or more have; cells whose group is not given are in none."""
    pairs = np.unique(np.stack([labels_C, groups_C])[:, groups_C >= 0], axis=1)
    return np.flatnonzero(np.bincount(pairs[0], minlength=n_labels) >= 2)


def _folds(labels_C: np.ndarray, groups_C: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Hold out whole groups, the labels spread over the folds as far as groups allow."""
    n_folds = min(5, len(np.unique(groups_C)), int(np.bincount(labels_C).max()))
    with warnings.catch_warnings():  # labels of few groups are left out of the score, see `Head.scored`
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return list(StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(labels_C, labels_C, groups_C))


def _fit(states_CD: np.ndarray, labels_C: np.ndarray, strength: float) -> Pipeline:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        pipeline.fit(states_CD, labels_C)
    if (pipeline[-1].n_iter_ >= MAX_ITERATIONS).any():
        logger.warning("the head did not settle within %d steps; its probabilities may be too sure", MAX_ITERATIONS)
    return pipeline
