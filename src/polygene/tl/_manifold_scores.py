"""Manifold scores: how well states separate the labels of each phenotype and mix donors, beside simpler spaces.

Legend: C cells, D dimensions or donors, K clusters, V labels, R resamples, G panel genes.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, get_args

import anndata as ad
import numpy as np
import pandas as pd

from polygene.errors import DataError, check_choice, check_names
from polygene.evaluation.bootstrap import donor_draws
from polygene.io.read import Source
from polygene.model.checkpoint import PolyGene
from polygene.model.shipped import DEFAULT
from polygene.runtime import extras
from polygene.tl._embed import States, states_of_cells
from polygene.tl._gene_weights import random_weights
from polygene.tl._reader import CellReader, groups_of
from polygene.tl._separation import ari, counts_of, leiden, mixing_of, nmi, purity
from polygene.tl._states import Models, balanced, check_call, donors_or_one, encoded, named_models
from polygene.vocab.cells import EncodedCells

BASELINES = ("pca", "random weights")
COMPONENTS = 50


def manifold_scores(
    adata: Source,
    model: Models = DEFAULT,
    *,
    states: States | Sequence[States] = ("cell_type", "cls", "genes", "all"),
    phenotypes: str | Sequence[str] = "cell_type",
    beside: str | Sequence[str] = ("pca", "random weights"),
    mixing: bool = False,
    donor: str = "donor_id",
    max_cells: int = 3_000,
    n_neighbors: int = 15,
    n_resamples: int = 1_000,
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score how states separate the labels of phenotypes, beside principal components of the same genes.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file, with columns of labels.
    model
        A PolyGene, or the name or folder of one; several, such as seeds, say which gains survive.
    states
        States as `embed` writes them, one or several.
    phenotypes
        Columns of `obs` with labels; a donor's labels, such as its sex or disease, count too.
    beside
        "pca" (50 components of the log1p counts of the panel's genes), "random weights" (the state of the cell type of
        a network that has learned nothing), and names in `obsm`, such as what Harmony or scVI wrote there.
    mixing
        Also score how donors mix, by scib-metrics (extra `bench`): BRAS (Rautenstrauch and Ohler 2025) and iLISI.
    donor
        Column of `obs` with the donor.
    max_cells
        How many cells are scored, as many of each donor as can be.
    n_neighbors
        Of a cell, for the purity and for the graph that Leiden cuts.
    n_resamples
        Resamples of donors, for the intervals.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Of cells, clusters, networks and resamples.

    Returns
    -------
    A row for each model, space, phenotype and score:

    `model`, `space`, `phenotype`, `score`
        `purity` is the share of a cell's nearest neighbours of other donors that have its label; `ari` and `nmi` are of
        Leiden clusters at the one of four resolutions that is best for `nmi`, for every space alike; `bras`, `ilisi`.
    `value`, `low`, `high`, `gain`, `gain_low`, `gain_high`
        With 95 % intervals over donors, 1.96 standard deviations of resamples; the gain is over PCA. Without two
        donors, and for `bras` and `ilisi`, there are no intervals; with fewer than ten donors they are too narrow.
    `n_cells`, `n_labels`, `n_donors`
        On what it rests.
    `survives`
        Whether the gain's interval is above 0 in every model.

    Raises
    ------
    DataError, ColumnError, MissingExtraError
        A name is not known, a phenotype has one label, a column or a package is missing.

    Examples
    --------
    >>> import polygene as pg
    >>> scores = pg.tl.manifold_scores(pg.datasets.pbmc(), states="cell_type", max_cells=200)
    >>> scores.loc[scores["score"] == "purity", "space"].tolist()
    ['pca', 'random weights', 'cell_type']
    """
    counts = {"max_cells": max_cells, "n_neighbors": n_neighbors, "n_resamples": n_resamples}
    check_call("manifold_scores", adata, seed, **counts)
    chosen = check_names("beside", beside)
    given = _own_spaces(adata, chosen)
    extras.require(*(["scib_metrics"] if mixing else []))
    several, columns = check_names("states", states), check_names("phenotypes", phenotypes)
    for state in several:
        check_choice("states", state, get_args(States))
    tables = []
    for name, one in named_models(model).items():
        reader = CellReader(adata, one.tokenizer, layer=layer, totals=totals)
        donors_C = donors_or_one(reader.cells, donor)
        rows = balanced([donors_C], max_cells, seed=seed)
        labels = _labels(reader, columns, rows, n_neighbors)
        donors_C = np.unique(donors_C[rows], return_inverse=True)[1]
        found = []
        for space, x_CD in _spaces(reader, one, rows, given, chosen, several, seed):
            for column, codes_C in labels.items():
                scores = _scores(x_CD, codes_C, donors_C, n_neighbors, mixing, seed)
                found += [{"space": space, "phenotype": column, **row} for row in scores]
        tables.append(_with_intervals(pd.DataFrame(found), donors_C, n_resamples, seed).assign(model=name))
    table = pd.concat(tables, ignore_index=True)
    of_models = (table["gain_low"] > 0).groupby([table[key] for key in ("space", "phenotype", "score")])
    table["survives"] = of_models.transform("all")
    return table[["model", *(column for column in table if column != "model")]]


