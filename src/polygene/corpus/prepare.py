"""AnnData to corpus: draw the split, rank the genes, fit the tokenizer on training cells, write every cell as tokens.

The files are read three times chunk by chunk (twice for the training cells that rank genes), so that memory does not
grow with the cells. What ranks is the same whoever asks, so that several machines can each write a part of the tokens
(`polygene.corpus.parts`).
Labels of all donors choose among 32 draws of the split; after that nothing of a cell that does not train, neither
expression nor labels, enters the tokenizer.

Legend: C cells, G panel genes, P phenotypes.
"""

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polygene.corpus.arrow import ShardWriter, cell_tables
from polygene.corpus.config import PrepareConfig
from polygene.corpus.corpus import Corpus
from polygene.corpus.source import PreparedSource, describe, warn_of_ages, within, years_of
from polygene.corpus.split import split_cells
from polygene.corpus.variable_genes import (
    GeneMoments,
    GeneVariability,
    choose_panel,
    rank_genes,
    score_genes,
    source_weights,
    union_of_genes,
)
from polygene.corpus.written import Written, finish
from polygene.errors import missing_column
from polygene.io.read import CellSource, Source, open_sources
from polygene.runtime.atomic import atomic_folder, refuse_input
from polygene.runtime.hashing import uniform
from polygene.runtime.pool import process_pool
from polygene.runtime.progress import progress
from polygene.runtime.ranks import WHOLE, Part, one_process
from polygene.vocab.binning import ExpressionBinner, InverseFit
from polygene.vocab.columns import SYNTHETIC, by_code, is_synthetic
from polygene.vocab.gene_matching import GeneMatch
from polygene.vocab.panel import GenePanel
from polygene.vocab.phenotypes import CELLXGENE, Phenotype, PhenotypeSchema, count_labels
from polygene.vocab.tokenizer import CellTokenizer

__all__ = ["PrepareConfig", "prepare"]

logger = logging.getLogger("polygene")

LEAST_SHARE = 0.1
"""Cells are thinned to shares between this and one, uniform in their logarithm: studies differ tenfold in depth."""
LEAST_RANKING = 2_000  # training cells of a source that rank its genes, however many sources there are
THINNED = " (thinned)"  # at the end of the name of a cell that is thinned


def prepare(
    sources: Source | Sequence[Source] | Mapping[str, Source],
    out: str | Path,
    *,
    config: PrepareConfig | None = None,
    tokenizer: CellTokenizer | None = None,
    num_proc: int = 1,
    overwrite: bool = False,
) -> Corpus:
    """Make a corpus of files (paths, globs, URLs), SOMA experiments (soma://PATH) and AnnData objects.

    The folder appears whole or not at all. The same input and seed give the same bytes, whatever `num_proc` is.

    Parameters
    ----------
    out
        The folder to write; it must not exist.
    tokenizer
        That of a model to be trained further: its panel, bins and labels replace those of `config`, and cells with
        other labels count as not given.
    num_proc
        Processes that share the work. They are started anew, so a script that asks for several keeps what it does
        under `if __name__ == "__main__":`, and each gets a copy of the AnnData that are in memory.
    overwrite
        Replace a corpus that is there.

    Raises
    ------
    DataError, GeneError, ScaleError, PhenotypeError, ColumnError
        The sources cannot be read, or cannot be split; names the source.
    OutputError
        The folder exists, another process writes it, or it cannot be written.
    RunEndedError
        One of several processes ended, or torchrun started this one.

    See Also
    --------
    polygene.corpus.split.split_cells : how cells are held out
    polygene.corpus.variable_genes.score_genes : how genes are ranked over several sources
    """
    one_process("prepare")  # num_proc shares the work, torchrun does not
    config = config or PrepareConfig()
    with (
        atomic_folder(out, replace="corpus.json" if overwrite else None) as folder,
        preparation(sources, out, config=config, tokenizer=tokenizer, num_proc=num_proc) as made,
    ):
        finish(folder, asdict(config), made.write(folder), keep_inverse=tokenizer is not None)
    return Corpus(out)


@contextmanager
def preparation(
    sources: Source | Sequence[Source] | Mapping[str, Source],
    out: str | Path,
    *,
    config: PrepareConfig,
    tokenizer: CellTokenizer | None,
    num_proc: int,
    part: Part = WHOLE,
) -> Iterator["Preparation"]:
    """Open the sources, draw the split and start the processes that share the work."""
    opened = open_sources(sources, layer=config.layer, where=config.where)
    refuse_input(out, *(source.path for source in opened))
    prepared = _split_sources(opened, config, tokenizer)
    blocks = [(s, window) for s, source in enumerate(prepared) for window in source.windows()]
    blocks = blocks[part.of(len(blocks))]
    n_rows = sum(window.stop - window.start for _, window in blocks)
    n_rows += 0 if tokenizer else 2 * sum(len(source.ranking) for source in prepared)
    with progress(n_rows, done="prepared", unit="rows") as advance, process_pool(prepared, num_proc) as pool:
        yield Preparation(prepared, config, pool, advance, blocks, tokenizer)


