"""Memory of every verb, and time of `polygene prepare` and `polygene annotate`, as the cells grow.

    python -m benchmarks.speed.memory --data DIR                     # 10 thousand, 100 thousand and 1 million cells
    python -m benchmarks.speed.memory --data DIR --sizes 10000 100000 --verbs embed evaluate perturb
    python -m benchmarks.speed.memory --data DIR --sizes 10000 100000 --workers 4  # several verbs at a time

Files are made by drawing cells of OneK1K with replacement (114 genes a cell; 1 million cells are 1 GB, and their
corpus as much), written block by block, and removed again. Each command runs as a process of its own on one thread,
with an untrained network of 2 layers × 64, since the network is not the question; annotate writes Parquet. Peak
memory is what the system counted for the process (ru_maxrss of os.wait4). Time is processor time, which other work on
the machine disturbs less. Start-up, what a file of 200 cells takes right before, is subtracted; below 100 thousand
cells, where it is most of the time, the median of five such differences counts. The exponent is the slope of the
logarithm of the time over that of the cells, by least squares; a size whose time is under a fifth of the start-up is
too short to tell. Of the other verbs the peak alone is measured: denoise writes the whole panel, finetune fits a head,
perturb removes one gene, counterfactual changes the sex, generate draws as many cells as the size says, train learns
for one epoch, evaluate scores the test cells of the corpus with what was trained, vote lets the labels of the file
group what annotate (.h5ad) wrote. Memory growth is the peak at the
largest size over that at the smallest; bytes a cell are what the peak grows by. The last line is one JSON object.
"""

import argparse
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.shared import command, effort, files

# The system counts a process's peak from before its program starts, when it still shares the memory of the one that
# starts it. So this one stays small: nothing heavy is imported here, and files are made in processes of their own.

SOURCE = "onek1k_scdesignpop_multicell"
BLOCK = 10_000
STARTUP_CELLS = 200
NETWORK = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def make_cells(source: Path, path: Path, n_cells: int, seed: int, fewest: float = 1.0) -> None:
    """Draw cells with replacement, each with `fewest` to all of its molecules, and write them, a block at a time."""
    import warnings

    import anndata as ad
    import h5py
    import numpy as np
    from anndata.io import sparse_dataset, write_elem

    warnings.filterwarnings("ignore", message="Observation names are not unique")  # they get a number each
    cells = ad.read_h5ad(source)
    rng = np.random.default_rng(seed)
    for first in range(0, n_cells, BLOCK):
        drawn = cells[rng.integers(0, cells.n_obs, min(BLOCK, n_cells - first))].copy()
        drawn.obs_names = [f"{name}-{first + i}" for i, name in enumerate(drawn.obs_names)]
        drawn.strings_to_categoricals()
        if fewest < 1:  # else many cells are the same
            share_N = np.repeat(rng.uniform(fewest, 1, drawn.n_obs), np.diff(drawn.X.indptr))
            drawn.X.data = rng.binomial(drawn.X.data.astype(np.int64), share_N).astype(drawn.X.dtype)
            drawn.X.eliminate_zeros()
        with h5py.File(path, "a") as file:
            if not first:
                write_elem(file, "X", drawn.X)
                write_elem(file, "var", drawn.var)
                write_elem(file, "obs", drawn.obs, dataset_kwargs={"maxshape": (None,)})
                continue
            sparse_dataset(file["X"]).append(drawn.X)
            values = {"_index": drawn.obs_names.to_numpy(dtype=object)}
            for name, column in drawn.obs.items():
                if column.dtype == "category":
                    values[f"{name}/codes"] = column.cat.codes.to_numpy()
                else:
                    values[name] = column.to_numpy()
            for name, array in values.items():
                dataset = file["obs"][name]
                dataset.resize(first + len(array), axis=0)
                dataset[first:] = array


def make_model(source: Path, folder: Path) -> None:
    """Save an untrained network on the genes and labels of the file."""
    from polygene.corpus.prepare import prepare
    from polygene.model.checkpoint import PolyGene

    corpus = prepare(source, folder / "corpus")
    PolyGene.new(corpus.tokenizer, **NETWORK).save_pretrained(folder / "model")


TIMED = ("prepare", "annotate")
RECIPE = """
corpus = "{folder}/corpus-{n}"
out = "{folder}/run-{n}"
[network]
hidden_size = 64
num_hidden_layers = 2
intermediate_size = 128
[training]
epochs = 1
evaluations = 1
"""


