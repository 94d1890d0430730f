"""The scale of expression values: recognise counts and logarithms, bring all to log1p counts per 10,000.

Shapes: C cells, G genes of the file, M of them asked.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from polygene.errors import DataError, ScaleError, missing_column
from polygene.vocab.gene_matching import GeneMatch

logger = logging.getLogger("polygene")

Scale = Literal["counts", "log1p", "ln", "log2", "log10"]
"""counts: anything proportional to molecules or reads, whole numbers or not, normalised or not. log1p: natural log of
1 + counts per 10,000. ln, log2, log10: log of 1 + anything proportional to counts, to be normalised by its own sum."""

BASES: dict[str, float] = {"ln": np.e, "log2": 2.0, "log10": 10.0}

TARGET = 10_000.0
"""Every cell is brought to this many counts before log1p (sc.pp.normalize_total(target_sum=1e4))."""

LOG1P_LIMIT = 20.0
"""No log1p value is as large: exp(20) is 485 million, and even log2 counts per million stay below log2(1e6) = 19.9."""

SAMPLE_ROWS = 1_000

TOTALS = ("total_counts", "n_counts", "nCount_RNA")
"""Columns of `obs` in which scanpy and Seurat record the counts of each cell."""

FEW_GENES = 5_000
"""A file with fewer genes was filtered, and its cells' own sums are no totals."""

REMEDY = "PolyGene reads counts or log1p values: pass layer='counts' if there is one, or layer='raw' for adata.raw"


def log1p_values(
    adata: Any,
    match: GeneMatch | None = None,
    *,
    layer: str | None = None,
    totals: str | None = None,
    scale: Scale | None = None,
) -> sparse.csr_matrix:
    """Read expression from an AnnData in log1p counts per 10,000; nothing in the AnnData is changed.

    Parameters
    ----------
    match
        The genes to return, in its order; several columns of one gene are summed. None for all columns.
    layer
        None for `X`, the name of a layer, or "raw" for `adata.raw` (where no layer has that name).
    totals
        The column of `obs` with the counts of each cell over the whole genome, for a file that holds some genes only.
        None: the sum over all genes of the file, returned or not.
    scale
        None: detected, and said. Say it when the cells of one file come in pieces.

    Returns
    -------
    x_CM
        float32 csr, columns ascending, zeros not stored.

    Raises
    ------
    DataError, ScaleError
        The expression cannot be read so; the message says what to do.
    """
    x_CG, _ = expression_matrix(adata, layer)
    others = [name for name in adata.layers if name != layer] + ["raw"] * (layer != "raw" and adata.raw is not None)
    check_values(x_CG, others)
    if scale is None:
        scale = detect_scale(x_CG)
        logger.info("expression: %s holds %s", "X" if layer is None else layer, scale)
    if scale not in get_args(Scale):
        msg = f"scale is one of {', '.join(get_args(Scale))}; got {scale!r}."
        raise ScaleError(msg)
    if scale in BASES:
        x_CG = _linear(x_CG, BASES[scale])
    totals_C = _totals(adata, x_CG, totals, scale)
    x_CM = _genes(x_CG, match, logged=scale == "log1p")
    if scale != "log1p":
        factors_C = np.divide(TARGET, totals_C, out=np.zeros_like(totals_C), where=totals_C > 0)
        x_CM.data = np.log1p((x_CM.data * np.repeat(factors_C, np.diff(x_CM.indptr))).astype(np.float32))
    return x_CM.astype(np.float32, copy=False)


def _linear(x_CG: sparse.csr_matrix, base: float) -> sparse.csr_matrix:
    """Undo log(1 + x), in float64."""
    data = np.expm1(x_CG.data.astype(np.float64) * np.log(base))
    return sparse.csr_matrix((data, x_CG.indices, x_CG.indptr), shape=x_CG.shape)


def _genes(x_CG: sparse.csr_matrix, match: GeneMatch | None, *, logged: bool) -> sparse.csr_matrix:
    """Take the columns of the genes, a new matrix; columns of one gene are summed, never as logarithms."""
    if match is None or (np.array_equal(match.columns_N, np.arange(x_CG.shape[1])) and not match.sums):
        x_CM = x_CG.copy()
    else:
        # There to CSC and back sorts the columns, faster than a sort.
        x_CM = x_CG[:, match.columns_N].tocsc().tocsr()
        if match.sums:
            data = np.expm1(x_CM.data.astype(np.float64)) if logged else x_CM.data.astype(np.float64)
            shape = (x_CM.shape[0], match.n_measured)
            x_CM = sparse.csr_matrix((data, match.slots_N[x_CM.indices], x_CM.indptr), shape=shape)
            x_CM.sum_duplicates()
            x_CM.data = np.log1p(x_CM.data) if logged else x_CM.data
    x_CM.sum_duplicates()
    x_CM.eliminate_zeros()
    return x_CM


