"""The map: UMAP of the principal components of the panel's genes, fitted on some of the cells.

Legend: C cells, F cells that are fitted, G genes, K principal components, M panel genes that are measured.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from polygene.io.read import CellSource, open_cells
from polygene.model.shipped import DEFAULT, folder_of
from polygene.runtime.progress import progress
from polygene.runtime.subsample import spread
from polygene.vocab.expression import log1p_values
from polygene.vocab.panel import GenePanel

MOST_FITTED = 50_000
"""Cells that UMAP is fitted on, spread evenly over the file; the others are placed by their neighbours among them."""
FEWEST = 12  # below, UMAP has no neighbours to go by, and the first two components are the map
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
    cells = cells if isinstance(cells, CellSource) else open_cells(cells, layer=layer)
    match = GenePanel.load(folder_of(model) / "genes.tsv").match(cells.var)
    fitted_F = spread(cells.n_obs, most_fitted)

    def expression(rows: np.ndarray | None, done: str) -> Iterator[np.ndarray]:
        with progress(cells.n_obs if rows is None else len(rows), done=done) as advance:
            for chunk in cells.chunks(rows, columns=()):
                yield log1p_values(chunk, match, scale=cells.scale).toarray()
                advance(chunk.n_obs)

    x_FM = np.concatenate(list(expression(fitted_F, "read for the map")))
    mean_M, components_MK = _components(x_FM)
    pcs_FK = (x_FM - mean_M) @ components_MK
    del x_FM
    xy_F2, nearest = _fit(pcs_FK, seed)
    if len(fitted_F) == cells.n_obs or nearest is None:
        return xy_F2
    xy_C2, first = np.zeros((cells.n_obs, 2), np.float32), 0
    for x_CM in expression(None, "placed on the map"):
        of_CN, distance_CN = nearest.query((x_CM - mean_M) @ components_MK, k=PLACED_BY)
        weight_CN = 1 / np.maximum(distance_CN, 1e-6)
        weight_CN /= weight_CN.sum(axis=1, keepdims=True)
        xy_C2[first : first + len(x_CM)] = (xy_F2[of_CN] * weight_CN[:, :, None]).sum(axis=1)
        first += len(x_CM)
    xy_C2[fitted_F] = xy_F2
    return xy_C2


def _components(x_FM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each gene and the first principal components, (M, K), by the covariance of the genes."""
    mean_M = x_FM.mean(axis=0)
    covariance_MM = np.cov(x_FM, rowvar=False, dtype=np.float64).reshape(len(mean_M), -1) if len(x_FM) > 1 else None
    if covariance_MM is None:
        return mean_M, np.eye(len(mean_M), 2, dtype=np.float32)
    _, vectors_MM = np.linalg.eigh(covariance_MM)
    return mean_M, vectors_MM[:, ::-1][:, :COMPONENTS].astype(np.float32)


def _fit(pcs_FK: np.ndarray, seed: int) -> tuple[np.ndarray, Any]:
    """Return xy_F2, and an index of nearest neighbours; None where the cells are too few for either."""
    if len(pcs_FK) < FEWEST:
        xy_F2 = np.zeros((len(pcs_FK), 2), np.float32)
        xy_F2[:, : pcs_FK.shape[1]] = pcs_FK[:, :2]
        return xy_F2, None
    with warnings.catch_warnings():  # both speak to their developers
        warnings.simplefilter("ignore")
        from pynndescent import NNDescent
        from umap import UMAP

        k = min(NEIGHBOURS, len(pcs_FK) - 1)
        nearest = NNDescent(pcs_FK, n_neighbors=k, random_state=seed)
        indices_FN, distances_FN = nearest.neighbor_graph
        knn = (indices_FN, distances_FN, nearest)
        umap = UMAP(n_neighbors=k, min_dist=0.3, random_state=seed, precomputed_knn=knn)
        return umap.fit_transform(pcs_FK).astype(np.float32), nearest
