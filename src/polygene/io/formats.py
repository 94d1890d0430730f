"""The formats of cells: each opens as `obs`, `var` and a matrix that is sliced by rows, or transposed first."""

import errno
import logging
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from scipy import sparse
from zarr.storage import FsspecStore, LocalStore, WrapperStore, ZipStore

from polygene.errors import DataError, PolyGeneError
from polygene.io.backed import is_null, native, sparse_in
from polygene.io.h5ad import copy_group
from polygene.io.paths import PathOrURL, filesystem, forget, local_copy, name_of, url_options
from polygene.io.soma import SomaCells, is_soma, open_soma
from polygene.io.tenx import PARTS, MatrixMarket, TenXFile
from polygene.vocab.features import is_gene_type

logger = logging.getLogger("polygene")

AS_H5AD = "Make an .h5ad of it: anndata.io.{}.write_h5ad('cells.h5ad'), with .T where genes are rows."
OTHERS = {
    r"\.csv(\.gz)?$": AS_H5AD.format("read_csv(path)"),
    r"\.(tsv|txt)(\.gz)?$": AS_H5AD.format(r"read_csv(path, delimiter='\t')"),
    r"\.loom$": AS_H5AD.format("read_loom(path)"),
    r"\.(rds|rdata|h5seurat)$": "In R, write a folder of 10x: write10xCounts of DropletUtils (docs/interoperation.md).",
    r"\.(tar|tgz|tar\.gz|zip)$": "Unpack it first, and give what was in it.",
    r"\.gz$": "Unpack it first, with gunzip.",
}
"""What to do with a file that is not read, by its ending."""
KNOWN = "PolyGene reads .h5ad, .zarr, .h5mu, 10x .h5, and folders with matrix.mtx.gz"
ZARR_FILES = ("zarr.json", ".zgroup", ".zmetadata")
_SPARSE_PART = re.compile(r"^(X|raw/X|layers/[^/]+)/(data|indices)/(c/)?\d+$")


def open_format(place: PathOrURL, layer: str | None) -> "Format":
    """Detect the format from the content of a file, folder or URL."""
    label = str(place)
    if isinstance(place, str) and is_soma(place):
        return next(iter(open_soma(place, layer).values()))
    if isinstance(place, str) and name_of(place.rstrip("/")).endswith(".zarr"):
        return AnnDataFile(place.rstrip("/"), layer, label)
    path = local_copy(place, PARTS) if isinstance(place, str) else place
    if not path.exists():
        msg = f"there is no file {label!r}"
        raise DataError(msg)
    if not (path.is_file() or path.is_dir()):
        msg = f"{label} is a pipe or a device, in which no place can be sought: save the cells in a file first"
        raise DataError(msg)
    if any((path / name).exists() for name in ZARR_FILES) or zipfile.is_zipfile(path):
        return AnnDataFile(path, layer, label)
    remedy = next((do for ending, do in OTHERS.items() if re.search(ending, path.name, re.IGNORECASE)), "")
    remedy = f"{remedy} {KNOWN}".strip()
    with read_errors(label):
        found: Format
        if path.is_dir() or re.search(r"\.mtx(\.gz)?$", path.name):
            found = MatrixMarket(path, label)
        elif not h5py.is_hdf5(path):
            forget(label)
            msg = f"{label} is not an .h5ad file nor other HDF5, or its beginning is cut off. {remedy}."
            raise DataError(msg)
        else:
            with h5py.File(path) as file:
                names = list(file)
                is_tenx = any(isinstance(group, h5py.Group) and "barcodes" in group for group in file.values())
            if not is_tenx and not {"obs", "var"} <= set(names):
                msg = f"{label} is HDF5 but holds no cells: it has {', '.join(names) or 'nothing'}. {remedy}."
                raise DataError(msg)
            found = TenXFile(path, label) if is_tenx else AnnDataFile(path, layer, label)
    if layer and not isinstance(found, AnnDataFile):
        msg = f"{label} has no layer {layer!r}; it has no layers and no raw"
        raise DataError(msg)
    return found


