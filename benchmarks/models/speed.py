"""How long a model takes on a user's machine: a process of its own loads it and annotates a file of 10,000 cells."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from benchmarks.shared import effort

ROOT = Path(__file__).parents[2]

N_CELLS, N_THREADS = 10_000, 2
MOST_SECONDS = {"polygene-512": 60.0}
"""Wanted for so many cells."""
BUSY = 0.5
"""Load of the machine above which a time that is too long says nothing."""


def measure(model: str, cells: Path) -> dict[str, Any]:
    """Annotate 10,000 cells, those of a file as often as it takes, on two threads.

    Returns
    -------
    `import_s`, `load_s`, `annotate_s`, `cpu_s` (processor time of the same, all threads together, which a busy machine
    lengthens less), `cells_per_s`, `peak_mb` of the whole process (most of it PyTorch), and how busy the machine was
    (`load_average`, of a minute, on so many `cores`): times mean something where nothing else runs.
    """
    threads = {name: str(N_THREADS) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cells.h5ad"
        few = ad.read_h5ad(cells)
        n_cells = effort.at_most(N_CELLS, 100)
        many = few[np.arange(n_cells) % few.n_obs].copy()
        many.obs_names = [f"cell {c}" for c in range(n_cells)]
        many.write_h5ad(file)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.models.speed", model, str(file)],
            cwd=ROOT,
            env=os.environ | threads,
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1]) | {"load_average": round(busy, 1), "cores": os.cpu_count()}


def verdict(name: str, speed: Mapping[str, Any]) -> str:
    """Say whether a model is as quick as is wanted; "" where nothing is wanted of it."""
    if name not in MOST_SECONDS:
        return ""
    wanted = f"at most {MOST_SECONDS[name]:.0f} s were wanted: "
    if speed["annotate_s"] <= MOST_SECONDS[name]:
        return wanted + "met"
    return wanted + ("not told, the machine was busy" if speed["load_average"] > BUSY else "missed")


def main(model: str, file: str) -> None:
    started = time.perf_counter()
    import torch

    import polygene as pg

    torch.set_num_threads(N_THREADS)
    network = pg.PolyGene  # loads the network
    imported = time.perf_counter()
    loaded = network.from_pretrained(model, device="cpu")
    ready = time.perf_counter()
    used = time.process_time()
    pg.tl.annotate(file, loaded, out=Path(file).with_name("answers.parquet"))
    took = time.perf_counter() - ready
    used = time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times = {"import_s": imported - started, "load_s": ready - imported, "annotate_s": took, "cpu_s": used}
    times |= {"cells_per_s": N_CELLS / took, "peak_mb": peak, "cells": N_CELLS, "threads": N_THREADS}
    print(json.dumps({name: round(value, 2) for name, value in times.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
