"""Cells of any format, local or remote, as a stream of rows: only the chunk at hand is in memory.

Legend: C cells of a chunk, G genes of the file.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from filecmp import cmp
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from polygene.errors import DataError
from polygene.io.backed import BackedCSC, column_of, length_of, names_of, native
from polygene.io.formats import AnnDataFile, Format, InMemory, open_format, read_errors
from polygene.io.h5ad import write_cells, write_held, write_tables
from polygene.io.paths import expand_paths, name_of
from polygene.io.soma import SomaObs, is_soma, open_soma
from polygene.io.tenx import MatrixMarket
from polygene.io.transpose import TransposedMatrix, transpose_on_disk
from polygene.vocab.features import kinds_of_features, left_out
from polygene.vocab.scale import Scale, detect_scale

logger = logging.getLogger("polygene")

Source: TypeAlias = str | Path | ad.AnnData
CHUNK = 1_000  # cells: at 3,000 expressed genes a cell, 24 MB of CSR
SAMPLE = 1_000  # cells from which the scale is detected, in ten stretches of the file


def open_sources(
    sources: Source | Sequence[Source] | Mapping[str, Source], *, layer: str | None = None, where: str | None = None
) -> list["CellSource"]:
    """Open files, URLs, globs and AnnData objects, each under a name of its own.

    A file's name is its stem, an object's is "adata", a mapping gives names itself. A name met again is numbered. Of a
    SOMA experiment the cells that `where` selects are opened, each data set by itself.
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
        msg = "no cells were given; give at least one file or AnnData"
        raise DataError(msg)
    if where and not any(is_soma(source) for _, source in pairs):
        msg = f"where={where!r} (--where) selects cells of a SOMA experiment, and none of the sources is one (soma://…)"
        raise DataError(msg)
    opened: list[CellSource] = []
    for name, source in _each_once(pairs):
        for cells in _open_each(source, layer, where, name):
            taken = {other.name for other in opened}
            names = chain([cells.name], (f"{cells.name}-{number}" for number in count(2)))
            cells.name = next(name for name in names if name not in taken)
            opened.append(cells)
    return opened


def _each_once(pairs: Iterable[tuple[str | None, Source]]) -> Iterator[tuple[str | None, Source]]:
    """Leave out a file that was given before, as where globs overlap, and a copy of one."""
    seen: dict[int, list[Path]] = {}  # by size
    for name, source in pairs:
        if isinstance(source, str | Path) and (path := Path(source)).exists():
            alike = seen.setdefault(path.stat().st_size, [])
            if any(path.samefile(other) for other in alike):
                logger.warning("%s was given before, and is read once", source)
                continue
            if path.is_file() and (copied := [one for one in alike if one.is_file() and cmp(path, one, shallow=False)]):
                logger.warning("%s is a copy of %s, byte for byte, and the cells are read once", source, copied[0])
                continue
            alike.append(path)
        yield name, source


def _open_each(source: Source, layer: str | None, where: str | None, name: str | None) -> Iterator["CellSource"]:
    if not is_soma(source):
        yield open_cells(source, layer=layer, name=name)
        return
    parts = open_soma(str(source), layer, where, apart=True)
    for part, cells in parts.items():
        label = f"{source} ({part})" if len(parts) > 1 else str(source)
        yield CellSource(cells, layer=layer, label=label, name=part if len(parts) > 1 else name or part)


def open_cells(source: Any, *, layer: str | None = None, name: str | None = None) -> "CellSource":
    """Open cells for reading in chunks: an AnnData, or the place of an .h5ad, .zarr, 10x .h5, folder of 10x or SOMA.

    `layer` is read in place of `X`; "raw" is `.raw`, with its own genes. `name` is that of the source in tables, by
    default the file's stem, or "adata".
    """
    if isinstance(source, ad.AnnData):
        label = name or "adata"
        cells = CellSource(InMemory(source, layer, label), layer=layer, label=label, name=label)
    elif isinstance(source, str | Path):
        place, *others = expand_paths(source)
        if others:
            msg = f"{str(source)!r} names {1 + len(others):,} files; give one, so that each gets its own results"
            raise DataError(msg)
        stem = Path(name_of(place.rstrip("/") if isinstance(place, str) else place)).stem
        cells = CellSource(open_format(place, layer), layer=layer, label=str(place), name=name or stem)
    else:
        is_mudata = type(source).__name__ == "MuData"
        remedy = "; pass the modality with the genes, such as mdata['rna']" if is_mudata else ""
        msg = f"cells are read from an AnnData or from the path of a file; got {type(source).__name__}{remedy}"
        raise DataError(msg)
    if cells.n_obs == 0 or len(cells.var) == 0:
        msg = f"{cells.label} is empty: {cells.n_obs:,} cells × {len(cells.var):,} genes"
        raise DataError(msg)
    return cells


