"""The scale of expression values: recognise counts and log1p values, bring both to log1p counts per 10,000.

Shapes: C cells, G genes of the file (or the part of them that is asked).
"""

import logging
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from polygene.errors import DataError, ScaleError

logger = logging.getLogger("polygene")

Scale = Literal["counts", "log1p"]
"""counts: anything proportional to molecules or reads, whole numbers or not. log1p: natural log of 1 + counts per
10,000."""

TARGET = 10_000.0
"""Every cell is brought to this many counts before log1p (sc.pp.normalize_total(target_sum=1e4))."""

LOG1P_LIMIT = 20.0
"""No log1p value is as large: exp(20) is 485 million, and even log2 counts per million stay below log2(1e6) = 19.9."""

SAMPLE_ROWS = 1_000

REMEDY = "PolyGene reads counts or log1p values: pass layer='counts' if there is one, or layer='raw' for adata.raw"


def log1p_values(
    adata: Any,
    columns: np.ndarray | None = None,
    *,
    layer: str | None = None,
    totals: str | None = None,
    scale: Scale | None = None,
) -> sparse.csr_matrix:
    """Read expression from an AnnData in log1p counts per 10,000; nothing in the AnnData is changed.

    Parameters
    ----------
    columns
        The genes to return, in this order; None for all.
    layer
        None for `X`, the name of a layer, or "raw" for `adata.raw` (where no layer has that name).
    totals
        The column of `obs` with the counts of each cell over the whole genome, for a file that holds some genes only.
        None: the sum over all genes of the file, returned or not.
    scale
        None: detected, and said. Say it when the cells of one file come in pieces.

    Returns
    -------
    x_CG
        float32 csr, columns ascending, zeros not stored.

    Raises
    ------
    DataError, ScaleError
        The expression cannot be read so; the message says what to do.
    """
    x_CG, _ = expression_matrix(adata, layer)
    check_values(x_CG)
    if scale is None:
        scale = detect_scale(x_CG)
        logger.info("expression: %s holds %s", "X" if layer is None else layer, scale)
    totals_C = _totals(adata, x_CG, totals, scale)
    # There to CSC and back sorts the columns, faster than a sort.
    x_CG = x_CG.copy() if columns is None else x_CG[:, columns].tocsc().tocsr()
    x_CG.sum_duplicates()
    x_CG.eliminate_zeros()
    return to_log1p(x_CG, totals_C, scale)


def _totals(adata: Any, x_CG: sparse.csr_matrix, column: str | None, scale: Scale) -> np.ndarray:
    """Counts of each cell, float64."""
    sums_C = x_CG @ np.ones(x_CG.shape[1])
    if column is None:
        return sums_C
    if scale != "counts":
        msg = f"totals={column!r} is for counts, and the expression is {scale}: it is normalised already."
        raise ScaleError(msg)
    if column not in adata.obs:
        msg = f"obs has no column {column!r} with the counts of each cell; it has {', '.join(adata.obs.columns[:10])}."
        raise DataError(msg)
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


def check_values(x_CG: sparse.csr_matrix) -> None:
    """Refuse negative, NaN and infinite values, which are neither counts nor log1p values.

    Raises
    ------
    ScaleError
        Says how many there are, and what to pass instead.
    """
    data = x_CG.data
    # NaN survives min and max, so two passes without a copy tell the common case.
    if data.size == 0 or (data.min() >= 0 and data.max() < np.inf):
        return
    broken = np.flatnonzero(~np.isfinite(data))
    if broken.size:
        n_cells = np.unique(np.searchsorted(x_CG.indptr, broken, side="right")).size
        msg = (
            f"{broken.size:,} expression values in {n_cells:,} cells are NaN or infinite: "
            f"drop or repair these cells. {REMEDY}."
        )
        raise ScaleError(msg)
    n_negative = int((data < 0).sum())
    msg = (
        f"The expression looks scaled: {n_negative:,} of {data.size:,} stored values are negative, "
        f"down to {data.min():.3g}. {REMEDY}."
    )
    raise ScaleError(msg)


def detect_scale(x: Any) -> Scale:
    """Say whether values are counts or log1p values, from up to 1,000 rows spread over the matrix.

    The rule, in this order:

    * negative, NaN or infinite: neither (an error);
    * whole numbers only: counts;
    * a fraction, and all values below 20: log1p. Two doubts are logged as warnings: cells that add up to more than
      10,000 (another target sum, or another base), and exp(x) - 1 whole everywhere (log1p of raw counts);
    * a fraction, and a value of 20 or more: counts. No log value is that large, so these are corrected UMI counts,
      reads or TPM (CEL-seq in panc8: 1.002, 2.008, … 1,597); all are proportional to molecules, and only
      proportions enter `to_log1p`.

    Ask it of a whole file rather than of small pieces, in which corrected counts may happen to stay below 20.

    Raises
    ------
    ScaleError
        The values are neither.

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
    data = sample.data
    if (data == np.rint(data)).all():
        return "counts"
    if data.max() >= LOG1P_LIMIT:
        logger.info("expression: fractions up to %.6g, too large for log1p: read as corrected counts", data.max())
        return "counts"
    _doubt_log1p(sample)
    return "log1p"


def _doubt_log1p(sample: sparse.csr_matrix) -> None:
    linear = sample.astype(np.float64).expm1()
    typical = float(np.median(linear @ np.ones(linear.shape[1])))
    if typical > 1.05 * TARGET:
        logger.warning(
            "expression: the log1p values of a typical cell stand for %.6g counts, where 10,000 at most are expected: "
            "bins will be too high. Pass counts, or use sc.pp.normalize_total(adata, target_sum=1e4) before log1p.",
            typical,
        )
    elif np.abs(linear.data - np.rint(linear.data)).max() < 1e-3:
        logger.warning(
            "expression: the values are log1p of whole numbers, it seems of raw counts that were never normalised. "
            "Pass the counts instead (np.expm1 gives them back)."
        )


def to_log1p(x_CG: sparse.csr_matrix, totals_C: np.ndarray | None, scale: Scale) -> sparse.csr_matrix:
    """Bring values to log1p counts per 10,000.

    Parameters
    ----------
    x_CG
        Counts or log1p values that passed `check_values`; may be some of the genes only.
    totals_C
        The counts of each cell over *all* genes of its file. Cells with total 0 stay zero. Not used for log1p.
    scale
        What the values are; log1p values are not changed.

    Returns
    -------
    x_CG
        A new float32 matrix of the same structure.
    """
    if scale not in get_args(Scale):
        msg = f"scale is 'counts' or 'log1p', got {scale!r}."
        raise ScaleError(msg)
    if scale == "log1p":
        return x_CG.astype(np.float32, copy=True)
    totals_C = np.asarray(totals_C, dtype=np.float64)
    factors_C = np.divide(TARGET, totals_C, out=np.zeros_like(totals_C), where=totals_C > 0)
    data = np.log1p((x_CG.data * np.repeat(factors_C, np.diff(x_CG.indptr))).astype(np.float32))
    return sparse.csr_matrix((data, x_CG.indices, x_CG.indptr), shape=x_CG.shape, copy=True)
