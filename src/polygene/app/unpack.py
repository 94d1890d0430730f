"""Zipped folders of 10x: they unpack to no more than they may, and no name in them is used as a path."""

import gzip
import zipfile
from pathlib import Path
from typing import IO, cast

from polygene.app.incoming import room, safe_name
from polygene.errors import DataError
from polygene.io.tenx import PARTS

MOST_MEMBERS = 1_000
BLOCK = 1 << 20


def unpack(path: Path, folder: Path) -> Path:
    """Unpack a zipped folder of 10x into a flat folder, gzip too; no name of the archive is used as a path."""
    folder.mkdir(parents=True)
    most = room(folder)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:
                msg = f"{path.name} holds {len(members):,} files; a zipped 10x folder holds three."
                raise DataError(msg)
            wanted = [one for one in members if not one.is_dir() and _is_part(one.filename)]
            if not any("matrix.mtx" in one.filename for one in wanted):
                msg = (
                    f"{path.name} holds no matrix.mtx.gz: a zip is read if it is a folder as 10x Cell Ranger writes it."
                )
                raise DataError(msg)
            for one in wanted:
                target = folder / safe_name(one.filename).removesuffix(".gz")
                with archive.open(one) as packed, target.open("xb") as file:
                    most -= _copy(_opened(packed, one.filename), file, most, path.name)
    except FileExistsError as error:
        msg = f"{path.name} holds more than one 10x folder: zip one of them."
        raise DataError(msg) from error
    except (zipfile.BadZipFile, EOFError, gzip.BadGzipFile, NotImplementedError, RuntimeError) as error:
        msg = f"{path.name} is a damaged zip, or one with a password ({error}). Make it again."
        raise DataError(msg) from error
    return folder


def _is_part(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return not last.startswith(".") and last.removesuffix(".gz").endswith(PARTS)


def _opened(packed: IO[bytes], name: str) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(packed)) if name.endswith(".gz") else packed


def _copy(source: IO[bytes], target: IO[bytes], most: int, name: str) -> int:
    """Copy at most so many bytes; the sizes that an archive states are not trusted."""
    n_bytes = 0
    while block := source.read(BLOCK):
        n_bytes += len(block)
        if n_bytes > most:
            msg = f"{name} unpacks to more than the {most / 1e9:,.1f} GB that there is room for, and was not read."
            raise DataError(msg)
        target.write(block)
    return n_bytes
