"""The scale of expression values: counts, or a logarithm of counts.

It is detected by the first of these rules that holds:

* negative, NaN or infinite: scaled or broken (an error);
* whole numbers only: counts;
* cells with the same sum: normalised but not logged, which is read like counts;
* cells with the same sum once a natural, binary or decimal log of 1 + x is undone: that log of normalised values. With
  the natural log and a sum of 10,000 it is log1p, which needs nothing done;
* whole numbers once a log is undone: that log of counts;
* a value of 20 or more: no log value is that large, so these are corrected UMI counts, reads or TPM (CEL-seq in panc8:
  1.002, 2.008, … 1,597); all are proportional to molecules, and only proportions count;
* any other fractions: log1p of counts per 10,000 of which some genes are not in the file. Where a typical cell adds up
  to more than 10,000 a warning follows.

Shapes: C cells, G genes of the file.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from scipy import sparse

from polygene.errors import ScaleError

logger = logging.getLogger("polygene")

Scale = Literal["counts", "log1p", "ln", "log2", "log10"]
"""counts: anything proportional to molecules or reads, whole numbers or not, normalised or not. log1p: natural log of
1 + counts per 10,000. ln, log2, log10: log of 1 + anything proportional to counts, to be normalised by its own sum."""

BASES: dict[str, float] = {"ln": np.e, "log2": 2.0, "log10": 10.0}
TARGET = 10_000.0  # counts of every cell before log1p (sc.pp.normalize_total(target_sum=1e4))
# No log1p value is as large: exp(20) is 485 million, and even log2 counts per million stay below log2(1e6) = 19.9.
LOG1P_LIMIT = 20.0
SAMPLE_ROWS = 1_000
READS = "PolyGene reads counts or log1p values"


def check_values(x_CG: sparse.csr_matrix, others: Sequence[str] | None = None) -> None:
    """Refuse negative, NaN and infinite values, which are neither counts nor logarithms of any.

    `others` are the layers that could be read instead; None where that is not known.
    """
    data = x_CG.data
    # NaN survives min and max, so two passes without a copy find the common case.
    if data.size == 0 or (data.min() >= 0 and data.max() < np.inf):
        return
    remedy = f"{READS}: pass layer='counts' if there is one, or layer='raw' for adata.raw"
    if others is not None:
        there = " or ".join(f"layer={name!r}" for name in others)
        remedy = f"{READS}: pass {there}, whichever holds them" if there else f"{READS}, and there is no other layer"
    broken = np.flatnonzero(~np.isfinite(data))
    if broken.size:
        n_cells = np.unique(np.searchsorted(x_CG.indptr, broken, side="right")).size
        n_genes = np.unique(x_CG.indices[broken]).size
        msg = (
            f"{broken.size:,} expression values in {n_cells:,} cells and {n_genes:,} genes are NaN or infinite: "
            f"drop or repair these {'genes' if n_genes < n_cells else 'cells'}. {remedy}."
        )
        raise ScaleError(msg)
    n_negative = int((data < 0).sum())
    msg = (
        f"The expression looks scaled: {n_negative:,} of {data.size:,} stored values are negative, "
        f"down to {data.min():.3g}. {remedy}."
    )
    raise ScaleError(msg)


def detect_scale(x: Any, whole: Any = None, *, ranks: bool = False, others: Sequence[str] | None = None) -> Scale:
    """Detect the scale of values by the rules above, from up to 1,000 rows spread over the matrix, and log it.

    `whole` are the same rows with the features that are no genes, with which they may have been normalised. With
    `ranks` only the order of a cell's values will be read, which no log changes: an unknown one is no reason to warn.
    `others` as for `check_values`.

    Small pieces of a file can mislead: corrected counts may happen to stay below 20 in them.

    >>> detect_scale(np.array([[0, 3], [1, 0]])), detect_scale(np.array([[0.0, 3.25], [1.5, 0.0]]))
    ('counts', 'log1p')
    """
    rows = np.unique(np.linspace(0, x.shape[0] - 1, min(x.shape[0], SAMPLE_ROWS)).astype(np.int64))
    sample = sparse.csr_matrix(x[rows])
    check_values(sample, others)
    sample = sample.astype(np.float64)
    if (sample.data == np.rint(sample.data)).all():
        if sample.nnz and sample.shape[0] >= 10 and (sample.data == 1).all():
            logger.warning(
                "expression: every value is 1, so X seems to hold only which genes are expressed. It is read as "
                "counts, and predictions will be worse: pass the counts, if there are any"
            )
        return "counts"
    whole = None if whole is None else sparse.csr_matrix(whole[rows]).astype(np.float64)
    if total := _common_sum(sample) or (0.0 if whole is None else _common_sum(whole)):
        logger.info("expression: normalised (every cell adds up to %s), not logged: read like counts", f"{total:,.0f}")
        return "counts"
    if sample.data.max() >= LOG1P_LIMIT:
        highest = sample.data.max()
        logger.info("expression: fractions up to %.6g, too large for a log: read as corrected counts", highest)
        return "counts"
    return _detect_log(sample, whole, ranks)


def _detect_log(sample: sparse.csr_matrix, whole: sparse.csr_matrix | None, ranks: bool) -> Scale:
    """Detect which log of what fractions below 20 are."""
    logs = {name: linear(sample, base) for name, base in BASES.items()}
    for name, linear_CG in logs.items():
        total = _common_sum(linear_CG)
        if name == "ln" and abs(total / TARGET - 1) < 0.01:
            return "log1p"
        if whole is not None and not total:
            total = _common_sum(linear(whole, BASES[name]))
        if total or _whole_after_log(linear_CG):
            what = f"values normalised to {total:,.0f} a cell" if total else "counts that were never normalised"
            logger.info("expression: %s(1 + x) of %s: undone, and brought to log1p counts per 10,000", name, what)
            return cast("Scale", name)
    typical = float(np.median(logs["ln"] @ np.ones(sample.shape[1])))
    if typical > 1.05 * TARGET and not ranks:
        logger.warning(
            "expression: read as log1p of counts per 10,000, but a typical cell adds up to %.6g, so it is another log "
            "or another total: bins will be wrong. Pass counts, or normalise to 10,000 before the log: "
            "sc.pp.normalize_total(adata, target_sum=1e4).",
            typical,
        )
    return "log1p"


def linear(x_CG: sparse.csr_matrix, base: float) -> sparse.csr_matrix:
    """Undo log(1 + x), in float64."""
    data = np.expm1(x_CG.data.astype(np.float64) * np.log(base))
    return sparse.csr_matrix((data, x_CG.indices, x_CG.indptr), shape=x_CG.shape)


def _whole_after_log(x_CG: sparse.csr_matrix) -> bool:
    """Whether values are counts once the log is undone, also of a log that was rounded to four digits."""
    data = x_CG.data[x_CG.data < 1_000]  # above, rounding leaves no difference
    return bool(data.size and abs(data.min() - 1) < 0.01 and (np.abs(data - np.rint(data)) <= 2e-4 * (1 + data)).all())


def _common_sum(x_CG: sparse.csr_matrix) -> float:
    """Give the sum that cells have in common, up to 0.1 %; 0 where they differ, or are too few."""
    sums_C = x_CG @ np.ones(x_CG.shape[1])
    sums_C = sums_C[sums_C > 0]
    if len(sums_C) < 3 or np.ptp(sums_C) > 1e-3 * np.median(sums_C):
        return 0.0
    return float(np.median(sums_C))
