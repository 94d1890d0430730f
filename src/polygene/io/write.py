"""Results to files, chunk by chunk: a copy of the cells with them (.h5ad), or a table (.csv, .parquet, `io.folder`).

Each process of a run writes its chunks to an Arrow file of its own beside the target as they come; the first process
then makes the target of all of them. So memory does not grow with the cells.

Legend: C cells, M columns of the file that a layer fills.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
from anndata.io import read_elem, write_elem
from pandas.api.types import is_numeric_dtype

from polygene.errors import DataError
from polygene.io.backed import names_of
from polygene.io.folder import is_folder, write_folder, write_parquet
from polygene.io.h5ad import append, append_rows
from polygene.io.results import SUFFIXES, UNS_KEY, Results, ResultsChunk, check_writable, remove, table_of, used
from polygene.runtime.atomic import OTHER, atomic_file, check_target, refuse_input, writing
from polygene.runtime.distributed import process_group
from polygene.runtime.ranks import WHOLE, Part, own_rows, rank, world_size

MEGABYTE = 1 << 20
CHUNKS_AT_ONCE = 10
"""Chunks that go into the file together: some 10,000 cells, a row group of Parquet."""


@contextmanager
def results_writer(out: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Callable[[Results], None]]:
    """Yield a function that writes results to a file: a copy of the cells (.h5ad), or a table (.csv, .parquet).

    Entered before the work begins, it finds out at once whether the file can be written. All processes of a run enter
    it; each computes its rows, and the first writes the file, so they must share the folder.
    """
    out = check_target(out, suffixes)
    temporary: list[Path] = []
    try:
        with process_group() as gather, ExitStack() as stack:
            partial: Path = gather(stack.enter_context(atomic_file(out)) if rank() == 0 else None)[0]
            parts = [partial.with_name(f"{partial.name}.{number}") for number in range(world_size())]
            temporary += [*parts, partial]

            def write(results: Results) -> None:
                with writing(out):
                    n_rows = gather(_write_part(parts[rank()], results.chunks(own_rows(results.cells.n_obs))))
                    if rank() == 0:
                        _merge([part for part, n in zip(parts, n_rows, strict=True) if n], results, partial)

            yield write
    finally:
        for path in temporary:  # those of a process that was killed too
            path.unlink(missing_ok=True)


def check_out(
    source: Any, out: str | Path | None, *, overwrite: bool, part: Part = WHOLE, suffixes: tuple[str, ...] = SUFFIXES,
    new: bool = False,
) -> str | Path | None:  # fmt: skip
    """Return where results go, None for an AnnData, or refuse it before cells are read; `new` cells go into a file."""
    if part != WHOLE and not (out and is_folder(out, suffixes)):
        msg = f"a part of the results ({part}) goes into a folder: give out=… (--out) a name without an ending"
        raise DataError(msg)
    if not isinstance(source, str | Path) and not new:
        if out is not None:
            msg = f"results go into the AnnData; leave `out` out, and save it: adata.write_h5ad({str(out)!r})"
            raise DataError(msg)
        check_writable(source)
        return None
    if out is None:
        table = ", or a .parquet, a .csv or a folder" if suffixes == SUFFIXES else ""
        msg = f"the results for {source} need a place: out='annotated.h5ad'{table}"
        raise DataError(msg)
    keeps_all = Path(out).suffix == ".h5ad" and not new
    if not (overwrite and keeps_all):
        do = "choose another file, or add the results to it with overwrite=True (--overwrite)"
        refuse_input(out, source, do=do if keeps_all else "genes would be lost, so choose another file")
    if not is_folder(out, suffixes):
        do = "read it to add to its results, choose another file (--out)" if keeps_all else OTHER
        check_target(out, suffixes, overwrite=overwrite, do=do)
    return out


def write_results(
    results: Results, adata: Any, out: str | Path | None, *, overwrite: bool = False, part: Part = WHOLE
) -> None:
    """Write the results for an AnnData into it, and those for a file to `out`; `part` is for a folder."""
    place = check_out(adata, out, overwrite=overwrite, part=part, suffixes=results.suffixes)
    if place is None:
        results.add_to(adata)
    elif is_folder(place, results.suffixes):
        write_folder(results, place, part)
    else:
        with results_writer(place, results.suffixes) as write:
            write(results)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write rows as .csv or .parquet, as the suffix says, without their numbers."""
    if path.suffix == ".csv":
        no_formulas(table).to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)


