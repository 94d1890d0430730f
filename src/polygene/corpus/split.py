"""Which cells train, validate and test: whole donors, whole files, or cells at random.

Legend: C cells, D units of the split (donors or files), L labels of all phenotypes, W draws.
"""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from polygene.corpus.arrow import SPLITS
from polygene.errors import DataError, missing_column
from polygene.io.read import CellSource
from polygene.vocab.columns import by_code, given_texts, is_synthetic
from polygene.vocab.phenotypes import Phenotype

logger = logging.getLogger("polygene")

SplitBy = Literal["donor", "study", "random"]
N_DRAWS = 32
NO_DONORS = (
    "Pass the column of donors: donor='...' (--column donor_id=...), or add one (a cell whose donor is NaN trains), or "
    "pass split='study' (--split study: whole files are held out) or split='random' (--split random: cells of one "
    "donor train and test, so scores are too good)."
)


def split_cells(
    sources: Sequence[CellSource],
    frames: Sequence[pd.DataFrame],
    *,
    by: SplitBy,
    fractions: tuple[float, float, float],
    seen: float = 0.0,
    seed: int,
    donor: str,
    phenotypes: Sequence[Phenotype],
) -> list[np.ndarray]:
    """Draw the split before anything is learned: part_C of each source, an index into `SPLITS`.

    By donor, a donor met in several files is one donor, and cells without donor train. By study, a file is one unit.
    At random, cells are stratified by all their labels. Synthetic cells always train. `seen` is the share of the cells
    of training units that is set aside, drawn cell by cell; not at random, where test cells are such cells already.
    `frames` holds for each source the columns of `obs` with donors and phenotypes, where they exist.
    """
    synthetic = [is_synthetic(frame) for frame in frames]
    if all(synthetic_C.all() for synthetic_C in synthetic):
        logger.warning("all cells are synthetic: they train, and nothing validates or tests what is learned of them")
        return [np.zeros(len(frame), dtype=np.int8) for frame in frames]
    if by == "random":
        return _split_cells_at_random(sources, frames, synthetic, phenotypes, fractions, seed)
    if by == "study":
        given = [(np.zeros(cells.n_obs, dtype=np.int32), [cells.name]) for cells in sources]
    else:
        _check_donors(sources, frames, synthetic, donor)
        given = [given_texts(frame[donor]) if donor in frame else (np.full(len(frame), -1), []) for frame in frames]
    units = [_without(synthetic_C, *unit) for synthetic_C, unit in zip(synthetic, given, strict=True)]
    return _split_units(units, frames, by=by, fractions=fractions, seen=seen, seed=seed, phenotypes=phenotypes)


def _split_units(
    units: Sequence[tuple[np.ndarray, list[str]]],
    frames: Sequence[pd.DataFrame],
    *,
    by: SplitBy,
    fractions: tuple[float, float, float],
    seen: float,
    seed: int,
    phenotypes: Sequence[Phenotype],
) -> list[np.ndarray]:
    """Draw the parts of donors or files, whose codes (-1 = none) and names come for each source."""
    first_source = {name: source for source in reversed(range(len(units))) for name in units[source][1]}
    place = {name: unit for unit, name in enumerate(sorted(first_source))}
    units_of = [by_code(np.array([place[name] for name in some], np.int32), codes_C, -1) for codes_C, some in units]
    within_DL, pooled_DL = _labels_of_units(units_of, len(place), frames, phenotypes)
    stratum_D = np.array([0 if by == "study" else first_source[name] for name in place])
    part_D = draw_units(within_DL, pooled_DL, stratum_D, fractions=fractions, seed=seed, by=by)
    parts = [by_code(part_D, unit_C, 0) for unit_C in units_of]
    _set_aside(parts, units_of, seen, seed, by)
    return parts


def _set_aside(
    parts: Sequence[np.ndarray], units_of: Sequence[np.ndarray], seen: float, seed: int, by: SplitBy
) -> None:
    """Mark this share of the cells of training units as "seen", in place."""
    rng = np.random.default_rng([seed, SPLITS.index("seen")])
    for part_C, unit_C in zip(parts, units_of, strict=True):
        set_aside_C = (part_C == 0) & (unit_C >= 0) & (rng.random(len(part_C), np.float32) < seen)
        if set_aside_C.sum() < (part_C == 0).sum():  # of a handful of cells, chance could take all
            part_C[set_aside_C] = SPLITS.index("seen")
    if seen:
        n_seen = sum(int((part_C == SPLITS.index("seen")).sum()) for part_C in parts)
        logger.info(
            "set aside %s cells of training %s, to show what a split by cells flatters", f"{n_seen:,}", _plural(by)
        )


