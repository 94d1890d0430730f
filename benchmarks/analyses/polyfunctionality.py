"""Polyfunctionality: VWF by cell type in one study, and in endothelial cells of four tissues, beside random weights."""

from typing import Any

import anndata as ad
import pandas as pd
from rich.console import Console

import polygene as pg
from benchmarks.analyses.scene import Scene, spread_over
from benchmarks.shared import effort
from polygene.errors import PolyGeneError
from polygene.tl._gene_weights import random_weights

GENES = ("VWF", "CLDN5", "PECAM1")
ENDOTHELIAL = {
    # study: tissue, what the file calls its endothelial cells
    "velmeshev_asd_pfc_glia": "brain",
    "scp1884_crohns_gut": "gut",
    "heart_san_kanemaru": "heart",
    "pancreas_baron_h1": "pancreas",
}
CELLS = 2_500


def polyfunctionality(scene: Scene) -> dict[str, Any]:
    """Measure the spread of VWF between cell types, between tissues, and of every gene in a random network."""
    models = scene.load()
    found: dict[str, Any] = {}
    for adata in scene.studies(["velmeshev_asd_pfc_glia"]).values():
        cells = spread_over(adata, ["cell_type", "donor_id"], CELLS, scene.seed)
        found["cell types of the brain"] = measured(cells, models, "cell_type", scene.seed)
    endothelial = tissues(scene)
    if endothelial is not None:
        found["endothelial cells of tissues"] = measured(endothelial, models, "tissue", scene.seed)
    return {"contexts": found}


def tissues(scene: Scene) -> ad.AnnData | None:
    """Join the endothelial cells of several studies, one tissue each, over the genes that all measured.

    Without donors: a tissue is one study here, and mostly one donor, so nothing can be claimed of tissues.
    """
    parts = []
    for study, adata in scene.studies(ENDOTHELIAL).items():
        chosen = adata.obs["cell_type"].astype(str).str.contains("endothelial", case=False)
        if chosen.sum() < 20:
            continue
        part = adata[chosen.to_numpy()].copy()
        part.obs = pd.DataFrame({"tissue": ENDOTHELIAL[study]}, index=study + part.obs_names)
        parts.append(part)
    return ad.concat(parts, join="inner") if len(parts) > 1 else None


def measured(cells: ad.AnnData, models: dict[str, pg.PolyGene], context: str, seed: int) -> dict[str, Any]:
    """Measure by each model, and by a random network of the shape of the first."""
    first = next(iter(models.values()))
    few = {"min_cells": effort.at_most(10, 2), "context": context, "seed": seed}
    genes = [gene for gene in GENES if gene in cells.var_names]
    try:
        both = pg.tl.polyfunctionality(cells, list(models.values()), genes=genes, **few)
        random = pg.tl.polyfunctionality(cells, random_weights(first, seed=seed), **few).genes
    except PolyGeneError as reason:
        return {"reason": str(reason)}
    table = both.genes[both.genes["model"] == both.genes["model"].iloc[0]].set_index("gene")
    by_random = random.set_index("gene")
    known = table.index[table["percentile"].notna() & by_random["percentile"].reindex(table.index).notna()]
    numbers = {
        "cells": len(cells),
        "contexts": sorted(cells.obs[context].astype(str).unique()),
        "donors": int(cells.obs["donor_id"].nunique()) if "donor_id" in cells.obs else 0,
        "genes": int(table["spread"].notna().sum()),
        "spread": float(table["spread"].median()),
        "spread_raw": float(table["spread_raw"].median()),
        "spread_shuffled": float(table["spread_shuffled"].median()),
        "spread_random_weights": float(by_random["spread"].median()),
        "polyfunctional": int(table["polyfunctional"].sum()),
        "polyfunctional_random_weights": int(by_random["polyfunctional"].sum()),
        "percentiles_correlate_with_random_weights": float(
            table["percentile"][known].corr(by_random["percentile"][known], method="spearman")
        ),
        "highest": table[table["polyfunctional"].astype(bool)].nlargest(8, "spread").index.tolist(),
    }
    columns = ["reason", "n_cells", "n_contexts", "spread", "expected", "percentile", "replicates", "polyfunctional"]
    numbers["asked"] = {
        gene: {key: None if pd.isna(value) else value for key, value in table.loc[gene, columns].items()}
        | {"percentile_random_weights": float(by_random["percentile"].get(gene, float("nan")))}
        for gene in genes
        if gene in table.index
    }
    numbers["nearest"] = {
        f"{row.gene}, {row.context}": row.nearest for row in both.contexts.itertuples() if row.gene == GENES[0]
    }
    Console(width=160).print(context, numbers)
    return numbers
