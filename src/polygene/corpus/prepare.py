"""AnnData to corpus: draw the split, rank the genes, fit the tokenizer on training cells, write every cell as tokens.

The files are read three times chunk by chunk (twice for training cells only, to rank genes), so that memory
does not grow with the cells.
Labels of all donors are looked at once, to choose among 32 draws of the split; after that nothing of a cell that does
not train, neither expression nor labels, enters the tokenizer.

Legend: C cells, G panel genes, P phenotypes.
"""

import difflib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from polygene._version import __version__
from polygene.corpus.arrow import SPLITS, ShardWriter, cell_tables
from polygene.corpus.corpus import FORMAT, Corpus
from polygene.corpus.split import SplitBy, split_cells
from polygene.corpus.variable_genes import (
    GeneMoments,
    GeneVariability,
    choose_panel,
    rank_genes,
    score_genes,
    source_weights,
    union_of_genes,
)
from polygene.errors import PolyGeneError, RecipeError, missing_column
from polygene.io.read import CellSource, Source, open_sources
from polygene.runtime.atomic import atomic_folder
from polygene.runtime.distributed import one_process
from polygene.runtime.pool import ProcessPool
from polygene.runtime.progress import progress
from polygene.vocab.ages import age_in_years
from polygene.vocab.binning import Binning, ExpressionBinner, InverseFit
from polygene.vocab.columns import SYNTHETIC, given_texts, is_synthetic
from polygene.vocab.gene_matching import GeneMatch
from polygene.vocab.panel import GenePanel, merged_genes
from polygene.vocab.phenotypes import CELLXGENE, Phenotype, PhenotypeSchema, count_labels
from polygene.vocab.scale import TOTALS, Scale, log1p_values, say_totals
from polygene.vocab.tokenizer import CellTokenizer

logger = logging.getLogger("polygene")

BLOCK = 5_000
"""Rows of a source that are worked on at once. Sums are made block by block, so that the number of processes, which
share the blocks, changes no digit of them."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a corpus is made.

    Parameters
    ----------
    n_genes
        Genes of the panel; the published panels have 512 and 2432.
    binning
        "linear", "cell_quantile" or "binary", see `ExpressionBinner`.
    n_bins
        Bins, bin 0 ("not expressed") included; "binary" has two whatever this says.
    split
        What is held out: "donor", "study" (whole files), or "random" (cells; scores come out too good).
    fractions
        Shares of donors (files, cells) that train, validate and test; at least one donor for each share above 0.
    seen
        Share of the cells of training donors (files) that does not train. Scores on them minus scores on test donors
        are the leakage gap, by which a split by cells would flatter. Without effect where split="random".
    donor
        The column of `obs` that holds the donor.
    phenotypes
        Columns of `obs` by phenotype, where they differ from the CELLxGENE schema: {"sex": "sex_inferred"}. A name
        beyond the five, such as {"treatment": "drug"}, is a phenotype more.
    include_genes
        Symbols or Ensembl ids that are in the panel whatever their rank.
    layer
        The layer with the expression, "raw" for `.raw`, None for `X`.
    totals
        The column of `obs` with the counts of each cell over the whole genome, for files that hold some genes only.
    seed
        Decides the split.
    """

    n_genes: int = 512
    binning: Binning = "cell_quantile"
    n_bins: int = 10
    split: SplitBy = "donor"
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    seen: float = 0.0
    donor: str = "donor_id"
    phenotypes: Mapping[str, str] = field(default_factory=dict)
    include_genes: Sequence[str] = ()
    layer: str | None = None
    totals: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("binning", get_args(Binning)), ("split", get_args(SplitBy))):
            if getattr(self, name) not in choices:
                msg = f"{name} is one of {', '.join(choices)}; got {getattr(self, name)!r}"
                raise RecipeError(msg)
        if (
            len(self.fractions) != 3
            or min(self.fractions) < 0
            or not self.fractions[0]
            or abs(sum(self.fractions) - 1) > 1e-6
        ):
            msg = f"fractions are the shares that train, validate and test, and add up to 1; got {self.fractions}"
            raise RecipeError(msg)
        if not 0 <= self.seen <= 0.5:
            msg = f"seen is the share of the training donors' cells that is set aside, from 0 to 0.5; got {self.seen}"
            raise RecipeError(msg)
        for name, lowest, highest in (("n_genes", 1, 65_535), ("n_bins", 2, 256), ("seed", 0, 2**32 - 1)):
            if not lowest <= getattr(self, name) <= highest:
                msg = f"{name} lies between {lowest:,} and {highest:,}; got {getattr(self, name):,}"
                raise RecipeError(msg)

    def schema(self) -> tuple[Phenotype, ...]:
        """Give the phenotypes: the five of CELLxGENE, then those that are added."""
        known = [replace(one, column=self.phenotypes.get(one.name, one.column)) for one in CELLXGENE]
        names = {one.name for one in known}
        columns = [one.column for one in known] + [c for n, c in self.phenotypes.items() if n not in names]
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            msg = f"two phenotypes are read from the column {twice[0]!r}: one would give the other away. Name one only."
            raise RecipeError(msg)
        return (*known, *(Phenotype(name=n, column=c) for n, c in self.phenotypes.items() if n not in names))


