"""Files from elsewhere, which may be damaged or made to do harm: only regular ones are read, and of bounded size."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polygene.errors import PolyGeneError

LARGEST_TEXT = 32_000_000
"""Bytes of a text file; a vocabulary of five times 5,000 labels has a twentieth of it."""


def check_regular(path: Path) -> None:
    """Refuse what is no regular file: reading a pipe or a device can wait, or go on, for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        kind = "is a folder" if path.is_dir() else "is a pipe or a device: save its content in a file first"
        raise OSError(errno.EINVAL, kind, str(path))


def read_bytes(path: Path, most: int = LARGEST_TEXT) -> bytes:
    """Read a regular file of at most so many bytes."""
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"has more than the {most:,} bytes that are read of such a file", str(path))
    return content


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """Read a text file, see `read_bytes`."""
    return read_bytes(path, most).decode("utf-8").replace("\r\n", "\n")


def read_json(path: Path, most: int = LARGEST_TEXT) -> Any:
    """Read a JSON file, see `read_bytes`; a number that is not finite is an error."""
    return parse_json(read_bytes(path, most))


def parse_json(text: bytes) -> Any:
    """Parse JSON without NaN and infinity; what is nested too deeply is a ValueError too."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        msg = "it is nested too deeply"
        raise ValueError(msg) from None


def _no_number(word: str) -> None:
    msg = f"{word} is no number"
    raise ValueError(msg)


def sha256(path: Path) -> str:
    """Hash a regular file."""
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def loading(what: object, kind: type[PolyGeneError], do: str) -> Iterator[None]:
    """Raise whatever fails while something from elsewhere is read as an error of this kind that says what to do."""
    try:
        yield
    except (PolyGeneError, MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:  # what a damaged file can raise has no end
        name = f" in {os.path.basename(error.filename)}" if isinstance(error, OSError) and error.filename else ""  # noqa: PTH119
        why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        msg = f"{what} is damaged or was altered{name} ({' '.join(str(why).split())[:300]}): {do}."
        raise kind(msg) from error
