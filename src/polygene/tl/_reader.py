"""The cells of an AnnData or a file as tokens, chunk by chunk, whatever the verb.

Legend: C cells, G panel genes, P phenotypes.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from polygene._version import __version__
from polygene.errors import DataError, missing_column
from polygene.io.read import CellSource, Source, open_cells
from polygene.model.checkpoint import PolyGene
from polygene.vocab.cells import EncodedCells
from polygene.vocab.panel import GenePanel
from polygene.vocab.phenotypes import PhenotypeSchema
from polygene.vocab.scale import TOTALS, counts_share, log1p_values, say_totals
from polygene.vocab.tokenizer import CellTokenizer

logger = logging.getLogger("polygene")


class CellReader:
    """The cells of an AnnData or a file, and what is known of them before the first is answered.

    What can be wrong with labels, scale and genes is found here, and what was found of them is said.

    Attributes
    ----------
    cells
        The source.
    genes
        How much of the panel was measured, in numbers, for `uns`; see `polygene.vocab.gene_matching.GeneMatch.report`.
    match
        Where the genes of the panel are in it.
    """

    def __init__(
        self,
        source: Source | CellSource,
        tokenizer: CellTokenizer,
        *,
        given: Sequence[str] = (),
        layer: str | None = None,
        totals: str | None = None,
    ) -> None:
        self.cells = cells = source if isinstance(source, CellSource) else open_cells(source, layer=layer)
        self._tokenizer, self._totals = tokenizer, totals
        self._told = False
        self._labels_CP = _labels(cells, tokenizer, given)  # only those of the given phenotypes are read
        if totals is not None and totals not in cells.columns:
            do = "Pass totals=<column>, or leave it out."
            raise missing_column(totals, cells.columns, of=cells.label, holds="the counts of each cell", do=do)
        self._scale = cells.scale
        self.match = tokenizer.panel.match(cells.var)
        sample = cells.sample(columns=TOTALS)
        say_totals(sample, totals=totals, scale=self._scale)
        self.genes: dict[str, Any] = self.match.report(counts_share(sample.X, self.match, self._scale))

    def chunks(self, rows: range | np.ndarray | None = None) -> Iterator[tuple[pd.Index, EncodedCells]]:
        """Read the names and the tokens of cells, all or some `rows`; say how many express no gene of the panel."""
        labels_CP = self._labels_CP
        if rows is not None:
            rows = None if len(rows) == self.cells.n_obs else np.asarray(rows, dtype=np.int64)
            labels_CP = labels_CP if rows is None else labels_CP[rows]
        first = n_blank = 0
        for chunk in self.cells.chunks(rows, columns=[self._totals] if self._totals else ()):
            values_CM = log1p_values(chunk, self.match, totals=self._totals, scale=self._scale)
            part_CP = labels_CP[first : first + chunk.n_obs]
            cells = self._tokenizer.encode_values(values_CM, self.match.measured_G, part_CP)
            n_blank += int(blank(cells).sum())
            first += chunk.n_obs
            yield chunk.obs_names, cells
        if n_blank and not self._told:  # once, however often the cells are read
            self._told = True
            logger.warning(
                "%s of %s cells express no gene of the panel: they are kept, and their answers say nothing of them",
                f"{n_blank:,}", f"{first:,}",
            )  # fmt: skip


def blank(cells: EncodedCells) -> np.ndarray:
    """Say which cells express no gene of the panel, bool (C,)."""
    return np.diff(cells.offsets_C1) == 0


def _labels(cells: CellSource, tokenizer: CellTokenizer, given: Sequence[str]) -> np.ndarray:
    """Read labels_CP of all cells, not given but for these phenotypes."""
    schema = tokenizer.schema
    columns = [schema.phenotypes[schema.index(name)].column for name in given]
    complete = set(columns) <= set(cells.columns)
    return schema.encode(cells.frame(columns) if complete else cells.obs, use=given)  # all of obs for a helpful error


def phenotypes_named(schema: PhenotypeSchema, names: str | Sequence[str]) -> list[str]:
    """Name phenotypes in the order of the schema, whether one was named or several.

    Raises
    ------
    PhenotypeError
        The model has no such phenotype.
    """
    chosen = {schema.index(name) for name in ([names] if isinstance(names, str) else names)}
    return [schema.names[p] for p in sorted(chosen)]


def check_model(model: object) -> None:
    """Refuse what is no model, such as the name of one.

    Raises
    ------
    DataError
        Says how to load one.
    """
    if not isinstance(model, PolyGene):
        msg = f"model is a PolyGene, got {type(model).__name__}: load one with pg.PolyGene.from_pretrained({model!r})"
        raise DataError(msg)


def best_labels(name: str, labels: Sequence[str], probabilities_CV: np.ndarray) -> dict[str, Any]:
    """Give the two columns of an answer: the most probable label of each cell, and its probability."""
    best_C = probabilities_CV.argmax(axis=1)
    return {
        f"polygene_{name}": pd.Categorical.from_codes(best_C, list(labels)),
        f"polygene_{name}_probability": probabilities_CV[np.arange(len(best_C)), best_C],
    }


def panel_var(panel: GenePanel) -> pd.DataFrame:
    """Lay out a panel as the `var` of a new AnnData: by symbol, by Ensembl id where that is missing or repeated."""
    symbols = pd.Series(panel.symbols)
    ids = pd.Series(panel.ensembl_ids)
    unclear = (symbols == "") | (symbols.duplicated(keep=False) & (ids != ""))
    return pd.DataFrame({"gene_id": list(panel.ensembl_ids)}, index=symbols.where(~unclear, ids).tolist())


def made_by(model: PolyGene) -> dict[str, str]:
    """Say which model and version gave an answer, for `uns`."""
    return {
        "model": model.network.name_or_path or "not saved",
        "tokenizer": model.tokenizer.fingerprint(),
        "version": __version__,
    }
