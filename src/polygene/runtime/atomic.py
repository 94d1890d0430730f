"""Atomic writes: a file or folder appears whole, or not at all.

It is written under a unique name beside its target and renamed when it is complete and on the disk. A lock for each
target, which the system releases when the process ends in whatever way, refuses a second run into the same place.
A target that is a link is followed: what it leads to is written. No output replaces an input (`refuse_input`).
"""

import glob
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from polygene.errors import OutputError, PolyGeneError

_LOCKED = threading.local()
"""Targets that this thread has locked."""
NOTHING = "nothing was left behind"
OTHER = "choose another file"


@contextmanager
def atomic_file(
    target: str | Path, suffixes: tuple[str, ...] = (), left: str = NOTHING, *, overwrite: bool = True
) -> Iterator[Path]:
    """Yield a path to write to, which becomes `target` when the block ends without an error.

    Whether `target` can be written is found out on entering, before the work begins. `left` ends the message of a
    failure.
    """
    target = check_target(target, suffixes, overwrite=overwrite)
    with _partial(target, left) as partial:
        partial.touch()
        yield partial
        sync(partial)
        partial.replace(target)
        sync(target.parent, deep=False)


@contextmanager
def atomic_folder(target: str | Path, *, replace: str | None = None) -> Iterator[Path]:
    """Yield an empty folder, which becomes `target` when the block ends without an error.

    A folder that is there is an error, unless it holds the file `replace`, such as corpus.json.
    """
    target = Path(target).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _partial(target) as partial:
        if target.exists() and not (replace and (target / replace).is_file()):
            why = f"it holds no {replace}, so it is not replaced" if replace else "it is not replaced"
            msg = f"{str(target)!r} exists, and {why}: choose another folder, or delete it (in Python: overwrite=True)"
            raise OutputError(msg)
        partial.mkdir()
        yield partial
        _open_to_readers(partial)
        sync(partial)
        before = partial.with_suffix(".before")
        if target.exists():
            target.rename(before)
        partial.rename(target)
        sync(target.parent, deep=False)
        shutil.rmtree(before, ignore_errors=True)


@contextmanager
def atomic_update(folder: str | Path, *, last: str) -> Iterator[Path]:
    """Yield an empty folder, whose files replace those of `folder` when the block ends without an error.

    A folder that is not there, or is empty, appears whole. Into another one files are moved one by one, the file `last`
    after all others; other files of it stay.
    """
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _partial(folder) as partial:
        partial.mkdir()
        yield partial
        files = sorted(partial.iterdir(), key=lambda file: (file.name == last, file.name))
        _open_to_readers(partial)
        sync(partial)
        if not folder.exists() or not any(folder.iterdir()):
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
        else:
            for file in files:
                if file.name == last:
                    sync(folder, deep=False)  # the others are there first, after a loss of power too
                file.replace(folder / file.name)
            sync(folder, deep=False)
        sync(folder.parent, deep=False)


def _open_to_readers(folder: Path) -> None:
    """Let those read the files who may read the folder: safetensors writes files that only their owner can read."""
    for file in filter(Path.is_file, folder.rglob("*")):
        file.chmod(folder.stat().st_mode & 0o666)


def write_text(target: Path, text: str) -> None:
    """Write a small text file atomically, without a lock: of two writers the last wins, each with a whole file."""
    partial = target.with_name(f"{_prefix(target)}{uuid.uuid4().hex}")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        sync(partial)
        partial.replace(target)
        sync(target.parent, deep=False)
    finally:
        partial.unlink(missing_ok=True)


