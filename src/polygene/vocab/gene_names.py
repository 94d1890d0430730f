"""What a gene is called: in which column of a file, by which of HGNC's names, and in which species.

The head of human_genes.tsv.gz has the day, and recipes/vocab/gene_names.py makes it again.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from polygene.errors import GeneError, repeated_column
from polygene.vocab.columns import is_given, shipped_table, some

NAME_COLUMNS = ("feature_id", "gene_ids", "ensembl_id", "feature_name", "gene_symbols", "gene_name", "symbol")
"""Columns of `var` that name genes whatever they hold (CELLxGENE, 10x, scanpy)."""

CONTRADICTED, FEW = 0.2, 10
"""Share and number of genes whose symbol may be of another gene than their id; real files have up to 0.05."""

XIST = "XIST"  # expressed from the inactive X of a woman (Brown et al. 1991, Nature 349:38)
# expressed widely (Skaletsky et al. 2003, Nature 423:825)
Y_GENES = ("DDX3Y", "EIF1AY", "KDM5D", "RPS4Y1", "USP9Y", "UTY", "ZFY")

GENOME = r"^(?:hg19|hg38|GRCh37|GRCh38)[_-]+"  # before a name, of Cell Ranger with several genomes; - of Seurat
# also TBCE_ENSG00000284770, as CELLxGENE writes
_ENSEMBL = re.compile(rf"(?:{GENOME}|^|_)(ENS[A-Z]*G\d{{11}})(?:\.\d+)?$")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# names of no species: numbered ones, and probes of Affymetrix
_PLACEHOLDER = re.compile(r"(?:gene|feature|var)[-_ ]?\d|\d+_\w?_?at$", re.IGNORECASE)
_TITLE = re.compile(r"(?!Mar-|Sep-|Dec-)[A-Z][a-z]")  # Actb; no symbol that HGNC approved begins so
_DATE = re.compile(r"(?:0?(?P<day>\d{1,2})-(?P<month>Mar|Sep|Dec)|(?P<month2>Mar|Sep|Dec)-0?(?P<day2>\d{1,2}))")
_SPECIES = {"ENSMUS": "mouse", "ENSRNO": "rat", "ENSDAR": "zebrafish", "ENSMMU": "macaque", "ENSSSC": "pig"}


@dataclass(frozen=True)
class HumanGenes:
    """The names of human genes: Ensembl `ids` by approved, previous or alias name, approved `symbols` by id."""

    ids: dict[str, str]
    symbols: dict[str, str]


@cache
def human_genes() -> HumanGenes:
    """Read the table that ships with PolyGene, once."""
    ids, symbols = dict[str, str](), dict[str, str]()
    for number, symbol, *others in shipped_table("human_genes"):
        gene = f"ENSG{number:0>11}"
        symbols[gene] = symbol
        ids |= {name: gene for name in (symbol, *"|".join(others).split("|")) if name}
    return HumanGenes(ids, symbols)


def unmangled(name: str) -> list[str]:
    """Give the symbols that a spreadsheet may have made this date of.

    Examples
    --------
    >>> unmangled("2-Sep"), unmangled("Mar-01"), unmangled("CD74")
    (['SEPT2'], ['MARCH1', 'MARC1'], [])
    """
    date = _DATE.fullmatch(name)
    if date is None:
        return []
    month, day = date["month"] or date["month2"], date["day"] or date["day2"]
    stems = {"Mar": ("MARCH", "MARC"), "Sep": ("SEPT", "SEP"), "Dec": ("DEC",)}[month]
    known = [stem + day for stem in stems if stem + day in human_genes().ids]
    return known if month == "Mar" else known[:1]  # SEP15 had its own name, SEP1 … SEP14 are aliases of other genes


def ensembl_of(names: Iterable[str]) -> np.ndarray:
    """Give the Ensembl ids in names, without version, "" where there is none; ENSG….3_PAR_Y is none."""
    return np.array([found[1] if (found := _ENSEMBL.search(name)) else "" for name in names], dtype=object)


def symbols_of(names: Iterable[str]) -> np.ndarray:
    """Give names without Ensembl ids, "" where nothing else is there."""
    return np.array([_ENSEMBL.sub("", name) for name in names], dtype=object)


def name_columns(var: pd.DataFrame) -> list[np.ndarray]:
    """List the ways in which a file names its genes, as arrays of str ("" = missing), the most human names first."""
    # var_names, the columns of NAME_COLUMNS, and any other column half of which are known names.
    repeated = set(var.columns[var.columns.duplicated()])
    if unclear := [name for name in NAME_COLUMNS if name in repeated]:
        raise repeated_column(unclear[0], of="var")
    text = var.loc[:, ~var.columns.isin(repeated)].select_dtypes(["object", "category", "string"])
    columns = {"var_names": var.index.to_series(), **{name: var[name] for name in NAME_COLUMNS if name in var}}
    found = []
    for name, column in {**columns, **{name: text[name] for name in text if name not in columns}}.items():
        texts = column.astype(object).where(column.notna().to_numpy(), "").map(str)
        names = texts.where(texts.map(is_given), "").to_numpy(object)  # NA is an alias of a gene, too
        share = np.mean([name in human_genes().ids or bool(_ENSEMBL.search(name)) for name in names])
        if (name in columns or share > 0.5) and not all(map(_NUMBER.fullmatch, names)):
            found.append((-round(share, 1), names))
    if not found:
        texts = some(text.columns)
        msg = (
            f"The genes have numbers for names ({some(var.index.astype(str))}), which do not identify them: set "
            f"adata.var_names to gene symbols or Ensembl ids{f'; adata.var has the columns {texts}' if texts else ''}."
        )
        raise GeneError(msg)
    return [names for _, names in sorted(found, key=lambda pair: pair[0])]


def gene_table(var: pd.DataFrame) -> pd.DataFrame:
    """Name the genes of a file by row: symbol (the Ensembl id where there is none) and ensembl_id ("" = unknown)."""
    symbols = np.full(len(var), "", dtype=object)
    ensembl_ids = symbols.copy()
    for names in name_columns(var):
        ensembl_ids = np.where(ensembl_ids == "", ensembl_of(names), ensembl_ids)
        symbols = np.where(symbols == "", symbols_of(names), symbols)
    has_id = ensembl_ids != ""  # without one, what a prefix hides is for mended_symbols
    symbols[has_id] = [re.sub(GENOME, "", symbol) for symbol in symbols[has_id]]
    _refuse_contradiction(symbols, ensembl_ids)
    symbols = np.where(symbols == "", ensembl_ids, symbols)
    return pd.DataFrame({"symbol": symbols, "ensembl_id": ensembl_ids}, index=var.index)


def _refuse_contradiction(symbols: Iterable[str], ids: Iterable[str]) -> None:
    """Refuse a file in which one column of names was sorted, shifted or filtered by itself."""
    known = human_genes()
    both = [(one, id_) for one, id_ in zip(symbols, ids, strict=True) if id_ in known.symbols and one in known.ids]
    wrong = [(one, id_) for one, id_ in both if known.ids[one] != id_]
    if len(wrong) > max(CONTRADICTED * len(both), FEW):
        msg = (
            f"Symbols and Ensembl ids contradict each other: of {len(both):,} genes that have both, {len(wrong):,} are "
            f"two genes, such as {wrong[0][0]} with {wrong[0][1]}, which is {known.symbols[wrong[0][1]]}. "
            "One column of adata.var was sorted or shifted by itself: join the right ids again, or delete that column."
        )
        raise GeneError(msg)


def resolve(symbols: Sequence[str], ids: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Find which human gene each row of a table of genes is, from its id or else from its symbol, by HGNC's table.

    Returns the Ensembl id of each row ("" = not known), and by id the names that may mean it or another gene.
    """
    known = human_genes()
    rows = list(zip(symbols, ids, strict=True))
    keys = [id_ if id_ in known.symbols else known.ids.get(symbol, id_) for symbol, id_ in rows]
    there = set(keys)
    unclear: dict[str, list[str]] = {}
    for row, (symbol, _) in enumerate(rows):
        if not keys[row] and (meant := {known.ids[name] for name in unmangled(symbol)} - there):
            keys[row] = next(iter(meant)) if len(meant) == 1 else ""
            if len(meant) > 1:
                unclear |= {gene: [*unclear.get(gene, []), symbol] for gene in meant}
    # Of several names for one gene the one with its id is it, or else the one that is its approved symbol.
    given, names_of = set(ids), dict[str, set[str]]()
    for key, (symbol, _) in zip(keys, rows, strict=True):
        names_of.setdefault(key, set()).add(symbol)
    for row, (key, (symbol, id_)) in enumerate(zip(keys, rows, strict=True)):
        approved = known.symbols.get(key)
        if (key in given and id_ != key) or (
            key and key not in given and len(names_of[key]) > 1 and symbol != approved
        ):
            keys[row] = ""
            if key not in given and approved not in names_of[key]:
                unclear[key] = sorted(names_of[key])
    return keys, unclear


