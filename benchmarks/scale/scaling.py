"""How the loss falls with weights and with cells: three networks, three numbers of cells, exponents with their error.

A run learns SEEN cells, fewer different ones more often, and each cell once at the least, as a network on the Census
would. So runs on most cells are the longest, and the exponent with cells is one of cells and steps together. The loss
is that of the validation donors, at the end. An exponent is the slope of a line through the logarithms, with the
standard error of that slope: between seeds and sizes, not what a hundred times more cells do.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.shared import effort, files

if TYPE_CHECKING:
    from polygene.corpus.corpus import Corpus
    from polygene.model.checkpoint import PolyGene

SOURCES = ("onek1k_scdesignpop_multicell", "velmeshev_asd_pfc_glia")
WIDTHS, SHARES = (16, 32, 64), (1 / 9, 1 / 3, 1)
SEEN, SEEDS, N_GENES = 4_000, (0,), 256
COLUMNS = {"sex": "sex_inferred"}


def fit(x: list[float], y: list[float]) -> dict[str, float]:
    """Fit y = a x^b: the exponent b and the standard error of it."""
    import numpy as np

    log_x, log_y = np.log(x), np.log(y)
    centred = log_x - log_x.mean()
    slope = float(centred @ log_y / (centred @ centred))
    rest = log_y - log_y.mean() - slope * centred
    error = math.sqrt(float(rest @ rest) / max(len(x) - 2, 1) / float(centred @ centred))
    return {"exponent": round(slope, 4), "standard_error": round(error, 4), "points": len(x)}


def subset(sources: dict[str, Path], folder: Path, share: float, seed: int, whole: Corpus | None) -> Corpus:
    """Prepare a share of the cells with the panel, bins and labels of all, and the same held-out donors."""
    import anndata as ad
    import numpy as np

    from polygene.corpus.prepare import PrepareConfig

    rng, cells = np.random.default_rng(seed), {}
    for name, path in sources.items():
        adata = ad.read_h5ad(path)
        if whole is not None:
            split = whole.split("train")
            mine = split.names_C[split.sources_C == whole.sources.index(name)]
            kept = rng.permutation(mine)[: round(share * len(mine))]
            adata = adata[~adata.obs_names.isin(mine) | adata.obs_names.isin(kept)].copy()
        cells[name] = adata
    config = PrepareConfig(n_genes=N_GENES, seed=0, phenotypes=COLUMNS)
    tokenizer = whole.tokenizer if whole is not None else None
    return effort.prepare(cells, folder / f"corpus-{share:.2f}-{seed}", config=config, tokenizer=tokenizer)


def learn(corpus: Corpus, folder: Path, width: int, seed: int) -> dict[str, float]:
    """Train one network on SEEN cells; its weights, its loss on validation donors, cells by processor seconds."""
    from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
    from polygene.nn.losses import LossConfig

    n_train = len(corpus.split("train"))
    network = NetworkConfig(hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=4 * width)
    training = TrainingConfig(
        epochs=max(1, round(SEEN / n_train)), batch_size=64, learning_rate=2e-3, evaluations=1, seed=seed
    )
    out = folder / f"run-{n_train}-{width}-{seed}"
    loss = LossConfig(phenotype_weight=0.3)
    recipe = Recipe(corpus=str(corpus.folder), out=str(out), network=network, loss=loss, training=training)
    start = time.process_time()
    model = effort.train(recipe)
    seconds = time.process_time() - start
    shutil.rmtree(out)
    return {
        "width": width,
        "cells": n_train,
        "seed": seed,
        "weights": n_weights(model),
        "loss": round(model.metrics.validation["loss"], 4),
        "cells_per_s": round(n_train * training.epochs / seconds),
    }


def n_weights(model: PolyGene) -> int:
    return sum(weights.numel() for weights in model.network.parameters())


def run(data: Path | None, seed: int, models: Path, _options: argparse.Namespace) -> dict[str, Any]:
    """Train all of them, print a table, and return the losses and the exponents."""
    sources = {name: files.needed(name, data) for name in SOURCES}
    import torch

    torch.set_num_threads(1)
    folder = models / "scaling"
    folder.mkdir(parents=True)
    rows = []
    try:
        whole = subset(sources, folder, 1, seed, None)
        for number in effort.few(SEEDS):
            for share in effort.few(SHARES, 2):
                some = whole if share == 1 else subset(sources, folder, share, seed + number, whole)
                for width in effort.few(WIDTHS, 2) if share == 1 else [max(effort.few(WIDTHS, 2))]:
                    rows.append(learn(some, folder, width, seed + number))
                    print(rows[-1], flush=True)
    finally:
        shutil.rmtree(folder)
    return {"scaling": summary(rows)}


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Fit both exponents, and print the runs."""
    table = Table("weights", "cells", "seed", "loss", "cells/s", title="loss on validation donors")
    for row in rows:
        table.add_row(
            f"{row['weights']:,}",
            f"{row['cells']:,}",
            str(row["seed"]),
            f"{row['loss']:.3f}",
            f"{row['cells_per_s']:,}",
        )
    Console(width=100).print(table)
    most, widest = max(row["cells"] for row in rows), max(row["width"] for row in rows)
    of_weights = [row for row in rows if row["cells"] == most]
    of_cells = [row for row in rows if row["width"] == widest]
    found: dict[str, Any] = {"runs": rows}
    for name, some in (("weights", of_weights), ("cells", of_cells)):
        if len({row[name] for row in some}) > 1:
            found[name] = fit([row[name] for row in some], [row["loss"] for row in some])
    return found
