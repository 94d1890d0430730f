"""Tokens that were written, and what makes a corpus of them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polygene._version import __version__
from polygene.corpus.corpus import FORMAT, write_info
from polygene.runtime.files import sha256
from polygene.vocab.binning import InverseFit
from polygene.vocab.tokenizer import CellTokenizer

logger = logging.getLogger("polygene")


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
