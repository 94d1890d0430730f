"""Biomarkers: which genes a prediction of a label rests on, in each tissue, beside differential expression.

Legend: C cells, N expressed genes of cells, U units (donor, with the label or not) of one context, D donors, G genes.
"""

import logging
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd

from polygene.errors import DataError
from polygene.io.read import Source
from polygene.io.results import record_in_uns
from polygene.model.attribution import integrated_gradients, labels_of, removal_effects
from polygene.model.checkpoint import PolyGene
from polygene.model.shipped import DEFAULT
from polygene.runtime.progress import progress
from polygene.runtime.seeds import check_count
from polygene.tl import _donor_tests as tests
from polygene.tl._contexts import group_means
from polygene.tl._reader import CellReader, donors_of, groups_of, made_by, panel_var
from polygene.tl._states import Models, balanced, check_call, encoded, named_models

logger = logging.getLogger("polygene")

METHODS = ("attribution", "pseudobulk", "wilcoxon")
N_PERMUTATIONS = 1_000


class _Cells(NamedTuple):
    """The cells that are read, and of each its context, donor, and whether it has the label; all donors' names."""

    rows: np.ndarray
    contexts_C: np.ndarray
    donors_C: np.ndarray
    label_C: np.ndarray
    contexts: list[str]
    by_donor: bool


class _Measured(NamedTuple):
    """Of each cell and gene of the panel: attribution, and log1p counts per 10,000."""

    attribution_CG: np.ndarray
    values_CG: np.ndarray