class CellSource:
    """The cells of one file or AnnData, opened by `open_cells`; a file is only open while it is read.

    Attributes
    ----------
    name, label
        What the source is called in tables, and in messages: its path or URL as it was given, or its name.
    path
        The file or folder on this machine (of a URL, the copy that was fetched); None for an AnnData in memory and for
        a .zarr that is read over the network.
    layer
        The layer read in place of `X`, None for `X`, "raw" for `.raw`.
    n_obs, var, columns
        Number of cells, the genes (one row each, from `.raw` where that is read), the columns of `obs`.
    features, columns_G, left_out
        All features of the file, genes or not; the place of each gene among them; how many others of which kind are not
        read.
    """

    def __init__(self, cells: Format, *, layer: str | None, label: str, name: str) -> None:
        self.name, self.label, self.layer, self.path = name, label, layer, cells.path
        self._format = cells
        self._transposed: TransposedMatrix | None = None
        with self._opened() as (obs, var, matrix):
            self.features: pd.DataFrame = var.copy() if isinstance(var, pd.DataFrame) else read_elem(var)
            self.features.index = self.features.index.astype(str)
            in_memory = isinstance(obs, pd.DataFrame)
            self.columns: tuple[str, ...] = tuple(map(str, obs.columns if in_memory else obs.attrs["column-order"]))
            self.n_obs: int = int(matrix.shape[0])
            n_names = len(obs) if in_memory else length_of(obs[obs.attrs["_index"]])
        if (n_names, len(self.features)) != tuple(matrix.shape):
            msg = f"{label} is damaged: a matrix of {matrix.shape} for {n_names:,} cells × {len(self.features):,} genes"
            raise DataError(msg)
        kind_F = kinds_of_features(self.features)
        self.left_out, self.columns_G = left_out(kind_F, label), np.flatnonzero(kind_F == "")
        self.var: pd.DataFrame = self.features.iloc[self.columns_G] if self.left_out else self.features

    @cached_property
    def obs(self) -> pd.DataFrame:
        """The whole of `obs`."""
        with self._opened() as (obs, _, _):
            if isinstance(obs, SomaObs):
                return obs.to_frame()
            return obs if isinstance(obs, pd.DataFrame) else read_elem(obs)

    @cached_property
    def scale(self) -> Scale:
        """The scale of the values, detected from rows in ten stretches of the file."""
        return self.find_scale()

    def find_scale(self, rows: np.ndarray | None = None, *, ranks: bool = False) -> Scale:
        """Detect the scale from some of these rows (all by default), and log it; `ranks` as for `detect_scale`."""
        whole = _stacked(self._chunks(self._stretches(rows), columns=())) if self.left_out else None
        scale = detect_scale(self.sample(rows).X, whole, ranks=ranks, others=getattr(self._format, "others", None))
        logger.info("%s: %s cells × %s genes, %s", self.label, f"{self.n_obs:,}", f"{len(self.var):,}", scale)
        return scale

    def sample(self, rows: np.ndarray | None = None, *, columns: Iterable[str] = ()) -> ad.AnnData:
        """Read up to 1,000 of these rows (of all by default), from ten stretches of the file."""
        return self.read(self._stretches(rows), columns=[name for name in columns if name in self.columns])

    def read(self, rows: np.ndarray, *, columns: Iterable[str] | None = None) -> ad.AnnData:
        """Read these rows into memory, increasing numbers, with these columns of `obs` (all by default)."""
        chunks = list(self.chunks(rows, columns=columns))
        return _cells(_stacked(chunks), pd.concat([chunk.obs for chunk in chunks]), self.var)

    def _stretches(self, rows: np.ndarray | None) -> np.ndarray:
        rows = np.arange(self.n_obs) if rows is None else rows
        starts = np.unique(np.linspace(0, max(len(rows) - SAMPLE // 10, 0), 10).astype(np.int64))
        return np.unique(np.concatenate([rows[start : start + SAMPLE // 10] for start in starts]))

    def frame(self, columns: Iterable[str]) -> pd.DataFrame:
        """Those columns of `obs` that exist, without the names of the cells, text as categories: a few bytes a cell."""
        present = [column for column in dict.fromkeys(columns) if column in self.columns]
        with self._opened() as (obs, _, _):
            read = {column: pd.Series(column_of(obs, column, slice(None))) for column in present}
        return pd.DataFrame(
            {name: column.astype("category") if column.dtype == object else column for name, column in read.items()},
            index=pd.RangeIndex(self.n_obs),
        )

    def names(self, size: int = 100 * CHUNK) -> Iterator[np.ndarray]:
        """Read the names of the cells, `size` at a time, as str objects."""
        with self._opened() as (obs, _, _):
            for first in range(0, self.n_obs, size):
                yield names_of(obs, slice(first, min(first + size, self.n_obs))).to_numpy(dtype=object)

    def chunks(
        self, rows: np.ndarray | None = None, size: int = CHUNK, *, columns: Iterable[str] | None = None
    ) -> Iterator[ad.AnnData]:
        """Read the cells in order, at most `size` at a time, as AnnData in memory with CSR in `X`.

        `rows` are increasing row numbers, all by default; a stretch of `size` rows without any of them is not read.
        `columns` are those of `obs` to read, all by default. Features that are no genes are not among the columns.
        """
        for chunk in self._chunks(rows, size, columns):
            yield _cells(chunk.X[:, self.columns_G], chunk.obs, self.var) if self.left_out else chunk

    def _chunks(
        self, rows: np.ndarray | None = None, size: int = CHUNK, columns: Iterable[str] | None = None
    ) -> Iterator[ad.AnnData]:
        """Read the cells with all features."""
        if rows is not None and len(rows) and (rows[0] < 0 or rows[-1] >= self.n_obs or (np.diff(rows) <= 0).any()):
            msg = f"rows of {self.label} must be increasing numbers from 0 to {self.n_obs - 1:,}"
            raise ValueError(msg)
        with self._opened() as (obs, _, matrix):
            once = (name for name, n in Counter(self.columns).items() if n == 1)
            kept = list(once if columns is None else columns)
            wanted = range(self.n_obs) if rows is None else range(*(rows[[0, -1]] + [0, 1] if len(rows) else (0, 0)))
            for first in range(wanted.start // size * size, wanted.stop, size):
                window = slice(first, min(first + size, self.n_obs))
                within: slice | np.ndarray = slice(None)
                if rows is not None:
                    chosen = rows[np.searchsorted(rows, window.start) : np.searchsorted(rows, window.stop)]
                    if not len(chosen):
                        continue
                    window = slice(int(chosen[0]), int(chosen[-1]) + 1)
                    within = chosen - window.start
                table = pd.DataFrame(
                    {column: column_of(obs, column, window) for column in kept}, index=names_of(obs, window)
                )
                x_CF = sparse.csr_matrix(native(self._in_rows(matrix)[window]))[within]
                yield _cells(x_CF, table.iloc[within], self.features)

    def write_h5ad(self, path: str | Path, *, var: pd.DataFrame | None = None) -> None:
        """Write all that the source holds as an .h5ad, block by block: X, layers and raw, whichever of them is read.

        With another `var` only `obs` is taken over, and there is no matrix yet. Nothing is left of a file that could
        not be written whole.
        """
        try:
            if var is not None:
                stored = self._format.h5ad if isinstance(self._format, AnnDataFile) else None
                write_tables(path, stored or self.obs, var)
            elif isinstance(self._format, InMemory):
                write_held(self._format.adata, path)
            elif isinstance(self._format, AnnDataFile):
                self._format.copy_to(path)
            else:
                write_cells(self._chunks(), self.obs, self.features, path)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield (obs, var, matrix): tables and an array in memory, or elements of the open file."""
        in_file = nullcontext() if isinstance(self._format, InMemory) else read_errors(self.label)
        with in_file, self._format.open() as opened:
            yield opened

    def _in_rows(self, matrix: Any) -> Any:
        """Return what can be sliced by rows: other matrices are transposed once, on disk."""
        if not isinstance(matrix, BackedCSC | MatrixMarket):
            return matrix
        if self._transposed is None:
            self._transposed = transpose_on_disk(matrix, self.label)
        return self._transposed


def _stacked(chunks: Iterable[ad.AnnData]) -> sparse.csr_matrix:
    return sparse.vstack([chunk.X for chunk in chunks], format="csr")


def _cells(x_CG: sparse.csr_matrix, obs: pd.DataFrame, var: pd.DataFrame) -> ad.AnnData:
    """Make an AnnData of a chunk; names that repeat are for those to judge who read them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
        return ad.AnnData(X=x_CG, obs=obs, var=var)
