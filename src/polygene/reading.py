"""AnnData of any origin as a stream of rows: only the rows at hand are ever in memory.

Legend: C cells of a chunk, G genes of the file.
"""

import glob
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from polygene.errors import DataError
from polygene.scale import Scale, detect_scale

logger = logging.getLogger("polygene")

Source: TypeAlias = str | Path | ad.AnnData
CHUNK = 1_000  # cells: at 3,000 expressed genes a cell, 24 MB of CSR
SAMPLE = 1_000  # cells the scale is told from, in ten places of the file


def expand_paths(patterns: str | Path | Iterable[str | Path]) -> list[Path]:
    """List the files that paths and globs name, each once: globs sorted, the rest in the order given.

    Raises
    ------
    DataError
        A pattern names no file.
    """
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str | Path) else patterns:
        exact = Path(pattern).expanduser()
        globbed = sorted(glob.glob(str(exact), recursive=True))  # noqa: PTH207 (Path.glob refuses absolute patterns)
        matches = [exact] if exact.exists() else [Path(match) for match in globbed]
        if not matches:
            msg = f"there is no file {str(pattern)!r}; give paths of .h5ad files, or globs such as 'atlas/*.h5ad'"
            raise DataError(msg)
        found.update(dict.fromkeys(matches))
    return list(found)


def open_sources(
    sources: Source | Sequence[Source] | Mapping[str, Source], *, layer: str | None = None
) -> list["CellSource"]:
    """Open files, globs and AnnData objects, each under a name of its own.

    A file's name is its stem, an object's is "adata", a mapping gives names itself. A name met again is numbered.

    Raises
    ------
    DataError
        Nothing was given, or one of them is no AnnData.
    """
    pairs: list[tuple[str | None, Source]]
    if isinstance(sources, Mapping):
        pairs = list(sources.items())
    else:
        listed = sources if isinstance(sources, Sequence) and not isinstance(sources, str) else [sources]
        pairs = [
            (None, one) for item in listed for one in (expand_paths(item) if isinstance(item, str | Path) else [item])
        ]
    if not pairs:
        msg = "no cells were given; give at least one .h5ad file or AnnData"
        raise DataError(msg)
    opened: list[CellSource] = []
    for name, source in pairs:
        cells = open_cells(source, layer=layer, name=name)
        taken = {other.name for other in opened}
        names = chain([cells.name], (f"{cells.name}-{number}" for number in count(2)))
        cells.name = next(name for name in names if name not in taken)
        opened.append(cells)
    return opened


def open_cells(source: Any, *, layer: str | None = None, name: str | None = None) -> "CellSource":
    """Open cells for reading in chunks.

    Parameters
    ----------
    source
        The path of an .h5ad file, or an AnnData.
    layer
        A layer to read in place of `X`; "raw" for `.raw`, with its own genes.
    name
        What the source is called in tables; by default the file's stem, or "adata".

    Raises
    ------
    DataError
        The source is no AnnData, is cut off, holds no cells or no genes, or has no such layer.
    """
    if isinstance(source, ad.AnnData):
        cells = CellSource(adata=source, path=None, layer=layer, name=name or "adata")
    elif isinstance(source, str | Path):
        path = Path(source).expanduser()
        cells = CellSource(adata=None, path=path, layer=layer, name=name or path.stem)
    else:
        msg = f"cells are read from an AnnData or from the path of an .h5ad file; got {type(source).__name__}"
        raise DataError(msg)
    if cells.n_obs == 0 or len(cells.var) == 0:
        msg = f"{cells.label} is empty: {cells.n_obs:,} cells × {len(cells.var):,} genes"
        raise DataError(msg)
    return cells