def check_target(target: str | Path, suffixes: tuple[str, ...], *, overwrite: bool = True, do: str = OTHER) -> Path:
    """Refuse a target that cannot be written, or must not; without suffixes any name will do. A link is followed."""
    target = Path(target).resolve() if Path(target).is_symlink() else Path(target)
    if suffixes and target.suffix not in suffixes:
        msg = f"{str(target)!r} cannot be written: its name must end with {' or '.join(suffixes)}."
        raise OutputError(msg)
    if not target.parent.is_dir() or target.is_dir():
        wrong = f"{str(target)!r} is a folder" if target.is_dir() else f"there is no folder {str(target.parent)!r}"
        msg = f"{str(target)!r} cannot be written: {wrong}."
        raise OutputError(msg)
    if target.exists() and not overwrite:
        msg = f"{str(target)!r} exists: {do}, or replace it with overwrite=True (--overwrite)."
        raise OutputError(msg)
    return target


def refuse_input(target: str | Path, *inputs: object, do: str = "choose another place") -> None:
    """Refuse a target that is one of the inputs, by whatever path, or a folder that holds one; URLs are none."""
    there = Path(target)
    for one in inputs:
        if isinstance(one, str | Path) and Path(one).exists() and there.exists():
            read, written = Path(one).resolve(), there.resolve()
            if written.samefile(read) or read.is_relative_to(written):
                msg = f"{str(target)!r} would replace {str(one)!r}, which is read: {do}."
                raise OutputError(msg)


FULL = ("No space left", "quota exceeded", "PytorchStreamWriter", "iostream error", "unexpected pos")
"""Words of torch and safetensors for a full disk, in errors that are no OSError."""


@contextmanager
def writing(target: Path, left: str = NOTHING) -> Iterator[None]:
    """Raise a failure to write as an error that names the target."""
    try:
        yield
    except PolyGeneError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not any(words in str(error) for words in FULL):
            raise
        why = str(error).split("\n", 1)[0]
        msg = f"{str(target)!r} could not be written, and {left}: {why}."
        raise OutputError(msg) from error


def _prefix(target: Path) -> str:
    return f".{target.name}.{socket.gethostname()}-"


@contextmanager
def _partial(target: Path, left: str = NOTHING) -> Iterator[Path]:
    """Yield a unique name beside the target, under its lock; what has that name at the end is removed."""
    partial = target.with_name(f"{_prefix(target)}{os.getpid()}-{uuid.uuid4().hex[:8]}.part{target.suffix}")
    with writing(target, left), locked(target):
        try:
            # Left by runs of this machine that were killed: we hold the lock, so none of them lives. Other machines
            # may not see the lock (NFS), so what they write is not touched.
            delete(*target.parent.glob(f"{glob.escape(_prefix(target))}*"))
            yield partial
        finally:
            delete(partial)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Refuse a second run that would write to the same target at the same time; one run may lock it again within."""
    target = target.resolve()
    held: set[Path] = _LOCKED.__dict__.setdefault("held", set())
    if target in held:
        yield
        return
    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        found = target.parent.glob(f"{glob.escape(f'.{target.name}.')}*.part*")
        names = [one.name[len(target.name) + 2 :].partition(".part")[0].rpartition("-")[0] for one in found]
        holder = f" ({', '.join(names)})" if names else ""
        msg = f"{str(target)!r} is being written by another process{holder}: wait for it, or choose another place."
        raise OutputError(msg) from error
    except NotImplementedError:  # a file system without locks: the unique names still keep two runs apart
        yield
        return
    held.add(target)
    try:
        yield
    finally:
        held.discard(target)
        with suppress(OSError):  # Windows keeps open files; what stays is locked by nobody
            path.unlink()
        lock.release()


def sync(path: Path, *, deep: bool = True) -> None:
    """Force a file, or a folder with what it holds, to the disk: a loss of power leaves no empty file of a final name.

    A folder that is not `deep` is synced as the list of its names only.
    """
    for one in [*(path.rglob("*") if deep else ()), path]:
        if one.is_file() or os.name != "nt":  # Windows opens no folder
            number = os.open(one, os.O_RDWR if one.is_file() else os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)


def delete(*paths: Path) -> None:
    """Delete files and folders, those that are there."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