def prepare(
    sources: Source | Sequence[Source] | Mapping[str, Source],
    out: str | Path,
    *,
    config: PrepareConfig | None = None,
    tokenizer: CellTokenizer | None = None,
    num_proc: int = 1,
    overwrite: bool = False,
) -> Corpus:
    """Make a corpus of .h5ad files (paths, globs) and AnnData objects.

    The folder appears whole or not at all. The same input and seed give the same bytes, whatever `num_proc` is.

    Parameters
    ----------
    out
        The folder to write; it must not exist.
    tokenizer
        That of a model to be trained further: its panel, bins and labels are taken as they are, in place of what
        `config` says of them, and other labels are not given.
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
    with atomic_folder(out, replace="corpus.json" if overwrite else None) as folder:
        opened = open_sources(sources, layer=config.layer)
        phenotypes = tokenizer.schema.phenotypes if tokenizer else config.schema()
        wanted = [config.donor, SYNTHETIC, *(phenotype.column for phenotype in phenotypes)]
        frames = [cells.frame(wanted) for cells in opened]
        _check_columns(config, opened)
        if tokenizer is None:
            _say_new(phenotypes)
        parts = split_cells(
            opened, frames, by=config.split, fractions=config.fractions, seen=config.seen, seed=config.seed,
            donor=config.donor, phenotypes=phenotypes,
        )  # fmt: skip
        works = [_Work(*one, config) for one in zip(opened, frames, parts, strict=True)]
        del frames  # each work lets go of its own
        n_rows = sum((0 if tokenizer else 2 * work.n_train) + work.cells.n_obs for work in works)  # three passes
        with progress(n_rows, done="prepared", unit="rows") as advance, ProcessPool(works, num_proc) as pool:
            _Preparation(works, config, pool, advance).write(folder, tokenizer)
    return Corpus(out)


class _Work:
    """One source on its way into the corpus: its cells, their labels and parts, and how its values are read."""

    def __init__(
        self,
        cells: CellSource,
        frame: pd.DataFrame,
        part_C: np.ndarray,
        config: PrepareConfig,
    ) -> None:
        self.cells, self.frame, self.part_C = cells, frame, part_C
        self.n_train = int((part_C == 0).sum())
        with self.named():
            self.genes, self.gene_columns = merged_genes(cells.var)
            rows = np.flatnonzero(part_C == 0) if self.n_train else None
            self.scale: Scale = cells.find_scale(rows)
        self.totals = config.totals if self.scale == "counts" and config.totals in cells.columns else None
        say_totals(cells.sample(rows, columns=TOTALS), totals=self.totals, scale=self.scale)
        if config.totals and not self.totals:
            logger.info("%s: no counts with a column %r; each cell's own sum is used", cells.label, config.totals)
        self.donor_C, self.donors = np.full(cells.n_obs, -1, dtype=np.int32), list[str]()
        if config.donor in frame:
            self.donor_C, self.donors = given_texts(frame[config.donor])

    def values(self, rows: np.ndarray, match: GeneMatch) -> Iterator[tuple[np.ndarray, Any]]:
        """Read (names of the cells, log1p counts per 10,000 of these genes) chunk by chunk."""
        with self.named():
            for chunk in self.cells.chunks(rows, columns=[self.totals] if self.totals else []):
                values = log1p_values(chunk, match, totals=self.totals, scale=self.scale)
                yield chunk.obs_names.to_numpy(dtype=object), values

    def windows(self) -> Iterator[slice]:
        """Cut the rows into blocks."""
        for first in range(0, self.cells.n_obs, BLOCK):
            yield slice(first, min(first + BLOCK, self.cells.n_obs))

    def __getstate__(self) -> dict[str, Any]:
        """Send to another process what reads values; what is known of each cell comes with its block."""
        return {name: vars(self)[name] for name in ("cells", "genes", "gene_columns", "scale", "totals")}

    @contextmanager
    def named(self) -> Iterator[None]:
        """Say in an error which source it is about."""
        try:
            yield
        except PolyGeneError as error:
            if str(error).startswith(self.cells.label):
                raise
            msg = f"{self.cells.label}: {error}"
            raise type(error)(msg) from error


class _Preparation:
    """A corpus of sources whose split is drawn, on its way into an empty folder."""

    def __init__(
        self, works: Sequence[_Work], config: PrepareConfig, pool: ProcessPool, advance: Callable[[int], None]
    ) -> None:
        self.works, self.config, self.pool, self.advance = works, config, pool, advance

    def write(self, folder: Path, given: CellTokenizer | None = None) -> None:
        """Rank and fit the tokenizer unless one is given, write the tokens."""
        tokenizer = given or self._tokenizer()
        fit = InverseFit(tokenizer.binner, len(tokenizer.panel))
        with ShardWriter(folder, len(tokenizer.schema.phenotypes)) as writer:
            described = self._write_tokens(tokenizer, fit, writer)
        if given is None:
            tokenizer = replace(tokenizer, inverse=fit.finish())
        tokenizer.save(folder)
        files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*.arrow"))}
        info = {
            "format": FORMAT,
            "polygene": __version__,
            "tokenizer": tokenizer.fingerprint(),
            "config": asdict(self.config),
            "sources": described,
            "files": files,
        }
        (folder / "corpus.json").write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _tokenizer(self) -> CellTokenizer:
        """Make panel, bins and labels from training cells; what the bins stand for is not yet known."""
        phenotypes = self.config.schema()
        panel = self._rank()
        counts: dict[str, dict[str, int]] = {phenotype.name: {} for phenotype in phenotypes}
        for work in self.works:
            for name, some in count_labels(work.frame[work.part_C == 0], phenotypes).items():
                counts[name].update({label: n + counts[name].get(label, 0) for label, n in some.items()})
        binner = _binner(self.config)
        schema = PhenotypeSchema.fit(counts, phenotypes)
        return CellTokenizer(panel=panel, binner=binner, schema=schema, inverse=InverseFit(binner, len(panel)).finish())

    def _rank(self) -> GenePanel:
        """First and second pass: rank the genes on training cells, source by source, and choose the panel."""
        trained = [s for s, work in enumerate(self.works) if work.n_train]
        moments = {s: GeneMoments(len(self.works[s].genes)) for s in trained}
        self._add_up(moments)
        variability = {s: GeneVariability(moments[s]) for s in trained}
        self._add_up(variability)
        tables = [self.works[s].genes for s in trained]
        ranks = [rank_genes(variability[s].finish(), list(self.works[s].genes["symbol"])) for s in trained]
        union = union_of_genes(tables)
        weights = source_weights([bool(is_synthetic(self.works[s].frame).all()) for s in trained])
        score_U = score_genes(union, tables, ranks, weights)
        return choose_panel(union, score_U, self.config.n_genes, self.config.include_genes)

    def _add_up(self, sums: Mapping[int, Any]) -> None:
        """Let every source's sums count its training cells."""
        places = [(s, window) for s in sums for window in self.works[s].windows()]
        tasks = ((s, (_training_rows(self.works[s], window), sums[s].empty())) for s, window in places)
        for (s, window), part in zip(places, self.pool.map(_counted, tasks), strict=True):
            sums[s].merge(part)
            self.advance(int((self.works[s].part_C[window] == 0).sum()))

    def _write_tokens(self, tokenizer: CellTokenizer, fit: InverseFit, writer: ShardWriter) -> list[dict[str, Any]]:
        """Last pass: tokens of every cell; returns what corpus.json says of the sources."""
        described: list[dict[str, Any]] = []
        n_blank = [0] * len(self.works)
        places = [(s, window) for s, work in enumerate(self.works) for window in work.windows()]

        def tasks() -> Iterator[tuple[int, tuple[Any, ...]]]:
            for s, work in enumerate(self.works):
                with work.named():
                    match = tokenizer.panel.match(work.cells.var)
                    labels_CP = tokenizer.schema.encode(work.frame, unknown="not given")
                described.append(_describe(work, tokenizer.schema, match.measured_G, labels_CP))
                years_C = _years(work.frame, tokenizer.schema.phenotypes)
                work.frame = work.frame.iloc[:0].copy()  # a byte a cell and column, not needed any more
                donors = np.array([*work.donors, ""], dtype=object)  # the last entry serves the code -1
                for window in work.windows():
                    of_cells = labels_CP[window], work.part_C[window], years_C[window], donors[work.donor_C[window]]
                    yield s, (window, match, tokenizer, s, *of_cells)

        for (s, window), (part, n, tables) in zip(places, self.pool.map(_tokens, tasks()), strict=True):
            fit.merge(part)
            n_blank[s] += n
            for table in tables:
                writer.write(*table)
            self.advance(window.stop - window.start)
        for work, n, source in zip(self.works, n_blank, described, strict=True):
            source["cells_without_panel_genes"] = n
            if n:
                logger.info("%s: %s cells express no gene of the panel; they are kept", work.cells.label, f"{n:,}")
        return described


