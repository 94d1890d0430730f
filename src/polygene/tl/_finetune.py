"""Fine-tune: a model that also knows labels of one's own. Legend: C cells, D width, F features of a head, V labels."""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import DataError, PhenotypeError, missing_column
from polygene.evaluation.tables import number
from polygene.io.read import CellSource, Source, open_cells
from polygene.model.calibration import Calibration, calibrate
from polygene.model.checkpoint import PolyGene
from polygene.model.extend import extend_vocabulary, phenotype_of
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.model.shipped import DEFAULT
from polygene.runtime.atomic import locked
from polygene.runtime.progress import progress
from polygene.runtime.ranks import one_process
from polygene.runtime.seeds import check_seed
from polygene.runtime.subsample import spread
from polygene.tl._head import NEVER, Head, fit_head, head_features, held_out_by
from polygene.tl._reader import CellReader, donors_of, load_model
from polygene.training.train import train
from polygene.vocab.columns import given_texts

logger = logging.getLogger("polygene")

How = Literal["head", "all"]
LEARNING_RATE = 2e-4
EXAMPLES, FEWEST_EPOCHS = 5_000, 3
"""Cells that training sees at least, and how often each at least."""
MOST_CELLS = 50_000
"""Labelled cells, evenly spread over the file, that a head is fitted on at most."""
MASKED = 0.9
"""Share of the cells whose labels are all masked, since it is their labels that are to be predicted."""


