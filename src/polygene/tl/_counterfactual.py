"""Counterfactual: what would be expected of each gene, were a phenotype of the cells another.

Legend: C cells, G panel genes, P phenotypes, K distinct combinations of labels, Q questions, U units (the cells of one
donor in one group), X what is summed: expected expression and probability of "expressed" under the cells' own labels,
then the change of both under the changed labels.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse, stats

from polygene.errors import DataError, missing_column
from polygene.io.read import CellSource, Source, open_cells
from polygene.io.write import note_in
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import bin_probabilities
from polygene.runtime.hashing import uniform
from polygene.runtime.progress import progress
from polygene.tl._labels_changed import Changes, Places, changed, find_changes, read_controls, rows_to_change
from polygene.tl._reader import CellReader, check_model, made_by
from polygene.vocab.cells import EncodedCells
from polygene.vocab.columns import given_texts
from polygene.vocab.tokenizer import CellTokenizer

logger = logging.getLogger("polygene")

KEY = "polygene_counterfactual"
QUANTITIES = ("expression", "expressed")
MEANING = "association in the training data, not the effect of an intervention"
COMBINATIONS_AT_ONCE = 256


def counterfactual(
    adata: Source,
    model: PolyGene,
    changes: Changes,
    *,
    given: str | Sequence[str] | None = None,
    groupby: str | None = None,
    donor: str = "donor_id",
    n_repeats: int = 2,
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Change control tokens, keep the rest, and read the expected change of each gene.

    What comes out is association in the training data, not the effect of an intervention: the model answers what the
    genes of cells with the other label look like, whatever the reason for it.

    Every gene is asked in two contexts, because visible genes override a token that they contradict (a cell that shows
    XIST stays female, whatever its token): from the control tokens alone, and from them and a random half of the cell's
    genes. A gene is asked only while it is hidden.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file, and their labels in `obs`.
    model
        What answers.
    changes
        The label of each changed phenotype, such as `{"sex": "male"}`; or the labels changed from and to, such as
        `{"cell_type": ("naive B cell", "memory B cell")}`. Cells that have the new label already, that have no label to
        change, or another than the one changed from, are left out and counted.
    given
        Phenotypes whose labels in `obs` are control tokens too, unchanged; "keep the rest". None: all others of which
        `obs` has the column; a label there that the model does not know is not given.
    groupby
        A column of `obs`, such as "cell_type", of which each label gets rows of its own.
    donor
        The column of `obs` with the donor. Without one there are no intervals.
    n_repeats
        How many times the genes of a cell are halved; each time either half is asked from the other. The halves follow
        from `seed` and the name of the cell.
    layer
        Where the expression is: None for `X`, the name of a layer, or "raw" for `adata.raw`.
    totals
        The column of `obs` with the counts of each cell over the whole genome, for a file that holds some genes only.
    seed
        Decides the halves.

    Returns
    -------
    A row for each panel gene (within each group), from the largest rise to the largest fall under the tokens alone. The
    columns are `gene`; the one of `groupby`; `cells` and `donors`, how many the row is from; and for each context
    (`tokens`, `half`) and quantity (`expression`, expected log1p counts per 10,000; `expressed`, the probability)

    `<context>_<quantity>`
        What is expected under the cells' own labels.
    `<context>_<quantity>_change`
        The change of it under the changed labels.
    `<context>_<quantity>_low`, `<context>_<quantity>_high`
        The 95 % interval of the change (Student's t over donors; NaN for a single one). It says how much donors differ,
        not how far the model is right.

    Each is a mean over the cells of a donor, and then over donors. A model of binary bins knows no values: it answers
    `expressed` alone. Memory does not grow with the cells.

    Notes
    -----
    The table is also written to `uns["polygene_counterfactual"]` of an AnnData, and how it was made to
    `uns["polygene"]["counterfactual"]`.

    Raises
    ------
    PhenotypeError
        A phenotype or label is unknown (the message names the nearest), changed and given at once, changed to itself,
        or the model knows one label of it only.
    ColumnError
        A column is missing.
    DataError
        There are no cells, or none is left.
    GeneError, ScaleError
        The expression cannot be read; the message says what to do.
    """
    check_model(model)
    if n_repeats < 1:
        msg = f"n_repeats is how many times genes are halved, 1 or more, got {n_repeats}."
        raise DataError(msg)
    tokenizer = model.tokenizer
    places = find_changes(tokenizer.schema, changes)
    cells = open_cells(adata, layer=layer)
    labels_CP = read_controls(cells, tokenizer.schema, places, given)
    unit_C, units = _units(cells, donor, groupby)
    rows = rows_to_change(cells.label, labels_CP, places, unit_C >= 0)
    labels_CP, unit_C = labels_CP[rows], unit_C[rows]
    reader = CellReader(cells, tokenizer, layer=layer, totals=totals)

    units_UC = sparse.csc_matrix((np.ones(len(rows)), unit_C, np.arange(len(rows) + 1)), (len(units), len(rows)))
    sums = {"tokens": _ask_tokens(model, labels_CP, places, units_UC)}
    sums["half"] = np.zeros_like(sums["tokens"])

    first = 0
    with progress(len(rows), done=f"counterfactual ({', '.join(changes)})", device=model.network.device) as advance:
        for names_C, encoded in reader.chunks(rows):
            here = slice(first, first := first + len(encoded))
            x_XCG = _ask_half(model, replace(encoded, labels_CP=labels_CP[here]), names_C, places, n_repeats, seed)
            sums["half"] += _sums(units_UC[:, here], x_XCG)
            advance(len(encoded))
    n_U = np.bincount(unit_C, minlength=len(units))
    table = _table(tokenizer, sums, n_U, units, groupby)
    logger.info("%s cells of %d donors; read it as %s", f"{len(rows):,}", units.donor[n_U > 0].nunique(), MEANING)
    if isinstance(adata, ad.AnnData):
        told_P = (labels_CP >= 0).any(axis=0)
        how = {
            **made_by(model),
            "changes": {name: said if isinstance(said, str) else " → ".join(said) for name, said in changes.items()},
            "given": np.array([n for p, n in enumerate(tokenizer.schema.names) if told_P[p] and p not in places], str),
            "meaning": MEANING,
            "genes": reader.genes,
        }
        note_in(adata, "counterfactual", how)
        adata.uns[KEY] = table
    return table