def biomarkers(
    adata: Source,
    model: Models = DEFAULT,
    *,
    label: str,
    phenotype: str = "cell_type",
    groupby: str = "tissue",
    donor: str = "donor_id",
    max_cells: int = 2_000,
    n_steps: int = 8,
    n_removed: int = 20,
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank the genes on which the prediction of a label rests, in each context, beside differential expression.

    A gene's attribution in a cell is by integrated gradients of the label's log-odds. What is compared is its mean over
    the cells of a donor that have the label with that over the donor's others; where labels are of donors, as diseases
    are, donors with donors. Half of the donors discover, and a finding must come back in the other half. Attributions
    are associations that the model learned: they find what tells a label, not what makes it.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file, with the phenotype's column, contexts and donors.
    model
        A PolyGene, or the name or folder of one; several, such as seeds, say which findings survive.
    label, phenotype
        The label, of the model's vocabulary. Cells whose label is below it in the ontology have it too; all other
        labels of `obs` are the rest.
    groupby, donor
        Columns of `obs` with the context, such as the tissue, and the donor.
    max_cells
        How many cells are read, as many of each context, donor and side as can be.
    n_steps
        Steps of the integral.
    n_removed
        Of how many genes, those of the largest attribution, the removal is computed.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Of the donors that are held out, of cells and of permutations.

    Returns
    -------
    A row for each model, context and gene that the file measures:

    `model`, `context`, `gene`, `n_donors`, `paired`
        Donors that are compared, and whether with themselves.
    `attribution`, `pseudobulk`, `wilcoxon`
        Difference of the mean attribution in log-odds; of the log1p mean counts per 10,000; area under the curve of
        cells less 0.5.
    `…_p`, `…_q`, `…_replicates`
        Of each: the p-value in discovery donors, with Benjamini–Hochberg over the genes of a context, and whether q is
        at most 0.05 and the held-out donors have the same sign with a one-sided p of at most 0.05; missing where
        donors are too few. By permutation of donors; by paired or Welch's t; over cells, which are no replicates.
        Genes share permutations: q is small too often of few donors where they go together.
    `removal`
        Mean loss of log-odds when the gene is taken out of the cells of the label that express it.
    `found_by`
        The methods whose finding replicates.
    `n_contexts`, `consistent`
        Contexts in which the attribution replicates; whether those are two at least, and it has one sign in all.
    `survives`
        Whether the attribution replicates in all models that have the gene.

    An AnnData gets the table in `uns["polygene"]["biomarkers"]["table"]`.

    Raises
    ------
    DataError, ColumnError, PhenotypeError
        The model lacks label or phenotype, a column is missing, or no context has cells of both sides.

    Notes
    -----
    Memory is two float32 numbers for each of `max_cells` cells and each gene: 8 MB for 2,000 cells and 512 genes.

    Examples
    --------
    >>> import polygene as pg
    >>> adata = pg.datasets.pbmc()
    >>> table = pg.tl.biomarkers(adata, label="B cell", max_cells=60, n_steps=2, n_removed=2)
    >>> bool(table.nlargest(20, "attribution")["gene"].isin(["CD79A", "MS4A1", "CD74", "HLA-DRA"]).any())
    True
    """
    check_call("biomarkers", adata, seed, max_cells=max_cells, n_steps=n_steps)
    check_count("n_removed", n_removed, 1_000_000, least=0)
    models, tables = named_models(model), []
    for name, one in models.items():
        labels_of(one, phenotype, label)  # says what is wrong before a cell is read
        reader = CellReader(adata, one.tokenizer, layer=layer, totals=totals)
        cells = _choose(reader, one, phenotype, label, groupby, donor, max_cells=max_cells, seed=seed)
        measured = _measure(reader, one, cells.rows, phenotype, label, n_steps)
        table = _table(cells, measured, one, reader.match.measured_G, seed=seed)
        _add_removal(table, reader, one, cells, phenotype, label, n_removed)
        table.insert(0, "model", name)
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    again = table["attribution_replicates"].fillna(False).astype(bool)
    table["n_contexts"] = again.groupby([table["model"], table["gene"]]).transform("sum")
    signs = np.sign(table["attribution"]).groupby([table["model"], table["gene"]])
    table["consistent"] = (table["n_contexts"] >= 2) & (signs.transform("min") == signs.transform("max"))
    table["survives"] = again.groupby([table["context"], table["gene"]]).transform("all")
    if isinstance(adata, ad.AnnData):
        made = {**made_by(next(iter(models.values()))), "models": list(models), "label": label, "phenotype": phenotype}
        plain = table.astype({f"{method}_replicates": "float64" for method in METHODS})
        record_in_uns(adata, "biomarkers", {**made, "groupby": groupby, "donor": donor, "table": plain})
    return table


def _choose(
    reader: CellReader,
    model: PolyGene,
    phenotype: str,
    label: str,
    groupby: str,
    donor: str,
    *,
    max_cells: int,
    seed: int,
) -> _Cells:
    """Choose the cells: of contexts that have both sides."""
    cells, schema = reader.cells, model.tokenizer.schema
    p = schema.index(phenotype)
    column = schema.phenotypes[p].column
    codes_C, names = groups_of(cells, column, holds=f"the {phenotype} of each cell")
    chosen_V, found = labels_of(model, phenotype, label), [schema.find(p, name) for name in names]
    has_V = np.array([v >= 0 and bool(chosen_V[v]) for v in found], dtype=bool)
    label_C = np.where(codes_C >= 0, np.append(has_V, False)[codes_C], -1).astype(np.int64)
    contexts_C, contexts = groups_of(cells, groupby, holds="the context of each cell, such as its tissue")
    donors_C, donors = donors_of(cells, donor)
    if not donors:
        logger.warning("no donors in obs[%r]: nothing is tested and nothing claimed", donor)
        donors_C = np.zeros(cells.n_obs, dtype=np.int64)
    both = [k for k in range(len(contexts)) if set(label_C[(contexts_C == k) & (donors_C >= 0)]) >= {0, 1}]
    if left := [name for k, name in enumerate(contexts) if k not in both]:
        logger.warning("%s: left out, as not both sides of %r have cells", ", ".join(left), label)
    if not both:
        some = ", ".join(name for name, has in zip(names, has_V, strict=True) if not has) or "none"
        msg = f"No context of obs[{groupby!r}] has cells with and without {label!r}; others in obs[{column!r}]: {some}."
        raise DataError(msg)
    contexts_C = np.where(np.isin(contexts_C, both), contexts_C, -1)
    rows = balanced([contexts_C, label_C, donors_C], max_cells, seed=seed)
    return _Cells(rows, contexts_C[rows], donors_C[rows], label_C[rows] > 0, contexts, bool(donors))


def _measure(
    reader: CellReader, model: PolyGene, rows: np.ndarray, phenotype: str, label: str, n_steps: int
) -> _Measured:
    """Attribute, cell by cell."""
    shape = (len(rows), len(model.tokenizer.panel))
    measured = _Measured(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    with progress(len(rows), done="cells attributed", device=model.network.device) as advance:
        for first, cells in encoded(reader, rows):
            at = (first + cells.cells_N, cells.genes_N)
            measured.attribution_CG[at] = integrated_gradients(model, cells, phenotype, label, n_steps=n_steps)
            measured.values_CG[at] = cells.values_N
            advance(len(cells))
    return measured


def _table(cells: _Cells, measured: _Measured, model: PolyGene, measured_G: np.ndarray, *, seed: int) -> pd.DataFrame:
    """Compare the sides in each context by every method."""
    names_G, parts = panel_var(model.tokenizer.panel).index.to_numpy(), []
    for k in np.unique(cells.contexts_C):
        here = cells.contexts_C == k
        x_CG = _Measured(*(array_CG[here][:, measured_G] for array_CG in measured))
        donors_C, label_C = np.unique(cells.donors_C[here], return_inverse=True)[1], cells.label_C[here]
        n_donors = donors_C.max() + 1
        there_SD = [np.bincount(donors_C[label_C == side], minlength=n_donors) > 0 for side in (True, False)]
        paired = tests.are_paired(*there_SD)
        part = pd.DataFrame({"context": cells.contexts[k], "gene": names_G[measured_G]})
        compared_D = there_SD[0] & there_SD[1] if paired else there_SD[0] ^ there_SD[1]
        part["n_donors"], part["paired"] = int(compared_D.sum()) if cells.by_donor else 0, paired
        held_out_D = tests.halves_of_donors(*there_SD, seed=seed)
        for method in METHODS:
            subsets = [np.ones(n_donors, dtype=bool), ~held_out_D, held_out_D]
            tested = [_tested(method, x_CG, donors_C, label_C, some_D, paired, seed) for some_D in subsets]
            if not cells.by_donor:
                tested = [one._replace(p_G=np.full(len(one.p_G), np.nan)) for one in tested]
            found = tests.found(*tested)
            part[method], part[f"{method}_p"], part[f"{method}_q"] = found.effect_G, found.p_G, found.q_G
            part[f"{method}_replicates"] = pd.array(found.replicates_G, "boolean")
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    again = table[[f"{method}_replicates" for method in METHODS]].fillna(False).to_numpy(dtype=bool)
    table["found_by"] = [", ".join(np.array(METHODS)[row]) for row in again]
    return table


def _tested(
    method: str, x: _Measured, donors_C: np.ndarray, label_C: np.ndarray, some_D: np.ndarray, paired: bool, seed: int
) -> tests.Tested:
    """Compare the sides in some donors by one method."""
    of_C = some_D[donors_C]
    if method == "wilcoxon":
        return tests.by_cells(x.values_CG[of_C], label_C[of_C])
    values_CG = x.attribution_CG if method == "attribution" else np.expm1(x.values_CG)
    masks = [of_C & (label_C == side) for side in (True, False)]
    sides = [group_means(values_CG[side_C], donors_C[side_C], len(some_D)) for side_C in masks]
    if method == "pseudobulk":
        return tests.by_t(*(np.log1p(means_DG) for means_DG in sides), paired=paired)
    return tests.by_permutation(*sides, paired=paired, n_permutations=N_PERMUTATIONS, seed=seed)


def _add_removal(
    table: pd.DataFrame, reader: CellReader, model: PolyGene, cells: _Cells, phenotype: str, label: str, n_removed: int
) -> None:
    """Take the genes of the largest attribution out of the cells of the label; means over donors of each context."""
    names_G = panel_var(model.tokenizer.panel).index.to_numpy()
    largest = table["attribution"].abs().groupby(table["gene"]).max().nlargest(n_removed).index
    genes = [model.tokenizer.panel.index(gene) for gene in largest]
    at = np.flatnonzero(cells.label_C)
    parts = []
    with progress(len(at), done="cells without the genes", device=model.network.device) as advance:
        for first, some in encoded(reader, cells.rows[at]):
            rows, which, effects = removal_effects(model, some, phenotype, label, genes)
            of = at[first + rows]
            parts.append(pd.DataFrame({
                "context": np.array(cells.contexts)[cells.contexts_C[of]], "donor": cells.donors_C[of],
                "gene": names_G[which], "effect": effects,
            }))  # fmt: skip
            advance(len(some))
    by_donor = pd.concat(parts).groupby(["context", "gene", "donor"])["effect"].mean()
    means = by_donor.groupby(["context", "gene"]).mean()
    keys = pd.MultiIndex.from_frame(table[["context", "gene"]])
    table["removal"] = means.reindex(keys).to_numpy()
