"""Calibrate a checkpoint for studies that it never saw, on networks that left whole studies out in turn.

    python -m benchmarks.models.calibrate CHECKPOINT --corpora DIR --folds a=RUN b=RUN c=RUN

DIR/a is what `python -m benchmarks.models.corpus --data DATA --out DIR/a --fold a` made, RUN a network trained on its
corpus by the recipe of the checkpoint, or a short one. Each predicts the studies of DIR/a/left_out. Learned from these
predictions and written into CHECKPOINT/calibration.json; its card says so, and nothing else of it changes:

sets     the lowest probability of a leaf of the Cell Ontology with which sets hold the true type. Groups of studies
         (recipes/corpus/left_out.toml) are the units and weigh the same: the share to hold is the least with which each
         group is covered, on average, by the threshold of the others.
errors   a logistic regression of "the reported type is wrong" on what docs/trust.md keeps of the features below.
novelty  the distance beyond which 5 % of these studies' cells of known types lie: `polygene_unknown` flags those.

Printed and kept are other sets and other features too, each group by what was learned from the others. The external
files choose nothing. A true type that the model has no label at or near counts as wrong, and for sets not at all.

Legend: C cells, V labels, N types of a study, F features.
"""

import argparse
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.models import corpus as making
from benchmarks.models.card import shift
from benchmarks.shared import command
from polygene.errors import GeneError
from polygene.model.calibration import Calibration, least_probabilities, level
from polygene.model.checkpoint import CALIBRATION, SUMS, PolyGene
from polygene.model.inference import predict_labels
from polygene.model.novelty import FALSE_ALARMS, quantile_of_donors
from polygene.model.shipped import MODELS
from polygene.model.studies import FEATURES, StudyCalibration, error_features, leaf_labels, leaf_probabilities
from polygene.runtime.subsample import spread
from polygene.tl._reader import CellReader
from polygene.vocab.ontology import at_or_below, ontology_of, reported_labels

SHIFT = "## Which shift sets are for"  # a head of card.md
MOST = 1_500  # cells of a file
NEAR = 0.15  # a label that stands for more of all labels than this is no answer to a type that the model does not know
ASKED = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """What a model that did not see a study predicts of it; cells without a true type are left out.

    `holds_CV` are the right leaves, `known_C` is whether there is one, `right_C` whether the reported label is right.
    """

    group: str
    leaves_CV: np.ndarray
    holds_CV: np.ndarray
    right_C: np.ndarray
    known_C: np.ndarray
    features: pd.DataFrame


def predict(model: PolyGene, cells: ad.AnnData, group: str) -> Predicted:
    """Predict the types of a study's cells, at most `MOST`, and compare with the true ones."""
    rows = np.flatnonzero(cells.obs["cell_type"].notna().to_numpy())
    cells = cells[rows[spread(len(rows), MOST)]].copy()
    schema = model.tokenizer.schema
    labels = schema.labels[schema.index("cell_type")]
    table_VV = table_of(labels)
    reader = CellReader(cells, model.tokenizer)
    parts = [(one, *predict_labels(model, one, predict=["cell_type", "tissue"])) for _, one in reader.chunks()]
    p_CV, tissue_CT = (np.concatenate([p[i] for _, p, _ in parts]) for i in (0, 1))
    states_CD = np.concatenate([states[0] for _, _, states in parts])
    n_genes_C = np.concatenate([np.diff(one.offsets_C1) for one, _, _ in parts])
    truth_C = cells.obs["cell_type"].astype(str).to_numpy()
    types, type_C = np.unique(truth_C, return_inverse=True)
    holds_NV = np.array([holding(labels, table_VV, one) for one in types])
    novelty_C = model.novelty.score(states_CD) if model.novelty else np.ones(len(p_CV), dtype=np.float32)
    label_C, leaf_V = reported_labels(p_CV, table_VV), leaf_labels(table_VV)
    leaves_CV, features_CF = leaf_probabilities(p_CV, table_VV), error_features(p_CV, table_VV, novelty_C)
    features = pd.DataFrame(features_CF, columns=FEATURES)
    features["genes"] = np.log1p(n_genes_C)
    features["lineage"] = lineage(p_CV, table_VV, label_C)
    features["tissue"] = -np.log(tissue_CT.max(axis=1))
    features["measured"] = np.log(reader.genes["coverage"])
    features["set size"] = np.log1p((leaves_CV >= 0.01).sum(axis=1))
    holds_CV = holds_NV[type_C] & leaf_V
    return Predicted(
        group=group, leaves_CV=leaves_CV, holds_CV=holds_CV, right_C=holds_NV[type_C, label_C],
        known_C=holds_CV.any(axis=1), features=features,
    )  # fmt: skip


