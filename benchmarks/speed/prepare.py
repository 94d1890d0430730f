"""How fast `prepare` is: ranking and tokenising 15,000 genes, by one process and by two.

    python -m benchmarks.speed.prepare --data DIR
    python -m benchmarks.speed.prepare --data DIR --cells 1000000 --processes 1 2 4

Real nuclei are drawn with replacement into an .h5ad of CSR counts. `cells/s` counts every cell once, though training
cells are read three times; `cells per CPU-second` is the same by the time that processors worked, which other programs
on the machine disturb less. Starting processes and all that does not grow with the cells is inside both. The last line
is one JSON object.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.shared import files
from benchmarks.shared.resample import resample
from polygene.corpus.prepare import PrepareConfig, prepare

FILE, COLUMNS = "velmeshev_asd_pfc_glia", {"sex": "sex_inferred"}


def cpu_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def timed(path: Path, folder: Path, num_proc: int) -> tuple[float, float]:
    """Seconds by the clock, and of processors."""
    start, cpu = time.perf_counter(), cpu_seconds()
    config = PrepareConfig(n_genes=512, phenotypes=COLUMNS)
    prepare(path, folder / "corpus", config=config, num_proc=num_proc, overwrite=True)
    return time.perf_counter() - start, cpu_seconds() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of ranking and tokenising.")
    files.add_data_option(parser)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=15_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    try:
        source = files.locate(FILE, arguments.data)
    except files.MissingDataError as reason:
        print(f"skipped: {reason}")
        return
    result = {"cells": arguments.cells, "genes": arguments.genes}
    table = Table("processes", "cells/s", "cells per CPU-second", title=f"{arguments.cells:,} cells")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result["genes_expressed"] = round(resample(source, folder / "cells.h5ad", arguments.cells, arguments.genes))
        load = os.getloadavg()[0]
        for num_proc in arguments.processes:
            times = [timed(folder / "cells.h5ad", folder, num_proc) for _ in range(arguments.repeats)]
            clock, cpu = (median(column) for column in zip(*times, strict=True))
            result[f"cells_per_s_{num_proc}"] = round(arguments.cells / clock)
            result[f"cells_per_cpu_s_{num_proc}"] = round(arguments.cells / cpu)
            table.add_row(str(num_proc), f"{arguments.cells / clock:,.0f}", f"{arguments.cells / cpu:,.0f}")
    console = Console(width=100)
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {load:.1f}")
    console.print(table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
