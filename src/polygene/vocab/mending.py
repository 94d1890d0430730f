"""Symbols that other software changed, back to what they were: HLA.DRA of R, hg19_CD4 of Cell Ranger, CD74.1 of Seurat.

A symbol is only mended where it is no name of a human gene as it stands, and becomes one. Two columns never become one
by it: where the file names the gene already, or two of its names would become one, they stay as they are.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import product

from polygene.vocab.gene_names import GENOME, human_genes, unmangled

_PREFIX = re.compile(GENOME)
_X = re.compile(r"^X(?=\d)")  # make.names puts X before a digit: X7SK
_NUMBER = re.compile(r"\.\d+$")  # of make.unique, or the version of a gene model
_MOST_MARKS = 4


def mended_symbols(
    symbols: Sequence[str], ids: Sequence[str], known_too: Collection[str] = ()
) -> tuple[list[str], dict[str, list[str]]]:
    """Mend the symbols of a file that have no Ensembl id; known are the names of HGNC, and those of a panel.

    Returns
    -------
    The symbols, mended where they could be; and by gene the names of which several would have become it.
    """
    known, approved = {*human_genes().ids, *known_too}, {*human_genes().symbols.values(), *known_too}
    there = Counter(symbol.upper() for symbol in set(symbols))
    bare = {_PREFIX.sub("", symbol) for symbol in symbols}  # of GRCh38_CD74 and GRCh38_CD74.1 the first is CD74
    # Some aliases are in lower case: in a file that is, ski is SKI and no alias of HHAT.
    lower = sum(symbol == symbol.lower() for symbol in symbols) > len(symbols) / 2
    found: dict[str, str] = {}
    for symbol, id_ in zip(symbols, ids, strict=True):
        is_lower = lower and symbol == symbol.lower() and symbol.upper() in approved
        if symbol and not id_ and (symbol not in known or is_lower) and symbol not in found and not unmangled(symbol):
            meant = symbol.upper() if is_lower else next(_known(symbol, known, approved), "")
            is_other = meant in bare and meant != _PREFIX.sub("", symbol)
            if meant and not is_other and not there[meant.upper()] - (symbol.upper() == meant.upper()):
                found[symbol] = meant
    times = Counter(found.values())
    rivals: dict[str, list[str]] = {}
    for symbol, meant in found.items():
        if times[meant] > 1:
            rivals.setdefault(meant, []).append(symbol)
    return [found[one] if times[found.get(one, "")] == 1 else one for one in symbols], rivals


def but_for_case(mended: Iterable[str], symbols: Iterable[str]) -> list[str]:
    """Keep the mended symbols that changed in more than their case, "" elsewhere."""
    return [new if new.upper() != old.upper() else "" for new, old in zip(mended, symbols, strict=True)]


def _known(symbol: str, known: Collection[str], approved: Collection[str]) -> Iterator[str]:
    """Give the names that a symbol may have been, the least changed first; nothing is cut off an alias."""
    for bare in dict.fromkeys((symbol, _PREFIX.sub("", symbol), _X.sub("", symbol))):
        for names, text in ((known, bare), (approved, _NUMBER.sub("", bare))):
            for one in _with_dashes(text):
                if one in names:
                    yield one
                elif one == one.lower() and one.upper() in names:
                    yield one.upper()


def _with_dashes(text: str) -> list[str]:
    """Write each dot and underscore as it is, or as a dash, in all combinations where there are few."""
    parts = re.split(r"([._])", text)
    marks = parts[1::2]
    if len(marks) > _MOST_MARKS:
        return [text, re.sub(r"[._]", "-", text)]
    chosen = product(*((mark, "-") for mark in marks))
    return ["".join(a + b for a, b in zip(parts[::2], [*one, ""], strict=True)) for one in chosen]
