"""Phenotype distances: how far the labels of a phenotype lie apart in context, with their dendrogram.

Legend: C cells, L labels, D width.
"""

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from polygene.errors import DataError
from polygene.io.read import Source
from polygene.io.results import record_in_uns
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import predict_labels
from polygene.model.shipped import DEFAULT
from polygene.tl._contexts import group_means
from polygene.tl._donor_tests import halves_of_donors
from polygene.tl._reader import CellReader, groups_of, load_model, made_by
from polygene.tl._states import balanced, check_call, donors_or_one, encoded


@dataclass(frozen=True, kw_only=True, eq=False)
class PhenotypeDistances:
    """Distances between labels, (L, L); the linkage of their dendrogram; how they agree between halves of the donors.

    `expression` are the same distances by the mean log1p counts of the panel's genes. `halves_agree` is the rank
    correlation of the distances in two halves of the donors, `expression_agrees` that with `expression`; NaN where
    there are too few donors or labels.
    """

    distances: pd.DataFrame
    expression: pd.DataFrame
    linkage: np.ndarray
    halves_agree: float
    expression_agrees: float


def phenotype_distances(
    adata: Source,
    model: PolyGene | str | Path = DEFAULT,
    *,
    phenotype: str = "cell_type",
    groupby: str | None = None,
    donor: str = "donor_id",
    max_cells: int = 3_000,
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> PhenotypeDistances:
    """Measure how far labels of a phenotype lie apart by the states from which it is predicted.

    The state of a label is the mean over its donors of the mean over their cells; the distance is 1 less the cosine
    of two labels' states, each less the mean of all labels.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file.
    model
        A PolyGene, or the name or folder of one.
    phenotype
        Whose query's states are taken.
    groupby, donor
        Columns of `obs` with the labels, by default the phenotype's own column, and the donor.
    max_cells
        How many cells are read, as many of each label and donor as can be.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Of cells and halves.

    Returns
    -------
    The distances, beside those by expression. An AnnData gets `uns["dendrogram_<groupby>"]`, as `sc.tl.dendrogram`
    writes it, so that `sc.pl.dendrogram(adata, groupby)` draws it, and `uns["polygene"]["phenotype_distances"]`.

    Raises
    ------
    DataError, ColumnError, PhenotypeError
        There are fewer than three labels, a column is missing, or the model lacks the phenotype.

    Examples
    --------
    >>> import polygene as pg
    >>> found = pg.tl.phenotype_distances(pg.datasets.pbmc(), max_cells=100)
    >>> bool(found.distances.loc["B cell", "B cell"] < 1e-6)
    True
    """
    check_call("phenotype_distances", adata, seed, max_cells=max_cells)
    model = load_model(model)
    schema = model.tokenizer.schema
    groupby = groupby or schema.phenotypes[schema.index(phenotype)].column
    reader = CellReader(adata, model.tokenizer, layer=layer, totals=totals)
    labels_C, labels = groups_of(reader.cells, groupby, holds=f"the {phenotype} of each cell")
    donors_C = donors_or_one(reader.cells, donor)
    rows = balanced([labels_C, donors_C], max_cells, seed=seed)
    labels_C, donors_C = labels_C[rows], np.unique(donors_C[rows], return_inverse=True)[1]
    there = np.unique(labels_C)
    if len(there) < 3:
        read = f"among the {len(rows):,} cells that are read"
        msg = f"obs[{groupby!r}] of {reader.cells.label} has {len(there)} labels {read}: distances need three."
        raise DataError(msg)
    parts = [part for _, part in encoded(reader, rows)]
    states_CD = np.concatenate([predict_labels(model, part, predict=[phenotype], branch=True)[1][0] for part in parts])
    n_genes = len(model.tokenizer.panel)
    values_CG = np.concatenate([part.as_csr(part.values_N, n_genes).toarray() for part in parts])
    names = [labels[label] for label in there]
    distances, expression = (_distances(x, labels_C, donors_C, there) for x in (states_CD, values_CG))
    held_out_C = halves_of_donors(*np.ones((2, donors_C.max() + 1), dtype=bool), seed=seed)[donors_C]
    halves = [
        _distances(states_CD[of], labels_C[of], donors_C[of], there) for of in (held_out_C, ~held_out_C) if of.any()
    ]
    found = PhenotypeDistances(
        distances=pd.DataFrame(squareform(distances), names, names),
        expression=pd.DataFrame(squareform(expression), names, names),
        linkage=hierarchy.linkage(distances, "average"),
        halves_agree=_agreement(*halves) if len(halves) == 2 else float("nan"),
        expression_agrees=_agreement(distances, expression),
    )
    if isinstance(adata, ad.AnnData):
        adata.uns[f"dendrogram_{groupby}"] = _as_scanpy(found, groupby)
        facts = {"halves_agree": found.halves_agree, "expression_agrees": found.expression_agrees}
        record_in_uns(
            adata, "phenotype_distances", {**made_by(model), "groupby": groupby, "distances": found.distances, **facts}
        )
    return found


def _distances(x_CD: np.ndarray, labels_C: np.ndarray, donors_C: np.ndarray, there: np.ndarray) -> np.ndarray:
    """1 less the cosine of labels, each less the mean of all, condensed; NaN for a label without cells."""
    x_LD = np.full((len(there), x_CD.shape[1]), np.nan)
    for state_D, label in zip(x_LD, there, strict=True):
        if (of_C := labels_C == label).any():
            donors, donor_C = np.unique(donors_C[of_C], return_inverse=True)
            state_D[:] = group_means(x_CD[of_C], donor_C, len(donors)).mean(axis=0)
    x_LD -= np.nanmean(x_LD, axis=0)
    return np.maximum(pdist(x_LD, "cosine"), 0)


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation of distances that are known in both."""
    known = np.isfinite(one) & np.isfinite(other)
    return float(spearmanr(one[known], other[known]).statistic) if known.sum() > 2 else float("nan")


def _as_scanpy(found: PhenotypeDistances, groupby: str) -> dict[str, object]:
    """Lay out a dendrogram as `sc.tl.dendrogram` does."""
    names = list(found.distances.index)
    drawn = hierarchy.dendrogram(found.linkage, labels=names, no_plot=True)
    order = [names.index(name) for name in drawn["ivl"]]
    return {
        "linkage": found.linkage,
        "groupby": [groupby],
        "use_rep": "polygene",
        "cor_method": "pearson",
        "linkage_method": "average",
        "categories_ordered": drawn["ivl"],
        "categories_idx_ordered": order,
        "dendrogram_info": drawn,
        "correlation_matrix": 1 - found.distances.to_numpy(),
    }
