"""Counterfactual: what would be expected of each gene, were a phenotype of the cells another.

Legend: C cells, G panel genes, P phenotypes, K distinct combinations of labels, Q questions, U units (the cells of one
donor in one group), X what is summed: expected expression and probability of "expressed" under the cells' own labels,
then the change of both under the changed labels.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse, stats

from polygene.checkpoint import PolyGene
from polygene.errors import DataError, PhenotypeError
from polygene.inference import bin_probabilities
from polygene.masking import uniform
from polygene.phenotypes import PhenotypeSchema
from polygene.reading import CellSource, Source, open_cells
from polygene.splitting import given_texts
from polygene.tl._cells import CellReader, check_model, made_by
from polygene.tl._progress import watched
from polygene.tokenizer import EncodedCells
from polygene.writing import ROOT, Block

logger = logging.getLogger("polygene")

KEY = "polygene_counterfactual"
CONTEXTS = ("tokens", "half")
"""What a gene is expected from: control tokens alone, or control tokens and a random half of the other genes."""
QUANTITIES = ("expression", "expressed")
MEANING = "association in the training data, not the effect of an intervention"
COMBINATIONS_AT_ONCE = 256

Changes = Mapping[str, str | tuple[str, str]]
Places = dict[int, tuple[int | None, int]]
"""Phenotype → the label changed from (None: whichever a cell has) and the label changed to, as indices."""


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
        or the model knows one label of it only; a column is missing.
    DataError
        There are no cells, or none is left.
    GeneError, ScaleError
        The expression cannot be read; the message says what to do.
    """
    check_model(model)
    if n_repeats < 1:
        msg = f"n_repeats is how many times genes are halved, 1 or more, got {n_repeats}."
        raise DataError(msg)
    schema = model.tokenizer.schema
    places = _places(schema, changes)
    cells = open_cells(adata, layer=layer)
    labels_CP = _labels(cells, schema, places, given)
    unit_C, units = _units(cells, donor, groupby)
    rows = _kept(cells, schema, labels_CP, places, unit_C)
    labels_CP, unit_C = labels_CP[rows], unit_C[rows]
    reader = CellReader(cells, model.tokenizer, layer=layer, totals=totals)

    n_U = np.bincount(unit_C, minlength=len(units))
    sums = {context: np.zeros((4, len(units), len(model.tokenizer.panel))) for context in CONTEXTS}
    _ask_tokens(model, labels_CP, places, unit_C, sums["tokens"])
    halves = _ask_halves(model, reader, rows, labels_CP, places, unit_C, n_repeats, seed, sums["half"])
    for _ in watched(halves, len(rows), done=f"counterfactual ({', '.join(changes)})", device=model.network.device):
        pass
    table = _table(model, {context: sums_XUG / np.maximum(n_U, 1)[:, None] for context, sums_XUG in sums.items()},
                   n_U, units, groupby)  # fmt: skip
    logger.info("%s cells of %d donors; read it as %s", f"{len(rows):,}", units.donor[n_U > 0].nunique(), MEANING)
    if isinstance(adata, ad.AnnData):
        how = {
            **made_by(model),
            "changes": {name: to if isinstance(to, str) else " -> ".join(to) for name, to in changes.items()},
            "given": np.array(
                [n for p, n in enumerate(schema.names) if p not in places and (labels_CP[:, p] >= 0).any()], dtype=str
            ),
            "meaning": MEANING,
            "genes": reader.genes,
        }
        adata.uns[ROOT] = {**adata.uns.get(ROOT, {}), "counterfactual": how}
        adata.uns[KEY] = table
    return table


def _places(schema: PhenotypeSchema, changes: Changes) -> Places:
    """Find the changed phenotypes and their labels in the schema; refuse changes that cannot be answered."""
    if not isinstance(changes, Mapping) or not changes:
        msg = f"changes name the new label of a phenotype, such as {{'sex': 'male'}}, got {changes!r}."
        raise PhenotypeError(msg)
    places: Places = {}
    for name, said in changes.items():
        labels = (said,) if isinstance(said, str) else tuple(said)
        if len(labels) not in (1, 2):
            msg = f"{name}: say the label changed to, or the two changed from and to, got {said!r}."
            raise PhenotypeError(msg)
        *before, after = (schema.label_index(name, label) for label in labels)
        p = schema.index(name)
        if len(schema.labels[p]) == 1:
            msg = f"{name}: the model knows one label only, {labels[-1]!r}, so it cannot tell what a change would do."
            raise PhenotypeError(msg)
        if before == [after]:
            msg = f"{name}: changed from {labels[0]!r} to itself; name another label."
            raise PhenotypeError(msg)
        places[p] = (before[0] if before else None, after)
    return places


