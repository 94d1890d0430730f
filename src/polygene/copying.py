"""Copies of cells as .h5ad, block by block, whatever format they come in."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, write_elem

BLOCK = 4_000_000  # numbers copied at once
RESERVE = 32_000_000  # bytes that stay free: what HDF5 holds back until it closes


def copy_store(group: zarr.Group, path: str | Path) -> None:
    """Write an open .zarr as an .h5ad; the two are laid out alike."""
    with h5py.File(path, "w") as file:
        _copy_attributes(group.attrs, file)
        for name, member in group.members():
            _copy(member, file, name)


def _copy(source: zarr.Group | zarr.Array, parent: h5py.Group, name: str) -> None:
    if isinstance(source, zarr.Group):
        target = parent.create_group(name)
        for key, member in source.members():
            _copy(member, target, key)
    elif source.ndim and source.dtype.kind in "biuf" and source.attrs.get("encoding-type") != "null":
        target = parent.create_dataset(name, source.shape, source.dtype, chunks=True, maxshape=(None,) * source.ndim)
        n_rows = -(-BLOCK // max(prod(source.shape[1:]), 1))
        n_rows = -(-n_rows // source.chunks[0]) * source.chunks[0]
        for first in range(0, source.shape[0], n_rows):
            _check_room(parent.file, n_rows * prod(source.shape[1:]) * source.dtype.itemsize)
            target[first : first + n_rows] = source[first : first + n_rows]
    else:  # text, scalars, None
        write_elem(parent, name, read_elem(source))
        return
    _copy_attributes(source.attrs, target)


def _copy_attributes(attributes: Mapping[str, Any], target: Any) -> None:
    """Copy attributes, of which zarr keeps arrays as lists."""
    for name, value in attributes.items():
        is_names = isinstance(value, list) and not (value and isinstance(value[0], int))
        target.attrs[name] = np.array(value, dtype=h5py.string_dtype()) if is_names else value


def write_cells(chunks: Iterator[ad.AnnData], obs: pd.DataFrame, var: pd.DataFrame, path: str | Path) -> None:
    """Write cells that come in chunks, with CSR in `X`."""
    with h5py.File(path, "w") as file:
        write_elem(file, "/", ad.AnnData(obs=obs, var=var))
        if "X" in file:
            del file["X"]
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (len(obs), len(var))})
        indptr, n_entries = [np.zeros(1, np.int64)], 0
        for chunk in chunks:
            parts = {"data": chunk.X.data, "indices": chunk.X.indices}
            indptr.append(chunk.X.indptr[1:].astype(np.int64) + n_entries)
            n_entries += chunk.X.nnz
            _check_room(file, sum(values.nbytes for values in parts.values()))
            for name, values in parts.items():
                if name not in group:
                    group.create_dataset(name, (0,), values.dtype, chunks=(1 << 16,), maxshape=(None,))
                group[name].resize((n_entries,))
                group[name][n_entries - len(values) :] = values
        group["indptr"] = np.concatenate(indptr)


def _check_room(file: h5py.File, n_bytes: int) -> None:
    """Find out that the disk is full before HDF5 does, which can crash of it."""
    if shutil.disk_usage(file.filename).free < n_bytes + RESERVE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.filename)
