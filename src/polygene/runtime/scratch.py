"""Temporary folders: removed with their owner, or by the next run where it was killed."""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX, LOCK = "polygene-", "lock"


class ScratchFolder:
    """A private temporary folder, `path`; the lock beside it, which ends with its owner, says that the owner lives."""

    def __init__(self, name: str = "") -> None:
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}{name}"))  # for its owner only
        _remove_dead(made.stat().st_uid)
        (made / "files").mkdir(mode=0o700)
        self._lock = FileLock(made / LOCK)
        with suppress(OSError, NotImplementedError):  # no locks here: then nobody takes the folder for one of the dead
            self._lock.acquire(timeout=0)
        # Under a name that is looked for only when its lock is held.
        self._folder = made.rename(made.with_name(made.name[1:]))
        self.path, self._owner = self._folder / "files", os.getpid()

    def remove(self) -> None:
        """Remove the folder with all that it holds, in the process that made it."""
        if os.getpid() == self._owner:
            self._lock.release()
            shutil.rmtree(self._folder, ignore_errors=True)


@cache
def scratch_folder() -> str:
    """Give the temporary folder of this process."""
    folder = ScratchFolder()
    atexit.register(folder.remove)
    return str(folder.path)


def _remove_dead(user: int) -> None:
    """Remove the folders of this user whose lock nobody holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = FileLock(folder / LOCK)
        with suppress(OSError, Timeout, NotImplementedError):
            if folder.is_symlink() or folder.lstat().st_uid != user or not (folder / LOCK).exists():
                continue
            lock.acquire(timeout=0)  # of one that lives, this fails
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