def _training_rows(work: _Work, window: slice) -> np.ndarray:
    return window.start + np.flatnonzero(work.part_C[window] == 0)


def _counted(work: _Work, rows: np.ndarray, sums: Any) -> Any:
    """Count these cells; runs in one of several processes."""
    for _, x_CG in work.values(rows, work.gene_columns):
        sums.add(x_CG)
    return sums


def _tokens(
    work: _Work,
    window: slice,
    match: GeneMatch,
    tokenizer: CellTokenizer,
    source: int,
    labels_CP: np.ndarray,
    part_C: np.ndarray,
    years_C: np.ndarray,
    donors_C: np.ndarray,
) -> tuple[InverseFit, int, list[tuple[int, Any]]]:
    """Give (inverse of the training cells, cells without a panel gene, tables) of a block; runs in any process."""
    measured_G = match.measured_G
    fit, tables = InverseFit(tokenizer.binner, len(tokenizer.panel)), list[tuple[int, Any]]()
    done = n_blank = 0
    for names, values_CM in work.values(np.arange(window.start, window.stop), match):
        chunk = slice(done, done + len(names))
        trains_C = part_C[chunk] == 0
        if trains_C.any():
            fit.add(values_CM[trains_C], measured_G)
        cells = tokenizer.encode_values(values_CM, measured_G, labels_CP[chunk])
        n_blank += int((np.diff(cells.offsets_C1) == 0).sum())
        tables += cell_tables(part_C[chunk], cells, source, years_C[chunk], donors_C[chunk], names)
        done += len(names)
    return fit, n_blank, tables


