"""Cell types predicted no finer than they are sure: what backing off gains in correctness, and what it costs.

    python -m benchmarks.trust --data DIR --only hierarchy

Small models of the shared studies, and logistic regression tuned for log loss on the same training cells, answer for
the test cells with their most probable label, and with the most telling type of the Cell Ontology that has at least 0.8
or 0.9 of the probability. Labels are looked up as recipes/corpus maps them; cells whose label it gives no name are left
out. Means over donors (of zheng, over cells).
"""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.models import corpus as mapping
from benchmarks.shared import effort
from benchmarks.shared.studies import STUDIES, held_out_widely
from polygene.corpus.corpus import CorpusSplit
from polygene.evaluation.baselines import baseline_probabilities
from polygene.evaluation.estimators import CellTable
from polygene.model.inference import label_probabilities
from polygene.vocab.ontology import LabelTree

NAMES, LEVELS = ("onek1k", "zheng"), (0.8, 0.9)
UNNAMED = {"zheng": {"cell_type": "CD34-positive hematopoietic progenitor"}}


def table_of(split: CorpusSplit) -> CellTable:
    named = split.donors_C if (split.donors_C != "").any() else None
    return CellTable(x_CG=split.values(), sources_C=split.sources_C, measured_SG=split.measured_SG, donors_C=named)


def tree_of(file: str, labels: tuple[str, ...]) -> LabelTree:
    """Find the labels of a file in the ontology as the mapping names them."""
    rows = mapping.read_table("labels.tsv")
    rows = rows[(rows["source"] == file) & (rows["column"] == "cell_type")].set_index("label")
    return LabelTree([rows.loc[label, "name"] for label in labels])


def run(data: Path | None, seed: int, folder: Path) -> dict[str, object]:
    """Predict the test cells of each study and score the predictions."""
    studies: dict[str, dict[str, Any]] = {}
    for name in effort.few(NAMES):
        model, corpus = held_out_widely(name, folder, data=data, seed=seed, without=UNNAMED.get(name))
        learned, test = corpus.split("train"), corpus.split("test")
        schema = model.tokenizer.schema
        p = schema.index("cell_type")
        truth_C, labels = test.labels_CP[:, p], schema.labels[p]
        answers = {
            "PolyGene": label_probabilities(model, test.cells(slice(None)), predict=["cell_type"])[0],
            "logistic regression": baseline_probabilities(
                "logistic regression", table_of(learned), learned.labels_CP[:, p], table_of(test), len(labels),
                tune_for="log_loss", seed=seed,
            ),
        }  # fmt: skip
        tree, scores = tree_of(STUDIES[name].file, labels), {}
        donors_C = table_of(test).donors_C
        for who, p_CV in answers.items():
            at_levels = {level: tree.scores(p_CV, truth_C, donors_C, level) for level in LEVELS}
            scores[who] = {"label": at_levels[LEVELS[0]]["label"]}
            scores[who] |= {f"sure at {level}": found["backed_off"] for level, found in at_levels.items()}
        answered = pd.Series(tree.names_N[tree.back_off(answers["PolyGene"], 0.9)[0]])
        often = answered.value_counts(normalize=True).head(8).round(3).to_dict()
        studies[name] = {"cells": int((truth_C >= 0).sum()), "scores": scores, "often": often}
    show(studies)
    return {"hierarchy": studies}


def show(studies: dict[str, dict[str, Any]]) -> None:
    columns = ["at_label", "correct", "finer", "wrong", "information"]
    for name, study in studies.items():
        table = Table("predictor", "answer", *columns, title=f"{name}: {study['cells']:,} test cells")
        for who, kinds in study["scores"].items():
            for kind, values in kinds.items():
                table.add_row(who, kind, *(f"{values[column]:.3f}" for column in columns))
        Console(width=120).print(table)
