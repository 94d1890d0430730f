"""Seconds to annotate a file from the command line, start included, beside CellTypist's.

    python -m benchmarks.speed.annotate --data DIR [--turns 3] [--cells 10000]

The cells are PBMC 3k's, drawn with replacement. Timed are whole commands, in turns, each with two threads:

all                `polygene annotate FILE`: five phenotypes
cell type          `polygene annotate FILE --predict cell_type`
CellTypist, 3,000  its own command with a model of 3,000 genes, learned here from PBMC 3k by its stochastic gradient
                   descent; nearest labels, no voting, tables as it writes them

Printed are medians with the smallest and the largest of the turns, by the clock and of processor time, which other work
on the machine disturbs less; the last line is one JSON object.
"""

import argparse
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import anndata as ad
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.shared import command, files
from benchmarks.shared.resample import resample
from polygene.vocab.expression import log1p_values

CELLTYPIST = "CellTypist, 3,000 genes"
VARIABLE, THREADS = 3_000, "2"


def seconds(words: Sequence[str | Path]) -> tuple[float, float]:
    """Run a command and give what it took by the clock, and of processor time."""
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), THREADS)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=os.environ | variables)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def celltypist_model(cells: ad.AnnData, out: Path) -> None:
    """Learn a CellTypist model from the authors' types on the most variable genes."""
    import celltypist

    celltypist.logger.set_level(logging.ERROR)
    x_CG = log1p_values(cells).toarray()
    genes = np.argsort(-x_CG.var(axis=0))[:VARIABLE]
    label_C = cells.obs["cell_type"].astype(str).to_numpy()
    celltypist.train(
        x_CG[:, genes], label_C, cells.var_names[genes].to_numpy(), check_expression=False, n_jobs=1, use_SGD=True
    ).write(str(out))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time each command in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = files.locate("pbmc3k_10x", options.data)
        counts, logged, model = (folder / name for name in ("cells.h5ad", "logged.h5ad", "celltypist.pkl"))
        n_cells = 200 if options.smoke else options.cells
        resample(source, counts, n_cells, seed=options.seed)
        cells = ad.read_h5ad(counts)
        cells.X = log1p_values(cells)
        cells.write_h5ad(logged)  # CellTypist reads log1p counts per 10,000
        known = ad.read_h5ad(source)
        celltypist_model(known[known.obs["cell_type"].notna()].copy(), model)
        annotate = ("-m", "polygene", "annotate", counts, "--out", folder / "out.h5ad")
        commands = {
            "polygene-512, all": annotate,
            "polygene-512, cell type": (*annotate, "--predict", "cell_type"),
            CELLTYPIST: (
                "-m",
                "celltypist.command_line",
                "-i",
                logged,
                "-m",
                model,
                "-o",
                folder / "tables",
                "--quiet",
            ),
        }
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(1 if options.smoke else options.turns):
            for name, words in commands.items():
                (folder / "out.h5ad").unlink(missing_ok=True)
                (folder / "tables").mkdir(exist_ok=True)
                took[name].append(seconds(words))
    table = Table("command", "seconds", "from", "to", "processor", title=f"{n_cells:,} cells, start included")
    results: dict[str, Any] = {"cells": n_cells}
    for kind, what in enumerate(("", "processor_")):
        by_turn = {name: [one[kind] for one in some] for name, some in took.items()}
        medians = {name: median(some) for name, some in by_turn.items()}
        results |= {f"{what}seconds_by_turn": by_turn, f"{what}median": medians}
        results[f"{what}cell_type_over_celltypist"] = medians["polygene-512, cell type"] / medians[CELLTYPIST]
    for name, some in results["seconds_by_turn"].items():
        numbers = (median(some), min(some), max(some), results["processor_median"][name])
        table.add_row(name, *(f"{value:.1f}" for value in numbers))
    Console(width=100).print(table)
    return results


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", type=int, default=10_000, help="cells of the file")
    parser.add_argument("--turns", type=int, default=3, help="times that each command runs")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("annotate", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
