"""Results as a folder of Parquet files, a file for each stretch of cells: a stopped run goes on, and machines share it.

A file appears whole or not at all, and one that is there is not made again. Which machine makes which files is decided
by the part it is given, so they need nothing but the same folder, or folders whose files are put together afterwards.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polygene.errors import OutputError
from polygene.io.results import SUFFIXES, Results, ResultsChunk, table_of
from polygene.runtime.atomic import atomic_file, write_text, writing
from polygene.runtime.distributed import process_group
from polygene.runtime.files import read_text
from polygene.runtime.json import finite
from polygene.runtime.ranks import Part, own_rows

CELLS = 100_000  # of a file, a multiple of the cells of a chunk
MADE_BY = "_polygene.json"
"""How the results were made; what begins with _ is no data to readers of Parquet folders."""
LEFT = "what is there is whole: the same command goes on"


def is_folder(out: str | Path, suffixes: tuple[str, ...]) -> bool:
    """Whether results go into a folder: a name without an ending."""
    return suffixes == SUFFIXES and Path(out).suffix == ""


def write_folder(results: Results, out: str | Path, part: Part) -> None:
    """Write the results of a part of the cells, as files of the folder that are not there yet.

    Raises
    ------
    OutputError
        The folder holds something else, or results of other cells or settings.
    """
    folder, n_cells = Path(out), results.cells.n_obs
    n_files = -(-n_cells // CELLS)
    files = [folder / f"part-{number:05d}-of-{n_files:05d}.parquet" for number in range(n_files)]
    own = range(n_files)[part.of(n_files)]
    ours = own_rows(len(own))
    with process_group() as gather, writing(folder, LEFT):
        _claim(folder, results)
        gather(None)
        for numbers in _stretches([number for number in own[ours.start : ours.stop] if not files[number].exists()]):
            rows = range(numbers[0] * CELLS, min((numbers[-1] + 1) * CELLS, n_cells))
            chunks = iter(results.chunks(rows))
            for number in numbers:
                with atomic_file(files[number], left=LEFT) as partial:
                    write_parquet(partial, _next(chunks, min(CELLS, n_cells - number * CELLS)))
            next(chunks, None)  # so that what comes after the last chunk is done: the line of the progress


def _claim(folder: Path, results: Results) -> None:
    """Write down how the results are made; refuse a folder of others."""
    n_cells, n_genes = results.cells.n_obs, len(results.cells.var)
    facts = {"verb": results.verb, "cells": n_cells, "cells_of_a_file": CELLS, "genes": n_genes}
    text = json.dumps(finite(facts | {"uns": results.uns}), indent=1, ensure_ascii=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    there = folder / MADE_BY
    if there.exists():
        if read_text(there) != text:
            msg = (
                f"{str(folder)!r} holds results of other cells, of another model or of other settings (see {there}). "
                "Choose another folder, or delete this one."
            )
            raise OutputError(msg)
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        msg = f"{str(folder)!r} holds other files, and no {MADE_BY}. Choose an empty folder, or a name that is free."
        raise OutputError(msg)
    write_text(there, text)


def write_parquet(file: Path, chunks: Iterable[ResultsChunk]) -> None:
    """Write the tables of chunks as they come."""
    with ExitStack() as stack:
        writer = None
        for chunk in chunks:
            table = pa.Table.from_pandas(table_of(chunk).rename_axis("cell"))
            writer = writer or stack.enter_context(pq.ParquetWriter(file, table.schema))
            writer.write_table(table)


def _next(chunks: Iterator[ResultsChunk], n_cells: int) -> Iterator[ResultsChunk]:
    """Take chunks until they have so many cells."""
    while n_cells > 0:
        chunk = next(chunks)
        n_cells -= len(chunk.obs)
        yield chunk


def _stretches(numbers: list[int]) -> Iterator[list[int]]:
    """Cut ascending numbers where one is missing."""
    breaks = np.flatnonzero(np.diff(numbers) > 1) + 1
    yield from (some.tolist() for some in np.split(np.array(numbers, dtype=np.int64), breaks) if len(some))