def table_of(labels: Sequence[str]) -> np.ndarray:
    """Say which labels (columns) are at or below which (rows), bool (V, V)."""
    table_VV = at_or_below("cell_type", labels)
    return np.eye(len(labels), dtype=bool) if table_VV is None else table_VV


def lineage(p_CV: np.ndarray, table_VV: np.ndarray, label_C: np.ndarray) -> np.ndarray:
    """Log odds that the nearest broader label of the reported one is not true either, (C,)."""
    size_V = table_VV.sum(axis=1)
    broader_VV = np.where(table_VV.T & (size_V > size_V[:, None]), size_V, len(size_V) + 1)
    parent_V = np.where(broader_VV.min(axis=1) <= len(size_V), broader_VV.argmin(axis=1), np.arange(len(size_V)))
    p_C = np.where(table_VV[parent_V[label_C]], p_CV, 0).sum(axis=1).clip(1e-4, 1 - 1e-4)
    return np.log(1 - p_C) - np.log(p_C)


def holding(labels: Sequence[str], table_VV: np.ndarray, truth: str) -> np.ndarray:
    """Which labels are right for a true type, bool (V,): it and finer ones.

    Of a type that the model has no such label of, the finest ones above it, since the model cannot be finer; none where
    those are too broad to be an answer.
    """
    relations = np.array([ontology_of("cell_type").compare(label, truth) for label in labels])
    if (exact_V := np.isin(relations, ["same", "finer"])).any():
        return exact_V
    above_V = relations == "broader"
    finer_VV = table_VV & ~table_VV.T
    finest_V: np.ndarray = above_V & ~(finer_VV & above_V).any(axis=1) & (table_VV.sum(axis=1) <= NEAR * len(labels))
    return finest_V


def typical(leaves_CV: np.ndarray) -> np.ndarray:
    """How probable a leaf is; the most probable one is in every set."""
    p_CV = leaves_CV.copy()
    p_CV[np.arange(len(p_CV)), p_CV.argmax(axis=1)] = 1
    return p_CV


def relative(leaves_CV: np.ndarray) -> np.ndarray:
    """How probable a leaf is beside the most probable one."""
    return leaves_CV / leaves_CV.max(axis=1, keepdims=True)


def adaptive(leaves_CV: np.ndarray) -> np.ndarray:
    """1 − the probability of all leaves that are more probable (Romano et al. 2020, adaptive prediction sets)."""
    order_CV = np.argsort(-leaves_CV, axis=1)
    sorted_CV = np.take_along_axis(leaves_CV, order_CV, axis=1)
    found_CV = np.empty_like(leaves_CV)
    np.put_along_axis(found_CV, order_CV, 1 - (np.cumsum(sorted_CV, axis=1) - sorted_CV), axis=1)
    return found_CV


SETS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "probability of the leaf (kept)": typical,
    "probability beside the most probable leaf": relative,
    "probability of more probable leaves (adaptive)": adaptive,
}
CHOICES = tuple(
    tuple(line.split(", "))
    for line in (
        "unsure", "entropy", "novelty", "set size", "lineage", "unsure, entropy", "unsure, entropy, novelty",
        "unsure, entropy, novelty, measured", "unsure, entropy, novelty, tissue", "unsure, entropy, novelty, genes",
        "unsure, entropy, novelty, lineage",
        "unsure, entropy, genes, novelty, tissue, measured, set size, lineage",
    )
)  # fmt: skip
"""Features that are tried together."""


def thresholds(score: Callable[[np.ndarray], np.ndarray], some: Sequence[Predicted]) -> np.ndarray:
    """Find the thresholds of `COVERAGES`, groups being the units."""
    true = [np.where(one.holds_CV, score(one.leaves_CV), 0).max(axis=1)[one.known_C] for one in some]
    units = np.concatenate([np.full(len(p_C), one.group, dtype=object) for one, p_C in zip(some, true, strict=True)])
    return least_probabilities(np.concatenate(true), pd.factorize(units)[0])


