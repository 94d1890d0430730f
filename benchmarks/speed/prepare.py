"""How fast `prepare` is: ranking and tokenising 15,000 genes, by one process and by two.

    python -m benchmarks.speed.prepare --data DIR
    python -m benchmarks.speed.prepare --data DIR --cells 1000000 --processes 1 2 4

Real nuclei are drawn with replacement into an .h5ad of CSR counts. `cells/s` counts every cell once, though training
cells are read three times; `cells per CPU-second` is the same by the time that processors worked, which other programs
on the machine disturb less. Starting processes and all that does not grow with the cells is inside both. The last line
is one JSON object.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.shared import command, effort, files
from benchmarks.shared.resample import resample
from polygene.corpus.prepare import PrepareConfig

FILE, COLUMNS = "velmeshev_asd_pfc_glia", {"sex": "sex_inferred"}


def cpu_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def timed(path: Path, folder: Path, num_proc: int) -> tuple[float, float]:
    """Seconds by the clock, and of processors."""
    start, cpu = time.perf_counter(), cpu_seconds()
    config = PrepareConfig(n_genes=512, phenotypes=COLUMNS)
    effort.prepare(path, folder / "corpus", config=config, num_proc=num_proc, overwrite=True)
    return time.perf_counter() - start, cpu_seconds() - cpu


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=15_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Prepare with each number of processes, print the table, and return the speeds."""
    source = files.needed(FILE, options.data)
    n_cells, repeats = effort.at_most(options.cells, 500), effort.at_most(options.repeats, 1)
    results: dict[str, Any] = {"cells": n_cells, "genes": options.genes}
    table = Table("processes", "cells/s", "cells per CPU-second", title=f"{n_cells:,} cells")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results["genes_expressed"] = round(resample(source, folder / "cells.h5ad", n_cells, options.genes))
        for num_proc in options.processes:
            times = [timed(folder / "cells.h5ad", folder, num_proc) for _ in range(repeats)]
            clock, cpu = (median(column) for column in zip(*times, strict=True))
            results[f"cells_per_s_{num_proc}"] = round(n_cells / clock)
            results[f"cells_per_cpu_s_{num_proc}"] = round(n_cells / cpu)
            table.add_row(str(num_proc), f"{n_cells / clock:,.0f}", f"{n_cells / cpu:,.0f}")
    Console(width=100).print(table)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    command.run("prepare", __doc__, measure, add_options, threads=None, argv=argv)


if __name__ == "__main__":
    main()
