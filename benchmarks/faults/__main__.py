"""Faults, thrown at PolyGene: what is lost, what is let in, and what it blames itself for without reason.

    python -m benchmarks.faults
    python -m benchmarks.faults --smoke         # seconds, no number to keep

*Kills*: SIGKILL, SIGTERM and SIGINT in turn at random moments of prepare, train, annotate, finetune, perturb, generate
and counterfactual; then the same command once more. It must end in the bytes of a run that nobody disturbed, with
nothing half-written under a final name in between and nothing left beside it. *Pairs*: the same command twice at once
into one place; one at least ends well, and what is there is what a single one makes. *Full disks*: a small disk
(tmpfs) that is full at a random moment, then has room. *Altered* checkpoints (a bit, a cut, more bytes, other values,
nothing, pickled code; with the hashes as they were, and with hashes made to fit), foreign files and links in
checkpoints, folders of stopped trainings, and corpora: the result of before, or one message with exit code 2.

`lost`: other bytes than undisturbed, something half-written, or a command that does not go on. `let_in`: code ran, or
an altered file changed a result in silence. `blamed_us`: "a mistake in PolyGene", a traceback or exit code 1 where the
fault came from outside. `hung`: no end within a quarter of an hour. Cells and networks are tiny, since the number of
moments counts and not their size. Needs fork, so no Windows. The last line is one JSON object.
"""

import argparse
import math
import os
import pickle
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import polygene.cli.commands
import polygene.evaluation.evaluate
import polygene.tl._annotate
import polygene.tl._counterfactual
import polygene.tl._finetune
import polygene.tl._generate
import polygene.tl._perturb
import polygene.tl._perturb_run
import polygene.training.train
from benchmarks.faults.altered import checkpoints, corpora, run_folders
from benchmarks.faults.kills import disks, kills, pairs
from benchmarks.faults.scene import FAULTS, VERBS, Scene, Tally, build
from benchmarks.shared import command

console = Console(width=120)
COUNTS = {"kills": 30, "pairs": 6, "disks": 6, "checkpoints": 300, "run_folders": 40, "corpora": 150}
"""Trials: of kills, pairs and disks for each verb, else in all."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="kinds of faults at a time")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no new trial after so long")
    for name, number in COUNTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=number, metavar="N")


def _trials(scene: Scene, counts: dict[str, int], seed: int, until: float) -> list[Callable[[], Tally]]:
    """List what can be thrown side by side: each kind has folders and random numbers of its own."""

    def trial(name: str, throw: Any, some: Scene) -> Callable[[], Tally]:
        def thrown() -> Tally:
            tally = Tally(until)
            throw(some, tally, counts[name], random.Random(f"{seed} {name} {' '.join(some.digests)}"))
            return tally

        return thrown

    of_verb = {verb: scene.of(verb) for verb in scene.digests}
    trials = [
        trial(name, throw, one) for name, throw in (("kills", kills), ("pairs", pairs)) for one in of_verb.values()
    ]
    whole = {"disks": disks, "checkpoints": checkpoints, "run_folders": run_folders, "corpora": corpora}
    return trials + [trial(name, throw, scene) for name, throw in whole.items()]


def _side_by_side(trials: Sequence[Callable[[], Tally]], folder: Path, workers: int) -> Tally:
    """Run each in a fork, so many at a time, and add up what they found."""
    tally, waiting, running, failed = Tally(), list(enumerate(trials)), dict[int, Path](), False
    while waiting or running:
        while waiting and len(running) < workers:
            number, trial = waiting.pop(0)
            found = folder / f"{number}.found"
            if not (pid := os.fork()):
                _write_and_end(trial, found)
            running[pid] = found
        pid, status = os.wait()
        found, failed = running.pop(pid), failed or status > 0
        if not status:
            tally.join(pickle.loads(found.read_bytes()))  # noqa: S301  written above
    if failed:  # not before: the others use the folder
        sys.exit("a part of the benchmark failed, see above")
    return tally


def _write_and_end(trial: Callable[[], Tally], found: Path) -> None:
    """Run in a fork, which must end here: what follows in the program is not its own."""
    status = 1
    try:
        found.write_bytes(pickle.dumps(trial()))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Throw all faults, print what was survived, and return the numbers."""
    if not hasattr(os, "fork"):
        sys.exit("skipped: there is no fork on this system")
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    polygene.tl._perturb_run.SAVE_EVERY = 0.02  # as a long run saves often
    verbs = list(VERBS)[:3] if options.smoke else list(VERBS)
    counts = dict.fromkeys(COUNTS, 1) if options.smoke else {name: getattr(options, name) for name in COUNTS}
    with tempfile.TemporaryDirectory() as folder:
        scene = build(Path(folder), 80 if options.smoke else 240, verbs)
        until = time.monotonic() + 60 * options.minutes
        tally = _side_by_side(_trials(scene, counts, options.seed, until), scene.folder, options.workers)
    table = Table(title="faults")
    for column in ("kind", "tried", "survived"):
        table.add_column(column)
    for kind, n in tally.tried.items():
        table.add_row(kind, f"{n:,}", f"{tally.survived[kind]:,}")
    console.print(table)
    for one in tally.faults[:20]:
        console.print(f"{one['fault']}, {one['kind']}: {one['words']}", markup=False)
    results = tally.results()
    console.print(", ".join(f"{name} {results[name]}" for name in FAULTS))
    return results


def main(argv: Sequence[str] | None = None) -> None:
    command.run("faults", __doc__, measure, add_options, threads=1, argv=argv)


if __name__ == "__main__":
    main()