def _binner(config: PrepareConfig) -> ExpressionBinner:
    if config.binning == "binary":
        return ExpressionBinner.binary()
    if config.binning == "linear":
        return ExpressionBinner.linear(config.n_bins)
    return ExpressionBinner.cell_quantile(config.n_bins)


def _describe(work: _Work, schema: PhenotypeSchema, measured_G: np.ndarray, labels_CP: np.ndarray) -> dict[str, Any]:
    """Say what corpus.json says of a source."""
    return {
        "name": work.cells.name,
        "file": work.cells.path.name if work.cells.path else None,
        "scale": work.scale,
        "cells": {split: int((work.part_C == part).sum()) for part, split in enumerate(SPLITS)},
        "donors": {split: _n_donors(work.donor_C[work.part_C == part]) for part, split in enumerate(SPLITS)},
        "donors_in_all": _n_donors(work.donor_C),
        "synthetic": int(is_synthetic(work.frame).sum()),
        "cells_without_panel_genes": 0,
        "genes": len(work.genes),
        "panel_genes": int(measured_G.sum()),
        "measured": "".join("01"[int(one)] for one in measured_G),
        "not_given": _not_given(work, schema, labels_CP),
        "unseen_in_training": _unseen(work, schema),
    }


def _years(frame: pd.DataFrame, phenotypes: Sequence[Phenotype]) -> np.ndarray:
    """Give the age of each cell in years, float32, NaN where it is not known: labels outside the vocabulary too."""
    for phenotype in phenotypes:
        if phenotype.ordinal == "age" and phenotype.column in frame:
            codes_C, texts = given_texts(frame[phenotype.column])
            years = [age_in_years(text) for text in texts]
            return np.array([*(np.nan if one is None else one for one in years), np.nan], np.float32)[codes_C]
    return np.full(len(frame), np.nan, np.float32)


