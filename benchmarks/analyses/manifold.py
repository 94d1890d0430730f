"""Joint manifold: how states separate labels, beside components of the same genes, Harmony, scVI, random weights.

Legend: C cells, D dimensions.
"""

import warnings
from importlib.util import find_spec
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console

import polygene as pg
from benchmarks.analyses.scene import Scene, spread_over
from benchmarks.shared import effort, scvi_baseline

STUDIES = {
    "onek1k_scdesignpop_multicell": ("cell_type", "sex"),
    "velmeshev_asd_pfc_glia": ("cell_type", "disease"),
    "kidney_immune_stewart": ("cell_type",),  # half of its donors trained the models that ship
}
CELLS = 1_000
GENES = 2_000  # that scVI reads


def manifold(scene: Scene) -> dict[str, Any]:
    """Score every space in each study, and the distances of labels."""
    models = scene.load()
    tables, distances = [], {}
    for study, adata in scene.studies(STUDIES).items():
        columns = [column for column in STUDIES[study] if column in adata.obs]
        cells = spread_over(adata, [columns[0], "donor_id"], CELLS, scene.seed)
        beside = ["pca", "random weights", *add_baselines(cells, scene.seed)]
        scores = pg.tl.manifold_scores(
            cells,
            list(models.values()),
            states=effort.few(("cell_type", "cls", "genes", "all"), 2),
            phenotypes=columns,
            beside=beside,
            mixing=find_spec("scib_metrics") is not None,
            n_resamples=effort.at_most(500, 5),
            seed=scene.seed,
        )
        tables.append(scores.assign(study=study))
        if len(cells.obs["cell_type"].unique()) > 2:
            for name, model in models.items():
                found = pg.tl.phenotype_distances(cells, model, seed=scene.seed)
                distances[f"{study}, {name}"] = {
                    "labels": len(found.distances),
                    "halves_agree": found.halves_agree,
                    "expression_agrees": found.expression_agrees,
                }
    table = pd.concat(tables, ignore_index=True)
    shown = ["study", "model", "space", "phenotype", "score", "value", "low", "high", "gain_low", "gain_high"]
    Console(width=160).print(table[shown].round(3).to_string(index=False))
    return {"scores": table.to_dict("records"), "distances": distances, "verdict": verdict(table)}


def add_baselines(cells: ad.AnnData, seed: int) -> list[str]:
    """Write what Harmony and scVI make of the cells into obsm; their names."""
    donors, found = cells.obs["donor_id"].astype(str), []
    logged = cells.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import scanpy as sc

        sc.pp.normalize_total(logged, target_sum=1e4)
        sc.pp.log1p(logged)
        sc.pp.highly_variable_genes(logged, n_top_genes=min(GENES, logged.n_vars))
        variable = logged.var["highly_variable"].to_numpy()
        sc.pp.pca(logged, n_comps=min(50, min(logged.shape) - 1), mask_var="highly_variable")
        cells.obsm["PCA, variable genes"] = logged.obsm["X_pca"]
        found.append("PCA, variable genes")
        if find_spec("harmonypy"):
            import harmonypy

            run = harmonypy.run_harmony(
                logged.obsm["X_pca"], pd.DataFrame({"donor": donors}), "donor", random_state=seed
            )
            corrected = np.asarray(run.Z_corr)
            cells.obsm["Harmony"] = corrected if len(corrected) == len(cells) else corrected.T
            found.append("Harmony")
        if scvi_baseline.AVAILABLE:
            cells.obsm["scVI"] = _scvi(cells[:, variable].copy(), donors.to_numpy(), seed)
            found.append("scVI")
    return found


def _scvi(cells: ad.AnnData, donors_C: np.ndarray, seed: int) -> np.ndarray:
    import scvi

    scvi.settings.seed = seed
    counts = ad.AnnData(cells.X.copy(), obs=pd.DataFrame({"donor": donors_C}, index=cells.obs_names))
    scvi.model.SCVI.setup_anndata(counts, batch_key="donor")
    model = scvi.model.SCVI(counts)
    model.train(max_epochs=effort.at_most(100, 1), accelerator="cpu", enable_progress_bar=False)
    return np.asarray(model.get_latent_representation())


def verdict(table: pd.DataFrame) -> dict[str, str]:
    """Say of each study and phenotype whether any state is purer than PCA of the same genes over donors."""
    found = {}
    for (study, phenotype), rows in table[table["score"] == "purity"].groupby(["study", "phenotype"], sort=False):
        states = rows[rows["space"].isin(["cell_type", "cls", "genes", "all"])]
        best = states.loc[states["value"].idxmax()]
        if not np.isfinite(best["gain_low"]):
            words = "cannot be told: one donor"
        elif best["gain_low"] > 0:
            words = "yes"
        elif best["gain_high"] < 0:
            words = "no: PCA is purer"
        else:
            words = "no difference that donors bear out"
        found[f"{study}: {phenotype}"] = words
    return found
