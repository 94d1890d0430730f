"""Fine-tune: a model that also knows labels of one's own.

Legend: C cells, D width, N labels that the network knows, H genes of the head, G of the panel, V labels.
"""

import logging
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import block_diag

from polygene.errors import DataError, PhenotypeError
from polygene.evaluation.tables import number
from polygene.io.read import CellSource, Source, open_cells
from polygene.model.calibration import Calibration, calibrate
from polygene.model.checkpoint import PolyGene
from polygene.model.extend import extend_vocabulary, phenotype_of, query_like
from polygene.model.head import Head, log_probabilities
from polygene.model.inference import predict_labels
from polygene.model.shipped import DEFAULT
from polygene.runtime.atomic import writing
from polygene.runtime.progress import progress
from polygene.runtime.ranks import one_process
from polygene.runtime.seeds import check_seed
from polygene.runtime.subsample import spread
from polygene.tl._head import CHOSEN_ON, Fit, fit_head, scaled_alike
from polygene.tl._reader import CellReader, donors_of, groups_of, load_model
from polygene.vocab.gene_matching import GeneMatch
from polygene.vocab.panel import GenePanel, merged_genes

logger = logging.getLogger("polygene")

MOST_CELLS = 20_000
"""Labelled cells, evenly spread over the file, that a head is fitted on at most."""
OWN_GENES = 2_000
"""Genes that a head reads beside those of the panel, the most variable ones of the labelled cells."""