def counts_share(x_CG: sparse.csr_matrix, match: GeneMatch, scale: Scale) -> float:
    """Give the share of the counts of these cells, as far as the file holds them, that falls on the genes found."""
    linear_CG = x_CG if scale == "counts" else _linear(x_CG, BASES.get(scale, np.e))
    counts_G = np.asarray(linear_CG.sum(axis=0), dtype=np.float64).ravel()
    return float(counts_G[match.columns_N].sum() / max(counts_G.sum(), np.finfo(float).tiny))


def say_totals(sample: Any, *, totals: str | None, scale: Scale) -> None:
    """Say where a cell's own sum is no honest total, and which column of `obs` may know better.

    Parameters
    ----------
    sample
        Some cells with the columns of `TOTALS` that there are.
    totals
        The column that is used, if any; then there is nothing to say.
    """
    if totals or scale != "counts":
        return
    sums_C = np.asarray(sample.X.sum(axis=1), dtype=np.float64).ravel()
    for column in TOTALS:
        recorded_C = pd.to_numeric(sample.obs[column], errors="coerce") if column in sample.obs else pd.Series([0.0])
        times = float(recorded_C.sum() / max(sums_C.sum(), 1e-9))
        if times > 1.02 and (recorded_C.to_numpy() >= 0.99 * sums_C).all():
            logger.warning(
                "totals: obs[%r] records %.3g times the counts that the file holds, so genes were left out of it and "
                "values come out too high; totals=%r (--totals) uses it", column, times, column,
            )  # fmt: skip
            return
    if sample.n_vars < FEW_GENES:
        logger.info(
            "totals: the file holds %s genes only, so a cell's sum is less than its counts and values come out too "
            "high; if obs records the counts over the whole genome, name the column: totals=… (--totals)",
            f"{sample.n_vars:,}",
        )


def _totals(adata: Any, x_CG: sparse.csr_matrix, column: str | None, scale: Scale) -> np.ndarray:
    """Counts of each cell, float64."""
    sums_C = x_CG @ np.ones(x_CG.shape[1])
    if column is None:
        return sums_C
    if scale != "counts":
        msg = f"totals={column!r} is for counts, and the expression is {scale}: it is normalised already."
        raise ScaleError(msg)
    if column not in adata.obs:
        raise missing_column(column, adata.obs.columns, of="adata", holds="the counts of each cell")
    totals_C = pd.to_numeric(adata.obs[column], errors="coerce").to_numpy(np.float64)
    n_wrong = int((~(np.isfinite(totals_C) & (totals_C >= 0.99 * sums_C))).sum())
    if n_wrong:
        msg = (
            f"obs[{column!r}] cannot be the counts of each cell: in {n_wrong:,} of {len(totals_C):,} cells it is no "
            "number, or less than the counts that the matrix holds. Name the right column, or leave totals out."
        )
        raise DataError(msg)
    return totals_C


def genes_of(adata: Any, layer: str | None = None) -> pd.DataFrame:
    """Return the table of the genes of `X`, a layer or `adata.raw`; errors as for `expression_matrix`."""
    return _select(adata, layer)[1]