def no_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before texts that a spreadsheet would take for formulas: those that begin with = + - @."""

    def quoted(text: Any) -> Any:
        return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text

    columns = {name: column.map(quoted) for name, column in table.items() if not is_numeric_dtype(column)}
    return table.assign(**columns).set_axis(table.index.map(quoted), axis=0) if len(table) else table


def _write_part(part: Path, chunks: Iterable[ResultsChunk]) -> int:
    """Write chunks as they come; return how many cells they are of. None of them, no file."""
    n_rows = 0
    with ExitStack() as stack:
        writer = None
        for chunk in chunks:
            batch = _to_arrow(chunk)
            if writer is None:
                writer = stack.enter_context(pa.OSFile(str(part), "wb"))
                writer = stack.enter_context(pa.ipc.new_file(writer, batch.schema))
            writer.write_batch(batch)
            n_rows += len(batch)
    return n_rows


def _to_arrow(chunk: ResultsChunk) -> pa.RecordBatch:
    columns = {"cell": pa.array(chunk.obs.index, pa.string())}
    columns |= {f"obs/{name}": pa.array(column) for name, column in chunk.obs.items()}
    for kind, arrays in (("obsm", chunk.obsm), ("layers", chunk.layers)):
        for name, array in arrays.items():
            columns[f"{kind}/{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    return pa.record_batch(columns)


def _read_parts(parts: Iterable[Path], at_once: int) -> Iterator[ResultsChunk]:
    """Read what was written, a few chunks at a time, never the whole."""
    for part in parts:
        if not part.exists():
            msg = f"the results of another process, {part}, are not there: all must see the folder {str(part.parent)!r}"
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
                yield ResultsChunk(pd.DataFrame(obs, index=names), obsm, layers)


def _merge(parts: list[Path], results: Results, whole: Path) -> None:
    chunks = _read_parts(parts, CHUNKS_AT_ONCE if results.suffixes == SUFFIXES else 1)
    if whole.suffix == ".h5ad":
        results.cells.write_h5ad(whole, var=results.new_var)
        sparse_takes = 3 if results.columns_M is not None else 1  # a column's number, of up to 8 bytes, beside 4
        _reserve(whole, sparse_takes * sum(part.stat().st_size for part in parts))
        with h5py.File(whole, "r+") as file:
            _append_to_h5ad(file, chunks, results)
            uns = _group(_group(file, "uns"), UNS_KEY)
            before = read_elem(uns[results.verb]) if results.verb in uns else None
            write_elem(uns, results.verb, results.record(before))
    elif whole.suffix == ".parquet":
        write_parquet(whole, chunks)
    else:
        for number, chunk in enumerate(chunks):
            no_formulas(table_of(chunk)).to_csv(whole, index_label="cell", mode="a", header=number == 0)


def _reserve(file: Path, n_bytes: int) -> None:
    """Lengthen a file by what these results take in HDF5, at most; closed, it is cut to what it holds.

    Here a full disk is an error like any other. HDF5, which finds it out as late as on closing, can crash of it.
    """
    with file.open("ab") as end:
        for _ in range(0, n_bytes + n_bytes // 8 + 4 * MEGABYTE, MEGABYTE):
            end.write(bytes(MEGABYTE))


def _append_to_h5ad(file: h5py.File, chunks: Iterable[ResultsChunk], results: Results) -> None:
    """Write the columns and arrays of the first chunk as anndata does, and lengthen them with every other."""
    obs, obsm = _columns(file, "obs", ()), _group(file, "obsm")
    remove(results.replaces, obs, obsm, _group(file, "uns"))
    if results.var:
        var = _columns(file, "var", results.var)
        for name, values in results.var.items():
            write_elem(var, name, values)
    first, categories = 0, list[str]()
    for number, chunk in enumerate(chunks):
        first = _check_names(results, obs, chunk, first)
        new = {(obs, name): column for name, column in chunk.obs.items()}
        new |= {(obsm, name): array for name, array in chunk.obsm.items()}
        if results.new_var is not None:
            new[file, "X"] = chunk.layers["X"]
        else:
            for name, x_CM in chunk.layers.items():
                layers = _group(file, "layers")
                if number == 0 and name in layers:
                    del layers[name]
                append_rows(layers, name, results.spread(x_CM))
        for (group, name), values in new.items():
            categorical = isinstance(values, pd.Series) and values.dtype == "category"
            array = values.cat.codes.to_numpy() if categorical else np.asarray(values)
            if number == 0:
                growing = {"maxshape": (None, *array.shape[1:])}
                write_elem(group, name, values.array if categorical else array, dataset_kwargs=growing)
                continue
            append(group[name]["codes"] if categorical else group[name], array)
        if number == 0:
            _columns(file, "obs", chunk.obs.columns)
            categories = [name for name, column in chunk.obs.items() if column.dtype == "category"]
    for name in categories:
        write_elem(obs, name, used(pd.Series(read_elem(obs[name]))))


def _check_names(results: Results, obs: h5py.Group, chunk: ResultsChunk, first: int) -> int:
    """Compare the names of the copied cells with those that were predicted; gives the row to go on with."""
    rows = slice(first, first + len(chunk.obs))
    if not names_of(obs, rows).equals(pd.Index(chunk.obs.index, dtype=object)):
        msg = f"{results.cells.label} was replaced or changed while its cells were read: run it again"
        raise DataError(msg)
    return rows.stop


def _columns(file: h5py.File, name: str, new: Iterable[str]) -> h5py.Group:
    """Return a table of the file, and name these columns in it."""
    if file[name].attrs.get("encoding-version") != "0.2.0":  # anndata 0.7 kept categories elsewhere
        write_elem(file, name, read_elem(file[name]))
    order = dict.fromkeys([*filter(file[name].__contains__, map(str, file[name].attrs["column-order"])), *new])
    file[name].attrs["column-order"] = np.array(list(order), dtype=h5py.string_dtype())
    return file[name]


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    """Return a mapping of the file, made if it is not there."""
    if not isinstance(parent.get(name), h5py.Group):
        write_elem(parent, name, {})
    return parent[name]
