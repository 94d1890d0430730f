"""Cells as Arrow files: written as a stream, then mapped and gathered in any order.

A list column in Arrow is values and offsets, so a batch of cells is gathered with a few numpy calls, without a loop
over cells and without reading more than the batch.

Legend: C cells, N expressed entries (cell, gene), P phenotypes, K record batches of a file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

import numpy as np
import pyarrow as pa

from polygene.errors import CorpusError
from polygene.vocab.cells import EncodedCells, ranges

SplitName = Literal["train", "validation", "test", "seen"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
"""Cells of "seen" do not train, but other cells of their donors do."""

VALUES: Mapping[str, type] = {"genes": np.uint16, "bins": np.uint8, "values": np.float16}
"""The list columns of a cell; `values` are log1p counts per 10,000, for baselines and reconstruction only."""


def arrow_schema(n_phenotypes: int) -> pa.Schema:
    """Give the columns of a cell."""
    lists = {name: pa.list_(pa.from_numpy_dtype(dtype)) for name, dtype in VALUES.items()}
    labels = pa.list_(pa.int16(), n_phenotypes)
    of_cell = {"source": pa.int16(), "years": pa.float32(), "donor_id": pa.string(), "cell": pa.string()}
    return pa.schema({**lists, "labels": labels, **of_cell})


def cell_tables(
    part_C: np.ndarray,
    cells: EncodedCells,
    source: int,
    years_C: np.ndarray,
    donors_C: np.ndarray,
    names_C: np.ndarray,
) -> Iterator[tuple[int, pa.Table]]:
    """Give (index into `SPLITS`, table of the cells that `part_C` puts there), without empty ones."""
    schema = arrow_schema(cells.labels_CP.shape[1])
    for part in range(len(SPLITS)):
        which = np.flatnonzero(part_C == part)
        if not len(which):
            continue
        some = cells.rows(which)
        offsets = pa.array(some.offsets_C1.astype(np.int32))
        lists = [
            pa.ListArray.from_arrays(offsets, pa.array(values_N))
            for values_N in (some.genes_N, some.bins_N, some.values_N.astype(np.float16))
        ]
        labels = pa.FixedSizeListArray.from_arrays(pa.array(some.labels_CP.reshape(-1)), some.labels_CP.shape[1])
        numbers = [pa.array(np.full(len(some), source, dtype=np.int16)), pa.array(years_C[which], type=pa.float32())]
        strings = [pa.array(texts[which], type=pa.string()) for texts in (donors_C, names_C)]
        yield part, pa.Table.from_arrays([*lists, labels, *numbers, *strings], schema=schema)


SHARD_BYTES = 500_000_000
"""A file is closed when it is larger, and the next is begun."""
BATCH_CELLS = 1_000
"""Cells of a record batch."""


class ShardWriter:
    """Writes cells, table by table, as Arrow streams of up to 500 MB: a folder for each split that has cells.

    Used as a context; leaving it gives the files their names, data-00000-of-00003.arrow.
    """

    def __init__(self, folder: Path, n_phenotypes: int) -> None:
        self._folder, self._schema = folder, arrow_schema(n_phenotypes)
        self._files: dict[int, list[Path]] = {part: [] for part in range(len(SPLITS))}
        self._open: dict[int, pa.RecordBatchStreamWriter] = {}
        self._bytes = dict.fromkeys(self._files, 0)  # in the file that is open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for writer in self._open.values():
            writer.close()
        for files in self._files.values():
            for i, file in enumerate(files):  # how many there are is known only now
                file.rename(file.with_name(f"data-{i:05d}-of-{len(files):05d}.arrow"))

    def write(self, part: int, table: pa.Table) -> None:
        """Add a table of cells to a split (an index into `SPLITS`)."""
        if part not in self._open or self._bytes[part] > SHARD_BYTES:
            if part in self._open:
                self._open[part].close()
            folder, files = self._folder / SPLITS[part], self._files[part]
            folder.mkdir(exist_ok=True)
            files.append(folder / f"{len(files)}.part")
            self._open[part], self._bytes[part] = pa.ipc.new_stream(str(files[-1]), self._schema), 0
        self._open[part].write_table(table, max_chunksize=BATCH_CELLS)
        self._bytes[part] += table.nbytes


class Shard:
    """One Arrow file, mapped: where in the file the values of each of its record batches begin.

    The whole file is seen as one array a type; the buffer of a column in record batch k begins at element `base_K[k]`
    of it. So cells of any record batches are gathered by one indexing.
    """

    def __init__(self, path: Path) -> None:
        try:
            buffer = pa.memory_map(str(path)).read_buffer()
            self.table = pa.ipc.open_stream(pa.BufferReader(buffer)).read_all()
        except (OSError, pa.ArrowException) as error:
            msg = f"{path} cannot be read ({error}); copy the corpus again, whole, or run polygene prepare"
            raise CorpusError(msg) from error
        self.n_cells: int = self.table.num_rows
        batches = self.table.column("genes").chunks
        self._first_K = np.cumsum([0, *(len(batch) for batch in batches)])[:-1]
        types: dict[str, type] = {"offsets": np.int32, "labels": np.int16, "source": np.int16, **VALUES}
        self._file: dict[str, np.ndarray] = {
            name: np.frombuffer(buffer, dtype, count=buffer.size // np.dtype(dtype).itemsize)
            for name, dtype in types.items()
        }
        columns = {name: name for name in types} | {"offsets": "genes"}
        place = {"offsets": 1, "labels": -1, "source": 1} | dict.fromkeys(VALUES, -1)
        self._base_K = {
            name: np.array(
                [
                    _address(chunk.buffers()[place[name]], buffer) // np.dtype(dtype).itemsize
                    for chunk in self.table.column(columns[name]).chunks
                ],
                dtype=np.int64,
            )
            for name, dtype in types.items()
        }

    def locate(self, rows_C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find cells: (record batch, where their values begin in it, how many there are)."""
        batch_C = np.searchsorted(self._first_K, rows_C, side="right") - 1
        at_C = self._base_K["offsets"][batch_C] + rows_C - self._first_K[batch_C]
        offsets = self._file["offsets"]
        start_C = offsets[at_C].astype(np.int64)
        return batch_C, start_C, offsets[at_C + 1] - start_C

    def values(self, name: str, batch_C: np.ndarray, start_C: np.ndarray, length_C: np.ndarray) -> np.ndarray:
        """Gather the list entries of cells, one cell after the other."""
        return self._file[name][ranges(self._base_K[name][batch_C] + start_C, length_C)]

    def labels(self, batch_C: np.ndarray, rows_C: np.ndarray, n: int) -> np.ndarray:
        """Gather labels_CP."""
        at_C = self._base_K["labels"][batch_C] + (rows_C - self._first_K[batch_C]) * n
        return self._file["labels"][at_C[:, None] + np.arange(n)]

    def sources(self, batch_C: np.ndarray, rows_C: np.ndarray) -> np.ndarray:
        """Gather sources_C."""
        return self._file["source"][self._base_K["source"][batch_C] + rows_C - self._first_K[batch_C]]


def _address(buffer: pa.Buffer | None, file: pa.Buffer) -> int:
    """Offset of a buffer in the file; one without content is never read."""
    return 0 if buffer is None or buffer.size == 0 else int(buffer.address - file.address)