def _n_donors(donor_C: np.ndarray) -> int:
    return len(np.unique(donor_C[donor_C >= 0]))


def _not_given(work: _Work, schema: PhenotypeSchema, labels_CP: np.ndarray) -> dict[str, dict[str, int]]:
    """Count the cells without a label by phenotype and split, those whose label training never saw among them."""
    return {
        name: {split: int((labels_CP[work.part_C == part, p] < 0).sum()) for part, split in enumerate(SPLITS)}
        for p, name in enumerate(schema.names)
    }


def _unseen(work: _Work, schema: PhenotypeSchema) -> dict[str, dict[str, int]]:
    """Count the cells of each label that no training cell has: {phenotype: {label: cells}}."""
    held_out = count_labels(work.frame[work.part_C != 0], schema.phenotypes)
    unseen = {
        name: {label: n for label, n in sorted(held_out[name].items()) if label not in known}
        for name, known in zip(schema.names, schema.labels, strict=True)
    }
    return {name: labels for name, labels in unseen.items() if labels}


def _say_new(phenotypes: Sequence[Phenotype]) -> None:
    """Say which phenotypes are none of CELLxGENE's, since a slip of the pen makes one too."""
    usual = {one.name for one in CELLXGENE}
    for one in phenotypes:
        if one.name not in usual:
            near = difflib.get_close_matches(one.name, [*usual, "donor_id"], n=1, cutoff=0.7)
            hint = f"; did you mean {near[0]}?" if near else ""
            logger.warning("%s is a phenotype of its own, read from obs[%r]%s", one.name, one.column, hint)


def _check_columns(config: PrepareConfig, sources: Sequence[CellSource]) -> None:
    """Refuse a column that was named and is in no source."""
    columns = sorted({column for cells in sources for column in cells.columns})
    for column in [*config.phenotypes.values(), *([config.totals] if config.totals else [])]:
        if column not in columns:
            raise missing_column(column, columns, of=" and ".join(cells.label for cells in sources[:3]))
