"""The stage of every fault: small inputs, commands that end in the same bytes each time, and processes that run them.

A command runs in a fork of this process, which has imported everything, so it takes the time of its work and not of its
imports, and can be killed at any moment of it.
"""

import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.shared.miniature import STUDIES, _genes, make
from polygene.model.folder import verify
from polygene.runtime.toml import write_toml

PATIENCE = 900.0
"""Seconds after which a command counts as one that hangs, on a computer that may be busy."""
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
MODEL = ("--model", "model")


class Ended(NamedTuple):
    """How a command ended: its exit code (below 0: the signal), and what it wrote on the screen."""

    code: int
    said: str

    @property
    def blames_us(self) -> bool:
        """Whether it says that PolyGene is at fault, or fails without a message."""
        return "mistake in PolyGene" in self.said or "Traceback" in self.said or self.code == 1


@dataclass(frozen=True)
class Verb:
    """A command; what it reads, and what it makes."""

    words: tuple[str, ...]
    reads: tuple[str, ...]
    out: str


VERBS = {
    "prepare": Verb(("prepare", "cells.h5ad", "--out", "made", "--config", "prepare.toml"), ("cells.h5ad",), "made"),
    "train": Verb(("train", "recipe.toml"), ("corpus",), "run"),
    "annotate": Verb(("annotate", "cells.h5ad", *MODEL, "--out", "out.h5ad"), ("cells.h5ad", "model"), "out.h5ad"),
    "finetune": Verb(
        ("finetune", "cells.h5ad", *MODEL, "--label", "cell_type", "--out", "tuned"), ("cells.h5ad", "model"), "tuned"
    ),
    "perturb": Verb(
        ("perturb", "cells.h5ad", *MODEL, "--knock-out", "all", "--out", "effects.csv"),
        ("cells.h5ad", "model"),
        "effects.csv",
    ),
    "generate": Verb(
        ("generate", *MODEL, "--n-cells", "300", "--steps", "8", "--out", "new.h5ad"), ("model",), "new.h5ad"
    ),
    "counterfactual": Verb(
        ("counterfactual", "cells.h5ad", *MODEL, "--set", "sex=male", "--out", "changes.csv"),
        ("cells.h5ad", "model"),
        "changes.csv",
    ),
}


@dataclass
class Tally:
    """What was tried and survived, by kind, and what was not survived, with its words; no new trials after `until`."""

    until: float = float("inf")
    tried: dict[str, int] = field(default_factory=dict)
    survived: dict[str, int] = field(default_factory=dict)
    faults: list[dict[str, str]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def trials(self, n: int) -> Iterator[int]:
        """Count trials, as long as there is time."""
        for number in range(n):
            if time.monotonic() < self.until:
                yield number

    def add(self, kind: str, fault: str = "", words: str = "") -> None:
        """Count a trial; `fault` is "lost", "let_in", "blamed_us" or "hung" where it was not survived."""
        self.tried[kind] = self.tried.get(kind, 0) + 1
        self.survived[kind] = self.survived.get(kind, 0) + (not fault)
        if fault:
            self.faults.append({"kind": kind, "fault": fault, "words": words[-600:]})

    def join(self, other: "Tally") -> None:
        """Take in what another one counted."""
        for kind, n in other.tried.items():
            self.tried[kind] = self.tried.get(kind, 0) + n
            self.survived[kind] = self.survived.get(kind, 0) + other.survived[kind]
        self.faults += other.faults
        self.skipped |= other.skipped

    def results(self) -> dict[str, object]:
        """Give the numbers that are kept."""
        counts = {name: sum(one["fault"] == name for one in self.faults) for name in FAULTS}
        return {
            "tried": self.tried,
            "survived": self.survived,
            "skipped": self.skipped,
            **counts,
            "faults": self.faults,
        }


FAULTS = ("lost", "let_in", "blamed_us", "hung")


def start(folder: Path, work: Sequence[str] | Callable[[], object]) -> tuple[int, Path]:
    """Begin a command of polygene, or a function, in a process of its own whose current folder is `folder`."""
    said = Path(tempfile.gettempdir()) / f"{folder.name}.{uuid.uuid4().hex}.said"  # where the disk is not full
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid, said
    code = 130  # of an interrupt that comes when the command has ended
    try:
        screen = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number in (1, 2):
            os.dup2(screen, number)
        os.chdir(folder)
        if callable(work):
            work()
        else:
            from polygene.cli.commands import main

            sys.argv = ["polygene", *work]
            main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # a test double of the interpreter, which would print it and end with 1
        code = 1
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def end(pid: int, said: Path, patience: float = PATIENCE) -> Ended:
    """Wait for a process; one that hangs is killed, and has no code but -99."""
    started, status = time.monotonic(), (0, 0)
    while not status[0]:
        status = os.waitpid(pid, os.WNOHANG)
        if not status[0] and time.monotonic() - started > patience:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Ended(-99, _read(said))
        time.sleep(0.002)
    return Ended(os.waitstatus_to_exitcode(status[1]), _read(said))


def run(folder: Path, work: Sequence[str] | Callable[[], object], patience: float = PATIENCE) -> Ended:
    """Run a command to its end."""
    return end(*start(folder, work), patience)


def _read(said: Path) -> str:
    text = said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""
    said.unlink(missing_ok=True)
    return text


@dataclass(frozen=True)
class Scene:
    """A folder with cells, a corpus and a model, and what each command makes of them undisturbed."""

    folder: Path
    digests: dict[str, str]
    seconds: dict[str, float]

    def of(self, verb: str) -> "Scene":
        """Give the scene with one verb only."""
        return replace(self, digests={verb: self.digests[verb]}, seconds={verb: self.seconds[verb]})

    def place(self, name: str, verb: str) -> Path:
        """Make a folder with the inputs of a verb, copies of their own."""
        folder = self.folder / f"{name}-{verb}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in (*VERBS[verb].reads, "prepare.toml", "recipe.toml"):
            source = self.folder / file
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / file)
        return folder