def _own_spaces(adata: Source, chosen: list[str]) -> dict[str, Any]:
    """Return the spaces that the AnnData holds; refuse a name that is none."""
    own = dict(adata.obsm) if isinstance(adata, ad.AnnData) else {}
    if unknown := [name for name in chosen if name not in {*BASELINES, *own}]:
        names = ", ".join([*BASELINES, *sorted(own)])
        msg = f"beside names spaces: 'pca', 'random weights' or keys of obsm; got {unknown[0]!r}. There are {names}."
        raise DataError(msg)
    return own


def _labels(reader: CellReader, columns: Sequence[str], rows: np.ndarray, n_neighbors: int) -> dict[str, np.ndarray]:
    """Read the labels of these cells in each column, codes_C, -1 = not given."""
    labels = {column: groups_of(reader.cells, column, holds="labels")[0][rows] for column in columns}
    for column, codes_C in labels.items():
        if (n := len(set(codes_C[codes_C >= 0]))) < 2:
            number = "no" if n == 0 else "one"
            read = f"among the {len(rows):,} cells that are read"
            msg = f"obs[{column!r}] of {reader.cells.label} has {number} label {read}: there is nothing to separate."
            raise DataError(msg)
        if (n_cells := int((codes_C >= 0).sum())) <= n_neighbors:
            msg = (
                f"{n_cells} cells with a label in obs[{column!r}] are scored, and a cell has {n_neighbors} neighbours: "
                "lower n_neighbors, or raise max_cells."
            )
            raise DataError(msg)
    return labels


def _spaces(
    reader: CellReader, model: PolyGene, rows: np.ndarray, given: dict[str, Any], beside: list[str],
    states: list[Any], seed: int,
) -> Iterator[tuple[str, np.ndarray]]:  # fmt: skip
    """Give the baselines, then the states, (C, D) each."""
    cells = [part for _, part in encoded(reader, rows)]
    for name in beside:
        if name == "pca":
            n_genes = len(model.tokenizer.panel)
            yield name, _components(np.concatenate([part.as_csr(part.values_N, n_genes).toarray() for part in cells]))
        elif name == "random weights":
            yield name, _embedded(random_weights(model, seed=seed), cells, "cell_type")
        else:
            yield name, np.asarray(given[name])[rows].astype(float)
    for one in states:
        yield one, _embedded(model, cells, one)


def _embedded(model: PolyGene, cells: list[EncodedCells], states: States) -> np.ndarray:
    return np.concatenate([states_of_cells(model, part, states) for part in cells])


def _components(x_CG: np.ndarray) -> np.ndarray:
    centred_CG = x_CG - x_CG.mean(axis=0)
    u_CK, s_K, _ = np.linalg.svd(centred_CG, full_matrices=False)
    return u_CK[:, :COMPONENTS] * s_K[:COMPONENTS]


