"""Transpose a matrix by genes (CSC), or in no order, to rows of cells: on disk, in bounded memory.

Legend: C cells, G genes, N entries of a block.
"""

import errno
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from scipy import sparse

from polygene.errors import DataError
from polygene.runtime.scratch import scratch_folder

logger = logging.getLogger("polygene")

Entries: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows_N, columns_N, values_N

BUCKET = 2_000_000  # entries sorted at once: some 80 MB


class TransposedMatrix:
    """A matrix in temporary files, sliced by rows; the files go with it."""

    def __init__(self, blocks: Iterator[Entries], shape: tuple[int, int], n_entries: int, dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.folder = Path(tempfile.mkdtemp(dir=scratch_folder()))
        weakref.finalize(self, _remove, self.folder, os.getpid())
        n_buckets = min(-(-max(n_entries, 1) // BUCKET), 1 << 16, shape[0])
        self._rows = -(-shape[0] // n_buckets)  # of a bucket
        try:
            self._scatter(blocks)
            self._gather(n_buckets)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # such as a damaged source
                raise
            msg = (
                f"the matrix could not be transposed to rows of cells in {self.folder}: {error}. It takes "
                f"{_megabytes(2 * n_entries * self._entry.itemsize)}: set TMPDIR to a folder with room."
            )
            raise DataError(msg) from error

    @property
    def _entry(self) -> np.dtype:
        return np.dtype([("row", np.int32), ("column", np.int32), ("value", self.dtype)])

    def _scatter(self, blocks: Iterator[Entries]) -> None:
        """Write each entry to the file of its bucket of rows."""
        for rows_N, columns_N, values_N in blocks:
            bucket_N = (rows_N // self._rows).astype(np.uint16)  # numpy sorts 16 bits in linear time
            order_N = np.argsort(bucket_N, kind="stable")
            entries_N = np.empty(len(rows_N), self._entry)
            entries_N["row"] = rows_N[order_N] % self._rows
            entries_N["column"], entries_N["value"] = columns_N[order_N], values_N[order_N]
            buckets, first = np.unique(bucket_N[order_N], return_index=True)
            for bucket, part in zip(buckets, np.split(entries_N, first[1:]), strict=True):
                with (self.folder / f"bucket{bucket}").open("ab") as file:  # there may be more than can be open at once
                    _write(file, part)

    def _gather(self, n_buckets: int) -> None:
        """Write each bucket as CSR behind the others."""
        n_entries = 0
        with (
            (self.folder / "indptr").open("wb") as indptr,
            (self.folder / "indices").open("wb") as indices,
            (self.folder / "data").open("wb") as data,
        ):
            _write(indptr, np.zeros(1, np.int64))
            for b in range(n_buckets):
                path = self.folder / f"bucket{b}"
                entries_N = np.fromfile(path, self._entry) if path.exists() else np.empty(0, self._entry)
                path.unlink(missing_ok=True)
                n_rows = max(min(self._rows, self.shape[0] - b * self._rows), 0)
                places = entries_N["row"], entries_N["column"]
                x_CG = sparse.csr_matrix((entries_N["value"], places), shape=(n_rows, self.shape[1]))
                _write(indptr, x_CG.indptr[1:].astype(np.int64) + n_entries)
                _write(indices, x_CG.indices.astype(np.int32, copy=False))
                _write(data, x_CG.data)
                n_entries += x_CG.nnz

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        indptr = self._read("indptr", np.int64, rows.start, rows.stop + 1)
        indices = self._read("indices", np.int32, indptr[0], indptr[-1])
        data = self._read("data", self.dtype, indptr[0], indptr[-1])
        return sparse.csr_matrix((data, indices, indptr - indptr[0]), shape=(rows.stop - rows.start, self.shape[1]))

    def _read(self, name: str, dtype: Any, first: int, last: int) -> np.ndarray:
        size = np.dtype(dtype).itemsize
        return np.fromfile(self.folder / name, dtype, count=last - first, offset=first * size)


def transpose_on_disk(matrix: Any, label: str) -> TransposedMatrix:
    """Transpose a matrix that yields its entries in `blocks()`; logs a warning, as it takes time and disk."""
    logger.warning(
        "%s is stored %s; it is first transposed to rows, which takes %s in %s. To avoid that, save it as .h5ad "
        "with adata.X = adata.X.tocsr()",
        label, matrix.order, _megabytes(2 * matrix.n_entries * (8 + np.dtype(matrix.dtype).itemsize)),
        tempfile.gettempdir(),
    )  # fmt: skip
    return TransposedMatrix(matrix.blocks(), matrix.shape, matrix.n_entries, matrix.dtype)


def _remove(folder: Path, owner: int) -> None:
    """Remove a temporary folder in the process that made it, not in those that were forked from it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _write(file: BinaryIO, values: np.ndarray) -> None:
    """Append the bytes of an array; numpy's `tofile` raises nothing when the disk is full."""
    file.write(values.view(np.uint8).data)


def _megabytes(n_bytes: int) -> str:
    return f"{max(n_bytes / 1e6, 1):,.0f} MB"
