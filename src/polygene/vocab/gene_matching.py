"""Where the genes of a panel are in a file, and what it means when some are not.

Shapes: G genes of the panel, M of them measured, N columns of the file that serve them, F genes of the file.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from polygene.errors import GeneError
from polygene.vocab.columns import some
from polygene.vocab.features import kinds_of_features, left_out
from polygene.vocab.gene_names import (
    gene_table,
    human_genes,
    in_other_case,
    name_columns,
    other_species,
    resolve,
    symbols_of,
    unmangled,
)
from polygene.vocab.mending import but_for_case, mended_symbols

logger = logging.getLogger("polygene")

KEPT = {
    0.05: (0.27, 0.16),
    0.1: (0.48, 0.26),
    0.2: (0.65, 0.63),
    0.3: (0.74, 0.74),
    0.5: (0.86, 0.86),
    0.75: (0.99, 0.90),
    1.0: (1.0, 1.0),
}
"""Share of the macro-F1 of a full panel that is left, by the share of the panel that is measured: where genes are
missing at random (mean of three studies never seen), and where the most variable ones are (the worst study, never
rising as genes go nor above the first). By `python -m benchmarks.models.coverage`, seed 0; see docs/coverage.md."""

COMFORT = 0.75  # share of the panel below which a warning gives the macro-F1 to expect
FLOOR = 0.1  # and below which there is no prediction: at half of it many cells express none of its genes


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneMatch:
    """Where the genes of a panel are in a file. Several columns of one gene are to be summed."""

    columns_N: np.ndarray  # int64, columns of X
    genes_N: np.ndarray  # int64, the place in the panel of the gene that each serves, ascending
    measured_G: np.ndarray  # bool, which genes of the panel the file measured
    found: Mapping[str, int]  # how many by which way of naming
    missing: tuple[str, ...] = field(default=(), repr=False)  # names
    why: str = ""  # what may be the cause of few genes, and what to do
    is_gene_F: np.ndarray | None = field(default=None, repr=False)  # bool, where some features of the file are none

    @classmethod
    def of(cls, columns: Mapping[int, Sequence[int]], n_genes: int, **others: Any) -> "GeneMatch":
        """Make one from the columns of each gene that was found."""
        pairs = [(column, gene) for gene in sorted(columns) for column in columns[gene]]
        columns_N, genes_N = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        measured_G = np.isin(np.arange(n_genes), genes_N)
        return cls(columns_N=columns_N, genes_N=genes_N, measured_G=measured_G, **others)

    @property
    def slots_N(self) -> np.ndarray:
        """The place among the measured genes that each column serves, 0 … M-1."""
        return (np.cumsum(self.measured_G) - 1)[self.genes_N]

    @property
    def n_measured(self) -> int:
        """How many genes of the panel were measured."""
        return int(self.measured_G.sum())

    @property
    def sums(self) -> bool:
        """Whether a gene has several columns."""
        return self.n_measured < len(self.columns_N)

    def report(self, counts_share: float) -> dict[str, Any]:
        """Log before any prediction how much of the panel was measured, and return it in numbers.

        `counts_share` is the share of the file's counts that falls on genes of the panel, in the cells looked at.
        """
        coverage = float(self.measured_G.mean())
        kept, lowest = expected_shares(coverage)
        n_measured, n_genes = self.n_measured, len(self.measured_G)
        measured = f"{n_measured:,} of the {n_genes:,} genes of the panel are measured ({coverage:.1%})"
        if coverage < FLOOR:
            msg = (
                f"Only {measured}, too few for a prediction: from {FLOOR:.0%} down a third to a half of the macro-F1 "
                f"is lost (docs/coverage.md). Missing are {some(self.missing)}. {self.why}"
            )
            raise GeneError(msg)
        logger.info("genes: those of the panel hold %.0f %% of the counts in the file", 100 * counts_share)
        if coverage < COMFORT:
            logger.warning(
                "genes: %s: expect about %.0f %% of the macro-F1 that all of them give, or %.0f %% if the most "
                "variable are missing (docs/coverage.md). %s", measured, 100 * kept, 100 * lowest, self.why,
            )  # fmt: skip
        return {
            "panel": n_genes,
            "measured": n_measured,
            "coverage": coverage,
            "counts_share": counts_share,
            "expected_share_of_macro_f1": kept,
            "lowest_share_of_macro_f1": lowest,
            "found": dict(self.found),
            "missing": np.array(self.missing, dtype=str),
        }


def expected_shares(coverage: float) -> tuple[float, float]:
    """Give the shares of a full panel's macro-F1 to expect, between the measured points of `KEPT`."""
    kept, lowest = (np.interp(coverage, list(KEPT), column) for column in zip(*KEPT.values(), strict=True))
    return float(kept), float(lowest)


