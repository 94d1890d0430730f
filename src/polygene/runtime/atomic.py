"""Files and folders that appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polygene.errors import CorpusError


@contextmanager
def written_whole(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a folder beside `out` to write into, and rename it when all is written; nothing is left of a failure."""
    if out.exists():
        if not overwrite:
            msg = f"{out} exists; choose another folder, or delete it (in Python: overwrite=True)"
            raise CorpusError(msg)
        if not (out / "corpus.json").is_file():
            msg = f"{out} exists and is no corpus, so it is not replaced; choose another folder"
            raise CorpusError(msg)
    beside, before = (out.parent / f".{out.name}.{word}" for word in ("partial", "before"))
    try:
        shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
        beside.mkdir(parents=True)
        yield beside
        if out.exists():
            shutil.rmtree(before, ignore_errors=True)
            out.rename(before)
        beside.rename(out)
        shutil.rmtree(before, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError):
            msg = f"{out} could not be written ({error}); nothing was left behind"
            raise CorpusError(msg) from error
        raise
