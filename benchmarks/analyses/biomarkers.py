"""Biomarkers: what attributions find on real donors beside differential expression, and of markers that are planted.

Legend: C cells, G genes.
"""

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from scipy import sparse
from sklearn.metrics import roc_auc_score

import polygene as pg
from benchmarks.analyses.scene import Scene, spread_over
from benchmarks.shared import effort
from polygene.corpus.prepare import PrepareConfig
from polygene.model.attribution import integrated_gradients
from polygene.model.checkpoint import PolyGene
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.tl._biomarkers import METHODS
from polygene.tl._gene_weights import random_weights

QUESTIONS = {
    # study: label, phenotype, contexts
    "endothelial cells of the brain": ("velmeshev_asd_pfc_glia", "endothelial cell", "cell_type", "tissue"),
    "autism by cell type": ("velmeshev_asd_pfc_glia", "autism spectrum disorder", "disease", "cell_type"),
}
CELLS = 800
PLANTED, FOLD = 12, 2.5


def biomarkers(scene: Scene) -> dict[str, Any]:
    """Ask each question of real donors, randomise the weights, and recover planted markers."""
    models, found = list(scene.load().values()), {}
    for question, (study, label, phenotype, groupby) in QUESTIONS.items():
        for cells in scene.studies([study]).values():
            some = spread_over(cells, [phenotype, "cell_type", "donor_id"], CELLS, scene.seed)
            table = pg.tl.biomarkers(
                some,
                models,
                label=label,
                phenotype=phenotype,
                groupby=groupby,
                n_steps=effort.at_most(8, 1),
                seed=scene.seed,
            )
            found[question] = summary(table)
            Console(width=160).print(question, found[question])
    (cells,) = scene.studies(["velmeshev_asd_pfc_glia"]).values()
    return {
        "questions": found,
        "attribution_randomisation_corr": randomised(models[0], cells, scene.seed),
        **planted(scene),
    }


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Count what each method finds, alone and together, and name the largest."""
    first = table[table["model"] == table["model"].iloc[0]]
    counts = {method: int(first[f"{method}_replicates"].fillna(False).sum()) for method in METHODS}
    by_cells = int((first["wilcoxon_q"] <= 0.05).sum())
    alone = first["found_by"].value_counts()
    only = first[first["found_by"] == "attribution"].nlargest(10, "attribution")["gene"].tolist()
    largest = first[first["attribution_replicates"].fillna(False).astype(bool)].nlargest(10, "attribution")
    return {
        "genes": int(first["gene"].nunique()),
        "contexts": sorted(first["context"].unique()),
        "donors": int(first["n_donors"].max()),
        "replicate": counts,
        "wilcoxon_over_cells_in_discovery": by_cells,
        "found_by": {str(key) or "none": int(value) for key, value in alone.items()},
        "attribution_alone": only,
        "largest": largest["gene"].tolist(),
        "rank_correlation_with_pseudobulk": float(
            first["attribution"].abs().corr(first["pseudobulk"].abs(), method="spearman")
        ),
        "removal_correlation": float(first["attribution"].corr(first["removal"], method="spearman")),
        "survives": int(table["survives"].sum() / table["model"].nunique()),
        "consistent": int(first["consistent"].sum()),
    }


def randomised(model: PolyGene, cells: ad.AnnData, seed: int) -> dict[str, float]:
    """Correlate mean attributions of genes, with their sign and without, with those of five random networks."""
    some = spread_over(cells, ["cell_type"], 150, seed)
    encoded = model.tokenizer.encode(some, use_labels=False)
    n = np.maximum(np.bincount(encoded.genes_N, minlength=len(model.tokenizer.panel)), 1)

    def by_gene(one: PolyGene) -> np.ndarray:
        found_N = integrated_gradients(one, encoded, "cell_type", "endothelial cell", n_steps=effort.at_most(4, 1))
        return np.bincount(encoded.genes_N, found_N, minlength=len(n))[n > 5] / n[n > 5]

    own_G = by_gene(model)
    random = [by_gene(random_weights(model, seed=seed + i)) for i in range(effort.at_most(5, 1))]
    return {
        "signed": float(np.mean([np.corrcoef(own_G, one_G)[0, 1] for one_G in random])),
        "absolute": float(np.mean([np.corrcoef(np.abs(own_G), np.abs(one_G))[0, 1] for one_G in random])),
    }


def planted(scene: Scene) -> dict[str, Any]:
    """Recover markers of a disease in simulated counts: the area under the curve of planted against other genes."""
    cells, markers = simulated(scene.seed)
    config = PrepareConfig(n_genes=cells.n_vars, seed=scene.seed, fractions=(0.7, 0.15, 0.15))
    corpus = scene.folder / f"planted-{scene.seed}-corpus"
    if not corpus.exists():
        effort.prepare({"simulated": cells}, corpus, config=config)
    network = NetworkConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    training = TrainingConfig(epochs=20, evaluations=2, learning_rate=3e-3, seed=scene.seed)
    out = scene.folder / f"planted-{scene.seed}"
    recipe = Recipe(corpus=str(corpus), out=str(out), training=training, network=network)
    model = effort.train(recipe)
    table = pg.tl.biomarkers(
        cells, model, label="diseased", phenotype="disease", max_cells=effort.at_most(600, 100),
        n_steps=effort.at_most(8, 1), n_removed=0, seed=scene.seed,
    )  # fmt: skip
    areas: dict[str, list[float]] = {method: [] for method in METHODS}
    for _, rows in table.groupby("context"):
        is_marker = rows["gene"].isin(markers)
        for method in METHODS:
            areas[method].append(float(roc_auc_score(is_marker, rows[method].abs())))
    again = table[table["attribution_replicates"].fillna(False).astype(bool)]
    return {
        "biomarker_recovery_auc": {method: float(np.mean(of)) for method, of in areas.items()},
        "biomarker_recovery": {
            "planted": len(markers),
            "tissues": int(table["context"].nunique()),
            "attribution_replicates": len(again),
            "of_those_planted": int(again["gene"].isin(markers).sum()),
            "pseudobulk_replicates": int(table["pseudobulk_replicates"].fillna(False).sum()),
            "of_pseudobulk_planted": int(
                table["gene"][table["pseudobulk_replicates"].fillna(False).astype(bool)].isin(markers).sum()
            ),
        },
    }


def simulated(seed: int) -> tuple[ad.AnnData, list[str]]:
    """Draw counts of 24 donors, half of them diseased, in two tissues that share twelve markers of the disease.

    Donors differ in every gene (log-normal, 0.4), as people do, and cells in depth: Poisson counts.
    """
    rng = np.random.default_rng(seed)
    n_genes, n_donors, n_cells = 128, 24, effort.at_most(960, 240)
    donors_C, tissues_C = np.arange(n_cells) % n_donors, np.arange(n_cells) // n_donors % 2
    diseased_C = donors_C % 2 == 1
    rates_TG = rng.gamma(0.6, 1.5, n_genes) * rng.lognormal(0, 0.7, (2, n_genes))
    rates_DG = rng.lognormal(0, 0.4, (n_donors, n_genes))
    markers = rng.choice(np.flatnonzero(rates_TG.min(axis=0) > 0.1), PLANTED, replace=False)
    rates_CG = rates_TG[tissues_C] * rates_DG[donors_C] * rng.lognormal(0, 0.3, (n_cells, 1))
    rates_CG[np.ix_(np.flatnonzero(diseased_C), markers)] *= FOLD
    genes = [f"GENE{g}" for g in range(n_genes)]
    obs = pd.DataFrame(
        {
            "donor_id": [f"donor{d}" for d in donors_C],
            "tissue": np.array(["blood", "lung"])[tissues_C],
            "disease": np.where(diseased_C, "diseased", "normal"),
        },
        index=[f"cell{c}" for c in range(n_cells)],
    )
    counts = sparse.csr_matrix(rng.poisson(rates_CG).astype(np.float32))
    return ad.AnnData(counts, obs=obs.astype("category"), var=pd.DataFrame(index=genes)), [genes[g] for g in markers]