@contextmanager
def read_errors(label: str) -> Iterator[None]:
    """Raise any failure to read as DataError that names the file; a full disk is another matter."""
    try:
        yield
    except (PolyGeneError, MemoryError):
        raise
    except Exception as error:  # h5py, zarr, gzip, pandas and anndata each have errors of their own
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, PermissionError):
            msg = f"{label} cannot be read, you may not open it ({why})."
        elif _is_damage(error, far="://" in label):
            wrong = "out of reach, cut off or damaged" if "://" in label else "cut off or damaged"
            forget(label)
            msg = f"{label} cannot be read, it is {wrong} ({why}). Copy or download it again."
        else:
            msg = (
                f"{label} cannot be read ({why}). Nothing says that it is damaged: it is laid out in a way that is not "
                "known here. Open it with what wrote it, and save it again as .h5ad, or pass it as an AnnData."
            )
        raise DataError(msg) from error


_DAMAGE = (OSError, EOFError, UnicodeDecodeError, zlib.error, zipfile.BadZipFile, pd.errors.ParserError)
_READERS = ("h5py", "json", "numcodecs", "pandas._libs.parsers", "pandas.io.parsers", "zarr")


def _is_damage(error: Exception, *, far: bool) -> bool:
    """Whether what reads bytes, or fetches them from far away, says so, and not what looks at their layout."""
    if isinstance(error, _DAMAGE):
        return True
    if isinstance(error, AttributeError | NotImplementedError | TypeError):
        return False
    if far:  # each file system has errors of its own
        return True
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    return frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith(_READERS)


