"""Cells with planted modules of genes, and small models that learn from them."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.shared import effort
from polygene.corpus.prepare import PrepareConfig
from polygene.model.checkpoint import PolyGene
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.nn.losses import LossConfig

MODULES, SIZE, CELLS, DONORS = 12, 10, 1_200, 8
LOSS = LossConfig(phenotype_weight=0.1)
SHAPE = NetworkConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
EPOCHS = 40
"""After 12 the network has learned no module: contextual weights find pairs as random weights do."""


def planted(*, seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """Draw cells whose genes go together in modules; the module of each gene.

    A cell has an activity for each module (gamma, so that the correlation of two genes of a module is weak in single
    cells), genes differ tenfold in expression whatever their module, and depth varies from cell to cell.
    """
    rng = np.random.default_rng(seed)
    n_cells = effort.at_most(CELLS, 240)
    module_G = np.repeat(np.arange(MODULES), SIZE)
    level_G = 10 ** rng.uniform(-0.7, 0.3, len(module_G))
    activity_CM = rng.gamma(1.0, 1.0, (n_cells, MODULES))
    depth_C1 = rng.lognormal(0, 0.3, (n_cells, 1))
    counts_CG = rng.poisson(depth_C1 * level_G * activity_CM[:, module_G]).astype(np.float32)
    obs = pd.DataFrame(
        {
            "donor_id": pd.Categorical([f"donor{c % DONORS}" for c in range(n_cells)]),
            "cell_type": pd.Categorical(np.where(np.arange(n_cells) // DONORS % 2, "B cell", "T cell")),
        },
        index=[f"cell{c}" for c in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{g}" for g in range(len(module_G))])
    return ad.AnnData(sparse.csr_matrix(counts_CG), obs=obs, var=var), module_G


def learned(adata: ad.AnnData, folder: Path, *, seeds: tuple[int, ...]) -> list[PolyGene]:
    """Train small models on the cells, of one corpus from several seeds."""
    corpus = folder / f"modules-{seeds[0]}-corpus"
    if not corpus.exists():
        config = PrepareConfig(n_genes=adata.n_vars, phenotypes={"cell_type": "cell_type"}, seed=seeds[0])
        effort.prepare({"planted": adata}, corpus, config=config)
    models = []
    for seed in seeds:
        training = TrainingConfig(epochs=EPOCHS, evaluations=1, learning_rate=2e-3, seed=seed)
        out = str(folder / f"modules-{seed}")
        models.append(effort.train(Recipe(corpus=str(corpus), out=out, network=SHAPE, training=training, loss=LOSS)))
    return models
