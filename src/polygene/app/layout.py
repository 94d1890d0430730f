"""The map: UMAP of the principal components of the panel's genes, fitted on some of the cells.

Legend: C cells, F cells that are fitted, K nearest neighbours, M panel genes that are measured.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
from scipy import sparse

from polygene.io.read import CellSource, open_cells
from polygene.model.shipped import DEFAULT, folder_of
from polygene.runtime.progress import progress
from polygene.runtime.subsample import spread
from polygene.vocab.expression import log1p_values
from polygene.vocab.panel import GenePanel

MOST_FITTED = 50_000
"""Cells that UMAP is fitted on, spread evenly over the file; the others are placed by their neighbours among them."""
FEWEST = 12  # below, UMAP has no neighbours to go by, and the map is two genes or components
COMPONENTS, NEIGHBOURS, PLACED_BY = 50, 15, 5


def lay_out(
    cells: CellSource | str | Path | ad.AnnData,
    model: str | Path = DEFAULT,
    *,
    layer: str | None = None,
    most_fitted: int = MOST_FITTED,
    seed: int = 0,
) -> np.ndarray:
    """Lay cells out on a plane by the expression of the genes that a model reads.

    Parameters
    ----------
    cells
        Cells with counts or log1p values, an AnnData or a file.
    model
        Whose panel of variable genes is used.
    layer
        Where the expression is, as for `annotate`.
    most_fitted
        Cells that UMAP is fitted on; the others get the mean place of their five nearest, weighted by nearness.
    seed
        Same seed, same map.

    Returns
    -------
    xy_C2, float32.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    cells = cells if isinstance(cells, CellSource) else open_cells(cells, layer=layer)
    match = GenePanel.load(folder_of(model) / "genes.tsv").match(cells.var)
    fitted_F = spread(cells.n_obs, most_fitted)

    def expression(rows: np.ndarray | None, done: str) -> Iterator[sparse.csr_matrix]:
        with progress(cells.n_obs if rows is None else len(rows), done=done) as advance:
            for chunk in cells.chunks(rows, columns=()):
                yield log1p_values(chunk, match, scale=cells.scale)
                advance(chunk.n_obs)

    x_FM = sparse.vstack(list(expression(fitted_F, "read for the map")), format="csr")
    if len(fitted_F) < FEWEST:
        return x_FM[:, :2].toarray()
    pca = PCA(min(COMPONENTS, min(x_FM.shape) - 1), svd_solver="arpack", random_state=seed).fit(x_FM)
    pcs_FD = pca.transform(x_FM).astype(np.float32)
    # exact neighbours: pynndescent finds some of them faster, but compiles itself for half a minute before
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(pcs_FD) - 1), algorithm="brute").fit(pcs_FD)
    xy_F2 = _umap(pcs_FD, nearest.kneighbors(pcs_FD), seed)
    if len(fitted_F) == cells.n_obs:
        return xy_F2
    placed = []
    for x_CM in expression(None, "placed on the map"):
        distance_CK, of_CK = nearest.kneighbors(pca.transform(x_CM).astype(np.float32), PLACED_BY)
        weight_CK = 1 / np.maximum(distance_CK, 1e-6)
        placed.append(np.average(xy_F2[of_CK], axis=1, weights=np.stack([weight_CK] * 2, axis=2)))
    xy_C2 = np.concatenate(placed).astype(np.float32)
    xy_C2[fitted_F] = xy_F2
    return xy_C2


def _umap(pcs_FD: np.ndarray, neighbours: tuple[np.ndarray, np.ndarray], seed: int) -> np.ndarray:
    distances_FK, of_FK = neighbours
    with warnings.catch_warnings():  # it speaks to its developers
        warnings.simplefilter("ignore")
        from umap import UMAP

        umap = UMAP(n_neighbors=of_FK.shape[1], min_dist=0.3, random_state=seed, precomputed_knn=(of_FK, distances_FK))
        return umap.fit_transform(pcs_FD).astype(np.float32)
