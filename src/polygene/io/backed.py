"""Parts of an open HDF5 file or zarr store, as AnnData lays them out: sparse matrices and columns of `obs`.

Legend: C cells, G genes, N entries of a block.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from scipy import sparse

from polygene.errors import repeated_column
from polygene.io.transpose import Entries

BLOCK = 2_000_000  # entries of a CSC matrix read at once


class BackedCSR:
    """A sparse matrix in a file, by cells (CSR), of which only the rows that are sliced are read."""

    def __init__(self, group: Any, shape: Sequence[int]) -> None:
        self.group, self.shape = group, (int(shape[0]), int(shape[1]))

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        indptr = self.group["indptr"][rows.start : rows.stop + 1].astype(np.int64)
        sizes = np.diff(indptr)
        entries = slice(int(indptr[0]), int(indptr[-1]))
        data, indices = native(self.group["data"][entries]), native(self.group["indices"][entries])
        # A chunk that is missing in a zarr store reads as zeros, and scipy trusts what it is given.
        damaged = len(sizes) != rows.stop - rows.start or len(data) != entries.stop - entries.start
        if damaged or (sizes < 0).any() or (sizes > self.shape[1]).any() or _outside(indices, self.shape[1]):
            msg = f"the matrix in {self.group.name} contradicts itself between cells {rows.start:,} and {rows.stop:,}"
            raise OSError(msg)
        return sparse.csr_matrix((data, indices, indptr - indptr[0]), shape=(len(sizes), self.shape[1]))


class BackedCSC:
    """A sparse matrix in a file, by genes (CSC), of which the entries are read in blocks."""

    order = "by genes (CSC)"

    def __init__(self, group: Any, shape: Sequence[int]) -> None:
        self.group, self.shape = group, (int(shape[0]), int(shape[1]))
        self.n_entries, self.dtype = int(group["data"].shape[0]), native(np.empty(0, group["data"].dtype)).dtype

    def blocks(self) -> Iterator[Entries]:
        """Read (rows_N, columns_N, values_N), one block after the other."""
        indptr = self.group["indptr"][:].astype(np.int64)
        if len(indptr) != self.shape[1] + 1 or (np.diff(indptr) < 0).any() or indptr[-1] != self.n_entries:
            msg = f"the matrix in {self.group.name} contradicts itself"
            raise OSError(msg)
        for first in range(0, self.n_entries, BLOCK):
            last = min(first + BLOCK, self.n_entries)
            rows_N = native(self.group["indices"][first:last])
            if _outside(rows_N, self.shape[0]):
                msg = f"the matrix in {self.group.name} names cells beyond the last"
                raise OSError(msg)
            columns_N = np.searchsorted(indptr, np.arange(first, last), side="right") - 1
            yield rows_N, columns_N, native(self.group["data"][first:last])


def sparse_in(group: Any) -> BackedCSR | BackedCSC:
    """Open a sparse matrix that anndata wrote, also before 0.7."""
    kind = str(group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", "csr")))[:3]
    shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    return (BackedCSC if kind == "csc" else BackedCSR)(group, shape)


def native(values: Any) -> Any:
    """Turn numbers that scipy and pandas do not know, float16 and those of another byte order, into such as they do."""
    if sparse.issparse(values):
        parts = (native(values.data), native(values.indices), native(values.indptr))
        return values if parts[0] is values.data else type(values)(parts, shape=values.shape)
    dtype = getattr(values, "dtype", None)
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc":
        return values
    known = {"f2": np.dtype(np.float32), "f16": np.dtype(np.float64)}.get(dtype.str[1:], dtype.newbyteorder("="))
    return values.astype(known, copy=False)


def length_of(element: Any) -> int:
    """Count the rows of a column, which a nullable one or a categorical keeps in parts."""
    if isinstance(element, h5py.Group | zarr.Group):
        element = element["codes" if "codes" in element else "values"]
    return int(element.shape[0])


def is_null(element: Any) -> bool:
    """Whether an element is absent, or written as None."""
    return element is None or getattr(element, "shape", ()) is None or element.attrs.get("encoding-type") == "null"


def names_of(obs: Any, rows: slice) -> pd.Index:
    """Name these cells."""
    if isinstance(obs, pd.DataFrame):
        return obs.index[rows].astype(str)
    return pd.Index(column_of(obs, obs.attrs["_index"], rows)).astype(str)


def column_of(obs: Any, name: str, rows: slice) -> Any:
    """Read these rows of one column; of a file, no other rows unless the column is of a rare kind."""
    if isinstance(obs, pd.DataFrame):
        if isinstance(obs[name], pd.DataFrame):
            raise repeated_column(name)
        values = obs[name].array[rows]
        return native(values.to_numpy()) if isinstance(values, pd.arrays.NumpyExtensionArray) else values
    return native(_element(obs[name], rows))


def _element(element: Any, rows: slice) -> Any:
    kind = element.attrs.get("encoding-type")
    if kind == "categorical":
        categories, ordered = read_elem(element["categories"]), bool(element.attrs["ordered"])
        return pd.Categorical.from_codes(element["codes"][rows], categories=categories, ordered=ordered)
    if kind == "string-array":
        return np.asarray(element.asstr()[rows] if hasattr(element, "asstr") else element[rows]).astype(object)
    if kind in ("nullable-integer", "nullable-boolean", "nullable-string-array"):
        values, absent = _element(element["values"], rows), _element(element["mask"], rows)
        if kind == "nullable-string-array":
            return pd.array(np.where(absent, None, values), dtype=pd.StringDtype())
        return (pd.arrays.IntegerArray if kind == "nullable-integer" else pd.arrays.BooleanArray)(values, mask=absent)
    return element[rows] if kind == "array" else read_elem(element)[rows]


def _outside(indices: np.ndarray, size: int) -> bool:
    return len(indices) > 0 and not 0 <= int(indices.min()) <= int(indices.max()) < size
