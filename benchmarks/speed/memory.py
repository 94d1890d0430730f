"""Peak memory of every verb as the cells grow.

    python -m benchmarks.speed.memory --data DIR                     # 10 thousand, 100 thousand and 1 million cells
    python -m benchmarks.speed.memory --data DIR --sizes 10000 --verbs embed evaluate perturb --folder SCRATCH
    python -m benchmarks.speed.memory --data DIR --sizes 10000 --verbs train annotate --labels 5000

Files are made by drawing cells of OneK1K with replacement (114 genes a cell; 1 million cells are 1 GB, and their
corpus as much), written block by block. Each command runs as a process of its own on one thread, with an untrained
network of 2 layers × 64, since the network is not the question. Peak memory is what the system counted for the process
(ru_maxrss of os.wait4); seconds are of the processor, start included. annotate and embed write Parquet, annotate_h5ad
.h5ad; denoise writes the whole panel, finetune fits a head, perturb removes one gene, counterfactual changes the sex,
generate draws as many cells as the size says, balance fills labels up to 100 cells, train learns for one epoch,
evaluate scores the test cells of the corpus with what was trained, vote lets the labels of the file group what
annotate_h5ad wrote, join puts two parts together, info describes the corpus. With --labels the cells have so many cell
types, drawn at random. A size that would take longer than
--most-seconds, by the size before, is left out. What was measured of other verbs and sizes stays in memory.json, each
with its day. The last line is one JSON object.
"""

import argparse
import json
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
from datetime import UTC, datetime
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


def relabel(source: Path, path: Path, n_labels: int, seed: int) -> None:
    """Write the cells with so many cell types, each as often as another."""
    import anndata as ad
    import numpy as np

    cells = ad.read_h5ad(source)
    labels_C = np.random.default_rng(seed).permutation(np.arange(cells.n_obs) % n_labels)
    cells.obs["cell_type"] = [f"type {label}" for label in labels_C]
    cells.write_h5ad(path)


def make_model(source: Path, folder: Path) -> None:
    """Save an untrained network on the genes and labels of the file."""
    from polygene.corpus.prepare import prepare
    from polygene.model.checkpoint import PolyGene

    corpus = prepare(source, folder / "corpus")
    PolyGene.new(corpus.tokenizer, **NETWORK).save_pretrained(folder / "model")


RECIPE = """
corpus = "{folder}/prepare-{n}"
out = "{folder}/train-{n}"
[network]
hidden_size = 64
num_hidden_layers = 2
intermediate_size = 128
[training]
epochs = 1
evaluations = 1
"""


SIZES = [10_000, 100_000, 1_000_000]
NEEDS = {
    "join": ("part1", "part2"),
    "train": ("prepare",),
    "info": ("prepare",),
    "evaluate": ("train",),
    "vote": ("annotate_h5ad",),
}
"""What a command reads that another one makes."""


def words_of(folder: Path, n_cells: int, seed: int = 0) -> dict[str, list[str]]:
    """The command line of each verb; its last word is what it makes or reads."""
    cells, out = str(folder / f"cells-{n_cells}-{seed}.h5ad"), lambda name: str(folder / f"{name}-{n_cells}")
    model = ["--model", str(folder / "model")]
    return {
        "prepare": ["prepare", cells, "--out", out("prepare")],
        "part1": ["prepare", cells, "--part", "1/2", "--out", out("part1")],
        "part2": ["prepare", cells, "--part", "2/2", "--out", out("part2")],
        "join": ["join", out("part1"), out("part2"), "--out", out("join")],
        "train": ["train", f"{out('recipe')}.toml", "--out", out("train")],
        "evaluate": ["evaluate", out("prepare"), "--model", out("train"), "--out", out("evaluate") + ".json"],
        "annotate": ["annotate", cells, *model, "--out", out("annotate") + ".parquet"],
        "annotate_h5ad": ["annotate", cells, *model, "--out", out("annotate") + ".h5ad"],
        "vote": ["vote", out("annotate") + ".h5ad", "--groupby", "cell_type", "--out", out("vote") + ".parquet"],
        "embed": ["embed", cells, *model, "--out", out("embed") + ".parquet"],
        "denoise": ["denoise", cells, *model, "--panel", "all", "--out", out("denoise") + ".h5ad"],
        "finetune": ["finetune", cells, *model, "--label", "cell_type", "--out", out("finetune")],
        "perturb": ["perturb", cells, *model, "--knock-out", "LYZ", "--out", out("perturb") + ".csv"],
        "counterfactual": ["counterfactual", cells, *model, "--set", "sex=male", "--out", out("changed") + ".csv"],
        "balance": ["balance", cells, *model, "--n-cells", "100", "--out", out("balance") + ".h5ad"],
        "generate": ["generate", *model, "--n-cells", str(n_cells), "--steps", "4", "--out", out("new") + ".h5ad"],
        "info": ["info", out("prepare")],
    }


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


