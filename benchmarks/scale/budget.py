"""What the networks of the recipes for the Census cost, and which size a budget allows.

Of real cells on whole genomes: tokens of a training cell, operations of a step as torch counts them, and what a step
reaches of the speed of matrix products on one thread here. From these `chosen` takes the largest network of a family
(k layers of width 64 k) that one GPU trains in HOURS: what a GPU reaches is assumed, since none was there.
How loss fell with weights and cells (`scaling`) does not decide between a large network and many passes: `trade`.

Legend: C cells, T tokens, D width, I inner width.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.shared import effort, files

if TYPE_CHECKING:
    from polygene.corpus.corpus import Corpus
    from polygene.model.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"
PANELS = (512, 2432)
SOURCES = ("pbmc3k_10x", "zheng_pbmc_facs", "velmeshev_asd_pfc_glia", "scp1884_crohns_gut")
N_TOKENS_OF, N_TIMED, N_STEPS = 500, 32, 3
"""Cells of a source whose tokens are counted, cells of a step that is timed, and steps."""

CELLS, HOURS = 50_000_000, 6
"""The Census, and what one GPU may take for it: half a night, since many of its cells are deeper than those here."""
PEAK, SHARE, PRICE = 312e12, 0.2, 2.0
"""bfloat16 operations a second of an A100 (NVIDIA's data sheet), the share of them that training is assumed to reach,
and an assumed price of a GPU in dollars an hour."""


def run(data: Path | None, seed: int, models: Path, _options: argparse.Namespace) -> dict[str, Any]:
    """Measure both panels, print what follows, and return the numbers."""
    sources = {name: files.needed(name, data) for name in SOURCES}
    import torch

    from polygene.corpus.prepare import PrepareConfig

    torch.set_num_threads(1)
    found = {}
    for n_genes in effort.few(PANELS):
        folder = models / f"budget-{n_genes}"
        config = PrepareConfig(n_genes=n_genes, split="random", fractions=(1.0, 0.0, 0.0), seed=seed)
        found[str(n_genes)] = panel(effort.prepare(sources, folder, config=config), n_genes, seed)
        shutil.rmtree(folder)
        print(n_genes, found[str(n_genes)], flush=True)
    if len(found) == len(PANELS):
        print(f"layers that {HOURS} hours allow: {chosen(found)}")
    return {"budget": found}


def panel(corpus: Corpus, n_genes: int, seed: int) -> dict[str, Any]:
    """Count and time the steps of the recipe of a panel."""
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from polygene.model.recipe import Recipe
    from polygene.nn import linear
    from polygene.training.data import training_cells
    from polygene.training.engine import FORWARD, TRUTH
    from polygene.training.setup import loss_of, new_model

    recipe = Recipe.load(RECIPES / f"census-{n_genes}.toml")
    network = effort.network(recipe.network)
    recipe = Recipe(corpus=str(corpus.folder), out="", network=network, masking=recipe.masking, loss=recipe.loss)
    cells, rng = training_cells(recipe, corpus, rank=0, world_size=1), np.random.default_rng(seed)
    split, tokens = cells.split, {}

    def masked(rows_C: np.ndarray) -> dict[str, torch.Tensor]:
        return cells.collator(split.cells(rows_C), split.sources_C[rows_C], rows_C, 0 * rows_C)

    for s, name in enumerate(corpus.sources):
        rows_C = np.flatnonzero(split.sources_C == s)
        some = masked(np.sort(rng.choice(rows_C, min(len(rows_C), N_TOKENS_OF), replace=False)))
        tokens[name] = round(float((some["n_keys"] + some["n_queries"]).float().mean()), 1)
    batch = masked(np.sort(rng.choice(len(split), effort.at_most(N_TIMED, 4), replace=False)))
    model, loss = new_model(recipe, corpus).network.train(), loss_of(recipe, corpus)

    def step() -> None:
        predicted = model(**{name: batch[name] for name in FORWARD})
        heads = {"gene_logits": predicted.gene_logits, "label_logits": predicted.label_logits}
        loss(n_cells=len(batch["n_keys"]), **heads, **{name: batch[name] for name in TRUTH})["loss"].backward()

    by_onednn, linear.BY_ONEDNN = linear.BY_ONEDNN, False  # of whose products torch counts nothing
    with FlopCounterMode(display=False) as counter:
        step()
    linear.BY_ONEDNN = by_onednn
    seconds = []
    for _ in range(effort.at_most(N_STEPS, 1)):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    n_cells, n_tokens = len(batch["n_keys"]), int((batch["n_keys"] + batch["n_queries"]).sum())
    operations = counter.get_total_flops() / n_tokens
    reached, products = counter.get_total_flops() / sorted(seconds)[len(seconds) // 2], product_rate(network)
    mean = sum(tokens.values()) / len(tokens)
    return {
        "tokens_of": tokens,
        "tokens": round(mean, 1),
        "weights": sum(weights.numel() for weights in model.parameters()),
        "weights_of_layers": layer_weights(recipe),
        "layers": network.num_hidden_layers,
        "operations_a_token": round(operations),
        "operations_a_cell": round(operations * mean),
        "cells_per_s": round(n_cells / sorted(seconds)[len(seconds) // 2] * n_tokens / n_cells / mean, 2),
        "products_per_s": round(products),
        "share_of_products": round(reached / products, 3),
    }


def layer_weights(recipe: Recipe) -> int:
    """Count the weights of the matrices of the layers."""
    shape = recipe.network
    return shape.num_hidden_layers * (4 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.intermediate_size)


def product_rate(network: Any) -> float:
    """Operations a second of products of the network's widest shape on one thread, float32."""
    import torch

    from polygene.nn.linear import product

    x_TD, w_ID = torch.randn(4096, network.hidden_size), torch.randn(network.intermediate_size, network.hidden_size)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        product(x_TD, w_ID, None)
        seconds.append(time.process_time() - start)
    return 2 * x_TD.shape[0] * w_ID.numel() / max(sorted(seconds)[2], 1e-6)


def gpu_seconds(operations_a_cell: float, epochs: int) -> float:
    """Seconds of one GPU for all cells."""
    return CELLS * epochs * operations_a_cell / (PEAK * SHARE)


def chosen(budget: Mapping[str, Any], epochs: int = 2) -> int:
    """Find the most layers k, of width 64 k, whose 512-gene network one GPU trains in HOURS.

    The operations of the network that was measured grow with its weights: with the third power of k.
    """
    one = budget["512"]
    affordable = HOURS * 3600 / gpu_seconds(one["operations_a_cell"], epochs)
    return math.floor(one["layers"] * affordable ** (1 / 3))


def trade(scaling: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Say what the fitted exponents give: a factor of the loss, and its standard error.

    `halved` is half the weights for twice the passes, at equal cost. `tenfold` is ten times the cost, best shared
    among weights and cells, where loss is a sum of a power of each: exponents a and b make one of a b / (a + b).
    """
    (a, b), (of_a, of_b) = (
        [abs(scaling[name][key]) for name in ("weights", "cells")] for key in ("exponent", "standard_error")
    )
    halved, error = 2 ** (a - b), math.log(2) * math.hypot(of_a, of_b)
    joint = a * b / (a + b)
    of_joint = math.hypot(b**2 * of_a, a**2 * of_b) / (a + b) ** 2
    tenfold = 10**-joint
    return {"halved": (halved, halved * error), "tenfold": (tenfold, tenfold * math.log(10) * of_joint)}