def _labels(
    cells: CellSource, schema: PhenotypeSchema, places: Places, given: str | Sequence[str] | None
) -> np.ndarray:
    """Read the control tokens of the cells, labels_CP; only of phenotypes that nobody named may labels be unknown."""
    named = [] if given is None else [given] if isinstance(given, str) else list(given)
    if both := [name for name in named if schema.index(name) in places]:
        msg = f"{', '.join(both)}: given and changed at once. Leave it out of `given` or out of the changes."
        raise PhenotypeError(msg)
    use = [name for p, name in enumerate(schema.names) if p in places or name in named]
    columns = {name: phenotype.column for name, phenotype in zip(schema.names, schema.phenotypes, strict=True)}
    complete = {columns[name] for name in use} <= set(cells.columns)
    obs = cells.frame(columns.values()) if complete else cells.obs  # all of obs for a helpful error
    labels_CP = schema.encode(obs, use=use)
    if given is None:
        others = [name for name in schema.names if name not in use and columns[name] in obs]
        labels_CP = np.maximum(labels_CP, schema.encode(obs, use=others, unknown="not given"))
    return labels_CP


def _units(cells: CellSource, donor: str, groupby: str | None) -> tuple[np.ndarray, pd.DataFrame]:
    """Number the donors within groups: unit_C, -1 for a cell without donor or group, and (donor, group) of each."""
    missing = [column for column in (donor, groupby) if column is not None and column not in cells.columns]
    if groupby in missing or (missing and donor != "donor_id"):
        msg = f"{cells.label} has no column {missing[-1]!r} in obs; it has {', '.join(cells.columns[:10]) or 'none'}."
        raise PhenotypeError(msg)
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


def _kept(
    cells: CellSource, schema: PhenotypeSchema, labels_CP: np.ndarray, places: Places, unit_C: np.ndarray
) -> np.ndarray:
    """Rows of the cells whose labels change; all others are counted aloud."""
    own_CP, after_P = labels_CP[:, list(places)], np.array([after for _, after in places.values()])
    other_C = np.zeros(len(own_CP), dtype=bool)
    for column, (before, _) in enumerate(places.values()):
        if before is not None:
            other_C |= own_CP[:, column] != before
    names = ", ".join(schema.names[p] for p in places)
    reasons = {
        f"no label of {names} to change": (own_CP < 0).any(axis=1),
        "the new label already": (own_CP == after_P).all(axis=1),
        "another label than the one changed from": other_C,
        "no donor or no group": unit_C < 0,
    }
    left_C = np.ones(len(own_CP), dtype=bool)
    said = []
    for reason, out_C in reasons.items():
        if n_out := int((out_C & left_C).sum()):
            said.append(f"{n_out:,} have {reason}")
        left_C &= ~out_C
    if said:
        logger.info("%s of %s cells are asked: %s", f"{left_C.sum():,}", f"{cells.n_obs:,}", ", ".join(said))
    if not left_C.any():
        msg = f"No cell of {cells.label} is left to ask: of {cells.n_obs:,}, {', '.join(said)}."
        raise DataError(msg)
    return np.flatnonzero(left_C)


def _changed(labels_CP: np.ndarray, places: Places) -> np.ndarray:
    changed_CP = labels_CP.copy()
    for p, (_, after) in places.items():
        changed_CP[:, p] = after
    return changed_CP


def _ask(
    model: PolyGene, cells: EncodedCells, places: Places, asked_CG: np.ndarray, visible_N: np.ndarray
) -> np.ndarray:
    """x_XCG of the asked genes, 0 of the others."""
    cells_Q, genes_Q = np.nonzero(asked_CG)
    before_XQ, after_XQ = (
        np.stack([model.tokenizer.inverse.expectation(p_QB, genes_Q), 1 - p_QB[:, 0]])
        for labels_CP in (cells.labels_CP, _changed(cells.labels_CP, places))
        for p_QB in [
            bin_probabilities(
                model,
                replace(cells, labels_CP=labels_CP),
                cells_Q,
                genes_Q,
                visible_N,
                given=model.tokenizer.schema.names,
            )
        ]
    )
    x_XCG = np.zeros((4, *asked_CG.shape))
    x_XCG[:, cells_Q, genes_Q] = np.concatenate([before_XQ, after_XQ - before_XQ])
    return x_XCG