def draw_units(
    within_DL: sparse.csr_matrix,
    pooled_DL: sparse.csr_matrix,
    stratum_D: np.ndarray,
    *,
    fractions: tuple[float, float, float],
    seed: int,
    by: SplitBy = "donor",
) -> np.ndarray:
    """Give each unit its part, part_D int8; of 32 draws the one in which most labels can be scored.

    Each draw gives each source its share of the test and validation units, as far as it has enough of them. A label
    can be scored where two training units and one test unit have it. Counted are labels within a source, of equal
    draws labels over all sources, then labels with a validation unit; the first of equal draws is taken. Labels alone
    decide; expression plays no part. `within_DL` and `pooled_DL` say which unit has which label (0 or 1); in the first,
    the same label in two sources is two labels. `stratum_D` is the source of each unit.
    """
    n_units = len(stratum_D)
    n_validation, n_test = _sizes(n_units, fractions, by)
    rng = np.random.default_rng(seed)
    draws_WD = np.stack([_draw(stratum_D, n_validation, n_test, rng) for _ in range(N_DRAWS)])
    in_part = [(draws_WD == part).astype(np.int64) for part in range(3)]
    within_test_W, pooled_test_W, within_validation_W = (
        ((in_part[0] @ has_DL >= 2) & (in_part[part] @ has_DL >= 1)).sum(axis=1)
        for has_DL, part in ((within_DL, 2), (pooled_DL, 2), (within_DL, 1))
    )
    best = np.lexsort((np.arange(N_DRAWS), -within_validation_W, -pooled_test_W, -within_test_W))[0]
    logger.info(
        "split by %s: %d train, %d validation, %d test %s; %d of %d labels can be scored",
        by, *np.bincount(draws_WD[best], minlength=3), _plural(by), pooled_test_W[best], pooled_DL.shape[1],
    )  # fmt: skip
    return draws_WD[best]


def _draw(stratum_D: np.ndarray, n_validation: int, n_test: int, rng: np.random.Generator) -> np.ndarray:
    """Draw part_D: units in random order within their source, test and validation units at even distances."""
    return _spaced(np.lexsort((rng.random(len(stratum_D)), stratum_D)), n_validation, n_test, rng)


def _spaced(
    order: np.ndarray, n_validation: int, n_test: int, rng: np.random.Generator, *, n_units: int | None = None
) -> np.ndarray:
    """Give the parts of what stands in an order, so that every stretch of it has its share of each part.

    What is not in the order, of `n_units` in all, trains.
    """
    parts = np.zeros(n_units or len(order), dtype=np.int8)
    for part, size in ((2, n_test), (1, n_validation)):
        left = order[parts[order] == 0]
        places = (np.arange(size) + rng.random()) * (len(left) / max(size, 1))
        parts[left[places.astype(np.int64)]] = part
    return parts


def _split_cells_at_random(
    sources: Sequence[CellSource],
    frames: Sequence[pd.DataFrame],
    synthetic: Sequence[np.ndarray],
    phenotypes: Sequence[Phenotype],
    fractions: tuple[float, float, float],
    seed: int,
) -> list[np.ndarray]:
    """Order cells by source, labels, and a hash of name and seed; take test and validation cells at even distances."""
    key = f"{seed:016d}"[-16:]
    rng = np.random.default_rng(seed)
    real_C = ~np.concatenate(synthetic)
    n_validation, n_test = _sizes(int(real_C.sum()), fractions, "random")
    hash_C = np.concatenate([pd.util.hash_array(some, hash_key=key) for cells in sources for some in cells.names()])
    codes = [np.repeat(np.arange(len(sources)), [cells.n_obs for cells in sources])]
    for column in (phenotype.column for phenotype in phenotypes):
        given = [given_texts(f[column])[0] if column in f else np.full(len(f), -1) for f in frames]
        codes.append(np.concatenate(given))
    order = np.lexsort((hash_C, *reversed(codes)))
    part_C = _spaced(order[real_C[order]], n_validation, n_test, rng, n_units=len(order))
    logger.info(
        "split at random: %s train, %s validation, %s test cells", *(f"{n:,}" for n in np.bincount(part_C, minlength=3))
    )
    return np.split(part_C, np.cumsum([cells.n_obs for cells in sources])[:-1])


