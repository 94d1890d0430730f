"""Temporary folders: one a process, removed at its end, or by the next run where the process was killed."""

import atexit
import os
import shutil
import tempfile
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout


@cache
def scratch_folder() -> str:
    """Give the temporary folder of this process.

    A lock beside it, which the system releases when the process ends in whatever way, says that its owner lives.
    """
    _remove_dead()
    folder = Path(tempfile.gettempdir()) / f"polygene-{uuid.uuid4().hex}"
    lock = FileLock(f"{folder}.lock")
    with suppress(OSError, NotImplementedError):  # no locks here: then nobody takes the folder for one of the dead
        lock.acquire(timeout=0)
    folder.mkdir(mode=0o700)
    atexit.register(_end, folder, lock, os.getpid())
    return str(folder)


def remove(folder: str | Path, owner: int) -> None:
    """Remove a temporary folder in the process that made it, not in those that were forked from it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _end(folder: Path, lock: FileLock, owner: int) -> None:
    if os.getpid() == owner:
        remove(folder, owner)
        Path(lock.lock_file).unlink(missing_ok=True)


def _remove_dead() -> None:
    for path in Path(tempfile.gettempdir()).glob("polygene-*.lock"):
        lock = FileLock(path)
        with suppress(OSError, Timeout, NotImplementedError):
            lock.acquire(timeout=0)  # of one that lives, or of another user, this fails
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink(missing_ok=True)
            lock.release()
