"""The gene panel: which genes the model reads, in which order, and where they are in a file.

Shapes: G genes of the panel.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from polygene.errors import CheckpointError, GeneError

logger = logging.getLogger("polygene")

NAME_COLUMNS = ("feature_id", "gene_ids", "ensembl_id", "feature_name", "gene_symbols", "gene_name", "symbol")
"""Columns of `var` that name genes, in the order they are asked after `var_names` (CELLxGENE, 10x, scanpy)."""

HEADER = "rank\tensembl_id\tsymbol"
MAX_GENES = 65_535  # a gene is stored as uint16


@dataclass(frozen=True, kw_only=True)
class GenePanel:
    """The ordered genes of a model, from most to least variable.

    A gene has a symbol and, where known, an Ensembl id without version ("" = unknown). Its place in the panel is its
    index everywhere else.
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
            msg = f"The panel names a gene more than once: {_some(identity[identity.duplicated()].unique().tolist())}."
            raise GeneError(msg)

    def __len__(self) -> int:
        return len(self.symbols)

    def match(self, var: pd.DataFrame) -> np.ndarray:
        """Find the panel in a file.

        Asked are `var_names` and the columns of `NAME_COLUMNS`: first for the Ensembl id (without version), then for
        the exact symbol, then for the symbol in any case where that is unambiguous on both sides. How many genes were
        found, and how, is logged.

        Returns
        -------
        columns_G
            int64, the row of `var` (column of X) of each panel gene, -1 where the file did not measure it.

        Raises
        ------
        GeneError
            A panel gene is there more than once, or the file has no gene of the panel.
        """
        names = _names(var)
        symbols = np.array(self.symbols, dtype=object)
        columns_G = np.full(len(self), -1, dtype=np.int64)
        found = {
            "Ensembl id": _look_up(np.array(self.ensembl_ids, dtype=object), map(_unversioned, names), columns_G),
            "symbol": _look_up(symbols, names, columns_G),
        }
        if (columns_G < 0).any():
            any_case = (_upper(column) for column in names)
            found["symbol in other case"] = _look_up(_upper(symbols), any_case, columns_G, exact=False)
        n_found = int((columns_G >= 0).sum())
        if n_found == 0:
            raise GeneError(self._why_nothing_matches(names[0]))
        how = ", ".join(f"{n} by {way}" for way, n in found.items() if n)
        logger.info("genes: matched %d of %d of the panel (%s)", n_found, len(self), how)
        return columns_G

    def _why_nothing_matches(self, var_names: np.ndarray) -> str:
        given = [str(name) for name in var_names]
        if all(name.replace(".", "", 1).isdigit() for name in given):
            why = "the names are numbers, so they were lost on the way: set adata.var_names to the gene symbols"
        elif sum(_is_ensembl(name) for name in given) * 2 > len(given):
            if not any(map(_is_ensembl, self.ensembl_ids)):
                why = "it names Ensembl ids, and the panel knows only symbols: add these as adata.var['feature_name']"
            else:
                why = "it names Ensembl ids of other genes or of another species; PolyGene reads human genes"
        else:
            why = "put gene symbols or Ensembl ids into adata.var_names, or into adata.var['feature_name'/'feature_id']"
        return (
            f"None of the {len(self):,} genes of the panel ({_some(self.symbols)}) is in the file, "
            f"which names {len(given):,} genes ({_some(given)}): {why}."
        )

    def to_tsv(self) -> str:
        """Return the text of genes.tsv: rank (from 1), ensembl_id, symbol."""
        pairs = zip(self.ensembl_ids, self.symbols, strict=True)
        rows = (f"{rank}\t{ensembl_id}\t{symbol}" for rank, (ensembl_id, symbol) in enumerate(pairs, start=1))
        return "\n".join([HEADER, *rows, ""])

    def save(self, path: str | Path) -> None:
        """Write the panel as a table with the columns rank, ensembl_id, symbol."""
        Path(path).write_text(self.to_tsv(), encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a table written by `save`.

        Raises
        ------
        CheckpointError
            The file is missing, or is not such a table.
        """
        path = Path(path)
        if not path.is_file():
            msg = f"{path} is missing: it holds the genes of the panel, and nothing works without it."
            raise CheckpointError(msg)
        header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        rows = [line.split("\t") for line in lines]
        if header != HEADER or any(len(row) != 3 or row[0] != str(i) for i, row in enumerate(rows, start=1)):
            msg = f"{path} is no gene panel, or was cut: expected ranks 1, 2, … under {HEADER.split()}."
            raise CheckpointError(msg)
        return cls(symbols=tuple(row[2] for row in rows), ensembl_ids=tuple(row[1] for row in rows))


def gene_table(var: pd.DataFrame) -> pd.DataFrame:
    """Name the genes of a file, to make a panel from.

    Returns
    -------
    DataFrame
        A row for each row of `var`: symbol (the Ensembl id where there is none) and ensembl_id ("" = unknown,
        without version).
    """
    symbols = np.full(len(var), "", dtype=object)
    ensembl_ids = symbols.copy()
    for column in _names(var):
        is_ensembl = np.fromiter(map(_is_ensembl, column), dtype=bool, count=len(column))
        ensembl_ids = np.where((ensembl_ids == "") & is_ensembl, _unversioned(column), ensembl_ids)
        symbols = np.where((symbols == "") & ~is_ensembl, column, symbols)
    symbols = np.where(symbols == "", ensembl_ids, symbols)
    return pd.DataFrame({"symbol": symbols, "ensembl_id": ensembl_ids}, index=var.index)


def unique_genes(var: pd.DataFrame) -> pd.DataFrame:
    """Return `gene_table(var)` after checking that every gene is there once (by Ensembl id, else by symbol).

    Raises
    ------
    GeneError
        Genes are there more than once; names them.
    """
    table = gene_table(var)
    identity = pd.Index(table["ensembl_id"].where(table["ensembl_id"] != "", table["symbol"]))
    if identity.has_duplicates:
        raise GeneError(_duplicates(identity[identity.duplicated()].unique().tolist()))
    return table


def _look_up(wanted: np.ndarray, names: Iterable[np.ndarray], columns_G: np.ndarray, *, exact: bool = True) -> int:
    """Fill the open places of columns_G in place from one way of naming genes; return how many were found."""
    n_before = int((columns_G >= 0).sum())
    wanted_index = pd.Index(wanted)
    usable = (wanted != "") & ~wanted_index.duplicated(keep=False)
    doubled = np.zeros(len(wanted), dtype=bool)
    for column in names:
        ask = usable & (columns_G < 0)
        where = np.flatnonzero(pd.Index(column).isin(wanted_index[ask]))
        where = where[~np.isin(where, columns_G)]  # a column of X belongs to one gene
        there = pd.Index(column[where])
        twice = there.duplicated(keep=False)
        doubled |= wanted_index.isin(there[twice])
        at = there[~twice].get_indexer(wanted_index)
        hit = ask & (at >= 0)
        columns_G[hit] = where[~twice][at[hit]]
    unresolved = doubled & (columns_G < 0)
    if exact and unresolved.any():
        raise GeneError(_duplicates(wanted[unresolved].tolist()))
    return int((columns_G >= 0).sum()) - n_before


def _names(var: pd.DataFrame) -> list[np.ndarray]:
    """Every way the file names its genes, as arrays of str ("" = missing)."""
    columns: list[pd.Series] = [var.index.to_series(), *(var[name] for name in NAME_COLUMNS if name in var)]
    return [column.astype(object).where(column.notna().to_numpy(), "").map(str).to_numpy(object) for column in columns]


def _unversioned(names: np.ndarray) -> np.ndarray:
    """ENSG00000141510.18 → ENSG00000141510; other names, and ENSG….3_PAR_Y, stay."""
    return np.array([_strip_version(name) if name.startswith("ENS") else name for name in names], dtype=object)


def _strip_version(name: str) -> str:
    stem, dot, version = name.rpartition(".")
    return stem if dot and version.isdigit() else name


def _upper(names: np.ndarray) -> np.ndarray:
    return np.array([name.upper() for name in names], dtype=object)


def _is_ensembl(name: str) -> bool:
    return name.startswith("ENS") and _strip_version(name)[-6:].isdigit()


def _duplicates(names: Sequence[str]) -> str:
    return (
        f"{len(names)} gene names are there more than once: {_some(names)}. Sum or drop the copies, or put their "
        "Ensembl ids into adata.var['feature_id']; var_names_make_unique() would only hide them."
    )


def _some(names: Sequence[str], n: int = 5) -> str:
    return ", ".join(names[:n]) + (", …" if len(names) > n else "")
