"""Atomic writes: a file or folder appears whole, or not at all.

It is written under a unique name beside its target and renamed when it is complete and on the disk. A lock for each
target, which the system releases when the process ends in whatever way, refuses a second run into the same place.
"""

import glob
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from polygene.errors import OutputError


@contextmanager
def atomic_file(target: str | Path, suffixes: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a path to write to, which becomes `target` when the block ends without an error.

    Whether `target` can be written is found out on entering, before the work begins.
    """
    target = check_target(target, suffixes)
    with _partial(target) as partial:
        partial.touch()
        yield partial
        _sync(partial)
        partial.replace(target)


@contextmanager
def atomic_folder(target: str | Path, *, replace: str | None = None) -> Iterator[Path]:
    """Yield an empty folder, which becomes `target` when the block ends without an error.

    A folder that is there is an error, unless it holds the file `replace`, such as corpus.json.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _partial(target) as partial:
        if target.exists() and not (replace and (target / replace).is_file()):
            why = f"it holds no {replace}, so it is not replaced" if replace else "it is not replaced"
            msg = f"{str(target)!r} exists, and {why}: choose another folder, or delete it (in Python: overwrite=True)"
            raise OutputError(msg)
        partial.mkdir()
        yield partial
        _sync(partial)
        before = partial.with_suffix(".before")
        if target.exists():
            target.rename(before)
        partial.rename(target)
        shutil.rmtree(before, ignore_errors=True)


@contextmanager
def atomic_update(folder: str | Path, *, last: str) -> Iterator[Path]:
    """Yield an empty folder, whose files replace those of `folder` when the block ends without an error.

    They are moved one by one, the file `last` after all others; other files of `folder` stay.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _partial(folder) as partial:
        partial.mkdir()
        yield partial
        _sync(partial)
        folder.mkdir(exist_ok=True)
        mode = (partial / last).stat().st_mode  # safetensors writes files that only their owner can read
        for file in sorted(partial.iterdir(), key=lambda file: (file.name == last, file.name)):
            file.chmod(mode)
            file.replace(folder / file.name)


def write_text(target: Path, text: str) -> None:
    """Write a small text file atomically, without a lock: of two writers the last wins, each with a whole file."""
    partial = target.with_name(f"{_prefix(target)}{uuid.uuid4().hex}")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        _sync(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def check_target(target: str | Path, suffixes: tuple[str, ...]) -> Path:
    """Refuse a target that cannot be written; without suffixes any name will do."""
    target = Path(target)
    if suffixes and target.suffix not in suffixes:
        msg = f"{str(target)!r} cannot be written: its name must end with {' or '.join(suffixes)}."
        raise OutputError(msg)
    if not target.parent.is_dir() or target.is_dir():
        wrong = f"{str(target)!r} is a folder" if target.is_dir() else f"there is no folder {str(target.parent)!r}"
        msg = f"{str(target)!r} cannot be written: {wrong}."
        raise OutputError(msg)
    return target


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise a failure to write as an error that names the target."""
    try:
        yield
    except OSError as error:
        msg = f"{str(target)!r} could not be written, and nothing was left behind: {error}."
        raise OutputError(msg) from error


def _prefix(target: Path) -> str:
    return f".{target.name}.{socket.gethostname()}-"


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Yield a unique name beside the target, under its lock; what has that name at the end is removed."""
    partial = target.with_name(f"{_prefix(target)}{os.getpid()}-{uuid.uuid4().hex[:8]}.part{target.suffix}")
    with writing(target), _locked(target):
        try:
            # Left by runs of this machine that were killed: we hold the lock, so none of them lives. Other machines
            # may not see the lock (NFS), so what they write is not touched.
            _remove(*target.parent.glob(f"{glob.escape(_prefix(target))}*"))
            yield partial
        finally:
            _remove(partial)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        found = target.parent.glob(f"{glob.escape(f'.{target.name}.')}*.part*")
        names = [one.name[len(target.name) + 2 :].partition(".part")[0].rpartition("-")[0] for one in found]
        holder = ", ".join(names) or "which has just begun"
        msg = f"{str(target)!r} is being written by another process ({holder}): wait for it, or choose another place."
        raise OutputError(msg) from error
    except NotImplementedError:  # a file system without locks: the unique names still keep two runs apart
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps open files; what stays is locked by nobody
            path.unlink()
        lock.release()


def _sync(path: Path) -> None:
    """Force files to the disk, so that a crash after the rename leaves no empty file of the final name."""
    for file in [path] if path.is_file() else (one for one in path.rglob("*") if one.is_file()):
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def _remove(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
