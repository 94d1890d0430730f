"""The gene panel: which genes the model reads, and in which order."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd

from polygene.errors import CheckpointError, GeneError
from polygene.runtime.files import read_text
from polygene.vocab.columns import some
from polygene.vocab.gene_matching import GeneMatch, list_genes, match_genes
from polygene.vocab.gene_names import gene_table, resolve, unmangled
from polygene.vocab.mending import mended_symbols

HEADER = "rank\tensembl_id\tsymbol"
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # in a table of names
MAX_GENES = 65_535  # a gene is stored as uint16


@dataclass(frozen=True, kw_only=True, repr=False)
class GenePanel:
    """The ordered genes of a model, from most to least variable. The place in the panel is a gene's index everywhere.

    A gene has a symbol and, where known, an Ensembl id without version ("" = unknown).
    """

    symbols: tuple[str, ...]
    ensembl_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.symbols) != len(self.ensembl_ids):
            msg = f"A panel needs one Ensembl id ('' = unknown) a symbol, got {len(self.ensembl_ids)} for {len(self)}."
            raise GeneError(msg)
        if not 0 < len(self) <= MAX_GENES:
            msg = f"A panel holds 1 to {MAX_GENES:,} genes, got {len(self):,}."
            raise GeneError(msg)
        identity = pd.Index([ensembl or symbol for ensembl, symbol in zip(self.ensembl_ids, self.symbols, strict=True)])
        if identity.has_duplicates:
            msg = f"The panel names a gene more than once: {some(identity[identity.duplicated()].unique())}."
            raise GeneError(msg)

    def __len__(self) -> int:
        return len(self.symbols)

    def __repr__(self) -> str:
        return f"GenePanel({len(self):,} genes: {some(self.symbols, 8)})"

    def index(self, name: str) -> int:
        """Return the place of a gene, by its symbol, its Ensembl id, or another name that HGNC knows it by."""
        (key,), _ = resolve([name], [name])
        for names, wanted in ((self.symbols, name), (self.ensembl_ids, name), (self.ensembl_ids, key)):
            if wanted and wanted in names:
                return names.index(wanted)
        as_written = {symbol.upper(): symbol for symbol in self.symbols}
        nearest = [as_written[one] for one in difflib.get_close_matches(name.upper(), as_written, n=3)]
        hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        msg = f"{name!r} is not among the {len(self):,} genes of the model's panel, so it cannot predict it.{hint}"
        raise GeneError(msg)

    def match(self, var: pd.DataFrame) -> GeneMatch:
        """Find the panel in a file; how much of it was found, and how, is logged.

        Searched are `var_names` and the columns of `var` that name genes: first for the Ensembl id (without version),
        then for the symbol, then for symbols that other software changed, such as HLA.DRA (`vocab.mending`), then for
        the symbol in other case, then for any name that HGNC knows the gene by, or that a spreadsheet made of one. A
        column serves one gene. Columns with the same id, or with the same name where they have no id, are one gene and
        will be summed; where different genes compete for one of the panel it stays unmeasured.
        """
        return match_genes(self.symbols, self.ensembl_ids, var)

    def to_tsv(self) -> str:
        """Return the text of genes.tsv: rank (from 1), ensembl_id, symbol."""
        pairs = zip(self.ensembl_ids, self.symbols, strict=True)
        rows = (f"{rank}\t{ensembl_id}\t{symbol}" for rank, (ensembl_id, symbol) in enumerate(pairs, start=1))
        return "\n".join([HEADER, *rows, ""])

    def save(self, path: str | Path) -> None:
        """Write the panel as a table, see `to_tsv`."""
        Path(path).write_text(self.to_tsv(), encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a table written by `save`; a CheckpointError where it is missing or no such table."""
        path = Path(path)
        if not path.is_file():
            msg = f"{path} is missing: it holds the genes of the panel, and nothing works without it."
            raise CheckpointError(msg)
        header, *lines = read_text(path).removesuffix("\n").split("\n")
        rows = [line.split("\t") for line in lines]
        if header != HEADER or any(len(row) != 3 or row[0] != str(i) for i, row in enumerate(rows, start=1)):
            msg = f"{path} is no gene panel, or was cut: expected ranks 1, 2, … under {HEADER.split()}."
            raise CheckpointError(msg)
        return cls(symbols=tuple(row[2] for row in rows), ensembl_ids=tuple(row[1] for row in rows))


def merged_genes(var: pd.DataFrame) -> tuple[pd.DataFrame, GeneMatch]:
    """List the genes of a file, each once as in `gene_table`, to make a panel from; and in which columns each is.

    Rows with the same Ensembl id, or with the same name where they have none, are one gene. Where the file gives no id,
    HGNC's table does if the name means one gene. A date that may stand for several is left out.
    """
    table = gene_table(var)
    for row, names in enumerate(zip(table["symbol"], table["ensembl_id"], strict=True)):
        if odd := [name for name in names if UNWRITABLE.search(name)]:
            msg = f"gene {row + 1:,} is named {odd[0]!r}, with a tab, a line break or a control character: rename it"
            raise GeneError(msg)
    table["symbol"] = mended_symbols(table["symbol"].tolist(), table["ensembl_id"].tolist())[0]
    keys, unclear = resolve(table["symbol"].tolist(), table["ensembl_id"].tolist())
    dates = {name for names in unclear.values() for name in names if unmangled(name)}
    columns: dict[str, list[int]] = {}
    for f, (symbol, id_) in enumerate(zip(table["symbol"], table["ensembl_id"], strict=True)):
        if id_ or symbol not in dates:
            columns.setdefault(id_ or symbol, []).append(f)
    twice = sorted(name for name, there in columns.items() if len(there) > 1)
    list_genes("in several columns, which are summed", twice)
    list_genes("that mean several genes, left out", sorted(dates))
    first = [there[0] for there in columns.values()]
    genes = table.iloc[first].assign(ensembl_id=[table["ensembl_id"].iloc[f] or keys[f] for f in first])
    return genes, GeneMatch.of(dict(enumerate(columns.values())), len(columns), found={})