def words_of(verb: str, folder: Path, n_cells: int) -> list[str]:
    """The command line of a verb whose peak alone is measured."""
    cells, out = str(folder / f"cells-{n_cells}.h5ad"), str(folder / f"{verb}-{n_cells}")
    model, corpus = ["--model", str(folder / "model")], str(folder / f"corpus-{n_cells}")
    return {
        "embed": ["embed", cells, *model, "--out", f"{out}.parquet"],
        "denoise": ["denoise", cells, *model, "--panel", "all", "--out", f"{out}.h5ad"],
        "finetune": ["finetune", cells, *model, "--label", "cell_type", "--out", out],
        "perturb": ["perturb", cells, *model, "--knock-out", "LYZ", "--out", f"{out}.csv"],
        "counterfactual": ["counterfactual", cells, *model, "--set", "sex=male", "--out", f"{out}.csv"],
        "balance": ["balance", cells, *model, "--n-cells", "100", "--out", f"{out}.h5ad"],
        "generate": ["generate", *model, "--n-cells", str(n_cells), "--steps", "4", "--out", f"{out}.h5ad"],
        "train": ["train", str(folder / f"recipe-{n_cells}.toml")],
        "vote": ["vote", f"{folder}/annotated-{n_cells}.h5ad", "--groupby", "cell_type", "--out", f"{out}.parquet"],
        "evaluate": ["evaluate", corpus, "--model", str(folder / f"run-{n_cells}"), "--out", f"{out}.json"],
    }[verb]


PEAKS = (
    "embed",
    "denoise",
    "finetune",
    "perturb",
    "counterfactual",
    "balance",
    "generate",
    "train",
    "evaluate",
    "vote",
)


def peaks(folder: Path, source: Path, sizes: Sequence[int], options: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Measure the peaks of verbs, several at a time."""
    verbs = [verb for verb in PEAKS if verb in options.verbs or (verb == "train" and "evaluate" in options.verbs)]
    for n_cells in sizes if verbs else ():
        cells = folder / f"cells-{n_cells}.h5ad"
        apart(make_cells, source, cells, n_cells, options.seed)
        (folder / f"recipe-{n_cells}.toml").write_text(RECIPE.format(folder=folder.as_posix(), n=n_cells))
        if "train" in verbs:
            measured("prepare", str(cells), "--out", str(folder / f"corpus-{n_cells}"))
        if "vote" in verbs:
            annotated = str(folder / f"annotated-{n_cells}.h5ad")
            measured("annotate", str(cells), "--model", str(folder / "model"), "--out", annotated)
    of_verb: dict[str, dict[int, float]] = {verb: {} for verb in verbs}

    def measure_one(verb: str, n_cells: int) -> None:
        peak = of_verb[verb][n_cells] = measured(*words_of(verb, folder, n_cells))["peak_mb"]
        print(f"{verb} of {n_cells:,} cells: {peak:,.0f} MB", flush=True)

    for phase in ([verb for verb in verbs if verb != "evaluate"], ["evaluate"] if "evaluate" in verbs else []):
        with ThreadPoolExecutor(options.workers) as pool:  # evaluate needs what train makes
            list(pool.map(lambda task: measure_one(*task), [(verb, n) for n in sizes for verb in phase]))
    return of_verb


def apart(function: Any, *arguments: Any) -> None:
    """Run a function in a new process."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{function.__name__} failed")


def measured(*words: str) -> dict[str, float]:
    """Run polygene: peak memory in MB (10⁶ bytes), processor time and clock time in seconds."""
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "polygene", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    said = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"polygene {' '.join(words)} failed:\n{said}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "peak_mb": round(peak / 1e6, 1),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - started,
    }