def _sizes(n_units: int, fractions: tuple[float, float, float], by: SplitBy) -> tuple[int, int]:
    """Say how many units validate and test: at least one for a share above 0, and at least one is left to train."""
    n_validation, n_test = (max(1, round(share * n_units)) if share else 0 for share in fractions[1:])
    if n_units - n_validation - n_test < 1:
        units = _plural(by) if n_units > 1 else _plural(by).removesuffix("s")
        msg = (
            f"{n_units:,} {units} cannot be split into {1 + sum(share > 0 for share in fractions[1:])} parts. "
            "Add files, or pass split='random' (--split random), or set a share to 0: fractions (in --config), such "
            "as [0.8, 0.0, 0.2]; what trains needs one at least"
        )
        raise DataError(msg)
    return n_validation, n_test


def _labels_of_units(
    units: Sequence[np.ndarray], n_units: int, frames: Sequence[pd.DataFrame], phenotypes: Sequence[Phenotype]
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    pooled: dict[tuple[str, str], int] = {}
    pairs: list[np.ndarray] = [np.empty((3, 0), dtype=np.int64)]  # unit, label, label within the source
    n_within = 0
    for unit_C, frame in zip(units, frames, strict=True):
        for phenotype in phenotypes:
            if phenotype.column in frame:
                codes_C, names = given_texts(frame[phenotype.column])
                label_of = np.array(
                    [pooled.setdefault((phenotype.name, name), len(pooled)) for name in names], np.int64
                )
                unit, code = _pairs(unit_C, codes_C)
                pairs.append(np.stack([unit, label_of[code], code + n_within]))
                n_within += len(names)
    unit, label, within = np.concatenate(pairs, axis=1)
    within_DL, pooled_DL = (
        sparse.csr_matrix((np.ones(len(unit), dtype=np.int64), (unit, column)), shape=(n_units, n))
        for column, n in ((within, n_within), (label, len(pooled)))
    )
    pooled_DL.data[:] = 1  # a label that a donor has in two files is one
    return within_DL, pooled_DL


def _pairs(a_C: np.ndarray, b_C: np.ndarray, step: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """List the pairs of codes that occur together, without -1; step by step, so that copies stay small."""
    width = int(b_C.max(initial=0)) + 1
    keys = np.empty(0, dtype=np.int64)
    for first in range(0, len(a_C), step):
        a, b = (codes_C[first : first + step] for codes_C in (a_C, b_C))
        known = (a >= 0) & (b >= 0)
        keys = np.union1d(keys, a[known].astype(np.int64) * width + b[known])
    return keys // width, keys % width


def _without(synthetic_C: np.ndarray, unit_C: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Take synthetic cells out of the units, and units that no real cell has."""
    left = sorted(set(unit_C[~synthetic_C]) - {-1})
    place = np.full(len(names), -1, dtype=np.int32)
    place[left] = np.arange(len(left))
    return np.where(synthetic_C, -1, by_code(place, unit_C, -1)), [names[code] for code in left]


def _check_donors(
    sources: Sequence[CellSource], frames: Sequence[pd.DataFrame], synthetic: Sequence[np.ndarray], donor: str
) -> None:
    """Refuse files without donors, unless all of their cells are synthetic; the error names what can be done."""
    real = [one for one in zip(sources, frames, synthetic, strict=True) if not one[2].all()]
    sources, frames = [cells for cells, _, _ in real], [frame for _, frame, _ in real]
    for cells, frame in zip(sources, frames, strict=True):
        if donor not in frame:
            raise missing_column(donor, cells.columns, of=cells.label, holds="the donor of each cell", do=NO_DONORS)
    n_missing = [int((given_texts(frame[donor])[0] < 0).sum()) for frame in frames]
    if sum(n_missing) == sum(map(len, frames)):
        msg = f"no cell has a donor in obs[{donor!r}]; pass split='study' or split='random' (--split)"
        raise DataError(msg)
    for cells, n in zip(sources, n_missing, strict=True):
        if n:
            logger.info("%s: %s of %s cells have no donor; they train", cells.label, f"{n:,}", f"{cells.n_obs:,}")


def _plural(by: SplitBy) -> str:
    return {"donor": "donors", "study": "files", "random": "cells"}[by]