def slope(cells: list[int], seconds: list[float]) -> float | None:
    """Exponent of the power law through these points, by least squares of the logarithms; None for one point."""
    if len(cells) < 2:
        return None
    return round(statistics.linear_regression(list(map(math.log, cells)), list(map(math.log, seconds))).slope, 3)


def made(folder: Path, source: Path, n_cells: int, seed: int) -> Path:
    """Give the file of so many cells; one that is there whole is used again."""
    cells = folder / f"cells-{n_cells}-{seed}.h5ad"
    if not cells.exists():
        partial = cells.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        apart(make_cells, source, partial, n_cells, seed)
        partial.rename(cells)
    return cells


def add_options(parser: argparse.ArgumentParser) -> None:
    verbs = [verb for verb in words_of(Path(), 0) if not verb.startswith("part")]
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="CELLS")
    parser.add_argument("--verbs", nargs="+", default=verbs, choices=verbs, metavar="VERB", help=" ".join(verbs))
    parser.add_argument("--labels", type=int, metavar="N", help="give the cells so many cell types")
    parser.add_argument("--most-seconds", type=float, default=600, help="leave sizes out that take longer")
    parser.add_argument("--folder", type=Path, help="where files are made, which then stay")


def run(verb: str, folder: Path, n_cells: int, seed: int) -> dict[str, float]:
    """Run a command anew, after those that it needs where they have not run."""
    words = words_of(folder, n_cells, seed)
    for other in NEEDS.get(verb, ()):
        if not Path(words[other][-1]).exists():
            run(other, folder, n_cells, seed)
    out = Path(words[verb][-1])
    if verb != "info":
        shutil.rmtree(out, ignore_errors=True)
        if out.is_file():
            out.unlink()
    return measured(*words[verb])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the commands on files of every size, print the table, and return its numbers and those of before."""
    sizes, source = [300] if options.smoke else sorted(options.sizes), files.needed(SOURCE, options.data)
    file = command.RESULTS / "memory.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() and not options.smoke else {}
    rows: dict[str, dict[str, Any]] = known.get("verbs", {})
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if options.labels:
            folder = folder / f"{options.labels}-labels"
            folder.mkdir(exist_ok=True)
            apart(relabel, source, folder / "source.h5ad", options.labels, options.seed)
            source = folder / "source.h5ad"
        if not (folder / "model").exists():
            apart(make_model, source, folder)
        for n_cells in sizes:
            made(folder, source, n_cells, options.seed)
            (folder / f"recipe-{n_cells}.toml").write_text(RECIPE.format(folder=folder.resolve(), n=n_cells))
            for verb in effort.few(options.verbs, 3):  # the others: tests/benchmarks/test_memory.py
                title = f"{verb}, {options.labels:,} labels" if options.labels else verb
                of_n = rows.setdefault(title, {})
                if any(of_n[n]["cpu_s"] * n_cells / int(n) > options.most_seconds for n in of_n if int(n) < n_cells):
                    continue
                took = run(verb, folder, n_cells, options.seed)
                of_n[str(n_cells)] = {
                    "peak_mb": took["peak_mb"],
                    "cpu_s": round(took["cpu_s"], 1),
                    "date": datetime.now(UTC).date().isoformat(),
                }
                print(f"{title} of {n_cells:,} cells: {of_n[str(n_cells)]}", flush=True)
                if not options.smoke:  # a run that is stopped loses nothing
                    command.keep("memory", command.record(options, {"verbs": rows}))
    rows = {title: rows[title] for verb in words_of(Path(), 0) for title in rows if title.partition(",")[0] == verb}
    summary(rows)
    return {"verbs": rows}


def summary(rows: dict[str, dict[str, Any]]) -> None:
    """Print the peaks."""
    sizes = sorted({int(n) for of_n in rows.values() for n in of_n})
    table = Table("verb", *(f"{n:,} cells" for n in sizes), title="peak memory, MB")
    for verb, of_n in rows.items():
        table.add_row(verb, *(f"{of_n[str(n)]['peak_mb']:,.0f}" if str(n) in of_n else "" for n in sizes))
    Console(width=120).print(table)


def main(argv: Sequence[str] | None = None) -> None:
    command.run("memory", __doc__, measure, add_options, threads=None, argv=argv)


if __name__ == "__main__":
    main()