def _scores(
    x_CD: np.ndarray, codes_C: np.ndarray, donors_C: np.ndarray, n_neighbors: int, mixing: bool, seed: int
) -> Iterator[dict[str, Any]]:
    """Score one space for one phenotype; cells without a label are left out.

    `of` is the score, or where it can be resampled a function of the weights of donors, (R, D), that gives (R,) scores.
    """
    known = codes_C >= 0
    n_donors = int(donors_C.max()) + 1  # those without a labelled cell too: all scores share their draws
    x_CD, codes_C, donors_C = x_CD[known], codes_C[known], donors_C[known]
    facts = {"n_cells": len(codes_C), "n_labels": len(set(codes_C)), "n_donors": len(set(donors_C))}
    purity_C = purity(x_CD, codes_C, donors_C, n_neighbors)
    sums_D, n_D = np.bincount(donors_C, purity_C, n_donors), np.bincount(donors_C, minlength=n_donors)
    yield {"score": "purity", "of": lambda w_RD: (w_RD @ sums_D) / np.maximum(w_RD @ n_D, 1e-12), **facts}
    counts = [counts_of(clusters_C, codes_C, donors_C, n_donors) for clusters_C in leiden(x_CD, n_neighbors, seed)]
    best_DKV = max(counts, key=lambda count_DKV: nmi(count_DKV.sum(axis=0)))
    for name, score in (("ari", ari), ("nmi", nmi)):
        yield {"score": name, "of": partial(_of_counts, best_DKV, score), **facts}
    if mixing and facts["n_donors"] > 1:
        for name, value in mixing_of(x_CD, codes_C, donors_C, n_neighbors).items():
            yield {"score": name, "of": value, **facts}


def _of_counts(count_DKV: np.ndarray, score: Callable[[np.ndarray], float], w_RD: np.ndarray) -> np.ndarray:
    return np.array([score(np.tensordot(w_D, count_DKV, 1)) for w_D in w_RD])


def _with_intervals(table: pd.DataFrame, donors_C: np.ndarray, n_resamples: int, seed: int) -> pd.DataFrame:
    """Compute values, intervals and gains over PCA; donors are drawn alike for all spaces."""
    n_donors = int(donors_C.max()) + 1
    draws = np.concatenate(list(donor_draws(np.arange(n_donors), n_resamples, seed))) if n_donors > 1 else None
    values, drawn = [], []

    # centred on the value: a resample holds fewer different donors, which raises indices of clusters
    def interval(value: float, drawn_R: np.ndarray) -> tuple[float, float]:
        half = 1.96 * float(np.std(drawn_R))
        return value - half, value + half

    for score in table.pop("of"):
        values.append(float(score(np.ones((1, n_donors)))[0]) if callable(score) else score)
        drawn.append(score(draws) if callable(score) and draws is not None else np.full(1, np.nan))
    table["value"] = values
    table[["low", "high"]] = [interval(*one) for one in zip(values, drawn, strict=True)]
    least = table["score"].map({"ari": -0.5}).fillna(0.0)  # no score is outside, whatever its interval
    table["low"], table["high"] = table["low"].clip(lower=least), table["high"].clip(upper=1.0)
    reference = {(row.phenotype, row.score): i for i, row in enumerate(table.itertuples()) if row.space == "pca"}
    for i, row in enumerate(table.itertuples()):
        base = reference.get((row.phenotype, row.score))
        gain = np.nan if base is None else values[i] - values[base]
        tails = (np.nan, np.nan) if base is None else interval(gain, drawn[i] - drawn[base])
        table.loc[row.Index, ["gain", "gain_low", "gain_high"]] = gain, *tails
    first = ["space", "phenotype", "score", "value", "low", "high", "gain", "gain_low", "gain_high"]
    return table[[*first, "n_cells", "n_labels", "n_donors"]]
