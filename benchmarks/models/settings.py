"""What a setting of training buys and costs: the same corpora, donors held out, one thing changed at a time.

    python -m benchmarks.models.settings --data DIR
    python -m benchmarks.models.settings --data DIR --only "no dropout" --files velmeshev --seeds 1

The speed-ups of training are decided here: a setting that is faster becomes the default only if it answers no worse.
Scores are those of the test donors after equal epochs. Time is that of the processor, on one thread, so that it means
something on a busy machine too. The last line is one JSON object.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.shared import command, effort, files
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig
from polygene.evaluation.validation import validation_scores
from polygene.model.masking import MaskingConfig
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.nn.losses import LossConfig

FILES = {
    "onek1k": ("onek1k_scdesignpop_multicell", {}, 8),
    "velmeshev": ("velmeshev_asd_pfc_glia", {"sex": "sex_inferred"}, 6),
}
"""File, columns of its phenotypes, epochs."""
NETWORK = NetworkConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)
DROPOUT = {"hidden_dropout_prob": 0.1}
PLAIN = {"hidden_dropout_prob": 0.0}
SETTINGS: Mapping[str, tuple[Mapping[str, float], Mapping[str, float], str]] = {
    "dropout 0.1, a fourth of the zeros": (DROPOUT, {"zero_rate": 0.25}, "float32"),
    "no dropout": (PLAIN, {"zero_rate": 0.25}, "float32"),
    "a tenth of the zeros": (DROPOUT, {"zero_rate": 0.1}, "float32"),
    "no dropout, a tenth of the zeros": (PLAIN, {"zero_rate": 0.1}, "float32"),
    "no dropout, a tenth of the zeros, bfloat16": (PLAIN, {"zero_rate": 0.1}, "bfloat16"),
    "15 % hidden": (DROPOUT, {"varied_rate": 0.0}, "float32"),
    "15 % to all hidden in half of the cells": (DROPOUT, {"varied_rate": 0.5}, "float32"),
    "15 % to all hidden": (DROPOUT, {"varied_rate": 1.0}, "float32"),
}
"""Changes to the network and to the masking, and the precision."""
SHOWN = ("cell_type_macro_f1", "cell_type_log_loss", "sex_macro_f1", "gene_cross_entropy", "gene_spearman_gene")


def score(recipe: Recipe) -> dict[str, float]:
    """Train and score the test donors."""
    started = time.process_time()
    model = effort.train(recipe)
    seconds = time.process_time() - started
    corpus = Corpus(recipe.corpus)
    scores = validation_scores(model, corpus.split("train"), corpus.split("test"), LossConfig())
    return {name: scores[name] for name in SHOWN if name in scores} | {"cpu_s": seconds}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=2, help="donor splits and first weights, from --seed on")
    parser.add_argument("--only", choices=SETTINGS, action="append", help="this setting; may be given again")
    parser.add_argument("--files", choices=FILES, action="append", help="this file; may be given again")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train with every setting, print the means over seeds, and return the rows."""
    rows = []
    seeds = effort.few(range(options.seed, options.seed + options.seeds))
    for name in options.files or effort.few(FILES):
        for seed in seeds:
            rows += [{"file": name, "seed": seed, **row} for row in of_settings(name, seed, options)]
    means = pd.DataFrame(rows).groupby(["file", "setting"], sort=False).mean(numeric_only=True).drop(columns="seed")
    table = Table(title=f"mean over {len(seeds)} seeds")
    for column in ("file", "setting", *means.columns):
        table.add_column(column.replace("_", " "))
    for (name, setting), row in means.iterrows():
        table.add_row(name, setting, *(f"{value:.3f}" for value in row))
    Console(width=160).print(table)
    return {"seeds": seeds, "settings": rows}


def of_settings(name: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train on one corpus with every setting."""
    file, columns, epochs = FILES[name]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        path = files.locate(file, options.data)
        effort.prepare(path, corpus, config=PrepareConfig(phenotypes=columns, seed=seed))
        for setting in options.only or SETTINGS:
            network, masking, precision = SETTINGS[setting]
            recipe = Recipe(
                corpus=str(corpus),
                out=str(Path(scratch) / setting.replace(" ", "-")),
                network=replace(NETWORK, **network),
                masking=replace(MaskingConfig(), **masking),
                training=TrainingConfig(epochs=epochs, evaluations=4, seed=seed, precision=precision),
            )
            rows.append({"setting": setting, **score(recipe)})
            print(name, seed, rows[-1], flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    command.run("settings", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