def build(folder: Path, n_cells: int, verbs: Sequence[str]) -> Scene:
    """Make the inputs, and run every command once."""
    study = STUDIES["onek1k_scdesignpop_multicell"]
    genes = [name for name in _genes() if name][:120]
    cells = make(study, genes, np.random.default_rng(0))[:n_cells].copy()
    cells.write_h5ad(folder / "cells.h5ad")
    (folder / "prepare.toml").write_text(write_toml({"n_genes": 48, "binning": "linear"}))
    training = {"epochs": 4, "batch_size": 16, "evaluations": 4}
    recipe = {"corpus": "corpus", "out": "run", "network": SHAPE, "training": training}
    (folder / "recipe.toml").write_text(write_toml(recipe))
    words = ("prepare", "cells.h5ad", "--out", "corpus", "--config", "prepare.toml")
    for work in (words, ("train", "recipe.toml")):
        if (ended := run(folder, work)).code:
            sys.exit(f"polygene {' '.join(work)} failed:\n{ended.said}")
    (folder / "run").rename(folder / "model")
    shutil.rmtree(folder / "model" / "training")
    scene = Scene(folder, {}, {})
    for verb in verbs:
        place, started = scene.place("undisturbed", verb), time.monotonic()
        if (ended := run(place, VERBS[verb].words)).code:
            sys.exit(f"polygene {' '.join(VERBS[verb].words)} failed:\n{ended.said}")
        scene.seconds[verb] = time.monotonic() - started
        scene.digests[verb] = digest(place / VERBS[verb].out)
    return scene


def digest(made: Path) -> str:
    """Hash a file, or the names and contents of a folder."""
    whole = hashlib.sha256()
    for path in sorted(made.rglob("*")) if made.is_dir() else [made]:
        if path.is_file():
            whole.update(f"{path.relative_to(made)}\n".encode())
            whole.update(path.read_bytes())
    return whole.hexdigest()


def is_half(made: Path, expected: str) -> bool:
    """Whether something is there under the final name that is not whole and would not be refused either."""
    if not made.exists():
        return False
    if not made.is_dir() or (made / "corpus.json").exists():
        return digest(made) != expected
    try:
        verify(made)
    except ValueError:  # PolyGene refuses it
        return False
    return not _same_weights(made, expected)


def _same_weights(made: Path, expected: str) -> bool:
    shown = made.with_name(f"{made.name}.shown")
    shutil.copytree(made, shown)
    for state in (shown / "training").glob("checkpoint-*"):
        shutil.rmtree(state)
    if (shown / "training").is_dir():
        (shown / "training" / "finished").touch()
    same = digest(shown) == expected
    shutil.rmtree(shown)
    return same


def leftovers(folder: Path) -> list[str]:
    """Name what a command left beside what it made."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".") or path.name.endswith(".part"))