def score_sets(score: Callable[[np.ndarray], np.ndarray], some: Sequence[Predicted]) -> dict[str, Any]:
    """Score sets at `ASKED` of each group, by the threshold of the others."""
    rows = {}
    for group in dict.fromkeys(one.group for one in some):
        least = thresholds(score, [one for one in some if one.group != group])[level(ASKED)]
        parts = [(one, score(one.leaves_CV) >= least - 1e-12) for one in some if one.group == group]
        held, size = (
            np.concatenate([(set_CV & one.holds_CV).any(axis=1)[one.known_C] for one, set_CV in parts]),
            np.concatenate([set_CV.sum(axis=1) for _, set_CV in parts]),
        )
        rows[group] = {"coverage": float(held.mean()) if len(held) else np.nan, "size": float(size.mean())}
    mean = {name: float(np.nanmean([row[name] for row in rows.values()])) for name in ("coverage", "size")}
    return mean | {"by_group": rows}


def fit_error(some: Sequence[Predicted], names: Sequence[str]) -> tuple[np.ndarray, float]:
    """Fit the regression of "wrong" on these features, groups weighing the same; weights of the features, and bias."""
    n_of = pd.Series([one.group for one in some for _ in one.right_C]).value_counts()
    x_CF = np.concatenate([one.features[list(names)].to_numpy() for one in some])
    wrong_C = np.concatenate([~one.right_C for one in some])
    weight_C = np.concatenate([np.full(len(one.right_C), 1 / n_of[one.group]) for one in some])
    if len(set(wrong_C)) < 2:  # as on the made-up cells of a smoke run: nothing to tell apart
        return np.zeros(len(names)), 4.0 if wrong_C.all() else -4.0
    mean_F, scale_F = x_CF.mean(axis=0), x_CF.std(axis=0) + 1e-9
    fit = LogisticRegression(C=1.0).fit((x_CF - mean_F) / scale_F, wrong_C, sample_weight=weight_C / weight_C.mean())
    weights_F = fit.coef_[0] / scale_F
    return weights_F, float(fit.intercept_[0] - weights_F @ mean_F)


def score_errors(some: Sequence[Predicted], names: Sequence[str]) -> dict[str, Any]:
    """AUROC of "wrong" within each group, and calibration error, by the regression on the others."""
    rows = {}
    for group in dict.fromkeys(one.group for one in some):
        weights_F, bias = fit_error([one for one in some if one.group != group], names)
        own = [one for one in some if one.group == group]
        wrong_C = np.concatenate([~one.right_C for one in own])
        logit_C = np.concatenate([one.features[list(names)].to_numpy() @ weights_F + bias for one in own])
        both = 0 < wrong_C.mean() < 1
        error_C = 1 / (1 + np.exp(-logit_C))
        rows[group] = {
            "auroc": float(roc_auc_score(wrong_C, logit_C)) if both else np.nan,
            "ece": ece(error_C, wrong_C),
        }
    mean = {name: float(np.nanmean([row[name] for row in rows.values()])) for name in ("auroc", "ece")}
    return mean | {"by_group": rows}


def ece(p_C: np.ndarray, true_C: np.ndarray, bins: int = 15) -> float:
    """Mean over cells of |share true − mean probability| of their bin, bins of equally many cells."""
    rows = np.array_split(np.argsort(p_C, kind="stable"), min(bins, len(p_C)))
    return float(sum(len(row) * abs(true_C[row].mean() - p_C[row].mean()) for row in rows) / len(p_C))


def learn(some: Sequence[Predicted]) -> tuple[StudyCalibration, dict[str, Any]]:
    """Learn the calibration, and score it beside other sets and features."""
    sets = {name: score_sets(score, some) for name, score in SETS.items()}
    able = [names for names in CHOICES if set(names) <= set(some[0].features)]
    errors = {" + ".join(names): score_errors(some, names) for names in able}
    weights_F, bias = fit_error(some, FEATURES)
    kept = next(iter(sets.values()))
    far_C = np.concatenate([np.exp(one.features["novelty"].to_numpy()[one.known_C]) for one in some])
    group_C = np.concatenate([np.full(one.known_C.sum(), one.group) for one in some])
    calibration = StudyCalibration(
        studies=tuple(dict.fromkeys(one.group for one in some)),
        cells=sum(len(one.right_C) for one in some),
        least_A=tuple(thresholds(typical, some).tolist()),
        held=kept["coverage"],
        size=kept["size"],
        weights=tuple(weights_F.tolist()),
        bias=bias,
        novelty=quantile_of_donors(far_C, group_C, 1 - FALSE_ALARMS),
        auroc=errors[" + ".join(FEATURES)]["auroc"],
        auroc_unsure=errors[FEATURES[0]]["auroc"],
    )
    return calibration, {"sets": sets, "errors": errors}