def match_genes(symbols_G: Sequence[str], ids_G: Sequence[str], var: pd.DataFrame) -> GeneMatch:
    """Find genes in a file; see `GenePanel.match`."""
    kind_F = kinds_of_features(var)
    is_gene_F = kind_F == ""
    file = gene_table(var)
    if left_out(kind_F, "the table"):
        file[~is_gene_F] = ""
    _refuse_other_species(symbols_G, ids_G, file)
    keys_G, _ = resolve(symbols_G, ids_G)
    if any(ids_G):  # then a gene has none only if its name is not clear
        keys_G = [key if id_ else "" for key, id_ in zip(keys_G, ids_G, strict=True)]
    ids_F = file["ensembl_id"].tolist()
    mended_F, unmended = mended_symbols(file["symbol"].tolist(), ids_F, symbols_G)
    keys_F, unclear = resolve(mended_F, ids_F)
    unclear |= {human_genes().ids.get(symbol, symbol): names for symbol, names in unmended.items()}
    search = _Search(list(ids_G), keys_G, file, keys_F)
    search.by("Ensembl id", ids_G, ids_F)
    for names in name_columns(var):
        search.by("symbol", symbols_G, np.where(is_gene_F, symbols_of(names), ""))
    search.by("mended symbol", symbols_G, but_for_case(mended_F, file["symbol"]))
    search.by("symbol in other case", in_other_case(symbols_G), in_other_case(file["symbol"]))
    search.by("another name", keys_G, keys_F)  # last: ski is SKI, and an alias of HHAT
    names_G = [symbol or id_ for symbol, id_ in zip(symbols_G, ids_G, strict=True)]
    missing = {g: name for g, name in enumerate(names_G) if g not in search.columns}
    why = _why_few(file.assign(symbol=mended_F), ids_G)
    if not search.columns:
        msg = (
            f"None of the {len(names_G):,} genes of the panel ({some(names_G)}) is in the file, "
            f"which names {len(file):,} genes ({some(file['symbol'])}). {why}"
        )
        raise GeneError(msg)
    how = ", ".join(f"{n:,} by {way}" for way, n in search.found.items())
    logger.info("genes: matched %d of %d of the panel (%s)", len(search.columns), len(names_G), how)
    list_genes("by another name", (f"{names_G[g]} as {name}" for g, name in search.renamed.items()))
    twice = (names_G[g] for g, there in search.columns.items() if len(there) > 1)
    list_genes("in several columns, which are summed", twice)
    list_genes("not measured", missing.values())
    rivals = {g: unclear[keys_G[g]] for g in missing if keys_G[g] in unclear} | search.rivals
    list_genes(
        "of these perhaps there, under a name that means other genes too",
        (f"{names_G[g]} ({' or '.join(sorted(set(names)))})" for g, names in rivals.items()),
    )
    others = {
        "found": search.found,
        "missing": tuple(missing.values()),
        "why": why,
        "is_gene_F": None if is_gene_F.all() else is_gene_F,
    }
    return GeneMatch.of(search.columns, len(names_G), **others)


def list_genes(what: str, genes: Iterable[str]) -> None:
    """Log the genes of which something holds, if there are any."""
    if listed := list(genes):
        logger.info("genes: %s %s: %s", f"{len(listed):,}", what, some(listed))


