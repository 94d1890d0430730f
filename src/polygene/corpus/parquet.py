"""A corpus as Parquet: on any URL, read as a stream and split among nodes, by PolyGene or by other programs.

Legend: C cells of a batch, P phenotypes, S sources.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polygene.corpus.arrow import SPLITS, SplitName
from polygene.corpus.corpus import Corpus
from polygene.errors import CorpusError
from polygene.runtime.atomic import written_whole
from polygene.vocab.cells import EncodedCells

FORMAT = "parquet 1"
"""What corpus.json says of such a folder; `Corpus`, which maps Arrow files, refuses it."""
FILE_CELLS = 50_000
"""Cells of a file: some 45 MB at 0.9 kB a cell; files are what nodes share."""
BUFFER_CELLS = 10_000
"""Cells that are read and shuffled at once."""


class StreamedCells(NamedTuple):
    """A batch of a stream: tokens, source of each cell (index into corpus.json's), donor and name as str objects."""

    cells: EncodedCells
    sources_C: np.ndarray
    donors_C: np.ndarray
    names_C: np.ndarray


def write_parquet(corpus: Corpus, out: str | Path) -> None:
    """Write all splits as Parquet, with tokenizer.json, genes.tsv, and a corpus.json that names the files.

    A row is a cell with the columns of the Arrow files: genes, bins, values, labels, source, donor_id, cell.

    Raises
    ------
    CorpusError
        The folder exists, or cannot be written.
    """
    with written_whole(Path(out), overwrite=False) as folder:
        files: dict[str, int] = {}
        for split in SPLITS:
            for number, table in enumerate(corpus.split(split).tables(FILE_CELLS)):
                path = folder / split / f"data-{number:05d}.parquet"
                path.parent.mkdir(exist_ok=True)
                pq.write_table(table, path, row_group_size=BUFFER_CELLS // 2, compression="zstd")
                files[path.relative_to(folder).as_posix()] = path.stat().st_size
        for name in ("tokenizer.json", "tokenizer.safetensors", "genes.tsv"):
            shutil.copyfile(corpus.folder / name, folder / name)
        info = corpus.info | {"format": FORMAT, "files": files}
        (folder / "corpus.json").write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def stream(
    url: str | Path,
    split: SplitName = "train",
    *,
    batch_size: int = 256,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[StreamedCells]:
    """Read the cells of one node, each once, in an order that (seed, epoch, rank, world_size) decide.

    Files are shuffled, and cells among the 10,000 read together. Nodes share whole files where these can be shared
    evenly; else each reads all and takes every world_size-th cell.

    Parameters
    ----------
    url
        A folder that `write_parquet` wrote: a path, or a URL that fsspec opens (https, s3, gs, memory, …).

    Raises
    ------
    CorpusError
        There is no such folder, or it has no such split.
    """
    from datasets import load_dataset
    from datasets.distributed import split_dataset_by_node

    info = _read_info(str(url).rstrip("/"))
    names = [f"{str(url).rstrip('/')}/{file}" for file in info["files"] if file.startswith(f"{split}/")]
    if not names:
        msg = f"{url} has no cells of the split {split!r}"
        raise CorpusError(msg)
    measured_SG = np.array([list(source["measured"]) for source in info["sources"]]) == "1"
    rng = np.random.default_rng([seed, epoch])
    files = [names[i] for i in rng.permutation(len(names))]
    whole = load_dataset("parquet", data_files=files, split="train", streaming=True)
    mine = split_dataset_by_node(whole, rank=rank, world_size=world_size).with_format("arrow")
    rng = np.random.default_rng([seed, epoch, rank])
    for table in mine.iter(batch_size=BUFFER_CELLS):
        shuffled = table.take(rng.permutation(len(table)))
        for first in range(0, len(shuffled), batch_size):
            yield _cells(shuffled.slice(first, batch_size), measured_SG)


def _read_info(url: str) -> dict[str, Any]:
    try:
        with fsspec.open(f"{url}/corpus.json", "rt", encoding="utf-8") as file:
            info: dict[str, Any] = json.load(file)
    except (OSError, ValueError, ImportError) as error:
        msg = f"{url}/corpus.json cannot be read: {error}"
        raise CorpusError(msg) from error
    if info.get("format") != FORMAT:
        msg = f"{url} is no corpus in Parquet; make one of a corpus with polygene.corpus.parquet.write_parquet"
        raise CorpusError(msg)
    return info


def _cells(table: pa.Table, measured_SG: np.ndarray) -> StreamedCells:
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    values = {name: columns[name].flatten().to_numpy() for name in ("genes", "bins", "values")}
    lengths_C = pc.list_value_length(columns["genes"]).to_numpy()
    sources_C = columns["source"].to_numpy()
    cells = EncodedCells(
        offsets_C1=np.concatenate([[0], np.cumsum(lengths_C, dtype=np.int64)]),
        genes_N=values["genes"],
        bins_N=values["bins"],
        values_N=values["values"].astype(np.float32),
        labels_CP=columns["labels"].flatten().to_numpy().reshape(len(table), -1),
        measured_G=np.logical_and.reduce(measured_SG[np.unique(sources_C)]),
    )
    donors_C, names_C = (columns[name].to_numpy(zero_copy_only=False) for name in ("donor_id", "cell"))
    return StreamedCells(cells, sources_C, donors_C, names_C)
