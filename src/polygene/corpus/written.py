"""Tokens that were written, and what makes a corpus of them."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polygene._version import __version__
from polygene.runtime.files import sha256
from polygene.runtime.json import write_json
from polygene.vocab.binning import InverseFit
from polygene.vocab.tokenizer import CellTokenizer

logger = logging.getLogger("polygene")

FORMAT = 1
"""The layout of a corpus; one of another format is refused."""


@dataclass(frozen=True)
class Written:
    """Tokens that were written, and what is to be said of them once all are there."""

    tokenizer: CellTokenizer  # its inverse is not known before all cells were counted
    fit: InverseFit
    sources: list[dict[str, Any]]  # the entries of corpus.json
    blank: list[int]  # cells without a gene of the panel, by source


def finish(folder: Path, config: Mapping[str, Any], written: Written, *, keep_inverse: bool) -> None:
    """Write the tokenizer and corpus.json beside the tokens of all cells."""
    tokenizer = written.tokenizer if keep_inverse else replace(written.tokenizer, inverse=written.fit.finish())
    tokenizer.save(folder)
    for entry, n in zip(written.sources, written.blank, strict=True):
        if n:
            entry["cells_without_panel_genes"] = n
            logger.info("%s: %s cells express no gene of the panel; they are kept", entry["name"], f"{n:,}")
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*.arrow"))
    }
    info = {"format": FORMAT, "polygene": __version__, "tokenizer": tokenizer.fingerprint()}
    info |= {"config": config, "sources": written.sources, "files": files}
    write_info(folder / "corpus.json", info)


def write_info(file: Path, info: Mapping[str, Any]) -> None:
    """Write the content of corpus.json, or that of a part, with its hash."""
    write_json(file, {**info, "digest": digest_of(info)})


def digest_of(info: Mapping[str, Any]) -> str:
    """Hash the content of corpus.json, but for the hash itself."""
    text = json.dumps({name: value for name, value in info.items() if name != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