class CellSource:
    """The cells of one file or AnnData, opened by `open_cells`; a file is only open while it is read.

    Attributes
    ----------
    name
        What the source is called in tables.
    path
        The file, None for an AnnData in memory.
    layer
        The layer read in place of `X`, None for `X`, "raw" for `.raw`.
    n_obs
        Number of cells.
    var
        The genes: one row each, from `.raw` where that is read.
    columns
        The columns of `obs`.
    """

    def __init__(self, *, adata: ad.AnnData | None, path: Path | None, layer: str | None, name: str) -> None:
        self.name, self.path, self.layer = name, path, layer
        self._adata = adata
        self._matrix: Any = None if adata is None else self._in_rows(_select(adata, layer, self.label))
        with self._opened() as (obs, var, matrix):
            self.var: pd.DataFrame = var.copy() if isinstance(var, pd.DataFrame) else read_elem(var)
            self.var.index = self.var.index.astype(str)
            self.columns: tuple[str, ...] = tuple(_columns(obs))
            self.n_obs: int = len(obs) if isinstance(obs, pd.DataFrame) else int(matrix.shape[0])

    @property
    def label(self) -> str:
        """What messages call the source: its path, or its name."""
        return str(self.path or self.name)

    @cached_property
    def obs(self) -> pd.DataFrame:
        """The whole of `obs`."""
        with self._opened() as (obs, _, _):
            return obs if isinstance(obs, pd.DataFrame) else read_elem(obs)

    @cached_property
    def scale(self) -> Scale:
        """The scale of the values, told from rows in ten places of the file."""
        return self.find_scale()

    def find_scale(self, rows: np.ndarray | None = None) -> Scale:
        """Tell the scale from some of these rows (all by default), and say it aloud.

        Raises
        ------
        ScaleError
            The values are neither counts nor log1p values.
        """
        scale = detect_scale(self.sample(rows).X)
        logger.info("%s: %s cells × %s genes, %s", self.label, f"{self.n_obs:,}", f"{len(self.var):,}", scale)
        return scale

    def sample(self, rows: np.ndarray | None = None, *, columns: Iterable[str] = ()) -> ad.AnnData:
        """Read up to 1,000 of these rows (of all by default), from ten places of the file."""
        rows = np.arange(self.n_obs) if rows is None else rows
        starts = np.unique(np.linspace(0, max(len(rows) - SAMPLE // 10, 0), 10).astype(np.int64))
        chosen = np.unique(np.concatenate([rows[start : start + SAMPLE // 10] for start in starts]))
        chunks = list(self.chunks(chosen, columns=[name for name in columns if name in self.columns]))
        obs = pd.concat([chunk.obs for chunk in chunks])
        return _cells(sparse.vstack([chunk.X for chunk in chunks], format="csr"), obs, self.var)

    def frame(self, columns: Iterable[str]) -> pd.DataFrame:
        """Those columns of `obs` that exist, without the names of the cells, text as categories: a few bytes a cell."""
        present = [column for column in dict.fromkeys(columns) if column in self.columns]
        with self._opened() as (obs, _, _):
            read = {column: pd.Series(_column(obs, column, slice(None))) for column in present}
        return pd.DataFrame(
            {name: column.astype("category") if column.dtype == object else column for name, column in read.items()},
            index=pd.RangeIndex(self.n_obs),
        )

    def names(self, size: int = 100 * CHUNK) -> Iterator[np.ndarray]:
        """Read the names of the cells, `size` at a time, as str objects."""
        with self._opened() as (obs, _, _):
            for first in range(0, self.n_obs, size):
                yield _names(obs, slice(first, min(first + size, self.n_obs))).to_numpy(dtype=object)

    def chunks(
        self, rows: np.ndarray | None = None, size: int = CHUNK, *, columns: Iterable[str] | None = None
    ) -> Iterator[ad.AnnData]:
        """Read the cells in order, at most `size` at a time, as AnnData in memory with CSR in `X`.

        Parameters
        ----------
        rows
            Increasing row numbers; all rows by default. A stretch of `size` rows without any of them is not read.
        size
            Cells held at once.
        columns
            Columns of `obs` to read; all by default.
        """
        if rows is not None and len(rows) and (rows[0] < 0 or rows[-1] >= self.n_obs or (np.diff(rows) <= 0).any()):
            msg = f"rows of {self.label} must be increasing numbers from 0 to {self.n_obs - 1:,}"
            raise ValueError(msg)
        with self._opened() as (obs, _, matrix):
            kept = list(self.columns if columns is None else columns)
            for first in range(0, self.n_obs, size):
                window = slice(first, min(first + size, self.n_obs))
                within: slice | np.ndarray = slice(None)
                if rows is not None:
                    chosen = rows[np.searchsorted(rows, window.start) : np.searchsorted(rows, window.stop)]
                    if not len(chosen):
                        continue
                    window = slice(int(chosen[0]), int(chosen[-1]) + 1)
                    within = chosen - window.start
                table = pd.DataFrame(
                    {column: _column(obs, column, window) for column in kept}, index=_names(obs, window)
                )
                yield _cells(sparse.csr_matrix(matrix[window])[within], table.iloc[within], self.var)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any, Any]]:
        """Give (obs, var, matrix): tables and an array in memory, or what stands in the open file."""
        if self._adata is not None:
            var = self._adata.raw.var if self.layer == "raw" else self._adata.var
            yield self._adata.obs, var, self._matrix
            return
        assert self.path is not None  # by the constructor: one of the two is given
        with _open_file(self.path) as file:
            matrix = self._matrix if self._matrix is not None else self._in_rows(_select(file, self.layer, self.label))
            obs = file["obs"]
            if obs.attrs.get("encoding-version") != "0.2.0":  # before anndata 0.8: read whole
                obs = read_elem(obs)
            yield obs, file["raw/var" if self.layer == "raw" else "var"], matrix

    def _in_rows(self, matrix: Any) -> Any:
        """Give what can be sliced by rows: a matrix stored by columns is turned once, in memory."""
        if getattr(matrix, "format", None) not in ("csc", "coo"):
            return matrix
        if self._adata is None:
            logger.warning(
                "%s is stored by genes (CSC), so its matrix is held in memory; to stream it, save it by cells: "
                "adata.X = adata.X.tocsr()",
                self.label,
            )
        self._matrix = (matrix if sparse.issparse(matrix) else read_elem(matrix.group)).tocsr()
        return self._matrix


class _StoredMatrix:
    """A sparse matrix in a file, read row by row if it is stored by rows."""

    def __init__(self, group: h5py.Group) -> None:
        self.group = group
        self.format = str(group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", "csr")))[:3]
        self.shape = tuple(group.attrs.get("shape", group.attrs.get("h5sparse_shape")))

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        indptr = self.group["indptr"][rows.start : rows.stop + 1]
        entries = slice(indptr[0], indptr[-1])
        parts = self.group["data"][entries], self.group["indices"][entries], indptr - indptr[0]
        return sparse.csr_matrix(parts, shape=(rows.stop - rows.start, self.shape[1]))


@contextmanager
def _open_file(path: Path) -> Iterator[h5py.File]:
    """Open an .h5ad file, and say plainly what is wrong with one that does not open."""
    if not path.exists():
        msg = f"there is no file {str(path)!r}"
        raise DataError(msg)
    if path.is_dir() or not h5py.is_hdf5(path):
        msg = f"{path} is not an .h5ad file (no HDF5); PolyGene reads .h5ad: adata.write_h5ad('cells.h5ad')"
        raise DataError(msg)
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("obs"), h5py.Group) or not isinstance(file.get("var"), h5py.Group):
                msg = f"{path} is HDF5 but holds no AnnData: it has {', '.join(file) or 'nothing'}, and no obs and var"
                raise DataError(msg)
            yield file
    except OSError as error:
        msg = f"{path} cannot be read, it is cut off or damaged: {error}. Copy or download it again."
        raise DataError(msg) from error


def _cells(x_CG: sparse.csr_matrix, obs: pd.DataFrame, var: pd.DataFrame) -> ad.AnnData:
    """Make an AnnData of a chunk; names that repeat are for those to judge who read them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
        return ad.AnnData(X=x_CG, obs=obs, var=var)


def _select(holder: Any, layer: str | None, label: str) -> Any:
    """Find X, a layer or raw in an AnnData or an open file."""
    in_file = isinstance(holder, h5py.File)
    layers = list(holder.get("layers", ()) if in_file else holder.layers)
    if in_file:
        key = {None: "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
        element = holder.get(key) if not _is_null(holder.get(key.split("/")[0])) else None
        matrix = _StoredMatrix(element) if isinstance(element, h5py.Group) else element
    elif layer == "raw":
        matrix = None if holder.raw is None else holder.raw.X
    else:
        matrix = holder.X if layer is None else holder.layers.get(layer)
    if matrix is None or _is_null(matrix):
        has_raw = not _is_null(holder.get("raw")) if in_file else holder.raw is not None
        others = [f"layer={name!r}" for name in [*layers, *(["raw"] if has_raw else [])]]
        wanted = "matrix X" if layer is None else f"layer {layer!r}"
        msg = f"{label} has no {wanted}; it has {', '.join(others) or 'no layers and no raw'}"
        raise DataError(msg)
    return matrix


def _is_null(element: Any) -> bool:
    """Say whether an element of a file is absent, or written as None."""
    return element is None or (isinstance(element, h5py.Dataset) and element.shape is None)


def _columns(obs: Any) -> Iterable[str]:
    """Name the columns of a table in memory or in a file."""
    return map(str, obs.columns if isinstance(obs, pd.DataFrame) else obs.attrs["column-order"])


def _names(obs: Any, rows: slice) -> pd.Index:
    """Name these cells."""
    if isinstance(obs, pd.DataFrame):
        return obs.index[rows].astype(str)
    return pd.Index(_column(obs, obs.attrs["_index"], rows)).astype(str)


def _column(obs: Any, name: str, rows: slice) -> Any:
    """Read these rows of one column; of a file, no other rows unless the column is of a rare kind."""
    if isinstance(obs, pd.DataFrame):
        return obs[name].array[rows]
    element = obs[name]
    kind = element.attrs.get("encoding-type")
    if kind == "categorical":
        categories, ordered = read_elem(element["categories"]), bool(element.attrs["ordered"])
        return pd.Categorical.from_codes(element["codes"][rows], categories=categories, ordered=ordered)
    if kind == "string-array":
        return element.asstr()[rows]
    return element[rows] if kind == "array" else read_elem(element)[rows]
