"""What a verb adds to cells, block by block: to an AnnData in memory, to a copy of a file, or as a table of its own.

Answers on their way to a file go at once to a part beside it, one for each process (Arrow), and from there into the
file, so that memory does not grow with the cells.

Legend: C cells, M columns of the file that are answered.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from anndata.io import read_elem, write_elem
from scipy import sparse

from polygene.errors import DataError
from polygene.io.h5ad import append_rows
from polygene.io.read import CellSource
from polygene.runtime.distributed import own_rows, rank, together, world_size
from polygene.runtime.progress import progress

ROOT = "polygene"
SUFFIXES = (".h5ad", ".csv", ".parquet")
MATRICES = (".h5ad",)
"""Where a matrix of genes can go: not into a table."""
MEGABYTE = 1 << 20
BLOCKS_AT_ONCE = 10
"""Blocks of a part that go into the file together: some 10,000 cells, a row group of Parquet."""


class Block(NamedTuple):
    """Answers for some cells: new columns of `obs`, a row for each cell, by its name; new arrays of `obsm`; new layers.

    A layer comes as what stands in the columns that `Answers` names, (C, M). Of a new AnnData it is "X", and whole.
    """

    obs: pd.DataFrame
    obsm: Mapping[str, np.ndarray]
    layers: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What a verb finds out about the cells of one source, when it is asked for.

    Attributes
    ----------
    verb
        Which function makes it.
    cells
        The cells it is about.
    blocks
        Gives the answers for a range of rows, in order.
    uns
        How they are made; goes to `uns["polygene"][verb]`.
    columns_M, var
        The columns of the file that layers fill, ascending, and new columns of `var`.
    genes
        For a new AnnData, which has the `obs` of the cells and "X" of the blocks: its `var`.
    """

    verb: str
    cells: CellSource
    blocks: Callable[[range], Iterable[Block]]
    uns: Mapping[str, Any] = field(default_factory=dict)
    columns_M: np.ndarray | None = None
    var: Mapping[str, np.ndarray] = field(default_factory=dict)
    genes: pd.DataFrame | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the name of a file for them can end with."""
        return SUFFIXES if self.columns_M is None and self.genes is None else MATRICES

    def collect(self) -> Block:
        """Answer for all cells, in memory."""
        blocks = list(self.blocks(range(self.cells.n_obs)))
        obsm = {name: np.concatenate([block.obsm[name] for block in blocks]) for name in blocks[0].obsm}
        layers = {name: np.concatenate([block.layers[name] for block in blocks]) for name in blocks[0].layers}
        return Block(pd.concat([block.obs for block in blocks]), obsm, layers)

    def add_to(self, adata: ad.AnnData) -> None:
        """Write them into an AnnData; what has the same name is replaced."""
        obs, obsm, layers = self.collect()
        for name, column in obs.items():
            adata.obs[name] = column.array
        for name, array in obsm.items():
            adata.obsm[name] = array
        for name, x_CM in layers.items():
            adata.layers[name] = self.spread(x_CM)
        for name, values in self.var.items():
            adata.var[name] = values
        note_in(adata, self.verb, self.uns)

    def to_adata(self) -> ad.AnnData:
        """Make the new AnnData."""
        x_CG = self.collect().layers["X"]
        return ad.AnnData(x_CG, obs=self.cells.obs.copy(), var=self.genes, uns={ROOT: {self.verb: dict(self.uns)}})

    def spread(self, x_CM: np.ndarray) -> sparse.csr_matrix:
        """Place answers in the columns of the file; the others hold nothing."""
        n_cells, n_columns = x_CM.shape
        entries = (x_CM.reshape(-1), np.tile(np.asarray(self.columns_M), n_cells), np.arange(n_cells + 1) * n_columns)
        return sparse.csr_matrix(entries, shape=(n_cells, len(self.cells.var)))


@contextmanager
def answers_to(out: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Callable[[Answers], None]]:
    """Give what writes answers to a file: a copy of the cells (.h5ad), or only the answers (.csv, .parquet).

    Entered before the work begins, it finds out at once whether the file can be written. All processes of a run enter
    it; each answers for its rows, and the first puts all together, so they must share the folder. The file appears
    whole or not at all, and nothing else stays.

    Raises
    ------
    DataError
        The file cannot be written, or a process of the run failed.
    """
    out = _place(out, suffixes)
    made: list[Path] = []
    try:
        with together() as gather, ExitStack() as stack:
            run = gather(os.getpid())[0]  # of the first process: other runs have other files
            parts = [out.with_name(f".{out.name}.{run}.{number}") for number in range(world_size())]
            made += [*parts, _beside(out, run)]
            whole = stack.enter_context(written_beside(out)) if rank() == 0 else None

            def write(answers: Answers) -> None:
                with _told(out):
                    n_rows = gather(_write_part(parts[rank()], answers.blocks(own_rows(answers.cells.n_obs))))
                    if whole is not None:
                        _put_together([part for part, n in zip(parts, n_rows, strict=True) if n], answers, whole)

            yield write
    finally:
        for path in made:  # those of a process that was killed too
            path.unlink(missing_ok=True)


def deliver(answers: Answers, adata: ad.AnnData | str | Path, out: str | Path | None) -> None:
    """Write answers where they belong: those for an AnnData into it, those for a file to `out`.

    Raises
    ------
    DataError
        `out` is missing for a file, or was given for an AnnData; or it cannot be written.
    """
    if isinstance(adata, ad.AnnData) and out is not None:
        msg = f"{answers.verb} writes into an AnnData; leave `out` out, and save it: adata.write_h5ad({str(out)!r})"
        raise DataError(msg)
    if isinstance(adata, ad.AnnData):
        answers.add_to(adata)
        return
    if out is None:
        table = ", or a .parquet or .csv" if answers.suffixes == SUFFIXES else ""
        msg = f"the answers for {answers.cells.label} need a place: out='annotated.h5ad'{table}"
        raise DataError(msg)
    with answers_to(out, answers.suffixes) as write:
        write(answers)


def _write_part(part: Path, blocks: Iterable[Block]) -> int:
    """Write blocks as they come; return how many cells they are of. None of them, no file."""
    n_rows = 0
    with ExitStack() as stack:
        writer = None
        for block in blocks:
            batch = _to_arrow(block)
            if writer is None:
                writer = stack.enter_context(pa.OSFile(str(part), "wb"))
                writer = stack.enter_context(pa.ipc.new_file(writer, batch.schema))
            writer.write_batch(batch)
            n_rows += len(batch)
    return n_rows


def _to_arrow(block: Block) -> pa.RecordBatch:
    columns = {"cell": pa.array(block.obs.index, pa.string())}
    columns |= {f"obs/{name}": pa.array(column) for name, column in block.obs.items()}
    for kind, arrays in (("obsm", block.obsm), ("layers", block.layers)):
        for name, array in arrays.items():
            columns[f"{kind}/{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    return pa.record_batch(columns)


def _read_parts(parts: Iterable[Path], at_once: int) -> Iterator[Block]:
    """Read what was written, a few blocks at a time, never the whole."""
    for part in parts:
        if not part.exists():
            msg = f"the answers of another process, {part}, are not there: all must see the folder {str(part.parent)!r}"
            raise DataError(msg)
        with pa.OSFile(str(part)) as file:  # a mapped file would count as memory of this process
            reader = pa.ipc.open_file(file)
            for first in range(0, reader.num_record_batches, at_once):
                some = range(first, min(first + at_once, reader.num_record_batches))
                table = pa.Table.from_batches([reader.get_batch(i) for i in some]).combine_chunks()
                names = pd.Index(table["cell"].to_pandas(), name=None)
                obs = {name[4:]: table[name].to_pandas().array for name in table.column_names if name[:4] == "obs/"}
                obsm, layers = (
                    {
                        name.removeprefix(kind): column.combine_chunks().flatten().to_numpy().reshape(len(table), -1)
                        for name, column in zip(table.column_names, table.columns, strict=True)
                        if name.startswith(kind)
                    }
                    for kind in ("obsm/", "layers/")
                )
                yield Block(pd.DataFrame(obs, index=names), obsm, layers)


def _put_together(parts: list[Path], answers: Answers, whole: Path) -> None:
    """Make the file of the parts."""
    blocks = _read_parts(parts, BLOCKS_AT_ONCE if answers.suffixes == SUFFIXES else 1)
    if whole.suffix == ".h5ad":
        answers.cells.write_h5ad(whole, var=answers.genes)
        sparse_takes = 3 if answers.columns_M is not None else 1  # a column's number, of up to 8 bytes, beside 4
        _reserve(whole, sparse_takes * sum(part.stat().st_size for part in parts))
        with h5py.File(whole, "r+") as file:
            _append_to_h5ad(file, blocks, answers)
            write_elem(_group(_group(file, "uns"), ROOT), answers.verb, dict(answers.uns))
    elif whole.suffix == ".parquet":
        with ExitStack() as stack:
            writer = None
            for block in blocks:
                table = pa.Table.from_pandas(_table(block).rename_axis("cell"))
                writer = writer or stack.enter_context(pq.ParquetWriter(whole, table.schema))
                writer.write_table(table)
    else:
        for number, block in enumerate(blocks):
            _table(block).to_csv(whole, index_label="cell", mode="a", header=number == 0)


def _reserve(file: Path, n_bytes: int) -> None:
    """Lengthen a file by what these answers take in HDF5, at most; closed, it is cut to what it holds.

    Here a full disk is an error like any other. HDF5, which finds it out as late as on closing, can crash of it.
    """
    with file.open("ab") as end:
        for _ in range(0, n_bytes + n_bytes // 8 + 4 * MEGABYTE, MEGABYTE):
            end.write(bytes(MEGABYTE))


def _table(block: Block) -> pd.DataFrame:
    """Return the columns of `obs`, or where there are none the arrays: a column for each of theirs."""
    if len(block.obs.columns):
        return block.obs
    columns = {f"{name}_{d}": array[:, d] for name, array in block.obsm.items() for d in range(array.shape[1])}
    return pd.DataFrame(columns, index=block.obs.index)


def _append_to_h5ad(file: h5py.File, blocks: Iterable[Block], answers: Answers) -> None:
    """Write the columns and arrays of the first block as anndata does, and lengthen them with every other."""
    obs, obsm = _columns(file, "obs", ()), _group(file, "obsm")
    if answers.var:
        var = _columns(file, "var", answers.var)
        for name, values in answers.var.items():
            write_elem(var, name, values)
    for number, block in enumerate(blocks):
        new = {(obs, name): column for name, column in block.obs.items()}
        new |= {(obsm, name): array for name, array in block.obsm.items()}
        if answers.genes is not None:
            new[file, "X"] = block.layers["X"]
        else:
            for name, x_CM in block.layers.items():
                layers = _group(file, "layers")
                if number == 0 and name in layers:
                    del layers[name]
                append_rows(layers, name, answers.spread(x_CM))
        for (group, name), values in new.items():
            categorical = isinstance(values, pd.Series) and values.dtype == "category"
            array = values.cat.codes.to_numpy() if categorical else np.asarray(values)
            if number == 0:
                growing = {"maxshape": (None, *array.shape[1:])}
                write_elem(group, name, values.array if categorical else array, dataset_kwargs=growing)
                continue
            stored = group[name]["codes"] if categorical else group[name]
            stored.resize(len(stored) + len(array), axis=0)
            stored[-len(array) :] = array
        if number == 0:
            _columns(file, "obs", block.obs.columns)


def _columns(file: h5py.File, name: str, new: Iterable[str]) -> h5py.Group:
    """Return a table of the file, and name these columns in it."""
    if file[name].attrs.get("encoding-version") != "0.2.0":  # anndata 0.7 kept categories elsewhere
        write_elem(file, name, read_elem(file[name]))
    order = dict.fromkeys([*map(str, file[name].attrs["column-order"]), *new])
    file[name].attrs["column-order"] = np.array(list(order), dtype=h5py.string_dtype())
    return file[name]


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    """Return a mapping of the file, made if it is not there."""
    if not isinstance(parent.get(name), h5py.Group):
        write_elem(parent, name, {})
    return parent[name]


def note_in(adata: ad.AnnData, verb: str, facts: Mapping[str, Any]) -> None:
    """Write down in `uns` what a verb did; what other verbs wrote stays."""
    adata.uns[ROOT] = {**adata.uns.get(ROOT, {}), verb: dict(facts)}


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write rows as .csv or .parquet, as the ending says, without their numbers."""
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)


