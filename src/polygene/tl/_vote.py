"""Vote: the cells of a group decide together. Legend: C cells, D width, G groups, V labels of one phenotype."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from polygene.errors import DataError, PhenotypeError, check_number, check_type, missing_column
from polygene.evaluation.metrics import expected_years
from polygene.io.read import CellSource, Source, open_cells
from polygene.io.results import UNS_KEY, Results, ResultsChunk
from polygene.io.write import check_out, write_results
from polygene.model.calibration import summed
from polygene.model.pooling import pooled
from polygene.runtime import extras
from polygene.runtime.ranks import one_process
from polygene.tl._reader import CellReader, column_of
from polygene.vocab.ages import age_in_years
from polygene.vocab.columns import given_texts
from polygene.vocab.ontology import at_or_below, reported_labels, table_of
from polygene.vocab.phenotypes import ENDINGS

logger = logging.getLogger("polygene")
HETEROGENEOUS = "heterogeneous"
LEIDEN = "leiden"
SHARE = 0.5
NEIGHBOURS, COMPONENTS, RESOLUTION = 15, 50, 2.0
"""Of Leiden clusters, chosen on studies left out: at 6 votes are right less often, at 1 near types are mixed. Those of
clusters of the network's embedding take away. Numbers: docs/decisions.md."""
BRANCH = 0.9
"""Of a group's cells so many must agree on the branch within which each keeps its own label; chosen as `RESOLUTION`."""
TOO_BROAD = 0.15
"""A label that stands for more than this share of the model's labels, such as "leukocyte", names no group."""
VOTES, FEWEST = "votes", 3