def _ask_tokens(
    model: PolyGene, labels_CP: np.ndarray, places: Places, unit_C: np.ndarray, sums_XUG: np.ndarray
) -> None:
    """Add what the control tokens alone answer: cells of equal labels have one answer, which is asked once."""
    n_genes = len(model.tokenizer.panel)
    combinations_KP, combination_C = np.unique(labels_CP, axis=0, return_inverse=True)
    shape = (sums_XUG.shape[1], len(combinations_KP))
    n_UK = sparse.csr_matrix((np.ones(len(unit_C)), (unit_C, combination_C)), shape)
    for first in range(0, len(combinations_KP), COMBINATIONS_AT_ONCE):
        some = slice(first, first + COMBINATIONS_AT_ONCE)
        n_some = len(combinations_KP[some])
        nothing_told = EncodedCells(  # a hidden gene each, so that nothing of the cell is visible
            offsets_C1=np.arange(n_some + 1),
            genes_N=np.zeros(n_some, dtype=np.uint16),
            bins_N=np.ones(n_some, dtype=np.uint8),
            values_N=np.ones(n_some, dtype=np.float32),
            labels_CP=combinations_KP[some],
            measured_G=np.ones(n_genes, dtype=bool),
        )
        asked_CG, visible_N = np.ones((n_some, n_genes), dtype=bool), np.zeros(n_some, dtype=bool)
        for sums_UG, x_CG in zip(sums_XUG, _ask(model, nothing_told, places, asked_CG, visible_N), strict=True):
            sums_UG += n_UK[:, some] @ x_CG


def _ask_halves(
    model: PolyGene,
    reader: CellReader,
    rows: np.ndarray,
    labels_CP: np.ndarray,
    places: Places,
    unit_C: np.ndarray,
    n_repeats: int,
    seed: int,
    sums_XUG: np.ndarray,
) -> Iterator[Block]:
    """Add what control tokens and either half of the genes answer of the other half, chunk by chunk."""
    slots, first = np.arange(len(model.tokenizer.panel)), 0
    for names_C, encoded in reader.chunks(rows):
        here = slice(first, first + len(encoded))
        first = here.stop
        cells = replace(encoded, labels_CP=labels_CP[here])
        cells_N = np.repeat(np.arange(len(cells)), np.diff(cells.offsets_C1))
        ids_C = pd.util.hash_array(names_C.to_numpy(dtype=object))
        one_UC = sparse.csr_matrix(
            (np.ones(len(cells)), (unit_C[here], np.arange(len(cells)))), (sums_XUG.shape[1], len(cells))
        )
        for repeat in range(n_repeats):
            half_CG = uniform(seed, np.full(len(cells), repeat), ids_C, slots) < 0.5
            for asked_CG in (half_CG, ~half_CG):
                x_XCG = _ask(model, cells, places, asked_CG, ~asked_CG[cells_N, cells.genes_N])
                for sums_UG, x_CG in zip(sums_XUG, x_XCG, strict=True):
                    sums_UG += one_UC @ x_CG / n_repeats
        yield Block(pd.DataFrame(index=names_C), {})


def _table(
    model: PolyGene, means: Mapping[str, np.ndarray], n_U: np.ndarray, units: pd.DataFrame, groupby: str | None
) -> pd.DataFrame:
    """Tabulate means over donors of the means_XUG of each context, with Student's intervals of the changes."""
    quantities = [q for q in QUANTITIES if q == "expressed" or model.tokenizer.binner.kind != "binary"]
    tables = []
    for group in units.group.unique():
        here = np.flatnonzero((units.group == group) & (n_U > 0))
        if not len(here):
            continue
        columns = {"gene": list(model.tokenizer.panel.symbols)}
        columns |= ({groupby: group} if groupby else {}) | {"cells": n_U[here].sum(), "donors": len(here)}
        for context, means_XUG in means.items():
            for quantity in quantities:
                x = QUANTITIES.index(quantity)
                name, change_UG = f"{context}_{quantity}", means_XUG[x + 2, here]
                middle_G, half_G = change_UG.mean(axis=0), np.full(change_UG.shape[1], np.nan)
                if len(here) > 1:
                    half_G = stats.t.ppf(0.975, len(here) - 1) * stats.sem(change_UG, axis=0)
                columns |= {
                    name: means_XUG[x, here].mean(axis=0),
                    f"{name}_change": middle_G,
                    f"{name}_low": middle_G - half_G,
                    f"{name}_high": middle_G + half_G,
                }
        table = pd.DataFrame(columns)
        tables.append(table.sort_values(f"tokens_{quantities[0]}_change", ascending=False, kind="stable"))
    return pd.concat(tables, ignore_index=True)