def finetune(
    adata: Source,
    model: PolyGene | str | Path = DEFAULT,
    *,
    label: str,
    out: str | Path | None = None,
    how: How = "head",
    donor: str = "donor_id",
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> PolyGene:
    """Fine-tune a model on the labels of a column of `obs`; the result is a normal PolyGene model.

    The column becomes a phenotype of the model, or adds its labels to the phenotype that is read from it.

    Parameters
    ----------
    adata
        Labelled cells with counts or log1p values, an AnnData or a file. A head learns from at most 50,000 of them;
        cells without a label are left out.
    model
        A PolyGene, or the name or folder of one. It is not changed.
    label
        Column of `obs` with two labels or more, as texts or categories.
    out
        Folder of the new checkpoint. None: the model is returned and not saved; only with how="head".
    how
        "head": fit a logistic regression on the frozen network and on the bins, in seconds. All other predictions stay
        as they were, and the new label can be predicted but not given. "all": train all weights, in minutes; other
        predictions change too, and the new label can be given. docs/decisions.md compares the two.
    donor
        Column of `obs` with the donor. Donors are held out to choose the regularisation, to calibrate and to score;
        without them cells are held out, which flatters.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Decides which donors are held out, and the order of the cells.

    Returns
    -------
    The new model. `metrics.finetuned` describes the training, for a head with the macro-F1 on donors that were held out
    in turn; else `metrics.validation` has the scores.
    """
    one_process("finetune")
    check_seed(seed)
    _check(how, out)
    model = load_model(model)
    cells = open_cells(adata, layer=layer)
    labels_C, labels = _labels(cells, label)
    donors_C, extended = donors_of(cells, donor)[0], extend_vocabulary(model, label, labels)
    task = _Task(phenotype_of(model, label), labels, labels_C, donors_C, extended, seed)
    facts = {
        "from": Path(model.network.name_or_path).name or "a model that was not saved",
        "label": label,
        "how": how,
        "labelled": int((labels_C >= 0).sum()),
        "labels": labels,
    }
    if how == "head":
        tuned = _with_head(task, CellReader(cells, extended.tokenizer, totals=totals), facts)
        if out is not None:
            _check(how, out)  # another run may have come first
            tuned.save_pretrained(Path(out))
        return tuned
    prepared = PrepareConfig(
        split="donor" if held_out_by(labels_C, donors_C) == "donors" else "random",
        fractions=(0.8, 0.2, 0.0), seen=0.0, donor=donor, layer=layer, totals=totals, seed=seed,
    )  # fmt: skip
    folder = Path(str(out))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        return _trained(task, adata, facts, folder, prepared)


def _check(how: str, out: str | Path | None) -> None:
    if how not in get_args(How):
        msg = f"how is one of {', '.join(get_args(How))}; got {how!r}."
        raise DataError(msg)
    if out is None:
        if how != "head":
            msg = f"how={how!r} trains in a folder: name one, out='mine'."
            raise DataError(msg)
        return
    out = Path(out)
    if out.exists() and (out.is_file() or any(out.iterdir())) and (how == "head" or not (out / "training").is_dir()):
        msg = f"{str(out)!r} exists; choose another folder for the new model, or delete it."
        raise DataError(msg)


def _labels(cells: CellSource, key: str) -> tuple[np.ndarray, list[str]]:
    """Read the labels to learn: (labels_C, -1 = not given; the labels)."""
    if key not in cells.columns:
        raise missing_column(key, cells.columns, of=cells.label, holds="the labels to learn")
    labels_C, labels = given_texts(cells.frame([key])[key])
    n_labelled = int((labels_C >= 0).sum())
    if len(labels) < 2 or len(labels) > n_labelled / 2:
        msg = (
            f"{cells.label}: obs[{key!r}] holds {len(labels):,} labels for {n_labelled:,} labelled cells. "
            "To learn, it needs two labels or more, of two cells each on average (a number is no label: bin it first)."
        )
        raise PhenotypeError(msg)
    return labels_C, labels


class _Task(NamedTuple):
    """The labels that a model, whose vocabulary has them already, is to learn."""

    name: str
    labels: list[str]
    labels_C: np.ndarray
    donors_C: np.ndarray
    model: PolyGene
    seed: int

    @property
    def phenotype(self) -> int:
        return self.model.tokenizer.schema.index(self.name)

    def learned_from(self, known: np.ndarray) -> dict[str, int]:
        donors_C = self.donors_C[known]
        return {"cells": len(known), "donors": len(np.unique(donors_C[donors_C >= 0]))}


def _with_head(task: _Task, reader: CellReader, facts: dict[str, Any]) -> PolyGene:
    """Fit the head, calibrate it on the donors that were held out in turn, and put it into the network."""
    model, config = task.model, task.model.network.config
    known = np.flatnonzero(task.labels_C >= 0)
    known = known[spread(len(known), MOST_CELLS)]
    labels_C, donors_C = task.labels_C[known], task.donors_C[known]
    features = []
    with progress(len(known), done="read", device=model.network.device) as advance:
        for _, encoded in reader.chunks(known):
            features.append(head_features(model, encoded, task.name))
            advance(len(encoded))
    sizes = {"width": config.hidden_size, "n_labels": len(task.labels)}
    head = fit_head(np.concatenate(features), labels_C, donors_C, **sizes, seed=task.seed)
    logger.info(
        "%s: trained on %s cells with %d labels; cross-validated macro-F1 %s (held-out %s, %d labels scored)",
        task.name, f"{len(known):,}", len(head.bias_V), number(head.macro_f1), head.held_out, len(head.scored),
    )  # fmt: skip
    if math.isnan(head.macro_f1):
        logger.warning("%s: no score, since fewer than two labels are in two %s or more", task.name, head.held_out)
    place_V = _put(head, task, task.labels)
    held_out_CV = np.zeros((len(known), config.phenotype_sizes[task.phenotype]), np.float32)
    held_out_CV[:, place_V] = head.held_out_CV
    units_C = donors_C.astype(object) if head.held_out == "donors" else None
    at_or_below_VV = model.at_or_below(task.name)
    one = calibrate(held_out_CV, np.array(place_V)[labels_C], units_C, at_or_below_VV)
    calibrated = {key: value for key, value in model.calibration.labels.items() if key != task.name}
    calibrated |= {task.name: one} if one else {}
    # the scores of this phenotype are of the labels as they were
    validation = {key: value for key, value in model.metrics.validation.items() if not key.startswith(f"{task.name}_")}
    facts |= task.learned_from(known)
    score = None if math.isnan(head.macro_f1) else head.macro_f1
    facts |= {
        "scored": len(head.scored),
        "macro_f1": score,
        "held_out": head.held_out,
        "C": head.strength,
        "share_of_state": head.share,
    }
    metrics = replace(model.metrics, validation=validation, finetuned=facts, marks={})
    return replace(model, calibration=Calibration(labels=calibrated), metrics=metrics)


def _trained(task: _Task, adata: Source, facts: dict[str, Any], out: Path, prepared: PrepareConfig) -> PolyGene:
    """Train all weights on a corpus of the cells, starting from a head; a run that was stopped goes on."""
    model, folder = task.model, out / "training" / "corpus"
    corpus = prepare(adata, folder, config=prepared, tokenizer=model.tokenizer, overwrite=True)
    split = corpus.split("train")
    labels_C = split.labels_CP[:, task.phenotype]
    known = np.flatnonzero(labels_C >= 0)
    known = known[spread(len(known), MOST_CELLS)]
    # From a random start the network bends to what the first predictions get wrong (Kumar et al. 2022, "Fine-tuning
    # can distort pretrained features and underperform out-of-distribution", ICLR), so training starts from a head.
    seen, codes_C = np.unique(labels_C[known], return_inverse=True)
    features_CF = head_features(model, split.cells(known), task.name)
    donors_C = np.where(split.donors_C[known] == "", -1, np.unique(split.donors_C[known], return_inverse=True)[1])
    head = fit_head(features_CF, codes_C, donors_C, width=model.network.config.hidden_size, seed=task.seed)
    _put(head, task, [model.tokenizer.schema.labels[task.phenotype][v] for v in seen])
    trained = train(_recipe(model, folder, out, len(split), task.seed), start=model)
    facts |= task.learned_from(np.flatnonzero(task.labels_C >= 0))
    tuned = replace(trained, metrics=replace(trained.metrics, finetuned=facts))
    tuned.save_pretrained(out)
    shutil.rmtree(folder)
    return tuned


def _recipe(model: PolyGene, corpus: Path, out: Path, n_cells: int, seed: int) -> Recipe:
    config = model.network.config
    old = model.recipe or Recipe(corpus="", out="")
    return Recipe(
        corpus=str(corpus),
        out=str(out),
        network=NetworkConfig(**{one.name: getattr(config, one.name) for one in fields(NetworkConfig)}),
        masking=replace(old.masking, phenotype_rate=MASKED, all_phenotypes_rate=MASKED),
        loss=replace(old.loss, phenotype_weight=1.0),
        training=TrainingConfig(
            epochs=max(FEWEST_EPOCHS, math.ceil(EXAMPLES / n_cells)),
            batch_size=32,
            learning_rate=LEARNING_RATE,
            evaluations=5,
            seed=seed,
        ),
    )


def _put(head: Head, task: _Task, labels: Sequence[str]) -> list[int]:
    """Give the network the weights of a head for these labels; returns their indices among all labels."""
    network, width = task.model.network, task.model.network.config.hidden_size
    place_V = [task.model.tokenizer.schema.labels[task.phenotype].index(one) for one in labels]
    weight_VD, bias_V = network.label_rows(task.phenotype)
    weight_GV = network.head(task.phenotype).weight
    with torch.no_grad():
        weight_VD.zero_()
        weight_GV.zero_()
        bias_V.fill_(NEVER)
        bias_V[place_V] = torch.from_numpy(head.bias_V).to(bias_V)
        weights_FV = torch.from_numpy(head.weights_FV).to(weight_VD)
        weight_VD[place_V] = weights_FV[:width].T
        weight_GV[:, place_V] = weights_FV[width:]
    return place_V