def find_gene(name: str, var: pd.DataFrame) -> tuple[str, list[int]]:
    """Find a gene in a file by its symbol in any case, its Ensembl id or another name: its symbol, and its rows."""
    table, known, capitals = gene_table(var), human_genes(), name.upper()
    key = str(ensembl_of([capitals])[0]) or known.ids.get(name) or known.ids.get(capitals, "")
    ways = [(table["symbol"], name), (table["symbol"].str.upper(), capitals)]
    for names, wanted in [*ways, (resolve(table["symbol"], table["ensembl_id"])[0], key)]:
        if wanted and (places := np.flatnonzero(np.asarray(names) == wanted)).size:
            symbol = str(table["symbol"].iloc[places[0]])
            return known.symbols.get(symbol, symbol), places.tolist()
    return "", []


def other_species(symbols: Iterable[str], ids: Iterable[str]) -> str:
    """Name the species that genes are of, by their ids or else by how their symbols are written; "" for human.

    Monkeys write ACTB as we do: without ids they pass for human.
    """
    prefixes = Counter(id_[:-12] for id_ in ids if id_)
    if prefixes:
        prefix = prefixes.most_common(1)[0][0]
        return "" if prefix == "ENS" else _SPECIES.get(prefix, f"another species ({prefix}G…)")
    # Mouse and rat write Actb, zebrafish actb1.
    written = [symbol for symbol in symbols if any(map(str.isalpha, symbol)) and not _PLACEHOLDER.match(symbol)]
    if sum(bool(_TITLE.match(symbol)) for symbol in written) > 0.3 * len(written):
        return "mouse or rat"
    lower = [symbol for symbol in written if symbol == symbol.lower()]
    n_human = sum(symbol.upper() in human_genes().ids for symbol in lower)
    # Of zebrafish's symbols 42 % are a human name in lower case, of those in human files at least 81 %.
    return "zebrafish or another species" if len(lower) > len(written) / 2 and n_human < 0.6 * len(lower) else ""


def in_other_case(symbols: Iterable[str]) -> np.ndarray:
    """Write symbols in capitals, for C1ORF112 or cd3d; "" for those written as a mouse's, which are none of ours."""
    return np.array(["" if _TITLE.match(symbol) else symbol.upper() for symbol in symbols], dtype=object)
