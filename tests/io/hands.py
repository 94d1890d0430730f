"""Files of cells in every format, and layouts that the installed anndata does not write, made by hand."""

import gzip
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import zarr
from anndata.io import read_elem, write_elem
from scipy.io import mmwrite

from polygene.vocab.gene_names import human_genes

FORMATS = (
    "csr.h5ad", "csc.h5ad", "dense.h5ad", "csr.zarr", "v2.zarr", "csc.zarr", "dense.zarr", "zarr.zip",
    "10x.h5", "10x-v2.h5", "mtx", "mtx-v2",
)  # fmt: skip


def write_as(adata: ad.AnnData, folder: Path, kind: str) -> Path:
    """Write cells in one of `FORMATS`; 10x and Matrix Market keep names and X only."""
    path = folder / f"cells-{kind}"
    adata = adata.copy()
    if kind.startswith(("csc", "dense")):
        adata.X = adata.X.toarray() if kind.startswith("dense") else adata.X.tocsc()
    if kind.endswith("h5ad"):
        adata.write_h5ad(path)
    elif "zarr" in kind:
        with ad.settings.override(zarr_write_format=2 if "v2" in kind else 3), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)  # zarr 3 on what anndata does
            store = zarr.storage.ZipStore(path, mode="w") if kind == "zarr.zip" else path
            adata.write_zarr(store)
            if kind == "zarr.zip":
                store.close()
    elif kind.startswith("10x"):
        _write_tenx(adata, path, features="v2" not in kind)
    else:
        path.mkdir()
        packed, name = ("", "genes.tsv") if "v2" in kind else (".gz", "features.tsv")
        opened = gzip.open if packed else open
        with opened(path / f"matrix.mtx{packed}", "wb") as file:
            mmwrite(file, adata.X.T.tocoo().astype(int), comment="made by a test")
        with opened(path / f"{name}{packed}", "wt") as file:
            kinds = adata.var.get("feature_types", ["Gene Expression"] * adata.n_vars)
            file.writelines("\t".join(row) + "\n" for row in zip(_ids(adata), adata.var_names, kinds, strict=True))
        with opened(path / f"barcodes.tsv{packed}", "wt") as file:
            file.writelines(f"{name}\n" for name in adata.obs_names)
    return path


def _write_tenx(adata: ad.AnnData, path: Path, *, features: bool) -> None:
    ids, symbols = _ids(adata), list(adata.var_names)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if features else "GRCh38")
        group["barcodes"] = np.array(adata.obs_names, dtype="S")
        group["shape"] = np.array(adata.shape[::-1], dtype=np.int32)
        group["data"], group["indices"] = adata.X.data.astype(np.int32), adata.X.indices.astype(np.int64)
        group["indptr"] = adata.X.indptr.astype(np.int64)
        if features:
            kinds = adata.var.get("feature_types", ["Gene Expression"] * adata.n_vars)
            for name, values in {
                "id": ids,
                "name": symbols,
                "feature_type": kinds,
                "genome": ["GRCh38"] * len(ids),
            }.items():
                group[f"features/{name}"] = np.array(values, dtype="S")
        else:
            group["genes"], group["gene_names"] = np.array(ids, dtype="S"), np.array(symbols, dtype="S")


def _ids(adata: ad.AnnData) -> list[str]:
    known = human_genes().ids
    made = (known.get(name, f"ENSG{g:011d}") for g, name in enumerate(adata.var_names))
    return list(adata.var.get("gene_ids", made))


@contextmanager
def changed(path: Path) -> Iterator[Any]:
    """Open a file or store to change what is in it."""
    if path.is_file():
        with h5py.File(path, "r+") as file:
            yield file
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # zarr 3 on what anndata does
        yield zarr.open_group(path, mode="r+", use_consolidated=False)
        zarr.consolidate_metadata(path)


def stored_as(path: Path, name: str, dtype: str) -> None:
    """Store the numbers of a file as another type."""
    with changed(path) as opened:
        values, attributes = opened[name][:], dict(opened[name].attrs)
        del opened[name]
        make = opened.create_dataset if path.is_file() else opened.create_array
        make(name, data=values.astype(dtype)).attrs.update(attributes)


def as_nullable_strings(path: Path, names: Sequence[str], gaps: Sequence[int] = ()) -> None:
    """Store texts of a file as pandas 3 and anndata 0.13 do: values and a mask."""
    attributes = {"encoding-type": "nullable-string-array", "encoding-version": "0.1.0", "na-value": "NaN"}
    with changed(path) as opened:
        for name in names:
            values = np.asarray(read_elem(opened[name]), dtype=object)
            del opened[name]
            group = opened.create_group(name)
            group.attrs.update(attributes)
            write_elem(group, "values", values)
            write_elem(group, "mask", np.isin(np.arange(len(values)), gaps))


def as_anndata_06(adata: ad.AnnData, path: Path) -> Path:
    """Write what anndata 0.6 wrote: tables as one compound dataset, categories in uns, h5sparse, raw.X."""
    with h5py.File(path, "w") as file:
        _old_table(file, "obs", adata.obs)
        _old_table(file, "var", adata.var)
        for column in adata.obs.select_dtypes("category"):
            names = np.array(adata.obs[column].cat.categories, dtype="S")
            file.create_dataset(f"uns/{column}_categories", data=names)
        _h5sparse(file, "X", adata.X)
        if adata.raw is not None:
            _old_table(file, "raw.var", adata.raw.var)
            _h5sparse(file, "raw.X", adata.raw.X)
    return path


def _old_table(file: h5py.File, name: str, table: Any) -> None:
    columns = {"index": np.array(table.index, dtype="S")}
    for column, values in table.items():
        numbers = values.cat.codes if values.dtype == "category" else values
        columns[column] = np.array(values, dtype="S") if values.dtype == object else numbers.to_numpy()
    rows = np.empty(len(table), dtype=[(column, values.dtype) for column, values in columns.items()])
    for column, values in columns.items():
        rows[column] = values
    file.create_dataset(name, data=rows)


def _h5sparse(file: h5py.File, name: str, x: Any) -> None:
    group = file.create_group(name)
    group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = x.format, x.shape
    for part in ("data", "indices", "indptr"):
        group.create_dataset(part, data=getattr(x, part))


def as_mudata(modalities: dict[str, ad.AnnData], folder: Path, kind: str) -> Path:
    """Write what mudata writes: each modality under mod, and tables of all of them."""
    path = folder / f"cells.{'h5mu' if kind.endswith('h5ad') else 'zarr'}"
    opened = h5py.File(path, "w") if kind.endswith("h5ad") else zarr.open_group(path, mode="w")
    opened.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0"})
    first = next(iter(modalities.values()))
    opened.create_group("mod")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # zarr 3 on what anndata does
        for name, adata in modalities.items():
            write_elem(opened, f"mod/{name}", adata)
        write_elem(opened, "obs", first.obs[[]])
        write_elem(opened, "var", first.var[[]])
    if isinstance(opened, h5py.File):
        opened.close()
    return path
