"""Stability: how alike two seeds, and the models that ship, arrange cells and genes, and which findings survive."""

from typing import Any

import anndata as ad
from rich.console import Console

import polygene as pg
from benchmarks.analyses.scene import Scene, spread_over
from benchmarks.shared import effort
from benchmarks.shared.studies import NETWORK
from polygene.corpus.prepare import PrepareConfig
from polygene.model.checkpoint import PolyGene
from polygene.model.recipe import Recipe, TrainingConfig
from polygene.model.shipped import NAMES
from polygene.tl._gene_weights import random_weights

STUDY, LABEL = "onek1k_scdesignpop_multicell", "classical monocyte"
CELLS, TRAINED_ON, SEEDS = 800, 2_000, 2


def stability(scene: Scene) -> dict[str, Any]:
    """Compare seeds, checkpoints and random weights; count the findings that survive another seed."""
    (whole,) = scene.studies([STUDY]).values()
    cells = spread_over(whole, ["cell_type", "donor_id"], CELLS, scene.seed)
    seeds = seeds_of(spread_over(whole, ["cell_type", "donor_id"], TRAINED_ON, scene.seed), scene)
    pairs = {
        "two seeds": seeds,
        "the models that ship": [PolyGene.from_pretrained(name) for name in NAMES],
        "trained and random weights": [seeds[0], random_weights(seeds[0], seed=scene.seed)],
    }
    few = effort.at_most(200, 5)
    alike = {
        name: pg.tl.similarity(cells, pair, n_resamples=few, seed=scene.seed)
        .drop(columns=["first", "second"])
        .to_dict("records")
        for name, pair in pairs.items()
    }
    markers = pg.tl.biomarkers(
        cells, seeds, label=LABEL, max_cells=effort.at_most(400, 60), n_steps=effort.at_most(4, 1), n_removed=0,
        seed=scene.seed,
    )  # fmt: skip
    spread = pg.tl.polyfunctionality(cells, seeds, min_cells=effort.at_most(10, 2), seed=scene.seed).genes
    first = markers["model"].iloc[0]
    again = markers["attribution_replicates"].fillna(False).astype(bool)
    numbers = {
        "similarity": alike,
        "seed_stability": {
            "biomarkers": survival(markers[again], markers["survives"]),
            "biomarkers_rank_correlation": _correlation(markers, "attribution", first),
            "polyfunctional": survival(spread[spread["polyfunctional"].astype(bool)], spread["survives"]),
            "spread_rank_correlation": _correlation(spread, "spread", first),
            "percentile_rank_correlation": _correlation(spread, "percentile", first),
        },
    }
    Console(width=160).print(numbers)
    return numbers


def survival(found: Any, survives: Any) -> dict[str, int]:
    """How many findings there are in any model, and how many in all."""
    keys = [key for key in ("context", "gene") if key in found]
    surviving = found[survives.loc[found.index].astype(bool)]
    return {"in_any_seed": len(found.drop_duplicates(keys)), "in_all_seeds": len(surviving.drop_duplicates(keys))}


def seeds_of(cells: ad.AnnData, scene: Scene) -> list[PolyGene]:
    """Train the same network on the same cells from two seeds."""
    config = PrepareConfig(n_genes=512, seed=scene.seed)
    corpus = scene.folder / f"seeds-{scene.seed}-corpus"
    if not corpus.exists():
        effort.prepare({STUDY: cells}, corpus, config=config)
    models = []
    for seed in range(scene.seed, scene.seed + SEEDS):
        training = TrainingConfig(epochs=8, evaluations=2, learning_rate=2e-3, seed=seed)
        out = str(scene.folder / f"seed-{seed}")
        models.append(effort.train(Recipe(corpus=str(corpus), out=out, training=training, network=NETWORK)))
    return models


def _correlation(table: Any, column: str, first: str) -> float:
    """Rank correlation of a column between the first two models."""
    keys = [key for key in ("context", "gene") if key in table]
    one, *others = (part.set_index(keys)[column] for _, part in table.groupby("model", sort=False))
    assert table["model"].iloc[0] == first
    return float(one.corr(others[0].reindex(one.index), method="spearman"))
