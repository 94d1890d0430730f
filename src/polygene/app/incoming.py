"""Files that come in: a name without a path, and a size within limits; and how files of a session are named."""

import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterable
from pathlib import Path

from polygene.errors import DataError
from polygene.io.paths import parse_path

FOLDER = "file-"  # of each upload in the folder of its session
MOST_BYTES = 50 * 10**9
"""Of one file, and of what an archive unpacks to."""
RESERVE = 10**9  # bytes of the disk that stay free


def safe_name(name: str) -> str:
    """Give the last part of a file's name without anything that a file system or a page could take for more."""
    last = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^\w .()+-]", "_", last).strip(" .")[-100:] or "cells"


def local_path(given: str) -> str:
    """Give the whole path of a file or folder: of no address, and of no device or pipe, which may have no end."""
    given = given.strip().strip("'\"")
    path = parse_path(os.path.expanduser(given))  # noqa: PTH111 it leaves the home of an unknown user as it is
    if not given or isinstance(path, str) or not (path.is_file() or path.is_dir()):
        msg = f"There is no file {given!r} on this computer."
        raise DataError(msg)
    return str(path.resolve())


def room(folder: Path) -> int:
    """How many bytes may be written there."""
    return max(min(MOST_BYTES, shutil.disk_usage(folder).free - RESERVE), 0)


async def receive_file(chunks: AsyncIterable[bytes], path: Path, most: int) -> None:
    """Write what is sent to a file; one that is too large is refused, and nothing of it stays."""
    n_bytes = 0
    try:
        with path.open("wb") as file:
            async for chunk in chunks:
                n_bytes += len(chunk)
                if n_bytes > most:
                    raise too_large(path.name, most)
                file.write(chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def too_large(name: str, most: int) -> DataError:
    """Say that a file is too large."""
    msg = f"{name} is larger than the {most / 1e9:,.1f} GB that there is room for: open it by its path instead."
    return DataError(msg)


def column_file(folder: Path, name: str) -> Path:
    """Name the file of a column, whatever characters are in its name."""
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.column"
