"""What a setting of training buys and costs: the same corpora, donors held out, one thing changed at a time.

    python -m benchmarks.models.settings --data DIR
    python -m benchmarks.models.settings --data DIR --only "no dropout" --files velmeshev --seeds 1

The speed-ups of training are decided here: a setting that is faster becomes the default only if it answers no worse.
Scores are those of the test donors after equal epochs. Time is that of the processor, on one thread, so that it means
something on a busy machine too. The last line is one JSON object.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.shared import files
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.evaluation.validation import validation_scores
from polygene.model.masking import MaskingConfig
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.nn.losses import LossConfig
from polygene.training.train import train

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
    from polygene.corpus.corpus import Corpus

    started = time.process_time()
    model = train(recipe)
    seconds = time.process_time() - started
    corpus = Corpus(recipe.corpus)
    scores = validation_scores(model, corpus.split("train"), corpus.split("test"), LossConfig())
    return {name: scores[name] for name in SHOWN if name in scores} | {"cpu_s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files.add_data_option(parser)
    parser.add_argument("--seeds", type=int, default=2, help="donor splits and first weights, seeds 0, 1, …")
    parser.add_argument("--only", choices=SETTINGS, action="append", help="this setting; may be given again")
    parser.add_argument("--files", choices=FILES, action="append", help="this file; may be given again")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    rows = []
    for name in arguments.files or FILES:
        file, columns, epochs = FILES[name]
        path = files.locate(file, arguments.data)
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as scratch:
                corpus = Path(scratch) / "corpus"
                prepare(path, corpus, config=PrepareConfig(phenotypes=columns, seed=seed))
                for setting in arguments.only or SETTINGS:
                    network, masking, precision = SETTINGS[setting]
                    recipe = Recipe(
                        corpus=str(corpus),
                        out=str(Path(scratch) / setting.replace(" ", "-")),
                        network=replace(NETWORK, **network),
                        masking=replace(MaskingConfig(), **masking),
                        training=TrainingConfig(epochs=epochs, evaluations=4, seed=seed, precision=precision),
                    )
                    rows.append({"file": name, "setting": setting, "seed": seed, **score(recipe)})
                    print(rows[-1], flush=True)
    means = pd.DataFrame(rows).groupby(["file", "setting"], sort=False).mean(numeric_only=True).drop(columns="seed")
    table = Table(title=f"mean over {arguments.seeds} seeds")
    for column in ("file", "setting", *means.columns):
        table.add_column(column.replace("_", " "))
    for (name, setting), row in means.iterrows():
        table.add_row(name, setting, *(f"{value:.3f}" for value in row))
    Console(width=160).print(table)
    print(json.dumps({"date": datetime.now(UTC).date().isoformat(), "seeds": arguments.seeds, "rows": rows}))


if __name__ == "__main__":
    main()
