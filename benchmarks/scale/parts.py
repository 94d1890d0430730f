"""What parts and processes give `prepare`, whether they change a byte, and what ranking on a sample changes."""

import argparse
import filecmp
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.shared import effort, files
from benchmarks.speed.memory import apart, measured

FILE, COLUMNS = "velmeshev_asd_pfc_glia", {"sex": "sex_inferred"}
N_CELLS, N_GENES, N_PARTS, RANKING = 400_000, 5_000, 4, 4_000
SHARES = (0.25, 0.5)


def same_bytes(one: Path, two: Path) -> bool:
    """Whether two folders hold the same files."""
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    others = sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    return names == others and all(filecmp.cmp(one / name, two / name, shallow=False) for name in names)


def run(data: Path | None, seed: int, models: Path, _options: argparse.Namespace) -> dict[str, Any]:
    """Prepare a file at once, in parts and by two processes; return seconds of the processor and the speed-up."""
    source = files.needed(FILE, data)
    folder = models / "parts"
    folder.mkdir(parents=True)
    try:
        return measure(source, folder, seed)
    finally:
        shutil.rmtree(folder)


def measure(source: Path, folder: Path, seed: int) -> dict[str, Any]:
    n_cells, n_parts = effort.at_most(N_CELLS, 400), effort.at_most(N_PARTS, 1)
    cells, settings = folder / "cells.h5ad", folder / "settings.toml"
    apart(make_cells, source, cells, n_cells, seed)
    settings.write_text(f"n_genes = {effort.at_most(512, 64)}\nrank_cells = {RANKING}\nseed = {seed}\n")
    words = ["prepare", str(cells), "--config", str(settings), "--column", f"sex={COLUMNS['sex']}"]
    whole = measured(*words, "--out", str(folder / "whole"))
    two = measured(*words, "--out", str(folder / "two"), "--num-proc", "2")
    each = [
        measured(*words, "--out", str(folder / f"part{k}"), "--part", f"{k}/{n_parts}") for k in range(1, n_parts + 1)
    ]
    names = [str(folder / f"part{k}") for k in range(1, n_parts + 1)]
    joining = measured("join", *names, "--out", str(folder / "joined"))
    slowest = max(one["cpu_s"] for one in each)
    results = {
        "parts_cells": n_cells,
        "parts_seconds": {
            "whole": whole["cpu_s"],
            "parts": [one["cpu_s"] for one in each],
            "join": joining["cpu_s"],
            "two_processes": two["cpu_s"],
        },
        "parts_clock_s": {"whole": whole["wall_s"], "two_processes": two["wall_s"]},
        "parts_peak_mb": {"part": max(one["peak_mb"] for one in each), "join": joining["peak_mb"]},
        "speed_up": {
            f"{n_parts} parts and join": round(whole["cpu_s"] / (slowest + joining["cpu_s"]), 2),
            f"{n_parts} parts": round(whole["cpu_s"] / slowest, 2),
            "2 processes, at most": round(2 * whole["cpu_s"] / two["cpu_s"], 2),
        },
        "parts_equal": same_bytes(folder / "whole", folder / "joined"),
        "processes_equal": same_bytes(folder / "whole", folder / "two"),
        "panel_overlap": panel_overlap(source, folder, seed),
    }
    Console(width=100).print(results)
    return results


def make_cells(source: Path, path: Path, n_cells: int, seed: int) -> None:
    """Draw cells with replacement, in a process of its own."""
    import warnings

    from benchmarks.shared.resample import resample

    warnings.simplefilter("ignore")
    resample(source, path, n_cells, N_GENES, seed=seed)


def panel_overlap(source: Path, folder: Path, seed: int) -> dict[str, float]:
    """Say which share of the panel of all training cells a panel of some of them has, by the share of the cells."""
    from polygene.corpus.prepare import PrepareConfig

    config = PrepareConfig(phenotypes=COLUMNS, seed=seed)
    corpus = effort.prepare(source, folder / "all", config=config)
    n_train = len(corpus.split("train"))
    panel = {*corpus.tokenizer.panel.symbols}
    found = {}
    for share in effort.few(SHARES):
        some = replace(config, rank_cells=max(round(share * n_train), 1))
        # fewer cells than `prepare` leaves a source at the least: the panel of a sample, not a setting to recommend
        with least_ranking(1):
            sample = effort.prepare(source, folder / f"sample-{share}", config=some)
        found[str(share)] = round(len(panel & {*sample.tokenizer.panel.symbols}) / len(panel), 3)
    return {"training_cells": n_train, **found}


class least_ranking:  # noqa: N801 used as a function
    """Let a source rank genes on fewer cells than it would, for a while."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __enter__(self) -> None:
        from polygene.corpus import prepare as module

        self.module, self.before = module, module.LEAST_RANKING
        module.LEAST_RANKING = self.n

    def __exit__(self, *exception: object) -> None:
        self.module.LEAST_RANKING = self.before
