"""The real data of the benchmarks: where the files are, and whether they are what data.toml says.

A benchmark asks for its files by name and skips, with a message, the rows whose file is missing::

    for name in ("onek1k_scdesignpop_multicell", "velmeshev_asd_pfc_glia"):
        try:
            path = files.locate(name, folder)
        except files.MissingDataError as reason:
            print(f"skipped: {reason}")
            continue
"""

import argparse
import difflib
import functools
import hashlib
import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).parents[1] / "data.toml"
VARIABLE = "POLYGENE_DATA"


class MissingDataError(Exception):
    """A file is missing or differs from its entry in data.toml; the message is one line that says which and why."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of data.toml; `facts` holds everything that is written there."""

    name: str
    file: str
    sha256: str
    facts: dict[str, Any]


@functools.cache
def catalogue(path: Path = CATALOGUE) -> dict[str, Entry]:
    """Entries of data.toml by name, in the order of the file."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["file"]
    return {t["name"]: Entry(name=t["name"], file=t["file"], sha256=t["sha256"], facts=t) for t in tables}


def catalogue_of(folder: Path | None) -> dict[str, Entry]:
    """Entries of a data folder: its own data.toml (a miniature has one), else that of the benchmarks."""
    own = None if folder is None else folder / CATALOGUE.name
    return catalogue(own) if own is not None and own.is_file() else catalogue()


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Add `--data DIR`, which defaults to the folder that POLYGENE_DATA names."""
    given = os.environ.get(VARIABLE)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(given) if given else None,
        metavar="DIR",
        help=f"folder of the files listed in benchmarks/data.toml (default: ${VARIABLE})",
    )


def needed(name: str, folder: Path | None) -> Path:
    """Path of a file without which a benchmark has nothing to measure: without it the run ends with the reason."""
    try:
        return locate(name, folder)
    except MissingDataError as reason:
        sys.exit(f"skipped: {reason}")


def locate(name: str, folder: Path | None, *, entries: dict[str, Entry] | None = None) -> Path:
    """Path of a file of the data folder, once its SHA-256 is the one of data.toml.

    Raises
    ------
    MissingDataError
        No folder was given, the file is not in it, or it is another file.
    KeyError
        data.toml has no such name.
    """
    entries = catalogue_of(folder) if entries is None else entries
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1)
        msg = f"benchmarks/data.toml has no file named {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        raise KeyError(msg)
    entry = entries[name]
    if folder is None:
        msg = f"{name}: no data folder; give --data DIR or set {VARIABLE}"
        raise MissingDataError(msg)
    path = folder / entry.file
    if not path.is_file():
        msg = f"{name}: {path} is missing; benchmarks/data.toml says how to make it"
        raise MissingDataError(msg)
    status = path.stat()
    found = _sha256(path, status.st_size, status.st_mtime_ns)
    if found != entry.sha256:
        msg = f"{name}: {path} has SHA-256 {found[:12]}…, benchmarks/data.toml says {entry.sha256[:12]}…"
        raise MissingDataError(msg)
    return path


@functools.cache
def _sha256(path: Path, size: int, modified_ns: int) -> str:  # noqa: ARG001 the cache is keyed on them
    """SHA-256 of a file, computed once a process while size and time of change stay as they are."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
