"""Seconds to annotate a file from the command line, start included, beside CellTypist's.

    python -m benchmarks.speed.annotate --data DIR [--turns 3] [--cells 10000]

The cells are PBMC 3k's, drawn with replacement. Timed are whole commands, in turns, each with two threads:

all                `polygene annotate FILE`: five phenotypes
cell type          `polygene annotate FILE --predict cell_type`
CellTypist, 3,000  its own command with a model of 3,000 genes, learned here from PBMC 3k by its stochastic gradient
                   descent; nearest labels, no voting, tables as it writes them

Printed are medians with the smallest and the largest of the turns; the last line is one JSON object.
"""

import argparse
import logging
import os
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


def seconds(words: Sequence[str | Path]) -> float:
    """Run a command and give what it took by the clock."""
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), THREADS)
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=os.environ | variables)
    return time.perf_counter() - began


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
        took: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(1 if options.smoke else options.turns):
            for name, words in commands.items():
                (folder / "out.h5ad").unlink(missing_ok=True)
                (folder / "tables").mkdir(exist_ok=True)
                took[name].append(seconds(words))
    table = Table("command", "seconds", "from", "to", title=f"{n_cells:,} cells, start included")
    for name, some in took.items():
        table.add_row(name, *(f"{value:.1f}" for value in (median(some), min(some), max(some))))
    Console(width=100).print(table)
    medians = {name: median(some) for name, some in took.items()}
    ratio = medians["polygene-512, cell type"] / medians[CELLTYPIST]
    return {"cells": n_cells, "seconds_by_turn": took, "median": medians, "cell_type_over_celltypist": ratio}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", type=int, default=10_000, help="cells of the file")
    parser.add_argument("--turns", type=int, default=3, help="times that each command runs")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("annotate", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
