"""Cell types answered no finer than they are sure: what backing off gains in correctness, and what it costs.

    python benchmarks/_trust_hierarchy.py --data DIR

Closely related types of T cells (Perez et al.; labels by recipes/corpus), donors held out. A small model and logistic
regression, tuned for log loss on the same training cells, answer with their most probable label, and with the most
telling type of the Cell Ontology that has at least 0.8 or 0.9 of the probability. Means over test donors.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path

import anndata as ad
import pandas as pd
from rich.console import Console
from rich.table import Table

import _data
import corpus as mapping
from _train import NETWORK
from polygene.baselines import CellTable, baseline_probabilities
from polygene.corpus import CorpusSplit
from polygene.inference import label_probabilities
from polygene.ontology import LabelTree
from polygene.prepare import PrepareConfig, prepare
from polygene.recipe import Recipe, TrainingConfig
from polygene.training import train

FILE, LEVELS, EPOCHS = "perez_sle_healthy_tcells", (0.8, 0.9), 3


def table_of(split: CorpusSplit) -> CellTable:
    return CellTable(
        x_CG=split.values(), sources_C=split.sources_C, measured_SG=split.measured_SG, donors_C=split.donors_C
    )


def run(data: Path | None, seed: int = 0) -> dict[str, object]:
    """Train, answer, score."""
    cells = mapping.harmonise(
        ad.read_h5ad(_data.locate(FILE, data)),
        mapping.read_sources()[FILE],
        mapping.read_table("labels.tsv"),
        mapping.read_table("donors.tsv"),
    )
    with tempfile.TemporaryDirectory() as scratch:
        corpus = prepare(cells, Path(scratch) / "corpus", config=PrepareConfig(seed=seed))
        training = TrainingConfig(epochs=EPOCHS, evaluations=3, seed=seed)
        recipe = Recipe(corpus=str(corpus.folder), out=f"{scratch}/run", network=NETWORK, training=training)
        model, learned, test = train(recipe), corpus.split("train"), corpus.split("test")
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
        tree, found = LabelTree(labels), {}
        for who, p_CV in answers.items():
            for level in LEVELS:
                scores = tree.scores(p_CV, truth_C, test.donors_C, level)
                found[who] = {"label": scores["label"], **found.get(who, {}), f"sure at {level}": scores["backed_off"]}
        answered = tree.names_N[tree.back_off(answers["PolyGene"], 0.9)[0]]
        often = pd.Series(answered).value_counts(normalize=True).head(8).round(3).to_dict()
    return {
        "seed": seed,
        "cells": int((truth_C >= 0).sum()),
        "donors": len(set(test.donors_C)),
        "scores": found,
        "often": often,
    }


def show(results: dict[str, object]) -> None:
    scores: dict = results["scores"]
    columns = ["at_label", "correct", "finer", "wrong", "information"]
    table = Table("predictor", "answer", *columns, title=f"{results['cells']:,} cells of {results['donors']} donors")
    for who, kinds in scores.items():
        for kind, values in kinds.items():
            table.add_row(who, kind, *(f"{values[column]:.3f}" for column in columns))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _data.add_data_option(parser)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    results = run(arguments.data, arguments.seed)
    show(results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
