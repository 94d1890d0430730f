"""Counterfactual: the expected change of each gene if a phenotype of the cells were another.

Legend: C cells, G panel genes, P phenotypes, K distinct combinations of labels, Q queries, U units (the cells of one
donor in one group), X what is summed: expected expression and probability of "expressed" under the cells' own labels,
then the change of both under the changed labels.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse, stats

from polygene.errors import check_sums
from polygene.io.read import CellSource, Source, open_cells
from polygene.io.results import record_in_uns
from polygene.io.write import write_table
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import bin_probabilities
from polygene.model.shipped import DEFAULT
from polygene.runtime.hashing import uniform
from polygene.runtime.progress import progress
from polygene.runtime.ranks import one_process
from polygene.runtime.seeds import check_count, check_seed
from polygene.tl._labels_changed import Changes, LabelChanges, parse_changes, read_controls, rows_to_change
from polygene.tl._reader import CellReader, donors_of, groups_of, load_model, made_by, written
from polygene.vocab.cells import EncodedCells
from polygene.vocab.tokenizer import CellTokenizer

logger = logging.getLogger("polygene")

KEY = "polygene_counterfactual"
QUANTITIES = ("expression", "expressed")
MEANING = "association in the training data, not the effect of an intervention"
COMBINATIONS_AT_ONCE = 256


def counterfactual(
    adata: Source,
    model: PolyGene | str | Path = DEFAULT,
    changes: Changes = MappingProxyType({}),
    *,
    given: str | Sequence[str] | None = None,
    groupby: str | None = None,
    donor: str = "donor_id",
    n_repeats: int = 2,
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Change control tokens, keep the rest, and predict the change of each gene.

    The result is association in the training data, not the effect of an intervention: the model predicts the genes of
    cells with the other label, whatever the reason for them.

    Every gene is predicted twice, as visible genes override a token that they contradict (a cell with visible XIST is
    female): from the control tokens alone, and from them and a random half of the cell's other genes.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file, and their labels in `obs`.
    model
        A PolyGene, or the name or folder of one.
    changes
        The new label of each changed phenotype, such as `{"sex": "male"}`, or the labels changed from and to, such as
        `{"cell_type": ("naive B cell", "memory B cell")}`. Cells without a label to change, with the new label already,
        or with another than the one changed from are left out and counted.
    given
        Phenotypes whose labels in `obs` are control tokens too, unchanged. None: all others with a column in `obs`; a
        label there that the model does not know is not given.
    groupby
        Column of `obs`, such as "cell_type"; each of its labels gets rows of its own.
    donor
        Column of `obs` with the donor. Without one there are no intervals.
    n_repeats
        How often the genes of a cell are halved; each half is predicted from the other. The halves follow from `seed`
        and the name of the cell.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Decides the halves.
    out, overwrite
        Also write the table here (.csv, .parquet); in place of a file that is there only with `overwrite`.

    Returns
    -------
    A row for each panel gene (within each group), from the largest rise to the largest fall under the tokens alone. The
    columns are `gene`; the one of `groupby` (`<groupby>_group` if another column has its name); `cells` and `donors`;
    and for each context (`tokens`, `half`) and quantity (`expression`, expected log1p counts per 10,000; `expressed`,
    the probability; a binary model has only this one)

    `<context>_<quantity>`, `<context>_<quantity>_change`
        The prediction under the cells' own labels, and its change under the changed labels.
    `<context>_<quantity>_low`, `<context>_<quantity>_high`
        95 % interval of the change over donors (Student's t), NaN for a single one. It shows how much donors differ,
        not how far the model is right.

    Each is a mean over the cells of a donor, and then over donors.

    An AnnData also gets the table in `uns["polygene_counterfactual"]`, and `uns["polygene"]["counterfactual"]`.
    """
    one_process("counterfactual")
    check_seed(seed)
    check_count("n_repeats", n_repeats, 10_000)
    model = load_model(model)
    tokenizer = model.tokenizer
    targets = parse_changes(tokenizer.schema, changes)
    with written(out, (".csv", ".parquet"), adata, overwrite=overwrite) as part:
        cells = open_cells(adata, layer=layer)
        labels_CP = read_controls(cells, tokenizer.schema, targets, given)
        unit_C, units = _units(cells, donor, groupby)
        check_sums(64 * len(units) * len(tokenizer.panel), len(units))
        rows = rows_to_change(cells.label, labels_CP, targets, unit_C >= 0)
        labels_CP, unit_C = labels_CP[rows], unit_C[rows]
        changed_CP = labels_CP.copy()
        changed_CP[:, list(targets)] = [after for _, after in targets.values()]
        reader = CellReader(cells, tokenizer, layer=layer, totals=totals)
        done = f"counterfactual ({', '.join(tokenizer.schema.names[p] for p in targets)})"
        sums = {"tokens": _from_tokens(model, labels_CP, changed_CP, unit_C, len(units))}
        sums["half"], first = np.zeros_like(sums["tokens"]), 0
        with progress(len(rows), done=done, device=model.network.device) as advance:
            for names_C, encoded in reader.chunks(rows):
                here = slice(first, first := first + len(encoded))
                own = replace(encoded, labels_CP=labels_CP[here])
                x_XCG = _from_half(model, own, changed_CP[here], names_C, n_repeats, seed)
                sums["half"] += _sums(x_XCG, np.arange(len(own)), unit_C[here], len(units))
                advance(len(own))
        table = _table(tokenizer, sums, np.bincount(unit_C, minlength=len(units)), units, groupby)
        if part is not None:
            write_table(part, table)
    logger.info("%s cells of %d donors; read it as %s", f"{len(rows):,}", units.donor.iloc[unit_C].nunique(), MEANING)
    if isinstance(adata, ad.AnnData):
        facts = {**made_by(model), **_described(tokenizer.schema.names, changes, labels_CP, targets)}
        record_in_uns(adata, "counterfactual", {**facts, "genes": reader.genes})
        adata.uns[KEY] = table
    return table


