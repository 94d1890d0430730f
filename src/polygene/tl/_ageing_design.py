"""Which cells are compared over age: equal donors an age group, equal cells a donor, equal depth a cell.

Legend: C cells that are read, U donors, G panel genes.
"""

import logging
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from polygene.corpus.source import thinned
from polygene.errors import DataError, PhenotypeError
from polygene.io.read import CellSource
from polygene.tl._reader import CellReader, column_of, donors_of, groups_of, joined
from polygene.vocab.ages import age_in_years
from polygene.vocab.cells import EncodedCells
from polygene.vocab.tokenizer import CellTokenizer

logger = logging.getLogger("polygene")

PER_GROUP = 3
"""Donors of an age group at least: of two, half of the bootstrap samples hold one only."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """The cells of one context; donors are ordered by age, and the first `n_donors / n_groups` are the youngest group.

    `rows_C` ascend; `unit_C` is the donor of each, `share_C` the share of its counts that is kept.
    """

    context: str
    rows_C: np.ndarray
    unit_C: np.ndarray
    share_C: np.ndarray
    age_U: np.ndarray
    cells_per_donor: int
    depth: float
    left_out: dict[str, int]


def ages_of(cells: CellSource, tokenizer: CellTokenizer, column: str | None) -> tuple[np.ndarray, str]:
    """Read the age of each cell in years, NaN = not given, from this column or that of the model's phenotype "age"."""
    if column is None:
        if "age" not in tokenizer.schema.names:
            msg = (
                f"The model has no phenotype 'age' (it has {', '.join(tokenizer.schema.names)}): name a column, age=…."
            )
            raise PhenotypeError(msg)
        column = tokenizer.schema.phenotypes[tokenizer.schema.index("age")].column
    codes_C, texts = groups_of(cells, column, holds="the age of each donor", do="Name it: age=….")
    return np.array([*map(age_in_years, texts), None], dtype=float)[codes_C], column


def depths_of(reader: CellReader, rows: np.ndarray) -> np.ndarray:
    """Counts of these cells: over all genes of the file, or what the column of totals records."""
    if reader.totals is not None:
        return column_of(reader.cells, reader.totals).to_numpy(dtype=np.float64)[rows]
    sums = [np.asarray(chunk.X.sum(axis=1), dtype=np.float64).ravel() for chunk in reader.raw(rows)]
    return np.concatenate(sums)


def design(
    reader: CellReader,
    context: str,
    rows: np.ndarray,
    age_C: np.ndarray,
    *,
    donor: str,
    n_groups: int,
    cells_per_donor: int | None,
    most: int,
    depth: float | None,
    seed: int,
) -> Design:
    """Choose the cells of one context from `rows`, at most `most`."""
    rng = np.random.default_rng(seed)
    donor_C, names = donors_of(reader.cells, donor)
    known = rows[(donor_C[rows] >= 0) & np.isfinite(age_C[rows])]
    if not len(known):
        msg = f"{context}: no cell has both an age and a donor in obs[{donor!r}]."
        raise DataError(msg)
    depth_C = depths_of(reader, known)
    target = float(np.quantile(depth_C, 0.25)) if depth is None else float(depth)
    deep = depth_C >= max(target, 1)
    kept, kept_depth = known[deep], depth_C[deep]
    counts_U = np.bincount(donor_C[kept], minlength=len(names))
    per_donor = _cells_per_donor(counts_U, n_groups, most) if cells_per_donor is None else cells_per_donor
    chosen = _donors(counts_U, per_donor, n_groups, most, f"{context} at {target:,.0f} counts a cell", rng)
    age_of = {u: float(age_C[kept[donor_C[kept] == u]].mean()) for u in chosen.tolist()}
    order = sorted(age_of, key=lambda u: (age_of[u], u))
    drawn = [np.sort(rng.permutation(np.flatnonzero(donor_C[kept] == u))[:per_donor]) for u in order]
    at, unit = np.concatenate(drawn), np.repeat(np.arange(len(order)), per_donor)
    by_row = np.argsort(kept[at])
    return Design(
        context=context,
        rows_C=kept[at][by_row],
        unit_C=unit[by_row],
        share_C=np.minimum(target / kept_depth[at][by_row], 1.0),
        age_U=np.array([age_of[u] for u in order]),
        cells_per_donor=per_donor,
        depth=target,
        left_out={
            "cells_too_shallow": int((~deep).sum()),
            "cells_not_drawn": len(kept) - len(at),
            "donors_not_drawn": int((np.bincount(donor_C[known], minlength=len(names)) > 0).sum()) - len(order),
        },
    )


def _donors(
    counts_U: np.ndarray, per_donor: int, n_groups: int, most: int, where: str, rng: np.random.Generator
) -> np.ndarray:
    """Draw the donors, as many for each group, of those with cells enough."""
    enough = rng.permutation(np.flatnonzero(counts_U >= max(per_donor, 1)))
    per_group = min(len(enough), max(most // max(per_donor, 1), 1)) // n_groups
    if per_group < PER_GROUP or per_donor < 1:
        msg = (
            f"{where}: {len(enough)} donor(s) of known age have {max(per_donor, 1)} cells, and {n_groups} age groups "
            f"need {PER_GROUP} donors each. Lower n_groups, cells_per_donor or depth."
        )
        raise DataError(msg)
    return enough[: per_group * n_groups]


def _cells_per_donor(counts_U: np.ndarray, n_groups: int, most: int) -> int:
    """Choose how many cells each donor gives, so that most cells are compared; 0 where no number serves."""
    best, cells = 0, 0
    for per_donor in range(1, int(counts_U.max(initial=0)) + 1):
        per_group = min(int((counts_U >= per_donor).sum()), most // per_donor) // n_groups
        if per_group >= PER_GROUP and per_donor * per_group > cells:
            best, cells = per_donor, per_donor * per_group
    return best


def read_thinned(reader: CellReader, tokenizer: CellTokenizer, plan: Design, *, seed: int) -> EncodedCells:
    """Read the cells of a design with their counts thinned to its depth."""
    rng, first, parts, totals = np.random.default_rng(seed), 0, [], reader.totals
    for chunk in reader.raw(plan.rows_C):
        shares = plan.share_C[first : first + chunk.n_obs]
        first += chunk.n_obs
        chunk.X = thinned(sparse.csr_matrix(chunk.X), shares, rng)
        if totals is not None:
            chunk.obs[totals] = chunk.obs[totals] * shares
        parts.append(tokenizer.encode(chunk, match=reader.match, totals=totals, scale="counts", use_labels=False))
    return joined(parts)
