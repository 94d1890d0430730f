"""What the verbs share: cells as tokens, chunk by chunk; the model by its name; results on their way out.

Legend: C cells, G panel genes, M measured panel genes, P phenotypes.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from polygene._version import __version__
from polygene.errors import GeneError, PhenotypeError, check_names, missing_column
from polygene.io.read import CellSource, Source, open_cells
from polygene.io.results import Results, ResultsChunk, check_writable, track
from polygene.model.checkpoint import PolyGene
from polygene.runtime.atomic import atomic_file, refuse_input
from polygene.vocab.cells import EncodedCells
from polygene.vocab.columns import given_texts
from polygene.vocab.expression import TOTALS, counts_share, log1p_values, warn_totals
from polygene.vocab.gene_matching import GeneMatch
from polygene.vocab.panel import GenePanel
from polygene.vocab.phenotypes import PhenotypeSchema
from polygene.vocab.tokenizer import CellTokenizer

logger = logging.getLogger("polygene")


class CellReader:
    """The cells of an AnnData or a file; labels, scale and genes are checked before the first cell is read.

    `cells` is the source, `scale` that of its values, `match` the columns of the panel genes in it, `genes` how much of
    the panel it measures. `own` are genes that heads read besides, by phenotype. `totals` is as for `annotate`.
    """

    def __init__(
        self,
        source: Source | CellSource,
        tokenizer: CellTokenizer,
        *,
        given: Sequence[str] = (),
        layer: str | None = None,
        totals: str | None = None,
        own: Mapping[str, GenePanel] | None = None,
    ) -> None:
        self.cells = cells = source if isinstance(source, CellSource) else open_cells(source, layer=layer)
        self._tokenizer, self.totals = tokenizer, totals
        self._warned = False
        schema = tokenizer.schema
        check_given(schema, given)
        columns = [schema.phenotypes[schema.index(name)].column for name in given]
        complete = set(columns) <= set(cells.columns)
        # -1 but for the given phenotypes; all of obs for a helpful error
        self._labels_CP = schema.encode(cells.frame(columns) if complete else cells.obs, use=given)
        if totals is not None and totals not in cells.columns:
            do = "Pass totals=<column>, or leave it out."
            raise missing_column(totals, cells.columns, of=cells.label, holds="the counts of each cell", do=do)
        self.scale = cells.find_scale(ranks=tokenizer.binner.ranks)
        self.match = tokenizer.panel.match(cells.var)
        sample = cells.sample(columns=TOTALS)
        warn_totals(sample, totals=totals, scale=self.scale)
        self.own = {name: own_genes(genes, cells, name) for name, genes in (own or {}).items()}
        share = counts_share(sample.X, self.match, self.scale)
        self.genes: dict[str, Any] = {**self.match.report(share), "left_out": cells.left_out}

    def raw(self, rows: np.ndarray | None) -> Iterator[ad.AnnData]:
        """Read cells with nothing but what their values depend on."""
        return self.cells.chunks(rows, columns=[self.totals] if self.totals else ())

    def values(self, chunk: ad.AnnData, match: GeneMatch) -> sparse.csr_matrix:
        """Give log1p counts per 10,000 of the genes that were matched and measured."""
        return log1p_values(chunk, match, totals=self.totals, scale=self.scale)

    def read(self, rows: np.ndarray | None = None) -> EncodedCells:
        """Read the tokens of cells, all or some `rows` (one at least), at once."""
        return joined([cells for _, cells in self.chunks(rows)])

    def chunks(self, rows: range | np.ndarray | None = None) -> Iterator[tuple[pd.Index, EncodedCells]]:
        """Read the names and the tokens of cells, all or some `rows`; warn of cells that express no panel gene."""
        labels_CP = self._labels_CP
        if rows is not None:
            rows = None if len(rows) == self.cells.n_obs else np.asarray(rows, dtype=np.int64)
            labels_CP = labels_CP if rows is None else labels_CP[rows]
        first = n_blank = 0
        for chunk in self.raw(rows):
            cells = self._tokenizer.encode(
                chunk, match=self.match, totals=self.totals, scale=self.scale, use_labels=False
            )
            own = {}
            for name, match in self.own.items():
                own[name] = np.full((len(cells), len(match.measured_G)), np.nan, np.float32)
                own[name][:, match.measured_G] = self.values(chunk, match).toarray()
            # labels were read and checked for all cells
            cells = replace(cells, labels_CP=labels_CP[first : first + chunk.n_obs], own=own)
            n_blank += int(blank(cells).sum())
            first += chunk.n_obs
            yield chunk.obs_names, cells
        if n_blank and not self._warned:  # once, however often the cells are read
            self._warned = True
            logger.warning(
                "%s of %s cells express no gene of the panel: they are kept, and their predictions mean nothing",
                f"{n_blank:,}", f"{first:,}",
            )  # fmt: skip


def joined(parts: Sequence[EncodedCells]) -> EncodedCells:
    """Put cells of one file, read in chunks, into one batch."""
    lengths = [np.diff(part.offsets_C1) for part in parts]
    offsets_C1 = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    names = ("genes_N", "bins_N", "values_N", "labels_CP")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], offsets_C1=offsets_C1, own={}, **arrays)


def own_genes(genes: GenePanel, cells: CellSource, name: str) -> GeneMatch:
    """Find the genes that a head reads, and warn of those that the file lacks."""
    try:
        match = genes.match(cells.var)
    except GeneError:  # it has none of them
        match = GeneMatch.of({}, len(genes), found={})
    if lacking := len(genes) - match.n_measured:
        logger.warning(
            "%s: the fine-tuned head reads %s genes, of which %s measures %s: the other %s contribute nothing, so "
            "expect less than where it was fitted",
            name, f"{len(genes):,}", cells.label, f"{match.n_measured:,}", f"{lacking:,}",
        )  # fmt: skip
    return match


def column_of(cells: CellSource, column: str, *, holds: str = "", do: str = "") -> pd.Series:
    """Read a column of `obs`; `holds` and `do` are for the error where it is missing."""
    if column not in cells.columns:
        raise missing_column(column, cells.columns, of=cells.label, holds=holds, do=do)
    return cells.frame([column])[column]


def groups_of(cells: CellSource, column: str, *, holds: str = "", do: str = "") -> tuple[np.ndarray, list[str]]:
    """Read a column of labels: (codes_C, -1 = not given; the labels that cells have)."""
    return given_texts(column_of(cells, column, holds=holds, do=do))


def donors_of(cells: CellSource, donor: str) -> tuple[np.ndarray, list[str]]:
    """Read the donor of each cell: (codes_C, -1 = not given; the names). Only the default column may be missing."""
    if donor == "donor_id" and donor not in cells.columns:
        return np.full(cells.n_obs, -1, dtype=np.int32), []
    return groups_of(cells, donor, holds="the donor of each cell")


def blank(cells: EncodedCells) -> np.ndarray:
    """Which cells express no gene of the panel, bool (C,)."""
    return np.diff(cells.offsets_C1) == 0


def phenotypes_named(schema: PhenotypeSchema, names: str | Sequence[str], argument: str) -> list[str]:
    """Return the names of phenotypes in an argument, one or several, in the order of the schema."""
    chosen = {schema.index(name) for name in check_names(argument, names)}
    return [schema.names[p] for p in sorted(chosen)]


def check_given(schema: PhenotypeSchema, names: Iterable[str]) -> None:
    """Refuse to condition on labels that came with fine-tuning."""
    if tuned := [name for name in names if schema.phenotypes[schema.index(name)].added]:
        msg = f"{', '.join(tuned)}: fine-tuned labels can be predicted, but not given: the network never learned them."
        raise PhenotypeError(msg)


def load_model(model: PolyGene | str | Path) -> PolyGene:
    """Return a model, loaded if it is a name or a folder."""
    return model if isinstance(model, PolyGene) else PolyGene.from_pretrained(model)


def results_of(
    verb: str,
    model: PolyGene,
    reader: CellReader,
    compute: Callable[[pd.Index, EncodedCells], ResultsChunk],
    *,
    done: str,
    uns: dict[str, Any],
    **layout: Any,
) -> Results:
    """Collect what a verb predicts, chunk by chunk, once it is written; `layout` are other fields of the results."""

    def chunks(rows: range) -> Iterator[ResultsChunk]:
        computed = (compute(names_C, cells) for names_C, cells in reader.chunks(rows))
        return track(computed, len(rows), done=done, device=model.network.device)

    uns = {**made_by(model), **uns, "genes": reader.genes}
    return Results(verb=verb, cells=reader.cells, chunks=chunks, uns=uns, **layout)


@contextmanager
def written(
    out: str | Path | None, suffixes: tuple[str, ...], source: Source | None = None, *, overwrite: bool
) -> Iterator[Path | None]:
    """Give the temporary file of `out`, checked before the work begins; None where nothing is to be written.

    The cells that are read stay: a table, or cells of the panel alone, would lose genes.
    """
    if ".h5ad" not in suffixes:
        check_writable(source)  # which gets what goes into a table
    if out is None:
        yield None
        return
    refuse_input(out, source.filename if isinstance(source, ad.AnnData) else source, do="choose another file")
    with atomic_file(out, suffixes, overwrite=overwrite) as part:
        yield part


def panel_var(panel: GenePanel) -> pd.DataFrame:
    """Make the `var` of a panel: by symbol, by Ensembl id where that is missing or repeated."""
    symbols = pd.Series(panel.symbols)
    ids = pd.Series(panel.ensembl_ids)
    unclear = (symbols == "") | (symbols.duplicated(keep=False) & (ids != ""))
    return pd.DataFrame({"gene_id": list(panel.ensembl_ids)}, index=symbols.where(~unclear, ids).tolist())


def made_by(model: PolyGene) -> dict[str, str]:
    """Return the model and the version, for `uns`."""
    return {
        "model": model.network.name_or_path or "not saved",
        "tokenizer": model.tokenizer.fingerprint(),
        "version": __version__,
    }
