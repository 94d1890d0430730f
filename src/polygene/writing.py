"""What a verb adds to cells, block by block: to an AnnData in memory, to a copy of a file, or as a table of its own.

Answers on their way to a file go at once to a part beside it, one for each process (Arrow), and from there into the
file, so that memory does not grow with the cells.

Legend: C cells.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from anndata.io import read_elem, write_elem

from polygene.distributed import own_rows, rank, together, world_size
from polygene.errors import DataError
from polygene.reading import CellSource

ROOT = "polygene"
SUFFIXES = (".h5ad", ".csv", ".parquet")
MEGABYTE = 1 << 20
BLOCKS_AT_ONCE = 10
"""Blocks of a part that go into the file together: some 10,000 cells, a row group of Parquet."""


class Block(NamedTuple):
    """Answers for some cells: new columns of `obs`, a row for each cell, by its name; new arrays of `obsm`."""

    obs: pd.DataFrame
    obsm: Mapping[str, np.ndarray]


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
    """

    verb: str
    cells: CellSource
    blocks: Callable[[range], Iterable[Block]]
    uns: Mapping[str, Any] = field(default_factory=dict)

    def collect(self) -> Block:
        """Answer for all cells, in memory."""
        blocks = list(self.blocks(range(self.cells.n_obs)))
        obsm = {name: np.concatenate([block.obsm[name] for block in blocks]) for name in blocks[0].obsm}
        return Block(pd.concat([block.obs for block in blocks]), obsm)

    def add_to(self, adata: ad.AnnData) -> None:
        """Write them into an AnnData; what has the same name is replaced."""
        obs, obsm = self.collect()
        for name, column in obs.items():
            adata.obs[name] = column.array
        for name, array in obsm.items():
            adata.obsm[name] = array
        adata.uns[ROOT] = {**adata.uns.get(ROOT, {}), self.verb: dict(self.uns)}


@contextmanager
def answers_to(out: str | Path) -> Iterator[Callable[[Answers], None]]:
    """Give what writes answers to a file: a copy of the cells (.h5ad), or only the answers (.csv, .parquet).

    Entered before the work begins, it finds out at once whether the file can be written. All processes of a run enter
    it; each answers for its rows, and the first puts all together, so they must share the folder. The file appears
    whole or not at all, and nothing else stays.

    Raises
    ------
    DataError
        The file cannot be written, or a process of the run failed.
    """
    out = _place(out, SUFFIXES)
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
        msg = f"the answers for {answers.cells.label} need a place: out='annotated.h5ad', or a .parquet or .csv"
        raise DataError(msg)
    with answers_to(out) as write:
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
    for name, array in block.obsm.items():
        columns[f"obsm/{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    return pa.record_batch(columns)


def _read_parts(parts: Iterable[Path]) -> Iterator[Block]:
    """Read what was written, a few blocks at a time, never the whole."""
    for part in parts:
        if not part.exists():
            msg = f"the answers of another process, {part}, are not there: all must see the folder {str(part.parent)!r}"
            raise DataError(msg)
        with pa.OSFile(str(part)) as file:  # a mapped file would count as memory of this process
            reader = pa.ipc.open_file(file)
            for first in range(0, reader.num_record_batches, BLOCKS_AT_ONCE):
                some = range(first, min(first + BLOCKS_AT_ONCE, reader.num_record_batches))
                table = pa.Table.from_batches([reader.get_batch(i) for i in some]).combine_chunks()
                names = pd.Index(table["cell"].to_pandas(), name=None)
                obs = {name[4:]: table[name].to_pandas().array for name in table.column_names if name[:4] == "obs/"}
                obsm = {
                    name[5:]: column.combine_chunks().flatten().to_numpy().reshape(len(table), -1)
                    for name, column in zip(table.column_names, table.columns, strict=True)
                    if name[:5] == "obsm/"
                }
                yield Block(pd.DataFrame(obs, index=names), obsm)


def _put_together(parts: list[Path], answers: Answers, whole: Path) -> None:
    """Make the file of the parts."""
    blocks = _read_parts(parts)
    if whole.suffix == ".h5ad":
        answers.cells.write_h5ad(whole)
        _reserve(whole, sum(part.stat().st_size for part in parts))
        with h5py.File(whole, "r+") as file:
            _append_to_h5ad(file, blocks)
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


def _append_to_h5ad(file: h5py.File, blocks: Iterable[Block]) -> None:
    """Write the columns and arrays of the first block as anndata does, and lengthen them with every other."""
    if file["obs"].attrs.get("encoding-version") != "0.2.0":  # anndata 0.7 kept categories elsewhere
        write_elem(file, "obs", read_elem(file["obs"]))
    obs, obsm = file["obs"], _group(file, "obsm")
    for number, block in enumerate(blocks):
        new = {(obs, name): column for name, column in block.obs.items()}
        new |= {(obsm, name): array for name, array in block.obsm.items()}
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
            order = dict.fromkeys([*map(str, obs.attrs["column-order"]), *block.obs.columns])
            obs.attrs["column-order"] = np.array(list(order), dtype=h5py.string_dtype())


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    """Return a mapping of the file, made if it is not there."""
    if not isinstance(parent.get(name), h5py.Group):
        write_elem(parent, name, {})
    return parent[name]


def write_json(path: Path, value: Any) -> None:
    """Write nested dicts and lists as JSON, null where a number is NaN or infinite, which JSON cannot say."""
    path.write_text(json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
