"""A model that ships, and the cells of one study of its corpus by the split of its donors.

What is measured on them holds for what users have. Which donors trained is read off the corpus in FOLDER/corpora
(benchmarks.models.corpus), which is made if it is not there.

Legend: C cells, F genes of the file, G panel genes, M panel genes that the study measures.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata as ad
import numpy as np

from benchmarks.models import corpus as making
from benchmarks.shared import effort
from polygene.corpus.corpus import Corpus
from polygene.model.checkpoint import PolyGene
from polygene.vocab.expression import log1p_values

NAME, N_GENES = "polygene-512", 512
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """A model, and counts of a study's cells by split; each panel gene that is measured has one column."""

    model: PolyGene
    cells: dict[str, ad.AnnData]

    @cached_property
    def columns_M(self) -> np.ndarray:
        """Columns of the measured panel genes, in the order of the panel."""
        return self._match.columns_N[np.argsort(self._match.genes_N, kind="stable")]

    @cached_property
    def genes_M(self) -> np.ndarray:
        """Their places in the panel."""
        return np.sort(self._match.genes_N)

    @cached_property
    def symbols(self) -> list[str]:
        """Their symbols."""
        return [self.model.tokenizer.panel.symbols[g] for g in self.genes_M]

    @cached_property
    def _match(self):  # type: ignore[no-untyped-def]
        return self.model.tokenizer.panel.match(self.cells["train"].var)

    def counts(self, split: str) -> np.ndarray:
        """Counts of the measured panel genes, (C, M)."""
        counts_CM: np.ndarray = self.cells[split].X[:, self.columns_M].toarray()
        return counts_CM

    def values(self, split: str) -> np.ndarray:
        """Log1p counts per 10,000 of the measured panel genes, (C, M)."""
        values_CM: np.ndarray = log1p_values(self.cells[split], scale="counts")[:, self.columns_M].toarray()
        return values_CM


def corpus_of(folder: Path, *, data: Path | None) -> tuple[Path, Corpus]:
    """Give the folder of the corpora and the corpus of 512 genes; both are made where there are none."""
    corpora = folder / "corpora"
    if not corpora.is_dir():
        making.make(data, corpora, [N_GENES])
    return corpora, Corpus(corpora / f"corpus-{N_GENES}")


def study(name: str, folder: Path, *, data: Path | None) -> Study:
    """Give the cells of a study that was split by donors, and the model that learned its training donors.

    Raises
    ------
    CorpusError
        The corpus is not the one that the model was trained on.
    """
    corpora, corpus = corpus_of(folder, data=data)
    model = effort.model(NAME, corpus, folder)
    corpus.check(model.tokenizer.fingerprint())
    cells, source = ad.read_h5ad(corpora / "split" / f"{name}.h5ad"), corpus.sources.index(name)
    cells = cells[:, _once(model, cells)].copy()
    of_cell, splits = cells.obs["donor_id"].astype(str), {}
    for split in SPLITS:
        part = corpus.split(split)  # type: ignore[arg-type]
        donors = set(part.donors_C[part.sources_C == source])
        splits[split] = cells[of_cell.isin(donors).to_numpy()].copy()
    return Study(model=model, cells=splits)


def _once(model: PolyGene, cells: ad.AnnData) -> np.ndarray:
    """Say which columns stay: of columns that are one panel gene the first."""
    match = model.tokenizer.panel.match(cells.var)
    first = np.unique(match.genes_N, return_index=True)[1]
    kept_F = np.ones(cells.n_vars, dtype=bool)
    kept_F[np.setdiff1d(match.columns_N, match.columns_N[first])] = False
    return kept_F