def run(folder: Path, source: Path, n_cells: int, seed: int) -> dict[str, dict[str, float]]:
    """Make a file of cells, prepare and annotate it beside the file of few cells, and remove what was made."""
    cells, corpus, answers = folder / "cells.h5ad", folder / "made", folder / "answers.parquet"
    apart(make_cells, source, cells, n_cells, seed)
    found = {}
    for verb, options in (
        ("prepare", ["--out", str(corpus)]),
        ("annotate", ["--out", str(answers), "--model", str(folder / "model")]),
    ):
        pairs = []
        for _ in range(effort.at_most(5 if n_cells < 100_000 else 1, 1)):
            for file in (folder / "few.h5ad", cells):
                pairs.append(measured(verb, str(file), *options))
                shutil.rmtree(corpus, ignore_errors=True)
                answers.unlink(missing_ok=True)
        startups, runs = pairs[::2], pairs[1::2]
        found[verb] = {
            "peak_mb": max(one["peak_mb"] for one in runs),
            "startup_s": statistics.median(one["cpu_s"] for one in startups),
            **{
                time: statistics.median(one[time] - before[time] for one, before in zip(runs, startups, strict=True))
                for time in ("cpu_s", "wall_s")
            },
        }
    cells.unlink()
    return found


def slope(cells: list[int], seconds: list[float]) -> float | None:
    """Exponent of the power law through these points, by least squares of the logarithms; None for one point."""
    if len(cells) < 2:
        return None
    return round(statistics.linear_regression(list(map(math.log, cells)), list(map(math.log, seconds))).slope, 3)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="CELLS")
    parser.add_argument("--verbs", nargs="+", default=[*TIMED, *PEAKS], choices=[*TIMED, *PEAKS], metavar="VERB")
    parser.add_argument("--workers", type=int, default=1, help="verbs at a time, where peaks alone are measured")
    parser.add_argument("--folder", type=Path, help="where files are made (default: a temporary folder)")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the commands on files of every size, print the table, and return its numbers."""
    console, sizes = Console(width=120), [300] if options.smoke else options.sizes
    source = files.needed(SOURCE, options.data)
    of_size: dict[int, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        apart(make_model, source, folder)
        apart(make_cells, source, folder / "few.h5ad", STARTUP_CELLS, options.seed)
        peaks_of = peaks(folder, source, sizes, options)
        for n_cells in sizes if set(TIMED) <= set(options.verbs) else ():
            of_size[n_cells] = run(folder, source, n_cells, options.seed)
            console.print(f"{n_cells:,} cells: {of_size[n_cells]}")
    results = summary(of_size, console) if of_size else {"peak_mb": {}, "memory_growth": {}}
    results["bytes_a_cell"] = {}
    for verb, of_n in peaks_of.items():
        results["peak_mb"][verb] = of_n
        results["memory_growth"][verb] = round(of_n[max(sizes)] / of_n[min(sizes)], 3)
    for verb, of_n in results["peak_mb"].items():
        if len(of_n) > 1:
            results["bytes_a_cell"][verb] = round(
                1e6 * (of_n[max(sizes)] - of_n[min(sizes)]) / (max(sizes) - min(sizes))
            )
    return results


def summary(of_size: dict[int, dict[str, dict[str, float]]], console: Console) -> dict[str, Any]:
    """Print what each command needs at each size, and how both grow."""
    names = ("peak_mb", "cells_per_s", "growth_exponent", "memory_growth", "startup_s")
    results: dict[str, Any] = {name: {} for name in names}
    table = Table(title="start-up subtracted from times", title_justify="left")
    for column in ("command", "cells", "peak MB", "processor s", "clock s", "cells/s"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for verb in ("prepare", "annotate"):
        rows = {n: one[verb] for n, one in of_size.items()}
        seconds = {n: max(row["cpu_s"], 1e-3) for n, row in rows.items()}
        peaks = {n: row["peak_mb"] for n, row in rows.items()}
        known = {n: s for n, s in seconds.items() if s > rows[n]["startup_s"] / 5}
        speeds = {n: round(n / s) for n, s in known.items()}
        for n, row in rows.items():
            times = f"{seconds[n]:.1f}", f"{row['wall_s']:.1f}"
            table.add_row(verb, f"{n:,}", f"{peaks[n]:,.0f}", *times, f"{speeds[n]:,}" if n in speeds else "too short")
        results["peak_mb"][verb] = peaks
        results["cells_per_s"][verb] = speeds
        results["growth_exponent"][verb] = slope(list(known), list(known.values()))
        results["memory_growth"][verb] = round(peaks[max(peaks)] / peaks[min(peaks)], 3)
        results["startup_s"][verb] = round(statistics.median(row["startup_s"] for row in rows.values()), 1)
    console.print(table)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    command.run("memory", __doc__, measure, add_options, threads=None, argv=argv)


if __name__ == "__main__":
    main()
