"""Control tokens and their changes: labels in the schema and in `obs`. Legend: C cells, P phenotypes."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from polygene.errors import DataError, PhenotypeError, check_names, missing_column
from polygene.io.read import CellSource
from polygene.tl._reader import check_given
from polygene.vocab.phenotypes import PhenotypeSchema

logger = logging.getLogger("polygene")

Changes = Mapping[str, str | tuple[str, str]]
LabelChanges = dict[int, tuple[int | None, int]]
"""Phenotype → the label changed from (None: any) and the label changed to, as indices."""


def parse_changes(schema: PhenotypeSchema, changes: Changes) -> LabelChanges:
    """Find changed phenotypes and labels in the schema; refuse changes that the model cannot predict."""
    if not isinstance(changes, Mapping) or not changes:
        msg = f"changes name the new label of a phenotype, such as {{'sex': 'male'}}, got {changes!r}."
        raise PhenotypeError(msg)
    found: LabelChanges = {}
    for name, change in changes.items():
        labels = tuple(change) if isinstance(change, list | tuple) else (change,)
        if len(labels) not in (1, 2):
            msg = f"{name}: give the new label, or the labels changed from and to, got {change!r}."
            raise PhenotypeError(msg)
        *before, after = (schema.label_index(name, label) for label in labels)
        p = schema.index(name)
        if len(schema.labels[p]) == 1:
            msg = f"{name}: the model knows one label only, {labels[-1]!r}, so it cannot predict a change."
            raise PhenotypeError(msg)
        if before == [after]:
            msg = f"{name}: changed from {labels[0]!r} to itself; name another label."
            raise PhenotypeError(msg)
        found[p] = (before[0] if before else None, after)
    return found


def read_controls(
    cells: CellSource, schema: PhenotypeSchema, found: LabelChanges, given: str | Sequence[str] | None
) -> np.ndarray:
    """Read labels_CP of the changed phenotypes and of the given ones (None: of all others that `obs` has).

    A label that the model does not know is not given, with a warning, unless its phenotype was named.
    """
    named = [] if given is None else check_names("given", given)
    if both := [name for name in named if schema.index(name) in found]:
        msg = f"{', '.join(both)}: given and changed at once. Leave it out of `given` or out of the changes."
        raise PhenotypeError(msg)
    for name, column in ((schema.phenotypes[p].name, schema.phenotypes[p].column) for p in found):
        if column not in cells.columns:
            do = f"Put it there, such as obs['polygene_{name}'], which `annotate` writes."
            raise missing_column(column, cells.columns, of=cells.label, holds=f"the present {name} of each cell", do=do)
    check_given(schema, [*named, *(schema.names[p] for p in found)])
    columns = {phenotype.name: phenotype.column for phenotype in schema.phenotypes if not phenotype.added}
    use = [name for p, name in enumerate(schema.names) if p in found or name in named]
    complete = {columns[name] for name in use} <= set(cells.columns)
    obs = cells.frame(columns.values()) if complete else cells.obs  # all of obs for a helpful error
    labels_CP = schema.encode(obs, use=use)
    if given is None:
        others = [name for name, column in columns.items() if name not in use and column in obs]
        labels_CP = np.maximum(labels_CP, schema.encode(obs, use=others, unknown="not given"))
    return labels_CP


def rows_to_change(label: str, labels_CP: np.ndarray, found: LabelChanges, grouped_C: np.ndarray) -> np.ndarray:
    """List the cells whose labels change, and count the others by reason; refuse to go on where none is left."""
    own_CP, after_P = labels_CP[:, list(found)], [after for _, after in found.values()]
    before_P = np.array([-1 if before is None else before for before, _ in found.values()])
    reasons = {
        "have no label to change": (own_CP < 0).any(axis=1),
        "have the new label already": (own_CP == after_P).all(axis=1),
        "have another label than the one changed from": ((own_CP != before_P) & (before_P >= 0)).any(axis=1),
        "have no donor or no group": ~grouped_C,
    }
    left_C, counted = np.ones(len(own_CP), dtype=bool), []
    for reason, out_C in reasons.items():
        if n_out := int((out_C & left_C).sum()):
            counted.append(f"{n_out:,} {reason}")
        left_C &= ~out_C
    if not left_C.any():
        msg = f"No cell of {label} is left: of {len(left_C):,}, {', '.join(counted)}."
        raise DataError(msg)
    if counted:
        logger.info("%s of %s cells are used: %s", f"{left_C.sum():,}", f"{len(left_C):,}", ", ".join(counted))
    return np.flatnonzero(left_C)
