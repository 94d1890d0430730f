"""The command line of every benchmark, and the record of its numbers.

A benchmark is a function from its options to a dictionary of numbers; it prints its tables itself::

    def measure(options: argparse.Namespace) -> dict[str, Any]: ...


    if __name__ == "__main__":
        command.run("binning", __doc__, measure, add_options)

Every one takes `--data`, `--seed` and `--smoke`. The last line of output is one JSON object: the numbers, and when,
where and with what they were measured. Except in a smoke run, benchmarks/results/NAME.json gets the same. Nothing
heavy is imported here: `benchmarks.speed.memory` measures the memory of its own child processes.
"""

import argparse
import json
import logging
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.shared import effort, files

RESULTS = Path(__file__).parents[1] / "results"
PACKAGES = ("polygene", "torch", "transformers", "anndata", "numpy", "scikit-learn", "scanpy", "scvi-tools")
Measure = Callable[[argparse.Namespace], Mapping[str, Any]]
Part = Callable[..., Mapping[str, Any]]
"""Takes the data folder, the seed and the folder of the models, and the options where the benchmark has own ones;
prints its tables and returns its numbers."""


def run(
    name: str,
    description: str,
    measure: Measure,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    threads: int | None = 1,
    argv: Sequence[str] | None = None,
) -> None:
    """Read the command line, measure, and print and keep the numbers.

    Parameters
    ----------
    name
        Of the file in benchmarks/results.
    threads
        Of torch, so that times mean something on a busy machine; None leaves them as they are.
    """
    parser = _parser(description)
    if add_options:
        add_options(parser)
    options = parser.parse_args(argv)
    with _ready(options, threads):
        results = _plain(record(options, measure(options)))
    if not options.smoke:
        keep(name, results)
    print(json.dumps(results))


def run_parts(
    description: str,
    parts: Mapping[str, Part],
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    threads: int | None = 1,
    argv: Sequence[str] | None = None,
) -> None:
    """Do the same for a benchmark of several parts, which share their models; each part has a file of its own."""
    parser = _parser(description)
    parser.add_argument("--only", choices=parts, action="append", help="this part; may be given again")
    parser.add_argument("--models", type=Path, help="keep corpora and models here; else in a temporary folder")
    if add_options:
        add_options(parser)
    options = parser.parse_args(argv)
    own = [options] if add_options else []
    everything: dict[str, Any] = {}
    with _ready(options, threads), tempfile.TemporaryDirectory() as scratch:
        for name in options.only or parts:
            numbers = parts[name](options.data, options.seed, options.models or Path(scratch), *own)
            results = _plain(record(options, numbers))
            if not options.smoke:
                keep(name, results)
            everything |= results
            print(f"part {name} done", flush=True)
    print(json.dumps(everything))


def record(options: argparse.Namespace, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Put in front of the numbers when, from which commit, on what and with which versions they were measured."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        # an absolute path is of one machine
        "command": " ".join(
            ["python -m", _module(), *(re.sub(r"(^|(?<==))/.*", "DIR", word) for word in sys.argv[1:])]
        ),
        "seed": options.seed,
        "hardware": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None,
            "load_before": options.load_before,
        },
        "versions": {"python": platform.python_version()} | {p: v for p in PACKAGES if (v := _version(p))},
        "seconds": round(time.perf_counter() - options.started),
        **numbers,
    }


def keep(name: str, results: Mapping[str, Any]) -> None:
    """Write benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(_plain(results), indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def processor() -> str:
    """Name of the processor, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    files.add_data_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="of donor splits, of training and of what is drawn")
    parser.add_argument("--smoke", action="store_true", help="seconds on made-up cells: does it run? Keeps no number")
    return parser


class _ready:  # noqa: N801 used as a function
    """Set threads, silence what packages say to their developers, and give a smoke run its miniature."""

    def __init__(self, options: argparse.Namespace, threads: int | None) -> None:
        self.options, self.threads = options, threads

    def __enter__(self) -> None:
        options = self.options
        options.load_before, options.started = round(os.getloadavg()[0], 1), time.perf_counter()
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.simplefilter("ignore")
        if self.threads:
            import torch

            self.threads_before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
        self.smoke = effort.smoke(options.smoke)
        self.smoke.__enter__()
        self.folder = tempfile.TemporaryDirectory()
        if options.smoke:
            from benchmarks.shared import miniature

            options.data = Path(self.folder.name)
            miniature.write(options.data)

    def __exit__(self, *exception: object) -> None:
        self.folder.cleanup()
        self.smoke.__exit__(*exception)
        self.warnings.__exit__(*exception)
        if self.threads:
            sys.modules["torch"].set_num_threads(self.threads_before)


def _commit() -> str:
    """Short hash of the commit, with a + where files differ from it."""
    git = ["git", "-C", str(RESULTS.parent)]
    said = [subprocess.run([*git, *words], capture_output=True, text=True, check=False) for words in _QUESTIONS]
    return "" if said[0].returncode else said[0].stdout.strip() + ("+" if said[1].stdout.strip() else "")


_QUESTIONS = (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _plain(value: Any) -> Any:
    """Make numbers JSON's own; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):  # a number of numpy
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
