"""Real cells drawn again and again into one file, for benchmarks that need more cells than there are."""

from pathlib import Path

import anndata as ad
import numpy as np


def resample(source: Path, out: Path, n_cells: int, n_genes: int | None = None, *, seed: int = 0) -> float:
    """Write n_cells drawn with replacement, on the genes that most cells express; return expressed genes a cell."""
    adata = ad.read_h5ad(source)
    if n_genes is not None:
        n_cells_G = np.asarray((adata.X > 0).sum(axis=0)).ravel()
        adata = adata[:, np.sort(np.argsort(-n_cells_G, kind="stable")[:n_genes])].copy()
    drawn = adata[np.random.default_rng(seed).integers(0, adata.n_obs, n_cells)].copy()
    drawn.obs_names = [f"cell{number}" for number in range(n_cells)]
    drawn.write_h5ad(out)
    return float(drawn.X.nnz / n_cells)
