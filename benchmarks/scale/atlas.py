"""What `prepare` and `annotate` take as the cells grow: rates, peaks, bytes, and the exponent of their time.

Cells of OneK1K (114 genes a cell of 998) are drawn with replacement. Commands run in processes of their own, whose
start is measured on a file of few cells and subtracted from their time. What was measured of other sizes stays in
atlas.json, each size with its day and the load of the machine, since ten million cells take longer than one sitting:

    ... --only atlas --sizes 10000000 --folder SCRATCH --verbs                         # makes the file, which stays
    ... --only atlas --sizes 10000000 --folder SCRATCH --verbs prepare
    ... --only atlas --sizes 10000000 --folder SCRATCH --verbs annotate --parts 1/10   # and others, at any time
"""

import argparse
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.shared import effort, files
from benchmarks.shared.command import RESULTS
from benchmarks.speed.memory import SOURCE, STARTUP_CELLS, apart, made, make_model, measured, slope

SIZES = [100_000, 1_000_000]
VERBS = ("prepare", "annotate")
NAMES = ("file", *VERBS)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="CELLS", help="of the files of atlas")
    parser.add_argument("--folder", type=Path, help="where atlas makes files of cells, which then stay")
    parser.add_argument("--verbs", nargs="*", default=VERBS, choices=VERBS, metavar="VERB", help="that atlas measures")
    parser.add_argument("--parts", nargs="*", default=(), metavar="K/N", help="annotate these parts alone")


def size_of(path: Path) -> int:
    """Bytes of a file or of a folder."""
    return sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())


def once(verb: str, cells: Path, folder: Path, *more: str) -> dict[str, Any]:
    """Run a command into a folder, which is removed; give what it took, when, and what it wrote."""
    out, load = folder / "out", round(os.getloadavg()[0], 1)
    took = measured(verb, str(cells), "--out", str(out), *more)
    n_bytes = size_of(out)
    shutil.rmtree(out)
    return {**took, "bytes": n_bytes, "load_before": load, "date": datetime.now(UTC).date().isoformat()}


def run(data: Path | None, seed: int, models: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure every size, print a table, and return its numbers, and those of sizes measured before."""
    sizes = [300] if options.smoke else options.sizes
    source = files.needed(SOURCE, data)
    folder = options.folder or models / "atlas"
    folder.mkdir(parents=True, exist_ok=True)
    model, file = folder / "model", RESULTS / "atlas.json"
    if not model.exists():
        apart(make_model, source, folder)
    words: dict[str, list[str]] = {"prepare": [], "annotate": ["--model", str(model)]}
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() and not options.smoke else {}
    rows: dict[str, dict[int, Any]] = {name: {int(n): one for n, one in known.get(name, {}).items()} for name in NAMES}
    few = made(folder, source, STARTUP_CELLS, seed)
    for n_cells in sizes:
        cells = made(folder, source, n_cells, seed)
        rows["file"][n_cells] = {"bytes_a_cell": round(size_of(cells) / n_cells)}
        for verb in effort.few(options.verbs):
            of_parts = {part: ["--part", part] for part in options.parts if verb == "annotate"}
            start = once(verb, few, folder, *words[verb])["cpu_s"]
            took = {
                part: once(verb, cells, folder, *words[verb], *more) | {"start_s": start}
                for part, more in (of_parts or {"1/1": []}).items()
            }
            before = rows[verb].get(n_cells, {}).get("parts", {}) if of_parts else {}
            rows[verb][n_cells] = row(n_cells, before | took)
        if not options.folder:
            cells.unlink()
    return summary({name: dict(sorted(of_size.items())) for name, of_size in rows.items()})


def row(n_cells: int, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Add up the parts that were measured; the rate and the time of all cells are those of these parts."""
    share = sum(1 / int(name.partition("/")[2]) for name in parts)
    took = {name: sum(one[name] for one in parts.values()) for name in ("cpu_s", "start_s", "wall_s", "bytes")}
    seconds = max(took["cpu_s"] - took["start_s"], 1e-3)
    return {
        "measured_share": round(share, 3),
        "cells_per_s": round(n_cells * share / seconds),
        "seconds": round(seconds / share, 1),
        "clock_s": round(took["wall_s"] / share, 1),
        "peak_mb": max(one["peak_mb"] for one in parts.values()),
        "bytes_a_cell": round(took["bytes"] / (n_cells * share)),
        "parts": parts,
    }


def summary(rows: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Print what each command took, and return it with the exponents of its time and of its memory."""
    table = Table(
        *("command", "cells", "measured", "cells/s", "peak MB", "bytes a cell", "clock s"),
        title="seconds of the processor, less the start",
    )
    for verb in VERBS:
        for n, one in rows[verb].items():
            cells = (f"{n:,}", f"{one['measured_share']:.0%}", f"{one['cells_per_s']:,}", f"{one['peak_mb']:,.0f}")
            table.add_row(verb, *cells, str(one["bytes_a_cell"]), f"{one['clock_s']:,.0f}")
    Console(width=100).print(table)
    some = {verb: rows[verb] for verb in VERBS if rows[verb]}
    return {
        "peak_mb": max((one["peak_mb"] for of_size in some.values() for one in of_size.values()), default=None),
        "growth_exponent": {
            verb: slope(list(of_size), [one["seconds"] for one in of_size.values()]) for verb, of_size in some.items()
        },
        "memory_bytes_a_cell": {verb: bytes_a_cell(of_size) for verb, of_size in some.items()},
        **rows,
    }


def bytes_a_cell(of_size: dict[int, dict[str, Any]]) -> int | None:
    """Memory that a cell more takes, between the smallest size and the largest."""
    least, most = min(of_size), max(of_size)
    if least == most:
        return None
    return round(1e6 * (of_size[most]["peak_mb"] - of_size[least]["peak_mb"]) / (most - least))