def _place(out: str | Path, suffixes: tuple[str, ...]) -> Path:
    """Refuse a place that cannot be written."""
    out = Path(out)
    if out.suffix not in suffixes:
        msg = f"{str(out)!r} cannot be written: its name must end with {' or '.join(suffixes)}."
        raise DataError(msg)
    if not out.parent.is_dir() or out.is_dir():
        wrong = f"{str(out)!r} is a folder" if out.is_dir() else f"there is no folder {str(out.parent)!r}"
        msg = f"{str(out)!r} cannot be written: {wrong}."
        raise DataError(msg)
    return out


def _beside(out: Path, run: int) -> Path:
    return out.with_name(f".{out.stem}.{run}.part{out.suffix}")


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """Say of a failure to write what could not be written."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        msg = f"{str(out)!r} could not be written, and nothing was left behind: {error}."
        raise DataError(msg) from error


@contextmanager
def written_beside(out: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    """Give a file beside `out` to write, and rename it when all is written; nothing is left of a failure.

    Entered before the work begins, it also finds out at once whether `out` can be written at all.

    Raises
    ------
    DataError
        `out` has another suffix, its folder is missing, or it cannot be written.
    """
    out = _place(out, suffixes)
    part = _beside(out, os.getpid())
    try:
        with _told(out):
            part.touch()
            yield part
            part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def watched(blocks: Iterable[Block], n_cells: int, *, done: str, device: object) -> Iterator[Block]:
    """Pass blocks on, and show how far they have come."""
    with progress(n_cells, done=done, device=device) as advance:
        for block in blocks:
            yield block
            advance(len(block.obs))