def _units(cells: CellSource, donor: str, groupby: str | None) -> tuple[np.ndarray, pd.DataFrame]:
    """Number the donors within groups: unit_C, -1 for a cell without donor or group, and (donor, group) of each."""
    missing = [column for column in (donor, groupby) if column is not None and column not in cells.columns]
    if groupby in missing or (missing and donor != "donor_id"):
        raise missing_column(missing[-1], cells.columns, of=cells.label)
    if missing:
        logger.warning(
            "%s has no column %r: its cells count as one donor, and there are no intervals", cells.label, donor
        )
    frame = cells.frame([donor, groupby] if groupby else [donor])
    nothing = (np.zeros(cells.n_obs, dtype=np.int32), [""])
    donor_C, donors = given_texts(frame[donor]) if donor in frame else nothing
    group_C, groups = given_texts(frame[groupby]) if groupby else nothing
    unit_C = np.where((donor_C < 0) | (group_C < 0), -1, group_C * len(donors) + donor_C)
    pairs = [(name, group) for group in groups for name in donors]
    return unit_C, pd.DataFrame(pairs, columns=["donor", "group"])


def _ask(
    model: PolyGene, cells: EncodedCells, changed_CP: np.ndarray, asked_CG: np.ndarray, shown: float
) -> np.ndarray:
    """x_XCG of the asked genes, which are hidden, and 0 of the others; `shown` is the share of genes that are not."""
    cells_Q, genes_Q = np.nonzero(asked_CG)
    visible_N, given = ~asked_CG[cells.cells_N, cells.genes_N], model.tokenizer.schema.names
    answers = []
    for labels_CP in (cells.labels_CP, changed_CP):
        told = replace(cells, labels_CP=labels_CP)
        p_QB = bin_probabilities(model, told, cells_Q, genes_Q, visible_N, given=given, shown=shown)
        answers.append(np.stack([model.tokenizer.inverse.expectation(p_QB, genes_Q), 1 - p_QB[:, 0]]))
    own_XQ, changed_XQ = answers
    x_XCG = np.zeros((4, *asked_CG.shape))
    x_XCG[:, cells_Q, genes_Q] = np.concatenate([own_XQ, changed_XQ - own_XQ])
    return x_XCG


