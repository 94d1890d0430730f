"""Copies of cells as .h5ad, block by block, whatever format they come in."""

import errno
import io
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
from scipy import sparse

BLOCK = 4_000_000  # numbers copied at once
RESERVE = 32_000_000  # bytes that stay free: what HDF5 holds back until it closes


def write_held(adata: ad.AnnData, path: str | Path) -> None:
    """Write cells that are in memory as a file in memory first: of a full disk HDF5 can crash."""
    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        write_elem(file, "/", adata)
    Path(path).write_bytes(held.getbuffer())


def copy_group(group: zarr.Group | h5py.Group, path: str | Path) -> None:
    """Write an open .zarr, or a part of a .h5mu, as an .h5ad; they are laid out alike."""
    with h5py.File(path, "w") as file:
        _copy_attributes(group.attrs, file)
        if isinstance(group, h5py.Group):
            _check_room(file, group.file.id.get_filesize())
            for name in group:
                group.copy(name, file)
            return
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
        for chunk in chunks:
            append_rows(file, "X", chunk.X)


def write_tables(path: str | Path, obs: pd.DataFrame | Path, var: pd.DataFrame) -> None:
    """Write an .h5ad without a matrix, its `obs` given or taken over from another .h5ad."""
    with h5py.File(path, "w") as file:
        write_elem(file, "/", ad.AnnData(obs=None if isinstance(obs, Path) else obs, var=var))
        if isinstance(obs, Path):
            del file["obs"]
            with h5py.File(obs) as source:
                source.copy("obs", file)


def append_rows(parent: h5py.Group, name: str, x_CG: sparse.csr_matrix) -> None:
    """Lengthen a sparse matrix of an .h5ad by some cells; where there is none it begins with them."""
    parts = {"data": x_CG.data, "indices": x_CG.indices}
    if name not in parent:
        group = parent.create_group(name)
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        for part, values in {**parts, "indptr": np.zeros(0, np.int64)}.items():
            group.create_dataset(part, (0,), values.dtype, chunks=(1 << 16,), maxshape=(None,))
        append(group["indptr"], np.zeros(1, np.int64))
    group = parent[name]
    append(group["indptr"], x_CG.indptr[1:].astype(np.int64) + len(group["data"]))
    _check_room(parent.file, sum(values.nbytes for values in parts.values()))
    for part, values in parts.items():
        append(group[part], values)
    group.attrs["shape"] = (len(group["indptr"]) - 1, x_CG.shape[1])


def append(stored: h5py.Dataset, values: np.ndarray) -> None:
    """Lengthen an array of an open file."""
    stored.resize(len(stored) + len(values), axis=0)
    stored[len(stored) - len(values) :] = values


def _check_room(file: h5py.File, n_bytes: int) -> None:
    """Find out that the disk is full before HDF5 does, which can crash of it."""
    if shutil.disk_usage(file.filename).free < n_bytes + RESERVE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.filename)