def store(folder: Path, calibration: Calibration) -> None:
    """Write the calibration of a checkpoint folder, its hash, and for which shift it is into the card."""
    card = folder / "README.md"
    before, head, rest = card.read_text(encoding="utf-8").partition(SHIFT)
    after = rest[rest.find("\n## ") + 1 :] if "\n## " in rest else ""
    text = f"{before if head else before.rstrip() + chr(10) * 2}{SHIFT}\n\n{shift(calibration)}\n"
    card.write_text(text + (f"\n{after}" if after else ""), encoding="utf-8")
    calibration.save(folder / CALIBRATION)
    digest = hashlib.sha256((folder / CALIBRATION).read_bytes()).hexdigest()
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    changed = [f"{digest}  {CALIBRATION}" if line.endswith(f"  {CALIBRATION}") else line for line in lines]
    (folder / SUMS).write_text("\n".join(changed) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Predict what each fold left out, learn, print, and write into the checkpoint."""
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, folds, corpora = options.checkpoint, dict(options.folds), options.corpora
        if options.smoke:  # a copy of a shipped model stands for all networks
            checkpoint, corpora = Path(scratch) / "model", Path(scratch)
            shutil.copytree(MODELS / "polygene-512", checkpoint)
            folds = {"a": checkpoint}
            making.write(options.data, corpora / "a", making.sources_of(options.data), without=making.left_out([], "a"))
        group_of = {source: group["name"] for group in making.read_groups() for source in group["sources"]}
        some = []
        for fold, run in folds.items():
            network = PolyGene.from_pretrained(run, device="cpu")
            for file in sorted((corpora / fold / "left_out").glob("*.h5ad")):
                cells = ad.read_h5ad(file)
                if "cell_type" in cells.obs and cells.obs["cell_type"].notna().any():
                    try:
                        some.append(predict(network, cells, group_of[file.stem]))
                    except GeneError as error:  # of the larger panel a file may measure too little
                        print(f"{fold}, {file.stem}: {error}"[:120], flush=True)
                        continue
                    print(f"{fold}, {file.stem}: {some[-1].right_C.mean():.3f} right", flush=True)
        calibration, scores = learn(some)
        model = PolyGene.from_pretrained(checkpoint, device="cpu")
        store(Path(checkpoint), replace(model.calibration, studies={"cell_type": calibration}))
        PolyGene.from_pretrained(checkpoint, device="cpu")
    show(scores)
    least = {f"{one:g}": calibration.least_A[level(one)] for one in (0.8, ASKED, 0.95)}
    return {"checkpoint": Path(checkpoint).name, "cells": calibration.cells, "least": least, **scores}


def show(scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Print sets and features, means and groups."""
    for what, columns in (("sets", ("coverage", "size")), ("errors", ("auroc", "ece"))):
        groups = list(next(iter(scores[what].values()))["by_group"])
        table = Table(
            what, *columns, *groups, title=f"{what}: each group by the others; in groups {' / '.join(columns)}"
        )
        for name, row in scores[what].items():
            cells = [" / ".join(f"{row['by_group'][group][c]:.2f}" for c in columns) for group in groups]
            table.add_row(name, *(f"{row[c]:.3f}" for c in columns), *cells)
        Console(width=240).print(table)


def fold_of(text: str) -> tuple[str, str]:
    name, _, run = text.partition("=")
    return name, run


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", type=Path, help="folder that gets the calibration")
    parser.add_argument("--folds", nargs="+", type=fold_of, default=[], metavar="FOLD=RUN", help="networks by fold")
    parser.add_argument("--corpora", type=Path, metavar="DIR", help="folder with a folder for each fold")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("calibrate", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
