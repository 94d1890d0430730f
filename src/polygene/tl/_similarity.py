"""Similarity of models: do two checkpoints, such as two seeds, arrange cells and genes alike.

Legend: C cells, G genes that two models share, N things that are compared (cells or genes), D width, R resamples.
"""

from collections.abc import Sequence
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pandas as pd

from polygene.errors import DataError
from polygene.evaluation.bootstrap import TAILS, donor_draws
from polygene.io.read import Source
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import cell_states, static_genes
from polygene.tl._contexts import add_rows
from polygene.tl._reader import CellReader, panel_var
from polygene.tl._states import balanced, check_call, donors_or_one, encoded, named_models, states_of

FEWEST_CELLS = 5
"""Cells that must express a gene for its mean state in context to be compared."""


def similarity(
    adata: Source,
    models: Sequence[PolyGene | str | Path],
    *,
    donor: str = "donor_id",
    max_cells: int = 2_000,
    n_neighbors: int = 15,
    n_resamples: int = 200,
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare what models make of the same cells and genes, pair by pair.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file; no label is used.
    models
        Two models or more, or their names or folders.
    donor
        Column of `obs` with the donor.
    max_cells
        How many cells are compared, as many of each donor as can be.
    n_neighbors
        Neighbours, by cosine, that two models may share.
    n_resamples
        Resamples of donors, for the intervals of cells.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Of cells, resamples and shuffles.

    Returns
    -------
    A row for each pair of models, `first` and `second`, and `what` is compared: "cells" (the states of the cell
    type), "genes in context" (the mean state of a gene over the cells that express it) and "genes, static" (what the
    network reads for a gene outside any cell).

    `n`
        How many cells, or genes that both panels have.
    `cka`, `cka_low`, `cka_high`, `cka_shuffled`
        Linear centred kernel alignment (Kornblith et al. 2019) with the 95 % interval over donors, for cells; and with
        the rows of one model shuffled, which is not 0 where dimensions are many. Of few donors the interval is high.
    `neighbors`, `neighbors_low`, `neighbors_high`, `neighbors_chance`
        Share of the nearest neighbours of a thing that both models give it, and by chance.

    Raises
    ------
    DataError
        There are fewer than two models, or two share fewer than three genes.

    Examples
    --------
    >>> import polygene as pg
    >>> table = pg.tl.similarity(pg.datasets.pbmc(), ["polygene-512", "polygene-2432"], max_cells=50)
    >>> table["what"].tolist()
    ['cells', 'genes in context', 'genes, static']
    """
    counts = {"max_cells": max_cells, "n_neighbors": n_neighbors, "n_resamples": n_resamples}
    check_call("similarity", adata, seed, **counts)
    loaded = named_models(models)
    if len(loaded) < 2:
        msg = f"similarity compares models pair by pair: pass two or more, got {len(loaded)}."
        raise DataError(msg)
    spaces, donors_C = {}, np.zeros(0, dtype=np.int64)
    for name, model in loaded.items():
        reader = CellReader(adata, model.tokenizer, layer=layer, totals=totals)
        donors_C = donors_or_one(reader.cells, donor)
        rows = balanced([donors_C], max_cells, seed=seed)
        donors_C = donors_C[rows]
        spaces[name] = _spaces(reader, model, rows)
    found = []
    for first, second in combinations(spaces, 2):
        for what in spaces[first]:
            one, other = spaces[first][what], spaces[second][what]
            shared = [key for key in one.index if key in other.index]
            if len(shared) < 3:
                msg = f"{first} and {second} share {len(shared)} {what}, which are too few to compare."
                raise DataError(msg)
            x_ND, y_ND = one.loc[shared].to_numpy(), other.loc[shared].to_numpy()
            of = donors_C if what == "cells" else None
            row = {"first": first, "second": second, "what": what, "n": len(shared)}
            found.append(row | _alike(x_ND, y_ND, of, n_neighbors, n_resamples, seed))
    return pd.DataFrame(found)


def _spaces(reader: CellReader, model: PolyGene, rows: np.ndarray) -> dict[str, pd.DataFrame]:
    """Give the states of cells, and of genes in them and outside."""
    names, config = panel_var(model.tokenizer.panel).index, model.network.config
    sums_GD, n_G = np.zeros((config.n_genes, config.hidden_size)), np.zeros(config.n_genes)
    for _, states in states_of(reader, model, rows):
        add_rows(sums_GD, states.genes_N, states.genes_ND)
        n_G += np.bincount(states.genes_N, minlength=len(n_G))
    enough_G = n_G >= FEWEST_CELLS
    cells_CD = np.concatenate([cell_states(model, part) for _, part in encoded(reader, rows)])
    return {
        "cells": pd.DataFrame(cells_CD),
        "genes in context": pd.DataFrame((sums_GD / np.maximum(n_G, 1)[:, None])[enough_G], index=names[enough_G]),
        "genes, static": pd.DataFrame(static_genes(model), index=names),
    }


def _alike(
    x_ND: np.ndarray, y_ND: np.ndarray, donors_N: np.ndarray | None, n_neighbors: int, n_resamples: int, seed: int
) -> dict[str, float]:
    """Measure how alike two spaces are, with intervals where there are two donors."""
    n = min(n_neighbors, len(x_ND) - 1)
    shared_N = shared_neighbors(x_ND, y_ND, n)
    shuffled = np.random.default_rng(seed).permutation(len(x_ND))
    values = {"cka": cka(x_ND, y_ND), "neighbors": float(shared_N.mean())}
    drawn: dict[str, list[float]] = {"cka": [], "neighbors": []}
    if donors_N is not None and len(set(donors_N)) > 1:
        for weights_N in chain.from_iterable(donor_draws(donors_N, n_resamples, seed)):
            drawn["cka"].append(cka(x_ND, y_ND, weights_N))
            drawn["neighbors"].append(float(weights_N @ shared_N / weights_N.sum()))
    found: dict[str, float] = {}
    for name, value in values.items():
        low, high = np.quantile(drawn[name], TAILS) if drawn[name] else (np.nan, np.nan)
        found |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    return {**found, "cka_shuffled": cka(x_ND, y_ND[shuffled]), "neighbors_chance": n / (len(x_ND) - 1)}


def cka(x_ND: np.ndarray, y_ND: np.ndarray, weights_N: np.ndarray | None = None) -> float:
    """Linear centred kernel alignment of two spaces: 1 where they are equal but for rotation and scale."""
    w_N1 = np.ones((len(x_ND), 1)) if weights_N is None else weights_N[:, None].astype(float)
    x_ND, y_ND = (np.sqrt(w_N1) * (z_ND - (w_N1 * z_ND).sum(axis=0) / w_N1.sum()) for z_ND in (x_ND, y_ND))
    cross, own, other = (np.square(a.T @ b).sum() for a, b in ((x_ND, y_ND), (x_ND, x_ND), (y_ND, y_ND)))
    return float(cross / max(np.sqrt(own * other), 1e-30))


def shared_neighbors(x_ND: np.ndarray, y_ND: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Share of the nearest neighbours, by cosine, that a thing has in both spaces, (N,)."""
    near = []
    for z_ND in (x_ND, y_ND):
        unit_ND = z_ND - z_ND.mean(axis=0)
        unit_ND = unit_ND / np.maximum(np.linalg.norm(unit_ND, axis=1, keepdims=True), 1e-12)
        closeness_NN = unit_ND @ unit_ND.T
        np.fill_diagonal(closeness_NN, -np.inf)
        is_near_NN = np.zeros(closeness_NN.shape, dtype=bool)
        np.put_along_axis(is_near_NN, np.argpartition(-closeness_NN, n_neighbors - 1, axis=1)[:, :n_neighbors], True, 1)
        near.append(is_near_NN)
    return (near[0] & near[1]).sum(axis=1) / n_neighbors