def expression_matrix(adata: Any, layer: str | None = None) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Take (x_CG, var) out of an AnnData: `X`, a layer, or with layer="raw" `adata.raw`; CSR is not copied.

    Raises
    ------
    DataError
        Not an AnnData, empty, without that layer, or no numbers.
    """
    values, var = _select(adata, layer)
    if hasattr(values, "to_memory"):  # a backed file
        values = values.to_memory()
    x_CG = sparse.csr_matrix(values)
    if x_CG.dtype.kind not in "buif":
        msg = f"The expression values are {x_CG.dtype}, not numbers."
        raise DataError(msg)
    return x_CG, var


def _select(adata: Any, layer: str | None) -> tuple[Any, pd.DataFrame]:
    if not all(hasattr(adata, name) for name in ("X", "obs", "var", "layers", "n_obs", "n_vars")):
        msg = f"Expected an AnnData, got {type(adata).__name__}: read one with anndata.read_h5ad(path)."
        raise DataError(msg)
    raw = getattr(adata, "raw", None)
    if layer is None:
        values, var = adata.X, adata.var
    elif layer in adata.layers:
        values, var = adata.layers[layer], adata.var
    elif layer == "raw" and raw is not None:
        values, var = raw.X, raw.var
    else:
        there = [*adata.layers, *(["raw"] if raw is not None else [])]
        msg = f"There is no layer {layer!r}; the AnnData has {there or 'no layers, only X'}."
        raise DataError(msg)
    if adata.n_obs == 0 or len(var) == 0:
        msg = f"The AnnData is empty: {adata.n_obs} cells x {len(var)} genes."
        raise DataError(msg)
    if values is None:
        msg = f"The AnnData has no X; say which layer to read, it has {list(adata.layers)}."
        raise DataError(msg)
    return values, var


def check_values(x_CG: sparse.csr_matrix, others: Sequence[str] = ()) -> None:
    """Refuse negative, NaN and infinite values, which are neither counts nor logarithms of any.

    Parameters
    ----------
    others
        The layers that could be read instead, where they are known.

    Raises
    ------
    ScaleError
        Says how many there are, and what to pass instead.
    """
    data = x_CG.data
    # NaN survives min and max, so two passes without a copy tell the common case.
    if data.size == 0 or (data.min() >= 0 and data.max() < np.inf):
        return
    remedy = f"{REMEDY}; there is {' and '.join(f'layer={name!r}' for name in others)}" if others else REMEDY
    broken = np.flatnonzero(~np.isfinite(data))
    if broken.size:
        n_cells = np.unique(np.searchsorted(x_CG.indptr, broken, side="right")).size
        msg = (
            f"{broken.size:,} expression values in {n_cells:,} cells are NaN or infinite: "
            f"drop or repair these cells. {remedy}."
        )
        raise ScaleError(msg)
    n_negative = int((data < 0).sum())
    msg = (
        f"The expression looks scaled: {n_negative:,} of {data.size:,} stored values are negative, "
        f"down to {data.min():.3g}. {remedy}."
    )
    raise ScaleError(msg)


def detect_scale(x: Any) -> Scale:
    """Say what values are, from up to 1,000 rows spread over the matrix, and what is done about it.

    The rule, in this order, by the first that holds:

    * negative, NaN or infinite: scaled or broken (an error);
    * whole numbers only: counts;
    * cells with the same sum: normalised but not logged, which is read like counts;
    * cells with the same sum once a natural, binary or decimal log of 1 + x is undone: that log of normalised values.
      With the natural log and a sum of 10,000 it is log1p, which needs nothing done;
    * whole numbers once a log is undone: that log of counts;
    * a value of 20 or more: no log value is that large, so these are corrected UMI counts, reads or TPM (CEL-seq in
      panc8: 1.002, 2.008, … 1,597); all are proportional to molecules, and only proportions count;
    * any other fractions: log1p of counts per 10,000 of which some genes are not in the file. Where a typical cell adds
      up to more than 10,000 a warning says that it cannot be that.

    Ask it of a whole file rather than of small pieces, in which corrected counts may happen to stay below 20.

    Raises
    ------
    ScaleError
        The values are none of these.

    Examples
    --------
    >>> detect_scale(np.array([[0, 3], [1, 0]]))
    'counts'
    >>> detect_scale(np.array([[0.0, 3.25], [1.5, 0.0]]))
    'log1p'
    >>> detect_scale(np.array([[0.0, 1597.25], [1.002, 0.0]]))
    'counts'
    """
    rows = np.unique(np.linspace(0, x.shape[0] - 1, min(x.shape[0], SAMPLE_ROWS)).astype(np.int64))
    sample = sparse.csr_matrix(x[rows])
    check_values(sample)
    sample = sample.astype(np.float64)
    if (sample.data == np.rint(sample.data)).all():
        if sample.shape[0] >= 10 and (sample.data == 1).all():
            logger.warning(
                "expression: every value is 1, so X seems to say only which genes are expressed. It is read as counts, "
                "and answers will be worse: pass the counts, if there are any"
            )
        return "counts"
    if total := _common_sum(sample):
        logger.info("expression: normalised (every cell adds up to %s), not logged: read like counts", f"{total:,.0f}")
        return "counts"
    logs = {name: _linear(sample, base) for name, base in BASES.items() if sample.data.max() < LOG1P_LIMIT}
    for name, linear in logs.items():
        total = _common_sum(linear)
        if name == "ln" and abs(total / TARGET - 1) < 0.01:
            return "log1p"
        if total or _whole_after_log(linear):
            what = f"values normalised to {total:,.0f} a cell" if total else "counts that were never normalised"
            logger.info("expression: %s(1 + x) of %s: undone, and brought to log1p counts per 10,000", name, what)
            return cast("Scale", name)
    if not logs:
        logger.info(
            "expression: fractions up to %.6g, too large for a log: read as corrected counts", sample.data.max()
        )
        return "counts"
    typical = float(np.median(logs["ln"] @ np.ones(sample.shape[1])))
    if typical > 1.05 * TARGET:
        logger.warning(
            "expression: read as log1p of counts per 10,000, but a typical cell adds up to %.6g, so it is another log "
            "or another total: bins will be wrong. Pass counts, or normalise to 10,000 before the log: "
            "sc.pp.normalize_total(adata, target_sum=1e4).",
            typical,
        )
    return "log1p"


def _whole_after_log(x_CG: sparse.csr_matrix) -> bool:
    """Say whether values are counts once the log is undone, also of a log that was rounded to four digits."""
    data = x_CG.data[x_CG.data < 1_000]  # above, rounding leaves nothing to tell
    return bool(data.size and abs(data.min() - 1) < 0.01 and (np.abs(data - np.rint(data)) <= 2e-4 * (1 + data)).all())


def _common_sum(x_CG: sparse.csr_matrix) -> float:
    """Give the sum that cells have in common, up to 0.1 %; 0 where they differ, or are too few to tell."""
    sums_C = x_CG @ np.ones(x_CG.shape[1])
    sums_C = sums_C[sums_C > 0]
    if len(sums_C) < 3 or np.ptp(sums_C) > 1e-3 * np.median(sums_C):
        return 0.0
    return float(np.median(sums_C))