def _split_sources(
    opened: Sequence[CellSource], config: PrepareConfig, tokenizer: CellTokenizer | None
) -> list[PreparedSource]:
    phenotypes = tokenizer.schema.phenotypes if tokenizer else config.schema()
    wanted = [config.donor, SYNTHETIC, *(phenotype.column for phenotype in phenotypes)]
    frames = [cells.frame(wanted) for cells in opened]
    _check_columns(config, opened)
    if tokenizer is None:
        _warn_of_new(phenotypes)
    parts = split_cells(
        opened, frames, by=config.split, fractions=config.fractions, seen=config.seen, seed=config.seed,
        donor=config.donor, phenotypes=phenotypes,
    )  # fmt: skip
    prepared = [PreparedSource(*one, config) for one in zip(opened, frames, parts, strict=True)]
    for source in prepared if tokenizer is None else ():
        source.choose_ranking(max(config.rank_cells // len(prepared), LEAST_RANKING))
    n_ranking, n_train = (
        sum(sizes) for sizes in zip(*((len(one.ranking), one.n_train) for one in prepared), strict=True)
    )
    if 0 < n_ranking < n_train:
        logger.info("%s of %s training cells rank the genes", f"{n_ranking:,}", f"{n_train:,}")
    return prepared


@dataclass(frozen=True)
class Preparation:
    """Sources whose split is drawn, on their way into an empty folder: all of their blocks, or those of one part."""

    sources: Sequence[PreparedSource]
    config: PrepareConfig
    pool: Callable[..., Iterator[Any]]
    advance: Callable[[int], None]
    blocks: Sequence[tuple[int, slice]]
    given: CellTokenizer | None

    def write(self, folder: Path) -> Written:
        """Rank and fit the tokenizer unless one is given, write the tokens."""
        tokenizer = self.given or self._tokenizer()
        written = Written(tokenizer, InverseFit(tokenizer.binner, len(tokenizer.panel)), [], [0] * len(self.sources))
        with ShardWriter(folder, len(tokenizer.schema.phenotypes)) as writer:
            self._write_tokens(written, writer)
        return written

    def _tokenizer(self) -> CellTokenizer:
        """Make panel, bins and labels from training cells; the inverse is fitted later, as tokens are written."""
        phenotypes = self.config.schema()
        counts: dict[str, dict[str, int]] = {phenotype.name: {} for phenotype in phenotypes}
        for source in self.sources:
            for name, some in count_labels(source.frame[source.part_C == 0], phenotypes).items():
                counts[name].update({label: n + counts[name].get(label, 0) for label, n in some.items()})
        kind, n_bins = self.config.binning, () if self.config.binning == "binary" else (self.config.n_bins,)
        binner: ExpressionBinner = getattr(ExpressionBinner, kind)(*n_bins)
        schema = PhenotypeSchema.fit(counts, phenotypes)  # too many labels are refused before the hours of ranking
        warn_of_ages(schema)
        panel = self._rank()
        return CellTokenizer(panel=panel, binner=binner, schema=schema, inverse=InverseFit(binner, len(panel)).finish())

    def _rank(self) -> GenePanel:
        """First and second pass: rank the genes on training cells, source by source, and choose the panel."""
        trained = [s for s, source in enumerate(self.sources) if source.n_train]
        moments = {s: GeneMoments(len(self.sources[s].genes)) for s in trained}
        self._add_up(moments)
        variability = {s: GeneVariability(moments[s]) for s in trained}
        self._add_up(variability)
        tables = [self.sources[s].genes for s in trained]
        ranks = [rank_genes(variability[s].finish(), list(self.sources[s].genes["symbol"])) for s in trained]
        union = union_of_genes(tables)
        weights = source_weights([bool(is_synthetic(self.sources[s].frame).all()) for s in trained])
        score_U = score_genes(union, tables, ranks, weights)
        return choose_panel(union, score_U, self.config.n_genes, self.config.include_genes)

    def _add_up(self, sums: Mapping[int, Any]) -> None:
        """Add the cells of every source that rank to its sums."""
        places = [
            (s, rows)
            for s in sums
            for window in self.sources[s].windows()
            if len(rows := within(self.sources[s].ranking, window))
        ]
        tasks = ((s, (rows, sums[s].empty())) for s, rows in places)
        for (s, rows), part in zip(places, self.pool(_add_cells, tasks), strict=True):
            sums[s].merge(part)
            self.advance(len(rows))

    def _write_tokens(self, written: Written, writer: ShardWriter) -> None:
        """Last pass: write the tokens of the cells, and describe every source."""
        tokenizer = written.tokenizer

        def tasks() -> Iterator[tuple[int, tuple[Any, ...]]]:
            for s, source in enumerate(self.sources):
                with source.named():
                    match = tokenizer.panel.match(source.cells.var)
                    labels_CP = tokenizer.schema.encode(source.frame, unknown="not given")
                written.sources.append(describe(source, tokenizer.schema, match.measured_G, labels_CP))
                years_C = years_of(source.frame, tokenizer.schema.phenotypes)
                source.frame = source.frame.iloc[:0].copy()  # a byte a cell and column, not needed any more
                donors = np.array(source.donors, dtype=object)
                for window in (window for number, window in self.blocks if number == s):
                    donors_C = by_code(donors, source.donor_C[window], "")
                    of_cells = labels_CP[window], source.part_C[window], years_C[window], donors_C
                    thinned_C = within(source.thinned_C, window)
                    yield s, (window, match, tokenizer, s, *of_cells, thinned_C, self.config.seed)

        for (s, window), (counts, n, tables) in zip(self.blocks, self.pool(_encode_block, tasks()), strict=True):
            written.fit.merge(counts)
            written.blank[s] += n
            for table in tables:
                writer.write(*table)
            self.advance(window.stop - window.start)


def _add_cells(source: PreparedSource, rows: np.ndarray, sums: Any) -> Any:
    for _, x_CG in source.values(rows, source.gene_columns):
        sums.add(x_CG)
    return sums


def _encode_block(
    source: PreparedSource,
    window: slice,
    match: GeneMatch,
    tokenizer: CellTokenizer,
    number: int,
    labels_CP: np.ndarray,
    part_C: np.ndarray,
    years_C: np.ndarray,
    donors_C: np.ndarray,
    thinned_C: np.ndarray,
    seed: int,
) -> tuple[dict[str, np.ndarray], int, list[tuple[int, Any]]]:
    """Encode a block, in any process: (counts of its training cells, cells without a panel gene, tables)."""
    fit, tables = InverseFit(tokenizer.binner, len(tokenizer.panel)), list[tuple[int, Any]]()
    done = n_blank = 0
    for names, values_CM in source.values(np.arange(window.start, window.stop), match):
        chunk = slice(done, done + len(names))
        trains_C = part_C[chunk] == 0
        if trains_C.any():
            fit.add(values_CM[trains_C], match.measured_G)
        cells = tokenizer.encode_values(values_CM, match.measured_G, labels_CP[chunk])
        n_blank += int((np.diff(cells.offsets_C1) == 0).sum())
        tables += cell_tables(part_C[chunk], cells, number, years_C[chunk], donors_C[chunk], names)
        done += len(names)
    shares_C = LEAST_SHARE ** uniform(seed, np.full(len(thinned_C), number), thinned_C, np.arange(1))[:, 0]
    done = 0
    for names, values_CM in source.values(thinned_C, match, shares_C=shares_C, seed=(seed, number, window.start)):
        some = thinned_C[done : done + len(names)] - window.start
        cells = tokenizer.encode_values(values_CM, match.measured_G, labels_CP[some])
        tables += cell_tables(part_C[some], cells, number, years_C[some], donors_C[some], names + THINNED)
        done += len(names)
    return fit.tables(), n_blank, tables


def _warn_of_new(phenotypes: Sequence[Phenotype]) -> None:
    """Warn of phenotypes that are not CELLxGENE's: a typing error makes one too."""
    usual = {one.name for one in CELLXGENE}
    for one in phenotypes:
        if one.name not in usual:
            near = difflib.get_close_matches(one.name, [*usual, "donor_id"], n=1, cutoff=0.7)
            hint = f"; did you mean {near[0]}?" if near else ""
            logger.warning("%s is a phenotype of its own, read from obs[%r]%s", one.name, one.column, hint)


def _check_columns(config: PrepareConfig, sources: Sequence[CellSource]) -> None:
    columns = sorted({column for cells in sources for column in cells.columns})
    for column in [*config.phenotypes.values(), *([config.totals] if config.totals else [])]:
        if column not in columns:
            raise missing_column(column, columns, of=" and ".join(cells.label for cells in sources[:3]))
