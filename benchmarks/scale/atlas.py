"""What `prepare` and `annotate` take as the cells grow: rates, peaks, bytes, and the exponent of their time.

Cells of OneK1K (114 genes a cell of 998) are drawn with replacement. Commands run in processes of their own, whose
start is measured on a file of few cells and subtracted from their time.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.shared import files
from benchmarks.speed.memory import SOURCE, STARTUP_CELLS, apart, make_cells, make_model, measured, slope

SIZES = [10_000, 100_000, 1_000_000]
VERBS = ("prepare", "annotate")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="CELLS", help="of the files of atlas")
    parser.add_argument("--folder", type=Path, help="where atlas makes its files (default: a temporary folder)")


def size_of(path: Path) -> int:
    """Bytes of a file or of a folder."""
    return sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())


def command_of(verb: str, cells: Path, out: Path, model: Path) -> list[str]:
    words = [verb, str(cells), "--out", str(out)]
    return words if verb == "prepare" else [*words, "--model", str(model)]


def one_size(folder: Path, source: Path, n_cells: int, seed: int) -> dict[str, dict[str, float]]:
    """Make a file of cells, prepare and annotate it, and remove what was made."""
    cells, found = folder / f"cells-{n_cells}.h5ad", {}
    apart(make_cells, source, cells, n_cells, seed)
    for verb in VERBS:
        out = folder / f"{verb}-{n_cells}"
        found[verb] = measured(*command_of(verb, cells, out, folder / "model"))
        found[verb]["bytes_a_cell"] = round(size_of(out) / n_cells)
        shutil.rmtree(out)
    found["file"] = {"bytes_a_cell": round(size_of(cells) / n_cells)}
    cells.unlink()
    return found


def run(data: Path | None, seed: int, models: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure every size, print a table, and return its numbers."""
    sizes = [300] if options.smoke else options.sizes
    try:
        source = files.locate(SOURCE, data)
    except files.MissingDataError as reason:
        sys.exit(f"skipped: {reason}")
    folder = (options.folder or models) / "atlas"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        apart(make_model, source, folder)
        of_size = {n_cells: one_size(folder, source, n_cells, seed) for n_cells in sizes}
        startup = of_size[300] if options.smoke else one_size(folder, source, STARTUP_CELLS, seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return summary(of_size, startup)


def summary(of_size: dict[int, dict[str, Any]], startup: dict[str, Any]) -> dict[str, Any]:
    """Print what each command took, and return it."""
    table = Table(
        "command", "cells", "cells/s", "peak MB", "bytes a cell", title="seconds of the processor, less the start"
    )
    results: dict[str, Any] = {"peak_mb": 0.0, "growth_exponent": {}, "atlas_bytes_a_cell": {}, "startup_s": {}}
    for verb in VERBS:
        start = startup[verb]["cpu_s"]
        seconds = {n: max(found[verb]["cpu_s"] - start, 1e-3) for n, found in of_size.items()}
        results[verb] = {
            n: {
                "cells_per_s": round(n / seconds[n]),
                "peak_mb": found[verb]["peak_mb"],
                "seconds": round(seconds[n], 1),
                "clock_s": round(found[verb]["wall_s"], 1),
            }
            for n, found in of_size.items()
        }
        results["startup_s"][verb] = round(start, 1)
        results["peak_mb"] = max(results["peak_mb"], *(one["peak_mb"] for one in results[verb].values()))
        results["growth_exponent"][verb] = slope(list(seconds), list(seconds.values()))
        largest = of_size[max(of_size)]
        results["atlas_bytes_a_cell"][verb] = largest[verb]["bytes_a_cell"]
        for n, one in results[verb].items():
            table.add_row(
                verb,
                f"{n:,}",
                f"{one['cells_per_s']:,}",
                f"{one['peak_mb']:,.0f}",
                str(of_size[n][verb]["bytes_a_cell"]),
            )
    results["atlas_bytes_a_cell"]["file"] = of_size[max(of_size)]["file"]["bytes_a_cell"]
    Console(width=100).print(table)
    return results
