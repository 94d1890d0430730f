"""Which network and schedule the shipped models get: candidates that train equally long, scored on validation donors.

    python -m benchmarks.models.corpus --data DIR --out CORPORA
    python -m benchmarks.models.size --corpus CORPORA/corpus-512 --models DIR

Test donors are not looked at. A candidate's epochs are chosen so that all take about the same time of one processor
(shown). Scores are those of phenotypes within the sources in which they vary, nothing but expression being given, and
the cross-entropy of hidden genes. Logistic regression is tuned on folds of training donors. The last line is one JSON
object; runs that were stopped go on.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.models import corpus as corpora
from benchmarks.models.ablation import no_branch, undone
from benchmarks.shared import command, effort
from polygene.corpus.corpus import Corpus
from polygene.evaluation.baselines import baseline_probabilities
from polygene.evaluation.masked_genes import score_genes
from polygene.evaluation.metrics import label_scores, label_tally
from polygene.evaluation.test_cells import MODEL, cell_table, donor_names, scored_labels
from polygene.model.inference import label_probabilities
from polygene.model.masking import MaskingConfig
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.nn.losses import LossConfig

SMALL = NetworkConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)
WIDE = replace(SMALL, hidden_size=256, intermediate_size=1024)
DEEP = replace(SMALL, num_hidden_layers=4)
LOSS = LossConfig(phenotype_weight=0.3)
TRAINING = TrainingConfig(learning_rate=2e-3, evaluations=1)
CANDIDATES: dict[str, dict[str, Any]] = {
    "2 x 128": {"network": SMALL, "training": replace(TRAINING, epochs=4)},
    "2 x 128 without the linear branch": {"network": SMALL, "training": replace(TRAINING, epochs=4)},
    "2 x 128, phenotypes weigh 1": {
        "network": SMALL,
        "loss": LossConfig(phenotype_weight=1.0),
        "training": replace(TRAINING, epochs=4),
    },
    "2 x 256": {"network": WIDE, "training": replace(TRAINING, epochs=2, learning_rate=1e-3)},
    "4 x 128": {"network": DEEP, "training": replace(TRAINING, epochs=2)},
    "2 x 128, 15 % hidden in half of the cells": {
        "network": SMALL,
        "masking": MaskingConfig(varied_rate=0.5),
        "training": replace(TRAINING, epochs=4),
    },
}
REFERENCE = "logistic regression"


def scores_of(corpus: Corpus, answers: list[np.ndarray]) -> dict[str, float]:
    """Score answers for the validation cells: macro-F1 and log loss by phenotype and source."""
    learned, held_out, found = corpus.split("train"), corpus.split("validation"), {}
    schema = corpus.tokenizer.schema
    for p, name in enumerate(schema.names):
        truth_C = held_out.labels_CP[:, p]
        within_SV = scored_labels(learned, held_out, p, len(schema.labels[p]))
        for s in np.flatnonzero(within_SV.any(axis=1)):
            only_SV = np.where(np.arange(len(within_SV))[:, None] == s, within_SV, False)
            counted = label_tally(
                answers[p],
                truth_C,
                scorable_SV=only_SV,
                sources_C=held_out.sources_C,
                donors_C=donor_names(held_out, slice(None)),
            )
            of_source, source = label_scores(counted), corpus.sources[s].split("_")[0]
            found[f"{name}, {source}, macro-F1"] = of_source["macro_f1"]
            found[f"{name}, {source}, log loss"] = of_source["log_loss"]
    return found


def run(name: str, corpus: Corpus, runs: Path) -> dict[str, float]:
    """Train a candidate, or load it, and score it."""
    recipe = Recipe(
        corpus=str(corpus.folder), out=str(runs / name.replace(" ", "-")), **({"loss": LOSS} | CANDIDATES[name])
    )
    started = time.process_time()
    with undone(branch=no_branch) if "without the linear branch" in name else nullcontext():
        model = effort.train(recipe)
    seconds = time.process_time() - started
    held_out = corpus.split("validation")
    answers = label_probabilities(model, held_out.cells(slice(None)), predict=corpus.tokenizer.schema.names)
    genes = score_genes(model, held_out)[MODEL]["cross_entropy"]
    return scores_of(corpus, answers) | {"gene cross-entropy": genes, "training, CPU s": seconds}


def reference(corpus: Corpus, phenotype: str) -> dict[str, float]:
    """Score logistic regression on one phenotype."""
    learned, held_out, p = corpus.split("train"), corpus.split("validation"), corpus.tokenizer.schema.index(phenotype)
    answers = [np.full((len(held_out), len(labels)), 1 / len(labels)) for labels in corpus.tokenizer.schema.labels]
    tables = [cell_table(corpus, split, np.arange(len(split))) for split in (learned, held_out)]
    answers[p] = baseline_probabilities(
        REFERENCE, tables[0], learned.labels_CP[:, p], tables[1], answers[p].shape[1], tune_for="macro_f1", seed=0
    )
    return {score: value for score, value in scores_of(corpus, answers).items() if score.startswith(f"{phenotype},")}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, help="made by benchmarks.models.corpus; else it is made again")
    parser.add_argument("--models", type=Path, help="keep the runs here, and go on with those that were stopped")
    parser.add_argument(
        "--only", choices=[*CANDIDATES, REFERENCE], action="append", help="this one; may be given again"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train and score the candidates, print the table, and return the scores."""
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.corpus
        if folder is None:
            folder = corpora.make(options.data, Path(scratch) / "corpora", [512])[1][512].folder
        corpus = Corpus(folder)
        for name in options.only or [*effort.few(CANDIDATES, 2), REFERENCE]:
            if name == REFERENCE:
                rows[name] = reference(corpus, "cell_type")
            else:
                rows[name] = run(name, corpus, options.models or Path(scratch))
            print(name, {score: round(value, 3) for score, value in rows[name].items()}, flush=True)
    table = Table("score", *rows, title="validation donors")
    for score in next(iter(rows.values())):
        table.add_row(score, *(f"{row[score]:.3f}" if score in row else "" for row in rows.values()))
    Console(width=200).print(table)
    return {"size": rows}


def main(argv: Sequence[str] | None = None) -> None:
    command.run("size", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
