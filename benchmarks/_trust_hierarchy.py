"""Cell types answered no finer than they are sure: what backing off gains in correctness, and what it costs.

    python benchmarks/_trust_hierarchy.py --data DIR --models DIR

Small models of the shared studies, and logistic regression tuned for log loss on the same training cells, answer for
the test cells with their most probable label, and with the most telling type of the Cell Ontology that has at least 0.8
or 0.9 of the probability. Labels are looked up as recipes/corpus maps them. Means over donors (of zheng, over cells).
"""

import argparse
import json
import logging
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

import corpus as mapping
from _data import add_data_option
from _train import STUDIES, trained
from polygene.baselines import CellTable, baseline_probabilities
from polygene.corpus import CorpusSplit
from polygene.inference import label_probabilities
from polygene.ontology import LabelTree

NAMES, LEVELS = ("onek1k", "zheng"), (0.8, 0.9)


def table_of(split: CorpusSplit) -> CellTable:
    named = split.donors_C if (split.donors_C != "").any() else None
    return CellTable(x_CG=split.values(), sources_C=split.sources_C, measured_SG=split.measured_SG, donors_C=named)


def tree_of(file: str, labels: tuple[str, ...]) -> LabelTree:
    """Find the labels of a file in the ontology as the mapping names them."""
    rows = mapping.read_table("labels.tsv")
    rows = rows[(rows["source"] == file) & (rows["column"] == "cell_type")].set_index("label")
    return LabelTree([rows.loc[label, "name"] for label in labels])


def run(data: Path | None, seed: int, folder: Path) -> dict[str, object]:
    """Answer for the test cells of each study and score the answers."""
    studies = {}
    for name in NAMES:
        model, corpus = trained(name, folder, data=data, seed=seed)
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
    return {"seed": seed, "studies": studies}


def show(results: dict[str, object]) -> None:
    columns = ["at_label", "correct", "finer", "wrong", "information"]
    studies: dict = results["studies"]
    for name, study in studies.items():
        table = Table("predictor", "answer", *columns, title=f"{name}: {study['cells']:,} test cells")
        for who, kinds in study["scores"].items():
            for kind, values in kinds.items():
                table.add_row(who, kind, *(f"{values[column]:.3f}" for column in columns))
        Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="where trained models are kept")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    results = run(arguments.data, arguments.seed, arguments.models)
    show(results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
