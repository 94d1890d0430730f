"""Does topology change with age? OneK1K, each definition beside shuffled ages, random weights and a planted change."""

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse, stats

from benchmarks.analyses.networks import _print, available
from benchmarks.analyses.scene import Scene
from benchmarks.shared import effort
from polygene.model.checkpoint import PolyGene
from polygene.tl import ageing_topology
from polygene.tl._gene_weights import random_weights
from polygene.vocab.ages import age_in_years

FILES = ("onek1k_scdesignpop_multicell", "onek1k_scdesignpop_bcell")
SHARE = 0.5
"""Of the genes whose company is destroyed in donors above the median age, in the planted change."""


def ageing(scene: Scene) -> dict[str, Any]:
    """Measure slopes over age."""
    slopes, changes, designs, genes = [], [], [], []
    draws = {"n_bootstrap": effort.at_most(30, 2), "n_shuffled": effort.at_most(99, 3), "seed": scene.seed}
    if effort.at_most(1_000, 1) == 1:
        draws["min_cells"] = 2
    for file, adata in available(scene, FILES):
        for label, cells, model, by in effort.few(_runs(scene, file, adata), 2):
            found = ageing_topology(cells, model, by=by, **draws)
            marks = {"file": file, "network": label}
            slopes.append(found.slopes.assign(**marks))
            changes.append(found.changes.assign(**marks))
            designs.append(found.design.assign(**marks))
            genes.append(found.genes.assign(**marks))
    every, changed = pd.concat(slopes, ignore_index=True), pd.concat(changes, ignore_index=True)
    rows = [_together(network, part) for network, part in every.groupby("network", sort=False)]
    _print("slopes of clustering, modularity, assortativity and heterogeneity over age", rows)
    turnover = changed[
        ["file", "network", "context", "change", "value", "shuffled", "shuffled_low", "shuffled_high", "p"]
    ]
    _print("turnover and drift, youngest to oldest", turnover.drop(columns="file").to_dict("records"))
    of_genes = pd.concat(genes, ignore_index=True)
    n_found = of_genes.groupby("network", sort=False)[["turnover_q", "drift_q"]].agg(lambda q: int((q < 0.05).sum()))
    design = pd.concat(designs, ignore_index=True)
    unique = design[design["network"] == design["network"].iloc[0]]
    columns = ["file", "network", "context", "measure", "slope", "low", "high", "shuffled_low", "shuffled_high", "p"]
    return {
        "ageing_slopes": every[columns].to_dict("records"),
        "slopes_together": rows,
        "changes": turnover.to_dict("records"),
        "genes_at_q_0.05": {network: row.to_dict() for network, row in n_found.iterrows()},
        "design": unique.drop(columns=["model", "network"]).to_dict("records"),
    }


def _runs(scene: Scene, file: str, adata: ad.AnnData) -> list[tuple[str, ad.AnnData, PolyGene, str]]:
    """List what is compared in a file: its label, cells, model and definition."""
    models = scene.load()
    first = next(iter(models.values()))
    runs = [(f"contextual, {name}", adata, model, "contextual") for name, model in models.items()]
    runs += [
        ("random weights", adata, random_weights(first), "contextual"),
        ("correlation", adata, first, "correlation"),
    ]
    if file == FILES[0]:
        changed = with_planted_change(adata, seed=scene.seed)
        runs += [(f"planted, {by}", changed, first, by) for by in ("contextual", "correlation")]
    return runs


def _together(network: str, part: pd.DataFrame) -> dict[str, Any]:
    """How many slopes are steeper than 95 % of those on shuffled ages, and how many are after Benjamini–Hochberg."""
    q = stats.false_discovery_control(part["p"])
    return {
        "network": network,
        "slopes": len(part),
        "p below 0.05": int((part["p"] < 0.05).sum()),
        "expected by chance": 0.05 * len(part),
        "q below 0.05": int((q < 0.05).sum()),
        "smallest q": float(q.min()),
    }


def with_planted_change(adata: ad.AnnData, *, seed: int) -> ad.AnnData:
    """Shuffle half of the genes among the cells of each old donor and type: their values stay, their company goes."""
    rng = np.random.default_rng(seed)
    years = adata.obs["development_stage"].map(age_in_years).astype(float)
    by_donor = years.groupby(adata.obs["donor_id"], observed=True).first()
    old = set(by_donor.index[by_donor > by_donor.median()])
    x_CG = sparse.csr_matrix(adata.X).toarray()  # 8,000 cells of 1,000 genes
    genes = rng.permutation(x_CG.shape[1])[: round(SHARE * x_CG.shape[1])]
    for (donor, _), rows in adata.obs.groupby(["donor_id", "cell_type"], observed=True).indices.items():
        if donor in old:
            for g in genes:
                x_CG[rows, g] = x_CG[rng.permutation(rows), g]
    changed = adata.copy()
    changed.X = sparse.csr_matrix(x_CG)
    return changed