class _Search:
    """Columns found so far for each gene of the panel, one way of naming after the other."""

    def __init__(self, ids_G: list[str], keys_G: list[str], file: pd.DataFrame, keys_F: list[str]) -> None:
        self.columns: dict[int, list[int]] = {}
        self.found: Counter[str] = Counter()
        self.renamed: dict[int, str] = {}
        self.rivals: dict[int, list[str]] = {}
        self._taken: set[int] = set()
        self._ids_G, self._keys_G, self._keys_F = ids_G, keys_G, keys_F
        self._ids_F, self._symbols_F = file["ensembl_id"].tolist(), file["symbol"].tolist()

    def by(self, way: str, wanted_G: Iterable[str], given_F: Iterable[str]) -> None:
        """Give the genes still open their columns, where the names agree; a name that two of the panel have is none."""
        closed = self.columns.keys() | self.rivals.keys()
        wanted = [(g, name) for g, name in enumerate(wanted_G) if name and g not in closed]
        n_wanted = Counter(name for _, name in wanted)
        open_ = {name: g for g, name in wanted if n_wanted[name] == 1}
        places: dict[int, list[int]] = defaultdict(list)
        for f, name in enumerate(given_F):
            if name in open_ and f not in self._taken and not self._differ(open_[name], f):
                places[open_[name]].append(f)
        for g, there in places.items():
            if not (columns := self._one_gene(g, there)):
                self.rivals[g] = [self._identity(f) for f in there]
                continue
            self.columns[g] = columns
            self._taken.update(columns)
            self.found[way] += 1
            if way in ("another name", "mended symbol") and self._symbols_F[columns[0]] != self._ids_F[columns[0]]:
                self.renamed[g] = self._symbols_F[columns[0]]

    def _differ(self, g: int, f: int) -> bool:
        """Whether both have ids, of two genes that HGNC knows."""
        known = human_genes().symbols
        return self._ids_G[g] in known and self._ids_F[f] in known and self._ids_G[g] != self._ids_F[f]

    def _one_gene(self, g: int, there: list[int]) -> list[int]:
        """Give the columns that are one gene: all, or else those that are it by HGNC, or none."""
        if len({self._identity(f) for f in there}) == 1:
            return there
        there = [f for f in there if self._keys_G[g] and self._keys_G[g] == self._keys_F[f]]
        return there if len({self._identity(f) for f in there}) == 1 else []

    def _identity(self, f: int) -> str:
        return self._ids_F[f] or self._symbols_F[f]


def _refuse_other_species(symbols_G: Sequence[str], ids_G: Sequence[str], file: pd.DataFrame) -> None:
    ours = other_species(symbols_G, ids_G)
    theirs = other_species(file["symbol"], file["ensembl_id"])
    if bool(ours) != bool(theirs):
        msg = (
            f"The file seems to be of {theirs or 'human'}: its genes are {some(file['symbol'])}. The model learned "
            f"from {ours or 'human'} cells ({some(symbols_G)}), so its predictions would mean nothing. Take a model "
            "of the same species, or first rename the genes to their one-to-one orthologues, if that is what you want."
        )
        raise GeneError(msg)


def _why_few(file: pd.DataFrame, ids_G: Sequence[str]) -> str:
    known = human_genes()
    has_id = file["ensembl_id"] != ""
    n_human = int((has_id | file["symbol"].isin(known.ids) | file["symbol"].map(unmangled).astype(bool)).sum())
    if has_id.mean() > 0.5 and (file["symbol"] == file["ensembl_id"]).mean() > 0.5 and not any(ids_G):
        return "The file names Ensembl ids and the panel symbols: put the symbols into adata.var['feature_name']."
    if n_human < len(file) / 2:
        return (
            f"Only {n_human:,} of the {len(file):,} names in the file are names of human genes (it has "
            f"{some(file['symbol'], 3)}): put gene symbols or Ensembl ids into adata.var_names, or into "
            "adata.var['feature_name'] or ['feature_id']. Where adata.obs_names are the genes, pass adata.T."
        )
    if len(file) < 5_000:
        return (
            f"The file holds {len(file):,} genes only: read the matrix with all genes, which may be in adata.raw "
            "(layer='raw', --layer raw), if it is not read already, or in the file from before genes were chosen."
        )
    return (
        f"The file holds {len(file):,} genes: where genes that few cells express were filtered out, the matrix from "
        "before measures more of the panel."
    )