def vote(
    adata: Source,
    groupby: str = LEIDEN,
    phenotype: str = "cell_type",
    *,
    share: float = SHARE,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Let the cells of each group decide together, from the probabilities that `annotate` wrote.

    A cell does not know its donor's age, and a noisy cell not its type; a thousand cells of one donor or one cluster
    know more. Their log probabilities are averaged; how much surer the mean may be than a cell was learned from
    donors that did not train, and is in the checkpoint (without it, as sure as a cell).

    Parameters
    ----------
    adata
        Cells after `annotate`, an AnnData or an .h5ad file.
    groupby
        Column of `obs` with the groups: clusters for cell types; donors for sex, age, tissue and disease.
    phenotype
        What is voted on; `annotate` must have predicted it.
    share
        So many of a group's cells must agree with its label. Where fewer do, it gets the finest label above it on which
        they agree, if that says anything; else it is "heterogeneous".
    out
        Where the results of a file go: a copy of it with them (.h5ad), or their columns alone (.parquet, .csv).
    overwrite
        As for `annotate`.

    Notes
    -----
    Written for `phenotype="cell_type"` and `groupby="leiden"`:

    `obs["polygene_cell_type_leiden"]`, `..._probability`, `..._agree`
        The label of the cell's group, or "heterogeneous"; its probability; the share of the group's cells whose own
        label is this or a finer one. A cell without a group has none. A group of one cell keeps that cell's prediction.
    `obs["polygene_cell_type_leiden_within"]`, `..._within_probability`
        Of phenotypes with an ontology: the cell's most probable label within the branch on which nine tenths of its
        group agree, or without one within the group's label, and its probability if the branch is right. So groups
        tell lineages apart, and cells near types.
    `obs["polygene_age_donor_id_years"]`
        Of ages: the expected years. Ages are near each other and no group of them is heterogeneous.
    `uns["polygene"]["annotate"]["votes"]["cell_type_leiden"]`
        `share`, `weight` (1 for the mean of log probabilities as it is), and `table`, a row a group: its cells, label,
        probability, agreement, the most frequent other label of its cells, and the branch.

    Raises
    ------
    DataError, ColumnError
        `annotate` did not write the probabilities; the column is missing or empty.

    Examples
    --------
    >>> import polygene as pg
    >>> adata = pg.datasets.pbmc()[:200].copy()
    >>> pg.tl.annotate(adata, predict="cell_type")
    >>> pg.tl.vote(adata, groupby="author_label")
    >>> adata.obs["polygene_cell_type_author_label"].nunique() > 3
    True
    """
    check_number("share", share, 0, 1, what="the share of a group's cells that must agree with its label, 0 to 1")
    check_out(adata, out, overwrite=overwrite)
    cells = open_cells(adata)
    held = adata if isinstance(adata, ad.AnnData) else ad.read_h5ad(adata, backed="r")
    if held is not adata:
        held.file.close()  # all but X is in memory
    uns, key = held.uns.get(UNS_KEY, {}).get("annotate", {}), f"polygene_{phenotype}"
    if phenotype not in uns.get("labels", {}) or key not in held.obsm:
        msg = f"{cells.label} has no probabilities of {phenotype}: run annotate, with predict={phenotype!r}, first."
        if key in held.obsm:
            msg = f"{cells.label} has obsm[{key!r}], but uns does not say whose: anndata.concat needs uns_merge='same'."
        raise DataError(msg)
    groups = _column(cells, groupby)
    columns, facts = of_groups(groups, np.asarray(held.obsm[key]), uns, phenotype, share)
    columns.index = held.obs_names
    votes = {**uns.get(VOTES, {}), f"{phenotype}_{groupby}": facts}
    chunks = partial(_some, ResultsChunk(columns, {}))
    results = Results(verb="annotate", cells=cells, chunks=chunks, uns={**uns, VOTES: votes})
    write_results(results, adata, out, overwrite=overwrite)


def with_votes(results: Results, wanted: Mapping[str, str], points_CD: Callable[[], np.ndarray]) -> Results:
    """Add votes to the results of `annotate`: by phenotype the column; `points_CD` gives what Leiden is computed on."""
    one_process("annotate with a vote")
    cells, chunk = results.cells, results.collect()
    columns, votes = [chunk.obs], {}
    for phenotype, groupby in wanted.items():
        if groupby in cells.columns:
            groups = _column(cells, groupby)
        else:
            groups = pd.Series(leiden(points_CD()), name=groupby)
            columns.append(pd.DataFrame({groupby: groups.to_numpy()}, index=chunk.obs.index).astype("category"))
        voted, facts = of_groups(groups, chunk.obsm[f"polygene_{phenotype}"], results.uns, phenotype, SHARE)
        columns.append(voted.set_index(chunk.obs.index))
        votes[f"{phenotype}_{groupby}"] = facts
        mixed_G = facts["table"]["heterogeneous"]
        logger.info("%s: %d groups voted, of which %d are heterogeneous", voted.columns[0], len(mixed_G), mixed_G.sum())
    obs = pd.concat(columns, axis=1)
    whole = ResultsChunk(obs.loc[:, ~obs.columns.duplicated()], chunk.obsm)
    return replace(results, chunks=partial(_some, whole), uns={**results.uns, VOTES: votes})


def _some(whole: ResultsChunk, rows: range) -> list[ResultsChunk]:
    """Give the results of some rows, of those of all cells."""
    some = slice(rows.start, rows.stop)
    return [ResultsChunk(whole.obs.iloc[some], {name: array[some] for name, array in whole.obsm.items()})]


def check_votes(cells: CellSource, wanted: Mapping[str, str], predict: list[str], part: str | None = None) -> None:
    """Refuse a vote of a part of the cells, on what is not predicted, or over a column that cannot be had."""
    check_type("vote", wanted, Mapping, what="a dict such as {'cell_type': 'leiden'}")
    if wanted and part:
        msg = "The cells of a group decide together, so a part of the cells cannot vote: leave out vote or part."
        raise DataError(msg)
    for phenotype, groupby in wanted.items():
        if phenotype not in predict:
            msg = f"A vote on {phenotype!r} needs its predictions; predicted are {', '.join(predict)}."
            raise DataError(msg)
        if groupby in cells.columns:
            _column(cells, groupby)
        elif groupby == LEIDEN and cells.n_obs >= FEWEST:
            extras.require("scanpy", "igraph")
        else:
            do = f"Only {LEIDEN!r} is computed where it is missing, of at least {FEWEST} cells."
            raise missing_column(groupby, cells.columns, of=cells.label, holds="the groups that vote", do=do)


def _column(cells: CellSource, groupby: str) -> pd.Series:
    groups = column_of(cells, groupby, holds="the groups that vote")
    if not given_texts(groups)[1]:
        msg = f"{cells.label}: no cell has a value in obs[{groupby!r}], so there are no groups that vote."
        raise DataError(msg)
    return groups


def of_groups(
    groups: pd.Series, p_CV: np.ndarray, uns: Mapping[str, Any], phenotype: str, share: float
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the columns of obs, and what goes to uns; `uns` is what `annotate` wrote of its predictions."""
    if groups.name in ENDINGS:
        key = f"polygene_{phenotype}_{groups.name}"
        msg = f"obs[{groups.name!r}] cannot be the groups: obs[{key!r}] is what annotate writes. Rename the column."
        raise PhenotypeError(msg)
    group_C, names = given_texts(groups.where(np.isfinite(p_CV).all(axis=1)))  # cells of another file may have none
    known_C, labels = group_C >= 0, [*map(str, uns["labels"][phenotype])]
    if not names:
        msg = f"No cell with a value in obs[{groups.name!r}] has probabilities of {phenotype}: run annotate first."
        raise DataError(msg)
    below_VV = at_or_below(phenotype, labels) if uns.get("granularity") else None
    weight = float(uns.get("vote_weights", {}).get(phenotype, 1.0))
    table = _table(p_CV[known_C], group_C[known_C], labels, below_VV, weight, share)
    _warn(groups.name, names, table["cells"].to_numpy(), int((~known_C).sum()))
    # near ages are labels of their own, and a donor's cells need not agree on one of them
    mixed_G = (table["agree"] < share).to_numpy() & ("years" not in table)
    key, at_C = f"polygene_{phenotype}_{groups.name}", np.where(known_C, group_C, 0)
    label_G = np.where(mixed_G, HETEROGENEOUS, table["label"])
    columns: dict[str, Any] = {key: pd.Categorical(pd.Series(label_G[at_C]).where(known_C), sorted({*label_G}))}
    if below_VV is not None:
        own_C, p_C = within(p_CV, np.array([labels.index(one) for one in table["branch"]])[at_C], below_VV)
        columns[f"{key}_within"] = pd.Categorical.from_codes(np.where(known_C, own_C, -1), labels)
        columns[f"{key}_within_probability"] = np.where(known_C, p_C, np.nan).astype(np.float32)
    for name in [name for name in ("probability", "agree", "years") if name in table]:
        columns[f"{key}_{name}"] = np.where(known_C, table[name].to_numpy()[at_C], np.nan).astype(np.float32)
    table.insert(0, "group", names)
    table["heterogeneous"] = mixed_G
    order = sorted(range(len(names)), key=lambda g: (not names[g].isdecimal(), len(names[g]), names[g]))
    facts = {"share": share, "weight": weight, "table": table.iloc[order].reset_index(drop=True)}
    return pd.DataFrame(columns), facts


def _table(
    p_CV: np.ndarray, group_C: np.ndarray, labels: list[str], below_VV: np.ndarray | None, weight: float, share: float
) -> pd.DataFrame:
    """Tabulate the vote of each group: its label, and how its cells' own labels agree."""
    p_GV = pooled(p_CV, group_C, weight)
    label_G, at_G = reported_labels(p_GV, below_VV), np.arange(len(p_GV))
    count_GV = np.zeros(p_GV.shape)
    np.add.at(count_GV, (group_C, reported_labels(p_CV, below_VV)), 1)
    cells_G = count_GV.sum(axis=1)
    under_VV = table_of(below_VV, len(labels))
    agree_GV = count_GV @ under_VV.T / cells_G[:, None]
    branch_G, label_G = (agreed(label_G, agree_GV, under_VV, enough) for enough in (BRANCH, share))
    agrees_GV = under_VV[label_G]
    other_GV = np.where(agrees_GV, 0, count_GV)
    columns = {
        "cells": cells_G.astype(int),
        "label": [labels[v] for v in label_G],
        "probability": summed(p_GV, below_VV)[at_G, label_G],
        "agree": np.where(agrees_GV, count_GV, 0).sum(axis=1) / cells_G,
        "runner_up": [labels[v] if n else "" for v, n in zip(other_GV.argmax(1), other_GV.max(1), strict=True)],
        "runner_up_share": other_GV.max(axis=1) / cells_G,
        "branch": [labels[v] for v in branch_G],
    }
    years_V = np.array([age_in_years(label) for label in labels], dtype=float)
    if np.isfinite(years_V).any():
        columns["years"] = expected_years(p_GV, years_V)
    return pd.DataFrame(columns)


def agreed(label_G: np.ndarray, agree_GV: np.ndarray, under_VV: np.ndarray, share: float) -> np.ndarray:
    """Give a group whose cells do not agree on its label the finest label above it on which they do, if there is one.

    So naive and memory CD4 T cells in one cluster are CD4 T cells; B cells and monocytes stay what they are.
    """
    size_V = under_VV.sum(axis=1)
    able_GV = under_VV.T[label_G] & (agree_GV >= share) & (size_V <= TOO_BROAD * len(size_V))
    finest_G = np.where(able_GV, size_V, len(size_V) + 1).argmin(axis=1)
    agree_G = agree_GV[np.arange(len(label_G)), label_G]
    return np.where((agree_G < share) & able_GV.any(axis=1), finest_G, label_G)


def within(p_CV: np.ndarray, branch_C: np.ndarray, under_VV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each cell its likeliest label at or below its branch, else the branch, and how probable it is, (C,)."""
    inside_CV = np.where(under_VV[branch_C], p_CV, 0)
    sum_C = inside_CV.sum(axis=1)
    inside_CV /= np.maximum(sum_C, np.finfo(np.float32).tiny)[:, None]
    label_C = np.where(sum_C > 0, reported_labels(inside_CV, under_VV), branch_C)
    return label_C, np.where(under_VV[label_C], inside_CV, 0).sum(axis=1)


def _warn(groupby: object, names: list[str], cells_G: np.ndarray, n_without: int) -> None:
    if n_without:
        logger.warning("%s: %s cells have no value or no prediction, so no vote", groupby, f"{n_without:,}")
    if n_single := int((cells_G == 1).sum()):
        logger.warning("%s: %s groups have one cell, whose prediction they keep", groupby, f"{n_single:,}")
    if len(names) == 1:
        logger.warning("%s: all cells that vote are in one group, %r", groupby, names[0])


def principal_components(reader: CellReader, n_genes: int) -> np.ndarray:
    """Give the first principal components of the panel genes' log values, (C, D)."""
    from sklearn.decomposition import PCA

    cells = reader.read()
    x_CG = cells.as_csr(cells.values_N, n_genes)
    n_components = min(COMPONENTS, *(side - 1 for side in x_CG.shape))
    return PCA(n_components, svd_solver="arpack", random_state=0).fit_transform(x_CG)


def leiden(points_CD: np.ndarray, resolution: float = RESOLUTION) -> np.ndarray:
    """Cluster cells by Leiden on their nearest neighbours."""
    extras.require("scanpy", "igraph")
    import scanpy as sc

    cells = ad.AnnData(obs=pd.DataFrame(index=[*map(str, range(len(points_CD)))]), obsm={"X": points_CD})
    sc.pp.neighbors(cells, min(NEIGHBOURS, len(points_CD) - 1), use_rep="X")
    sc.tl.leiden(cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False)
    return cells.obs["leiden"].to_numpy(dtype=str)