def _ask_tokens(model: PolyGene, labels_CP: np.ndarray, places: Places, units_UC: sparse.csr_matrix) -> np.ndarray:
    """Sum what the control tokens alone answer, x_XUG: cells of equal labels have one answer, which is asked once."""
    n_genes = len(model.tokenizer.panel)
    labels_KP, combination_C = np.unique(labels_CP, axis=0, return_inverse=True)
    n_cells, n_combinations = len(labels_CP), len(labels_KP)
    combinations_CK = sparse.csr_matrix(
        (np.ones(n_cells), combination_C.ravel(), np.arange(n_cells + 1)), (n_cells, n_combinations)
    )
    n_UK = units_UC @ combinations_CK
    sums_XUG = np.zeros((4, units_UC.shape[0], n_genes))
    for first in range(0, n_combinations, COMBINATIONS_AT_ONCE):
        some_KP = labels_KP[first : first + COMBINATIONS_AT_ONCE]
        nothing_KG = np.zeros((len(some_KP), n_genes), dtype=np.uint8)
        nothing = model.tokenizer.from_bins(nothing_KG, some_KP, np.ones(n_genes, dtype=bool))
        x_XKG = _ask(model, nothing, changed(some_KP, places), np.ones((len(some_KP), n_genes), dtype=bool), 0.0)
        sums_XUG += _sums(n_UK[:, first : first + len(some_KP)], x_XKG)
    return sums_XUG


def _ask_half(
    model: PolyGene, cells: EncodedCells, names_C: pd.Index, places: Places, n_repeats: int, seed: int
) -> np.ndarray:
    """x_XCG that control tokens and either half of the genes answer of the other half, a mean over repeats."""
    ids_C, slots_G = pd.util.hash_array(names_C.to_numpy(dtype=object)), np.arange(len(model.tokenizer.panel))
    changed_CP = changed(cells.labels_CP, places)
    x_XCG = np.zeros((4, len(cells), len(slots_G)))
    for repeat in range(n_repeats):
        half_CG = uniform(seed, np.full(len(cells), repeat), ids_C, slots_G) < 0.5
        for asked_CG in (half_CG, ~half_CG):
            x_XCG += _ask(model, cells, changed_CP, asked_CG, 0.5) / n_repeats
    return x_XCG


def _sums(weights_UC: sparse.csr_matrix, x_XCG: np.ndarray) -> np.ndarray:
    return np.stack([weights_UC @ x_CG for x_CG in x_XCG])


def _table(
    tokenizer: CellTokenizer, sums: Mapping[str, np.ndarray], n_U: np.ndarray, units: pd.DataFrame, groupby: str | None
) -> pd.DataFrame:
    """Tabulate means over donors of the sums_XUG of each context, with Student's intervals of the changes."""
    quantities = [q for q in QUANTITIES if q == "expressed" or tokenizer.binner.kind != "binary"]
    tables = []
    for group in units.group.unique():
        here = np.flatnonzero((units.group == group) & (n_U > 0))
        if not len(here):
            continue
        columns = {"gene": list(tokenizer.panel.symbols)}
        columns |= ({groupby: group} if groupby else {}) | {"cells": n_U[here].sum(), "donors": len(here)}
        for context, sums_XUG in sums.items():
            means_XUG = sums_XUG[:, here] / n_U[here, None]
            for quantity in quantities:
                x = QUANTITIES.index(quantity)
                name, change_UG = f"{context}_{quantity}", means_XUG[x + 2]
                middle_G, half_G = change_UG.mean(axis=0), np.full(change_UG.shape[1], np.nan)
                if len(here) > 1:
                    half_G = stats.t.ppf(0.975, len(here) - 1) * stats.sem(change_UG, axis=0)
                columns |= {
                    name: means_XUG[x].mean(axis=0),
                    f"{name}_change": middle_G,
                    f"{name}_low": middle_G - half_G,
                    f"{name}_high": middle_G + half_G,
                }
        table = pd.DataFrame(columns)
        tables.append(table.sort_values(f"tokens_{quantities[0]}_change", ascending=False, kind="stable"))
    return pd.concat(tables, ignore_index=True)