def _described(names: Sequence[str], changes: Changes, labels_CP: np.ndarray, targets: LabelChanges) -> dict[str, Any]:
    """What was changed and what was given, for `uns`."""
    is_given_P = (labels_CP >= 0).any(axis=0) & ~np.isin(np.arange(len(names)), list(targets))
    texts = {name: one if isinstance(one, str) else " → ".join(one) for name, one in changes.items()}
    return {"changes": texts, "given": np.array(names)[is_given_P], "meaning": MEANING}


def _units(cells: CellSource, donor: str, groupby: str | None) -> tuple[np.ndarray, pd.DataFrame]:
    """Number the donors within groups: unit_C, -1 for a cell without donor or group; (donor, group) of each unit."""
    donor_C, donors = donors_of(cells, donor)
    if donor not in cells.columns:
        logger.warning("%s has no column %r: its cells count as one donor, without intervals", cells.label, donor)
        donor_C, donors = np.zeros_like(donor_C), [""]
    group_C, groups = groups_of(cells, groupby) if groupby else (np.zeros_like(donor_C), [""])
    unit_C = np.where((donor_C < 0) | (group_C < 0), -1, group_C * len(donors) + donor_C)
    return unit_C, pd.DataFrame([(name, group) for group in groups for name in donors], columns=["donor", "group"])


def _predict(
    model: PolyGene, cells: EncodedCells, changed_CP: np.ndarray, masked_CG: np.ndarray, visible_share: float
) -> np.ndarray:
    """x_XCG of the masked genes, 0 of the others; `visible_share` is the share of genes that are visible."""
    cells_Q, genes_Q = np.nonzero(masked_CG)
    visible_N, given = ~masked_CG[cells.cells_N, cells.genes_N], model.tokenizer.schema.names
    predictions = []
    for labels_CP in (cells.labels_CP, changed_CP):
        one = replace(cells, labels_CP=labels_CP)
        p_QB = bin_probabilities(model, one, cells_Q, genes_Q, visible_N, given=given, visible_share=visible_share)
        predictions.append(np.stack([model.tokenizer.inverse.expectation(p_QB, genes_Q), 1 - p_QB[:, 0]]))
    own_XQ, changed_XQ = predictions
    x_XCG = np.zeros((4, *masked_CG.shape))
    x_XCG[:, cells_Q, genes_Q] = np.concatenate([own_XQ, changed_XQ - own_XQ])
    return x_XCG


def _from_tokens(
    model: PolyGene, labels_CP: np.ndarray, changed_CP: np.ndarray, unit_C: np.ndarray, n_units: int
) -> np.ndarray:
    """Sum the predictions from control tokens alone, x_XUG: cells of equal labels share one."""
    n_genes = len(model.tokenizer.panel)
    labels_KP, first_K, combination_C = np.unique(labels_CP, axis=0, return_index=True, return_inverse=True)
    sums_XUG = np.zeros((4, n_units, n_genes))
    for first in range(0, len(labels_KP), COMBINATIONS_AT_ONCE):
        here = slice(first, first + COMBINATIONS_AT_ONCE)
        all_KG = np.ones((len(labels_KP[here]), n_genes), dtype=bool)
        nothing = model.tokenizer.from_bins((~all_KG).astype(np.uint8), labels_KP[here], all_KG[0])
        x_XKG = _predict(model, nothing, changed_CP[first_K[here]], all_KG, 0.0)
        k_C = combination_C.ravel() - first
        is_here_C = (k_C >= 0) & (k_C < len(all_KG))
        sums_XUG += _sums(x_XKG, k_C[is_here_C], unit_C[is_here_C], n_units)
    return sums_XUG


def _from_half(
    model: PolyGene, cells: EncodedCells, changed_CP: np.ndarray, names_C: pd.Index, n_repeats: int, seed: int
) -> np.ndarray:
    """x_XCG of each half of the genes from control tokens and the other half, a mean over repeats."""
    ids_C, slots_G = pd.util.hash_array(names_C.to_numpy(dtype=object)), np.arange(len(model.tokenizer.panel))
    x_XCG = np.zeros((4, len(cells), len(slots_G)))
    for repeat in range(n_repeats):
        half_CG = uniform(seed, np.full(len(cells), repeat), ids_C, slots_G) < 0.5
        for masked_CG in (half_CG, ~half_CG):
            x_XCG += _predict(model, cells, changed_CP, masked_CG, 0.5) / n_repeats
    return x_XCG


def _sums(x_XKG: np.ndarray, k_C: np.ndarray, unit_C: np.ndarray, n_units: int) -> np.ndarray:
    """Sum over the cells of each unit, x_XUG, where cell C has the row k_C of x."""
    n_UK = sparse.coo_matrix((np.ones(len(k_C)), (unit_C, k_C)), (n_units, x_XKG.shape[1])).tocsr()
    return np.stack([n_UK @ x_KG for x_KG in x_XKG])


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
        columns = {"cells": n_U[here].sum(), "donors": len(here)}
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
        genes = {"gene": list(tokenizer.panel.symbols)}
        label = {f"{groupby}_group" if groupby in genes | columns else groupby: group} if groupby else {}
        table = pd.DataFrame(genes | label | columns)
        tables.append(table.sort_values(f"tokens_{quantities[0]}_change", ascending=False, kind="stable"))
    return pd.concat(tables, ignore_index=True)