def finetune(
    adata: Source,
    model: PolyGene | str | Path = DEFAULT,
    *,
    label: str,
    out: str | Path | None = None,
    donor: str = "donor_id",
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> PolyGene:
    """Fine-tune a model on the labels of a column of `obs`, in seconds; the result is a normal PolyGene model.

    The column becomes a phenotype of the model. A head predicts its labels from what the network makes of a cell and
    from genes of the file, also those outside the panel. All other predictions stay as they were; of a phenotype that
    the model reads from a column of this name, such as cell_type, only the labels of `adata` are predicted from then
    on. The labels of a new phenotype can be predicted but not given.

    Parameters
    ----------
    adata
        Labelled cells with counts or log1p values, an AnnData or a file. A head learns from at most 20,000 of them;
        cells without a label are left out.
    model
        A PolyGene, or the name or folder of one. It is not changed.
    label
        Column of `obs` with two labels or more, as texts or categories.
    out
        Folder of the new checkpoint. None: the model is returned and not saved.
    donor
        Column of `obs` with the donor. Donors are held out to choose the regularisation, to calibrate and to score;
        without them cells are held out, which flatters.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Decides which donors are held out.

    Returns
    -------
    The new model. `metrics.finetuned` describes it, with the macro-F1 on donors that were held out in turn.
    """
    one_process("finetune")
    check_seed(seed)
    _check_free(out)
    model, cells = load_model(model), open_cells(adata, layer=layer)
    labels_C, labels = _labels(cells, label)
    name, donors_C = phenotype_of(model, label), donors_of(cells, donor)[0]
    extended = extend_vocabulary(model, label, labels)
    labelled = np.flatnonzero(labels_C >= 0)
    known = labelled[spread(len(labelled), MOST_CELLS)]
    reader = CellReader(cells, model.tokenizer, totals=totals)
    about = (labels_C[known], donors_C[known], len(labels), seed)
    head, fit = _fitted(model, reader, query_like(model, label), known, *about)
    _log_score(name, len(known), len(labels), fit)
    schema, held_out = extended.tokenizer.schema, known[fit.held_out_C]
    if lost := len(schema.labels[schema.index(name)]) - len(labels):
        do = "to keep them, learn from a copy of the column under another name"
        logger.warning("%s: %d other labels of the model are not predicted any more; %s", name, lost, do)
    places_V = np.array([schema.labels[schema.index(name)].index(one) for one in labels])
    # the scores of this phenotype are of the labels as they were
    validation = {key: value for key, value in model.metrics.validation.items() if not key.startswith(f"{name}_")}
    facts = {
        "from": Path(model.network.name_or_path).name or "a model that was not saved",
        "label": label,
        "labelled": len(labelled),
        "labels": labels,
        "cells": len(known),
        "donors": len(np.unique(donors_C[known][donors_C[known] >= 0])),
        **_facts(head, fit),
    }
    tuned = replace(
        extended,
        calibration=_calibration(extended, name, fit, places_V, labels_C[held_out], donors_C[held_out]),
        metrics=replace(model.metrics, validation=validation, finetuned=facts),
        heads={**model.heads, name: replace(head, places_V=places_V)},
    )
    if out is not None:
        _check_free(out)  # another run may have come first
        tuned.save_pretrained(Path(out))
    return tuned


def _check_free(out: str | Path | None) -> None:
    if out is not None and (Path(out).is_file() or (Path(out).exists() and any(Path(out).iterdir()))):
        msg = f"{str(out)!r} exists; choose another folder for the new model, or delete it."
        raise DataError(msg)
    if out is not None:  # what cannot be written is found out before the work begins
        with writing(Path(out)), TemporaryFile(dir=next(one for one in Path(out).resolve().parents if one.exists())):
            pass


def _log_score(name: str, n_cells: int, n_labels: int, fit: Fit) -> None:
    logger.info(
        "%s: trained on %s cells with %d labels; cross-validated macro-F1 %s (held-out %s, %d labels scored)",
        name, f"{n_cells:,}", n_labels, number(fit.macro_f1), fit.held_out, len(fit.scored),
    )  # fmt: skip
    if math.isnan(fit.macro_f1):
        logger.warning("%s: no score, since fewer than two labels are in two %s or more", name, fit.held_out)


def _facts(head: Head, fit: Fit) -> dict[str, Any]:
    experts = ("state", "labels", "genes")
    return {
        "scored": len(fit.scored),
        "macro_f1": None if math.isnan(fit.macro_f1) else fit.macro_f1,
        "held_out": fit.held_out,
        "genes": len(head.genes),
        "weights": dict(zip(experts, fit.mix_E, strict=True)),
        "C": dict(zip(experts, fit.strengths_E, strict=True)),
    }


def _calibration(
    model: PolyGene, name: str, fit: Fit, places_V: np.ndarray, labels_C: np.ndarray, donors_C: np.ndarray
) -> Calibration:
    """Calibrate the head on the cells that it was held out from; the other phenotypes stay as they are."""
    schema = model.tokenizer.schema
    p_CV = np.zeros((len(labels_C), len(schema.labels[schema.index(name)])), np.float32)
    p_CV[:, places_V] = fit.held_out_CV
    units_C = donors_C.astype(object) if fit.held_out == "donors" else None
    one = calibrate(p_CV, places_V[labels_C], units_C, model.at_or_below(name))
    labels = {key: value for key, value in model.calibration.labels.items() if key != name}
    studies = {key: value for key, value in model.calibration.studies.items() if key != name}
    return Calibration(labels=labels | ({name: one} if one else {}), studies=studies)


def _labels(cells: CellSource, key: str) -> tuple[np.ndarray, list[str]]:
    """Read the labels to learn: (labels_C, -1 = not given; the labels)."""
    labels_C, labels = groups_of(cells, key, holds="the labels to learn")
    n_labelled = int((labels_C >= 0).sum())
    if len(labels) < 2 or len(labels) > n_labelled / 2:
        msg = (
            f"{cells.label}: obs[{key!r}] holds {len(labels):,} labels for {n_labelled:,} labelled cells. "
            "To learn, it needs two labels or more, of two cells each on average (a number is no label: bin it first)."
        )
        raise PhenotypeError(msg)
    if n_labelled < len(labels_C):
        logger.info("%s cells without a label in obs[%r] are left out", f"{len(labels_C) - n_labelled:,}", key)
    return labels_C, labels


def _fitted(
    model: PolyGene,
    reader: CellReader,
    query: str,
    known: np.ndarray,
    labels_C: np.ndarray,
    donors_C: np.ndarray,
    n_labels: int,
    seed: int,
) -> tuple[Head, Fit]:
    """Fit a head to the labels of the rows `known`: three experts, on state, on label probabilities and on genes."""
    width, schema = model.network.config.hidden_size, model.tokenizer.schema
    # what the network predicts without heads: it never learned the labels of an earlier head
    bare, before = replace(model, calibration=Calibration(), heads={}), model.heads.get(query)
    n_known = before.n_known(width) if before else len(schema.labels[schema.index(query)])
    genes, in_panel_H = _own_genes(reader, model.tokenizer.panel, query, known[spread(len(known), CHOSEN_ON)])
    found = []
    with progress(len(known), done="read", device=model.network.device) as advance:
        for _, encoded in reader.chunks(known):
            (p_CN,), (states_CD,) = predict_labels(bare, encoded, predict=[query], branch=True)
            found.append((states_CD, log_probabilities(p_CN[:, :n_known]), encoded.own[query]))
            advance(len(encoded))
    parts = [np.concatenate(of_chunks) for of_chunks in zip(*found, strict=True)]
    # genes of the panel, which separate cells in other studies too, weigh as much as those that vary in this one
    alike = [scaled_alike(parts[2], weights_H, 0.5) for weights_H in (np.ones(len(genes)), in_panel_H)]
    factors = [scaled_alike(part, np.ones(part.shape[1]), power) for part, power in ((parts[0], 1.0), (parts[1], 0.0))]
    factors.append(np.hypot(*alike) / np.sqrt(2))
    experts = list(block_diag(*factors))  # each reads its own features
    fit = fit_head(np.hstack(parts), labels_C, donors_C, experts=experts, n_labels=n_labels, seed=seed)
    mean_H = parts[2].mean(axis=0, dtype=float)
    weights = {"weights_FV": fit.weights_FV.astype(np.float32), "bias_V": fit.bias_V.astype(np.float32)}
    return Head(query=query, genes=genes, places_V=np.zeros(0, int), mean_H=mean_H.astype(np.float32), **weights), fit


def _own_genes(reader: CellReader, panel: GenePanel, query: str, rows: np.ndarray) -> tuple[GenePanel, np.ndarray]:
    """Choose the genes of a head, and let the reader read them: those of the panel, and the most variable ones.

    Returns the genes, under the panel's names where they are in it, and 1 for those (float64, 0 for the others).
    """
    columns, match = defaultdict[tuple[str, str], list[int]](list), reader.match
    for column, g in zip(match.columns_N, match.genes_N, strict=True):
        columns[panel.symbols[g], panel.ensembl_ids[g]].append(column)
    n_inside = len(columns)
    genes, merged = merged_genes(reader.cells.var)
    names = list(zip(genes["symbol"], genes["ensembl_id"], strict=True))
    outside = ~np.isin(merged.columns_N, match.columns_N)
    for column, k in zip(merged.columns_N[outside], merged.genes_N[outside], strict=True):
        columns[names[k]].append(column)
    everything = GeneMatch.of(dict(enumerate(columns.values())), len(columns), found={})
    x_CH = sparse.vstack([reader.values(chunk, everything) for chunk in reader.raw(rows)], format="csr").astype(float)
    squares_H, mean_H = (np.asarray(some.mean(axis=0)).ravel() for some in (x_CH.multiply(x_CH), x_CH))
    variance_H = squares_H - np.square(mean_H)
    inside_H = np.arange(len(columns)) < n_inside
    variable = np.argsort(-variance_H, kind="stable")[:OWN_GENES]
    chosen = np.flatnonzero((inside_H | np.isin(np.arange(len(columns)), variable)) & (variance_H > 1e-9))
    pairs, places = list(columns), list(columns.values())
    symbols, ids = zip(*(pairs[h] for h in chosen), strict=True)
    reader.own[query] = GeneMatch.of({i: places[h] for i, h in enumerate(chosen)}, len(chosen), found={})
    return GenePanel(symbols=symbols, ensembl_ids=ids), inside_H[chosen].astype(float)
