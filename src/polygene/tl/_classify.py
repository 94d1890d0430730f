"""Classify: learn any label of one's own on top of the model.

Legend: C cells, D width, V labels.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from polygene.io.read import Source, open_cells
from polygene.io.write import Answers, Block, deliver, watched
from polygene.model.checkpoint import PolyGene
from polygene.model.extend import query_like
from polygene.tl._head import donors_of, head_features, labels_of, learn_head
from polygene.tl._reader import CellReader, best_labels, check_model, made_by


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

    The head is a logistic regression on what the model says of a cell and on the cell's bins. Its regularisation is
    chosen by cross-validation over donors, and how well it does on donors it has not seen is said aloud. `finetune`
    keeps the same head in a checkpoint.

    Parameters
    ----------
    adata
        The cells to answer for, with counts or log1p values, an AnnData or a file.
    model
        Reads the cells; it is not changed.
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

    What the head reads of the labelled cells is in memory, and of the others a few at a time.
    """
    check_model(model)
    cells = open_cells(source, layer=layer)
    labelled = cells if reference is None else open_cells(reference, layer=layer)
    labels_C, labels = labels_of(labelled, key)
    known = np.flatnonzero(labels_C >= 0)
    reader = CellReader(cells, model.tokenizer, totals=totals)
    learned = reader if reference is None else CellReader(labelled, model.tokenizer, totals=totals)
    asked, donors_C = query_like(model, key), donors_of(labelled, donor)
    head = learn_head(learned, known, model, asked, labels_C, donors_C, name=key, seed=seed)
    own = known if reference is None else known[:0]  # cells whose answer is a held-out one

    def blocks(rows: range) -> Iterator[Block]:
        first = rows.start
        for names_C, encoded in reader.chunks(rows):
            held_out = slice(*np.searchsorted(own, [first, first + len(encoded)]))
            asked_C = np.delete(np.arange(len(encoded)), own[held_out] - first)
            probabilities_CV = np.empty((len(encoded), len(labels)), np.float32)
            probabilities_CV[own[held_out] - first] = head.held_out_CV[held_out]
            if len(asked_C):
                probabilities_CV[asked_C] = head.probabilities(head_features(model, encoded.rows(asked_C), asked))
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
