"""A corpus that several machines prepare: each writes the tokens of its part, and one joins them.

Every machine opens all sources, draws the same split and ranks genes on the same cells (`PrepareConfig.rank_cells`), so
none waits for another. What no part knows alone, what a bin stands for, is counted in whole numbers and added up when
the parts are joined. The corpus has the bytes that one machine would have written.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors.numpy import load_file, save_file

from polygene._version import __version__
from polygene.corpus.arrow import SPLITS, ShardWriter
from polygene.corpus.config import PrepareConfig
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import preparation
from polygene.corpus.written import FORMAT, Written, digest_of, finish, write_info
from polygene.errors import CorpusError
from polygene.io.read import Source
from polygene.runtime.atomic import atomic_folder, refuse_input
from polygene.runtime.files import loading, read_json
from polygene.runtime.progress import progress
from polygene.runtime.ranks import Part, one_process
from polygene.vocab.binning import InverseFit
from polygene.vocab.columns import some
from polygene.vocab.tokenizer import CellTokenizer

INFO, COUNTS = "part.json", "counts.safetensors"
SETTINGS = ("format", "polygene", "parts", "config", "sources", "tokenizer", "given")
"""What all parts of a corpus have in common."""
AGAIN = "make this part again"


def prepare_part(
    sources: Source | Sequence[Source] | Mapping[str, Source],
    out: str | Path,
    part: str,
    *,
    config: PrepareConfig | None = None,
    tokenizer: CellTokenizer | None = None,
    num_proc: int = 1,
    overwrite: bool = False,
) -> Path:
    """Make one part of a corpus on one of several machines; `join` makes the corpus of all of them.

    Parameters
    ----------
    sources, config, tokenizer, num_proc, overwrite
        As for `prepare`, the same sources and settings for all parts: each machine opens all sources.
    out
        The folder of the part; it must not exist.
    part
        "3/16" for the third of sixteen parts.

    Returns
    -------
    The folder that was written.

    Raises
    ------
    DataError
        `part` is none. All errors of `prepare`.
    """
    one_process("prepare")
    mine, config = Part.parse(part), config or PrepareConfig()
    with atomic_folder(out, replace=INFO if overwrite else None) as folder:
        with preparation(sources, out, config=config, tokenizer=tokenizer, num_proc=num_proc, part=mine) as made:
            written = made.write(folder)
        written.tokenizer.save(folder)
        save_file(written.fit.tables(), folder / COUNTS)
        info = {
            "format": FORMAT,
            "polygene": __version__,
            "part": mine.number,
            "parts": mine.n,
            "config": asdict(config),
            "sources": written.sources,
            "tokenizer": written.tokenizer.fingerprint(),
            "given": tokenizer is not None,
            "blank": written.blank,
            "files": {one.relative_to(folder).as_posix(): one.stat().st_size for one in sorted(folder.rglob("*.*"))},
        }
        write_info(folder / INFO, info)
    return Path(out)


def join(parts: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> Corpus:
    """Join the parts of a corpus, in any order; the parts stay as they are.

    Parameters
    ----------
    parts
        Folders that `prepare_part` wrote, all of one corpus.
    out, overwrite
        As for `prepare`.

    Raises
    ------
    CorpusError
        A part is missing, is there twice, was made with other settings or of other sources, or is damaged.
    """
    one_process("join")
    folders = [Path(part) for part in parts]
    infos = [_read_info(folder) for folder in folders]
    _check(infos, folders)
    order = sorted(range(len(infos)), key=lambda i: int(infos[i]["part"]))
    with atomic_folder(out, replace="corpus.json" if overwrite else None) as folder:
        refuse_input(out, *folders)
        with loading(f"the part {folders[0]}", CorpusError, AGAIN):
            tokenizer = CellTokenizer.load(folders[0])
        blank = [sum(of_source) for of_source in zip(*(info["blank"] for info in infos), strict=True)]
        fit = InverseFit(tokenizer.binner, len(tokenizer.panel))
        with (
            ShardWriter(folder, len(tokenizer.schema.phenotypes)) as writer,
            progress(len(order), done="joined", unit="parts") as advance,
        ):
            for i in order:
                with loading(f"the part {folders[i]}", CorpusError, AGAIN):
                    fit.merge(load_file(folders[i] / COUNTS))
                for split, table in _tables(folders[i]):
                    writer.write(split, table)
                advance(1)
        written = Written(tokenizer, fit, infos[0]["sources"], blank)
        finish(folder, infos[0]["config"], written, keep_inverse=infos[0]["given"])
    return Corpus(out)


def _tables(folder: Path) -> Iterator[tuple[int, pa.Table]]:
    """Read the cells of a part as they were written, batch by batch."""
    for number, split in enumerate(SPLITS):
        for path in sorted((folder / split).glob("*.arrow")):
            # a mapped file would count as memory of this process
            with loading(path, CorpusError, AGAIN), pa.OSFile(str(path)) as file:
                for batch in pa.ipc.open_stream(file):
                    yield number, pa.Table.from_batches([batch])


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    if not path.is_file():
        msg = f"{folder} is no part of a corpus: it holds no {INFO}. Make parts with polygene prepare --part K/N"
        raise CorpusError(msg)
    with loading(f"the part {folder}", CorpusError, AGAIN):
        info: dict[str, Any] = read_json(path)
        wrong = info["digest"] != digest_of(info)
        for name, size in info["files"].items():
            wrong |= not (folder / name).is_file() or (folder / name).stat().st_size != size
    if wrong:
        msg = f"{folder} is cut off or was altered: it is not what polygene prepare wrote. Make this part again."
        raise CorpusError(msg)
    return info


def _check(infos: Sequence[dict[str, Any]], folders: Sequence[Path]) -> None:
    """Refuse parts that are not all of one corpus."""
    if not infos:
        msg = "no part is given; give the folders of all parts"
        raise CorpusError(msg)
    first = infos[0]
    for info, folder in zip(infos, folders, strict=True):
        if differ := [name for name in SETTINGS if info[name] != first[name]]:
            why = _difference(differ[0], first, info)
            msg = f"{folder} and {folders[0]} are parts of different corpora: {why}"
            raise CorpusError(msg)
    numbers = [int(info["part"]) for info in infos]
    if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
        same = " and ".join(str(folder) for number, folder in zip(numbers, folders, strict=True) if number == twice[0])
        msg = f"part {twice[0]} of {first['parts']} is there twice: {same}. Give each part once."
        raise CorpusError(msg)
    if missing := sorted({*range(1, first["parts"] + 1)} - {*numbers}):
        msg = f"of {first['parts']} parts {len(missing)} are missing: {some(missing, 10)}. Make them, and give all."
        raise CorpusError(msg)


def _difference(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say what differs first."""
    if name == "config":
        key = next(key for key in other[name] if other[name][key] != one[name].get(key))
        return f"{key} was {other[name][key]!r} and {one[name].get(key)!r}. Make all parts with the same settings."
    if name in ("sources", "tokenizer"):
        return "they were made of different cells. Give all parts the same sources."
    return f"{name} was {other[name]!r} and {one[name]!r}. Make all parts alike."
