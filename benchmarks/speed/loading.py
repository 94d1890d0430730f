"""How fast cells come in random order: from a corpus, from a backed .h5ad, and through scDataset.

    python -m benchmarks.speed.loading --data DIR

Real cells are drawn with replacement into an .h5ad of CSR counts, from which a corpus is prepared. Read are batches of
256 cells in an order drawn by a seed:

* *gathered*: the tokens of the cells, as `CorpusSplit.cells` gives them;
* *packed and masked*: the batch that training takes, as `MaskingCollator` makes it of them;
* *backed .h5ad*: the same cells by `adata[rows].to_memory()`, all genes of the file, nothing tokenised;
* *scDataset*: through scDataset (pip install 'polygene[bench]'), in its exact random order (blocks of one cell) and in
  blocks of 16 cells, 64 batches read at once.

Given are cells/s by the clock and by CPU time. With two processes, each reads half of the batches and their speeds are
added. The file stays in the page cache:
what a disk adds is not measured. The last line is one JSON object.
"""

import argparse
import importlib.util
import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Self

import anndata as ad
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.shared import command, effort, files
from benchmarks.shared.resample import resample
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig
from polygene.model.masking import MaskingCollator, MaskingConfig
from polygene.runtime.pool import process_pool

FILES = {"pbmc3k_10x": "droplets, shallow", "lung_ca_lines_mixology": "cell lines, deep"}
BATCH = 256


class Speed(NamedTuple):
    """Cells/s by the clock, and by the time that the processor worked, which other programs disturb less."""

    clock: float
    cpu: float

    @classmethod
    def of(cls, sizes: Iterable[int]) -> Self:
        """Count the cells of batches that come."""
        clock, cpu = time.perf_counter(), time.process_time()
        n_cells = sum(sizes)
        return cls(n_cells / (time.perf_counter() - clock), n_cells / (time.process_time() - cpu))


def batches(n_cells: int, n_batches: int, seed: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng(seed).permutation(n_cells)
    for first in range(0, min(n_batches * BATCH, n_cells - BATCH + 1), BATCH):
        yield order[first : first + BATCH]


def read(folder: Path, n_batches: int, seed: int, *, packed: bool) -> Speed:
    """Read in one process."""
    corpus = Corpus(folder)
    split, collator = corpus.split("train"), collator_of(corpus)
    sources_C, epochs_C = split.sources_C, np.zeros(BATCH, dtype=np.int64)

    def sizes() -> Iterator[int]:
        for indices_C in batches(len(split), n_batches, seed):
            cells = split.cells(indices_C)
            if packed:
                collator(cells, sources_C[indices_C], indices_C, epochs_C)
            yield len(cells)

    return Speed.of(sizes())


def collator_of(corpus: Corpus) -> MaskingCollator:
    return MaskingCollator(tokenizer=corpus.tokenizer, measured_SG=corpus.measured_SG, config=MaskingConfig())


def of_processes(num_proc: int, folder: Path, n_batches: int, *, packed: bool) -> Speed:
    """Read in several processes at the same time; their speeds are added."""
    with process_pool([folder], num_proc) as pool:
        tasks = [(0, (n_batches // num_proc, seed)) for seed in range(num_proc)]
        speeds = list(pool(partial(read, packed=packed), tasks))
    return Speed(*map(sum, zip(*speeds, strict=True)))


def of_h5ad(path: Path, n_batches: int) -> Speed:
    adata = ad.read_h5ad(path, backed="r")
    return Speed.of(adata[np.sort(rows)].to_memory().n_obs for rows in batches(adata.n_obs, n_batches, 0))


def of_scdataset(path: Path, n_batches: int, block_size: int) -> Speed:
    from scdataset import BlockShuffling, scDataset

    cells = scDataset(
        ad.read_h5ad(path, backed="r"),
        BlockShuffling(block_size=block_size),
        batch_size=BATCH,
        fetch_factor=64,
        fetch_callback=lambda adata, rows: adata[rows].to_memory(),
        seed=0,
    )
    return Speed.of(batch.n_obs for batch in itertools.islice(cells, n_batches))


def speeds_of(source: Path, n_cells: int, n_genes: int, repeats: int) -> dict[str, Any]:
    """Cells/s by way of reading; genes a cell expresses, in the file and in the panel, and bytes a cell."""
    with tempfile.TemporaryDirectory() as name:
        path, folder = Path(name) / "cells.h5ad", Path(name) / "corpus"
        in_file = resample(source, path, n_cells)
        config = PrepareConfig(n_genes=n_genes, split="random", fractions=(0.98, 0.01, 0.01))
        split = effort.prepare(path, folder, config=config).split("train")
        n_batches, some = len(split) // BATCH, np.arange(min(1_000, len(split)))
        ways: dict[str, Callable[[], Speed]] = {
            f"{what}, {n} process{'es' if n > 1 else ''}": partial(
                of_processes, n, folder, n_batches, packed=what != "gathered"
            )
            for what in ("gathered", "packed and masked")
            for n in (1, 2)
        }
        ways["backed .h5ad, 1 process"] = partial(of_h5ad, path, min(n_batches, 20))
        if importlib.util.find_spec("scdataset"):
            for size, n in ((1, 64), (16, 256)):
                ways[f"scDataset, blocks of {size}, 1 process"] = partial(of_scdataset, path, min(n_batches, n), size)
        speeds = {
            way: Speed(*(round(median(column)) for column in zip(*(read_all() for _ in range(repeats)), strict=True)))
            for way, read_all in ways.items()
        }
        return {
            "genes expressed": round(in_file),
            "of them in the panel": round(len(split.cells(some).genes_N) / len(some)),
            "bytes in the corpus": round(sum(file.stat().st_size for file in folder.rglob("*.arrow")) / n_cells),
            **speeds,
        }


def shown(number: int | Speed) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number.clock:,} ({number.cpu:,})"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every way of reading on every file, print the table, and return the speeds."""
    warnings.filterwarnings("ignore", message=".*names are not unique")
    if not importlib.util.find_spec("scdataset"):
        print("left out: scDataset is not installed (pip install 'polygene[bench]')")
    n_cells, repeats = effort.at_most(options.cells, 1_000), effort.at_most(options.repeats, 1)
    results = {}
    for name, kind in effort.few(FILES.items()):
        try:
            source = files.locate(name, options.data)
        except (files.MissingDataError, KeyError) as reason:
            print(f"skipped: {reason}")
            continue
        results[f"{name} ({kind})"] = speeds_of(source, n_cells, options.genes, repeats)
    table = Table("a cell; cells/s (by CPU time)", *results, title=f"{n_cells:,} cells")
    for row in next(iter(results.values()), {}):
        table.add_row(row, *(shown(numbers[row]) for numbers in results.values()))
    Console(width=110).print(table)
    return {"cells": n_cells, "loading": results}


def main(argv: Sequence[str] | None = None) -> None:
    command.run("loading", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
