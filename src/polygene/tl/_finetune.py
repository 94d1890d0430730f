"""Fine-tune: a model that also knows labels of one's own, as a checkpoint like any other.

Legend: C cells, D width, F features of a head, V labels.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.corpus.split import SplitBy
from polygene.errors import DataError
from polygene.io.read import CellSource, Source, open_cells
from polygene.model.calibration import Calibration, calibrate
from polygene.model.checkpoint import PolyGene
from polygene.model.extend import extend_vocabulary, phenotype_of
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.runtime.subsample import spread
from polygene.tl._head import NEVER, Head, donors_of, fit_head, head_features, held_out_by, labels_of, learn_head
from polygene.tl._reader import CellReader, check_model
from polygene.training.train import train

How = Literal["head", "all"]
LEARNING_RATE = 2e-4
EXAMPLES, FEWEST_EPOCHS = 5_000, 3
"""Cells that training sees at least, and how often each at least."""
MOST_CELLS = 50_000
"""Labelled cells, evenly spread over the file, that a head is fitted on at most."""
ASKED = 0.9
"""Share of the cells of which all labels are hidden, since it is their answers that are wanted."""


def finetune(
    adata: Source,
    model: PolyGene,
    *,
    label: str,
    out: str | Path,
    how: How = "head",
    donor: str = "donor_id",
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> PolyGene:
    """Teach a model the labels of a column of `obs`, and write the new model to a folder.

    The column becomes a phenotype of the model, or adds its labels to the one that is read from that column;
    `annotate`, `evaluate` and all else ask it like any other.

    Parameters
    ----------
    adata
        Labelled cells with counts or log1p values, an AnnData or a file. A head learns from at most 50,000 of them and
        nothing from cells without a label; training learns their genes.
    model
        Where to start; it is not changed.
    label
        The column of `obs`: two labels or more, as texts or categories.
    out
        Folder of the new checkpoint.
    how
        "head": fits a logistic regression on the frozen network and on the bins (see `classify`), in seconds; the model
        answers all other questions as before, and the labels can be asked but tell it nothing when they are given.
        "all": trains all weights, in minutes; this changes the predictions of other phenotypes too, and the new label
        can be given. docs/decisions.md compares the two.
    donor
        The column of `obs` with the donor. Donors are held out to choose how much is learned, to calibrate and to
        score; without them cells are, which flatters.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Decides which donors are held out, and the order of the cells.

    Returns
    -------
    The new model. `metrics.finetuned` says from what, on what and how; for a head also the macro-F1 on donors that
    were held out in turn, else `metrics.validation` has the scores.

    Raises
    ------
    PhenotypeError
        There is no such column, or it does not hold two labels at least.
    DataError
        The folder holds something already.
    DataError, GeneError, ScaleError
        The expression cannot be read; the message says what to do.
    RecipeError
        The folder holds a run of another fine-tuning.
    """
    check_model(model)
    if how not in get_args(How):
        msg = f"how is one of {', '.join(get_args(How))}; got {how!r}."
        raise DataError(msg)
    out = Path(out)
    if out.exists() and (out.is_file() or any(out.iterdir())) and (how == "head" or not (out / "training").is_dir()):
        msg = f"{str(out)!r} exists; choose another folder for the new model, or delete it."
        raise DataError(msg)
    cells = open_cells(adata, layer=layer)
    labels_C, labels = labels_of(cells, label)
    donors_C = donors_of(cells, donor)
    name, grown = phenotype_of(model, label), extend_vocabulary(model, label, labels)
    said = {
        "from": Path(model.network.name_or_path).name or "a model that was not saved",
        "label": label,
        "how": how,
        "cells": int((labels_C >= 0).sum()),
        "donors": len(np.unique(donors_C[donors_C >= 0])),
        "labels": labels,
    }
    if how == "head":
        tuned = _with_head(cells, grown, name, labels_C, labels, donors_C, said, totals=totals, seed=seed)
        tuned.save_pretrained(out)
        return tuned
    by: SplitBy = "donor" if held_out_by(labels_C, donors_C) == "donors" else "random"
    prepared = PrepareConfig(
        split=by, fractions=(0.8, 0.2, 0.0), seen=0.0, donor=donor, layer=layer, totals=totals, seed=seed
    )
    return _trained(adata, grown, name, said, out, prepared=prepared)


def _with_head(
    cells: CellSource,
    grown: PolyGene,
    name: str,
    labels_C: np.ndarray,
    labels: list[str],
    donors_C: np.ndarray,
    said: dict[str, Any],
    *,
    totals: str | None,
    seed: int,
) -> PolyGene:
    """Fit the head of a grown model, calibrate it on the donors that were held out in turn, and put it in place."""
    p, known = grown.tokenizer.schema.index(name), np.flatnonzero(labels_C >= 0)
    known = known[spread(len(known), MOST_CELLS)]
    reader = CellReader(cells, grown.tokenizer, totals=totals)
    head = learn_head(reader, known, grown, name, labels_C, donors_C, name=name, seed=seed)
    place_V = _put(head, grown, name, labels)
    held_out_CV = np.zeros((len(known), grown.network.config.phenotype_sizes[p]), np.float32)
    held_out_CV[:, place_V] = head.held_out_CV
    units_C = donors_C[known].astype(object) if head.held_out == "donors" else None
    one = calibrate(held_out_CV, np.array(place_V)[labels_C[known]], units_C)
    calibrated = {key: value for key, value in grown.calibration.labels.items() if key != name}
    calibrated |= {name: one} if one else {}
    # The scores of this phenotype are of the labels as they were.
    validation = {k: v for k, v in grown.metrics.validation.items() if not k.startswith(f"{name}_")}
    said |= {"macro_f1": head.macro_f1, "held_out": head.held_out, "C": head.strength, "share_of_state": head.share}
    metrics = replace(grown.metrics, validation=validation, finetuned=said, marks={})
    return replace(grown, calibration=Calibration(labels=calibrated), metrics=metrics)


def _trained(
    adata: Source,
    grown: PolyGene,
    name: str,
    said: dict[str, Any],
    out: Path,
    *,
    prepared: PrepareConfig,
) -> PolyGene:
    """Train a grown model on a corpus of the cells, from a head on; a run that was stopped goes on.

    From a random start the network would bend to what the labels' first answers get wrong (Kumar et al. 2022,
    "Fine-tuning can distort pretrained features and underperform out-of-distribution", ICLR).
    """
    schema, config = grown.tokenizer.schema, grown.network.config
    old = grown.recipe or Recipe(corpus="", out="")
    folder = out / "training" / "corpus"
    corpus = prepare(adata, folder, config=prepared, tokenizer=grown.tokenizer, overwrite=True)
    split, p = corpus.split("train"), schema.index(name)
    labels_C = split.labels_CP[:, p]
    known = np.flatnonzero(labels_C >= 0)
    known = known[spread(len(known), MOST_CELLS)]
    seen, codes_C = np.unique(labels_C[known], return_inverse=True)
    features_CF = head_features(grown, split.cells(known), name)
    donors_C = np.where(split.donors_C[known] == "", -1, np.unique(split.donors_C[known], return_inverse=True)[1])
    head = fit_head(features_CF, codes_C, donors_C, width=config.hidden_size, seed=prepared.seed)
    _put(head, grown, name, [schema.labels[p][v] for v in seen])
    recipe = Recipe(
        corpus=str(folder),
        out=str(out),
        network=NetworkConfig(**{one.name: getattr(config, one.name) for one in fields(NetworkConfig)}),
        masking=replace(old.masking, phenotype_rate=ASKED, all_phenotypes_rate=ASKED),
        loss=replace(old.loss, phenotype_weight=1.0),
        training=TrainingConfig(
            epochs=max(FEWEST_EPOCHS, math.ceil(EXAMPLES / len(split))),
            batch_size=32,
            learning_rate=LEARNING_RATE,
            evaluations=5,
            seed=prepared.seed,
        ),
    )
    trained = train(recipe, start=grown)
    tuned = replace(trained, metrics=replace(trained.metrics, finetuned=said))
    tuned.save_pretrained(out)
    shutil.rmtree(folder)
    return tuned


def _put(head: Head, model: PolyGene, name: str, labels: Sequence[str]) -> list[int]:
    """Answer a phenotype of a grown model as a head for these labels does; returns where they are among all."""
    p, width = model.tokenizer.schema.index(name), model.network.config.hidden_size
    place_V = [model.tokenizer.schema.labels[p].index(one) for one in labels]
    weight_VD, bias_V = model.network.label_rows(p)
    with torch.no_grad():
        for weights in (weight_VD, model.network.head(p).weight):
            weights.zero_()
        bias_V.fill_(NEVER)
        bias_V[place_V] = torch.from_numpy(head.bias_V).to(bias_V)
        weights_FV = torch.from_numpy(head.weights_FV).to(weight_VD)
        weight_VD[place_V] = weights_FV[:width].T
        model.network.head(p).weight[:, place_V] = weights_FV[width:]
    return place_V