class InMemory:
    """An AnnData object, which may have its X in a file (backed)."""

    path: Path | None = None

    def __init__(self, adata: ad.AnnData, layer: str | None, label: str) -> None:
        self.adata, self.layer, self.others = adata, layer, _others(adata, layer)
        matrix = _select(adata, layer, label)
        if getattr(matrix, "dtype", np.dtype(float)).hasobject:
            msg = (
                f"the expression of {label} is of Python objects, not numbers: set adata.X = adata.X.astype('float32')"
            )
            raise DataError(msg)
        if sparse.issparse(matrix):
            matrix = native(matrix if matrix.format == "csc" else matrix.tocsr()).tocsr()
        self._matrix = sparse_in(matrix.group) if hasattr(matrix, "group") else matrix

    @contextmanager
    def open(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield obs, var and the matrix."""
        yield self.adata.obs, self.adata.raw.var if self.layer == "raw" else self.adata.var, self._matrix


class AnnDataFile:
    """An AnnData in a file: .h5ad, .zarr, or a .zarr that is zipped or at a URL; or the genes of a MuData."""

    def __init__(self, place: PathOrURL, layer: str | None, label: str) -> None:
        self.path: Path | None = place if isinstance(place, Path) else None
        self._place, self._layer, self._label = place, layer, label
        self._hdf5 = self.path if self.path and self.path.is_file() and h5py.is_hdf5(self.path) else None
        self._modality, self._is_old = "", False  # known once it was opened

    @property
    def h5ad(self) -> Path | None:
        """The file, where it is an .h5ad as anndata writes it since 0.7."""
        return None if self._modality or self._is_old else self._hdf5

    @contextmanager
    def open(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield obs, var and the matrix of the open file; obs as a table where the file is older than anndata 0.8."""
        with self.group() as group:
            if any(is_null(group.get(name)) for name in ("obs", "var")):
                msg = f"{self._label} holds no AnnData: it has no obs and var"
                raise DataError(msg)
            self._is_old = isinstance(group["obs"], h5py.Dataset)
            if self._is_old:
                with self._by_anndata() as opened:
                    yield opened
                return
            obs = group["obs"]
            if obs.attrs.get("encoding-version") != "0.2.0":
                obs = read_elem(obs)
            matrix, self.others = _select(group, self._layer, self._label), _others(group, self._layer)
            yield obs, group["raw/var" if self._layer == "raw" else "var"], matrix

    @contextmanager
    def group(self) -> Iterator[h5py.Group | zarr.Group]:
        """Open the file."""
        if self._hdf5:
            with h5py.File(self._hdf5) as file:
                yield self._anndata_in(file)
            return
        if isinstance(self._place, str):
            filesystem(self._place)  # its error names a driver that is missing
            store = FsspecStore.from_url(self._place, url_options(self._place), read_only=True)
        else:
            store = (LocalStore if self._place.is_dir() else ZipStore)(self._place, read_only=True)
        with closing(store):
            try:
                opened = zarr.open_group(_CheckedStore(store), mode="r")
            except FileNotFoundError as error:
                hint = " in it; unpack it, and give what was in it" if self.path and self.path.is_file() else ""
                msg = f"there is no zarr store at {self._label}{hint}"
                raise DataError(msg) from error
            yield self._anndata_in(opened)

    def _anndata_in(self, group: Any) -> Any:
        """Return the modality with the genes where there are several."""
        if "mod" not in group or "X" in group:
            return group
        names = sorted(group["mod"])  # a .zarr lists them in any order
        genes = [name for name in names if is_gene_type(name)]
        if len(genes) != 1:
            msg = (
                f"{self._label} is a MuData of {', '.join(names)}, and not one alone is called rna or gex: save the "
                f"one with the genes, mdata[{names[0]!r}].write_h5ad('rna.h5ad')"
            )
            raise DataError(msg)
        if not self._modality:
            logger.warning("%s is a MuData: of %s, %s is read", self._label, ", ".join(names), genes[0])
            self._modality = genes[0]
        return group["mod"][genes[0]]

    @contextmanager
    def _by_anndata(self) -> Iterator[tuple[Any, Any, Any]]:
        """Read tables as anndata before 0.7 wrote them, one dataset each."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adata = ad.read_h5ad(self.path, backed="r")
        try:
            with InMemory(adata, self._layer, self._label).open() as opened:
                yield opened
        finally:
            adata.file.close()

    def copy_to(self, path: str | Path) -> None:
        """Write all that the file holds as an .h5ad."""
        if self.h5ad:
            shutil.copyfile(self.h5ad, path)
        elif self._is_old:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ad.read_h5ad(self.path).write_h5ad(path)
        else:
            with read_errors(self._label), self.group() as group:
                copy_group(group, path)


Format: TypeAlias = InMemory | AnnDataFile | TenXFile | MatrixMarket | SomaCells
"""Each has `path`, None in memory or far away, and `open`, which yields obs, var and the matrix while they are read."""


class _CheckedStore(WrapperStore[Any]):
    """A store in which a part of a sparse matrix that is missing is an error; to zarr it is a stretch of zeros."""

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        value = await self._store.get(key, *args, **kwargs)
        if value is None and _SPARSE_PART.search(key):
            msg = f"{key} is missing"
            raise OSError(msg)
        return value


def _select(holder: Any, layer: str | None, label: str) -> Any:
    """Find X, a layer or raw in an AnnData or an open file."""
    if isinstance(holder, ad.AnnData):
        own = {None: holder, "raw": holder.raw}
        matrix = getattr(own[layer], "X", None) if layer in own else holder.layers.get(layer)
        absent = matrix is None
    else:
        key = {None: "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
        element = None if is_null(holder.get(key.split("/")[0])) else holder.get(key)
        matrix = sparse_in(element) if isinstance(element, h5py.Group | zarr.Group) else element
        absent = is_null(element)
    if absent:
        others = ", ".join(f"layer={name!r}" for name in _others(holder, layer)) or "no layers and no raw"
        msg = f"{label} has no {'matrix X' if layer is None else f'layer {layer!r}'}; it has {others}"
        raise DataError(msg)
    return matrix


def _others(holder: Any, layer: str | None) -> list[str]:
    """Name the layers that an AnnData or an open file has besides this one, raw the last."""
    in_file = not isinstance(holder, ad.AnnData)
    layers = holder.get("layers", ()) if in_file else holder.layers
    has_raw = not is_null(holder.get("raw")) if in_file else holder.raw is not None
    return [name for name in (*layers, *(["raw"] if has_raw else [])) if name not in (None, layer)]
