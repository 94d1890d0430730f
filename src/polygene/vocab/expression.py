"""Expression out of an AnnData, in log1p counts per 10,000.

Shapes: C cells, G genes of the file, M genes that are read.
"""

import logging
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from polygene.errors import DataError, ScaleError, check_choice, missing_column, repeated_column
from polygene.vocab.gene_matching import GeneMatch
from polygene.vocab.scale import BASES, TARGET, Scale, check_values, detect_scale, linear

logger = logging.getLogger("polygene")

TOTALS = ("total_counts", "n_counts", "nCount_RNA")  # in which scanpy and Seurat record the counts of each cell
FEW_GENES = 5_000  # a file with fewer genes was filtered, and its cells' own sums are no totals


def log1p_values(
    adata: Any,
    match: GeneMatch | None = None,
    *,
    totals: str | None = None,
    scale: Scale | None = None,
    ranks: bool = False,
) -> sparse.csr_matrix:
    """Read `X` of an AnnData in log1p counts per 10,000: float32 csr, columns ascending, zeros not stored.

    Parameters
    ----------
    match
        The genes to return, in its order; several columns of one gene are summed. None for all columns.
    totals
        The column of `obs` with the counts of each cell over the whole genome, for a file that holds some genes only.
        None: the sum over all genes of the file.
    scale
        None: detected and logged. Give it when the cells of one file come in pieces.
    ranks
        Whether only the order of a cell's values will be read, see `detect_scale`.
    """
    check_anndata(adata)
    x_CG = sparse.csr_matrix(adata.X.to_memory() if hasattr(adata.X, "to_memory") else adata.X)  # it may be backed
    if x_CG.dtype.kind not in "buif":
        msg = f"The expression values are {x_CG.dtype}, not numbers."
        raise DataError(msg)
    whole = None
    if match is not None and match.is_gene_F is not None:
        whole, x_CG = x_CG, _only_genes(x_CG, match.is_gene_F)
    layers = list(filter(None, adata.layers))  # anndata 0.13 lists X among them, as None
    check_values(x_CG, [*layers, *(["raw"] if adata.raw is not None else [])] or None)
    if scale is None:
        scale = detect_scale(x_CG, whole, ranks=ranks)
        logger.info("expression: X holds %s", scale)
    check_choice("scale", scale, get_args(Scale))
    if scale in BASES:
        x_CG = linear(x_CG, BASES[scale])
    totals_C = _totals(adata, x_CG, totals, scale)
    x_CM = _genes(x_CG, match, logged=scale == "log1p")
    if scale != "log1p":
        factors_C = np.divide(TARGET, totals_C, out=np.zeros_like(totals_C), where=totals_C > 0)
        x_CM.data = np.log1p((x_CM.data * np.repeat(factors_C, np.diff(x_CM.indptr))).astype(np.float32))
    return x_CM.astype(np.float32, copy=False)


def _only_genes(x_CF: sparse.csr_matrix, is_gene_F: np.ndarray) -> sparse.csr_matrix:
    """Put zeros where features are no genes."""
    entries = (np.where(is_gene_F[x_CF.indices], x_CF.data, 0), x_CF.indices, x_CF.indptr)
    return sparse.csr_matrix(entries, shape=x_CF.shape)


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
    """Give the share of the counts of these cells that falls on the genes found."""
    linear_CG = x_CG if scale == "counts" else linear(x_CG, BASES.get(scale, np.e))
    counts_G = np.asarray(linear_CG.sum(axis=0), dtype=np.float64).ravel()
    return float(counts_G[match.columns_N].sum() / max(counts_G.sum(), np.finfo(float).tiny))


def warn_totals(sample: Any, *, totals: str | None, scale: Scale) -> None:
    """Warn where cells hold fewer counts than a column of `TOTALS` records for them, and `totals` name none."""
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
    sums_C = x_CG @ np.ones(x_CG.shape[1])
    if column is None:
        return sums_C
    if scale != "counts":
        msg = f"totals={column!r} is for counts, and the expression is {scale}: it is normalised already."
        raise ScaleError(msg)
    if column not in adata.obs:
        raise missing_column(column, adata.obs.columns, of="adata", holds="the counts of each cell")
    if isinstance(adata.obs[column], pd.DataFrame):
        raise repeated_column(column)
    totals_C = pd.to_numeric(adata.obs[column], errors="coerce").to_numpy(np.float64)
    n_wrong = int((~(np.isfinite(totals_C) & (totals_C >= 0.99 * sums_C))).sum())
    if n_wrong:
        msg = (
            f"obs[{column!r}] cannot be the counts of each cell: in {n_wrong:,} of {len(totals_C):,} cells it is no "
            "number, or less than the counts that the matrix holds. Name the right column, or leave totals out."
        )
        raise DataError(msg)
    return totals_C


def check_anndata(adata: Any) -> None:
    """Refuse what is no AnnData with cells, genes and X."""
    if not all(hasattr(adata, name) for name in ("X", "obs", "var", "layers", "n_obs", "n_vars")):
        msg = f"Expected an AnnData, got {type(adata).__name__}: read one with anndata.read_h5ad(path)."
        raise DataError(msg)
    if adata.n_obs == 0 or adata.n_vars == 0:
        msg = f"The AnnData is empty: {adata.n_obs} cells x {adata.n_vars} genes."
        raise DataError(msg)
    if adata.X is None:
        msg = f"The AnnData has no X; name the layer to read, it has {list(filter(None, adata.layers))}."
        raise DataError(msg)
