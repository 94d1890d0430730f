"""Cells with some genes removed or raised, and how the model's answers for them differ.

Legend: C cells, S perturbed copies of cells, P perturbations, G panel genes, N expressed entries, T targets (what is
answered), F genes of one fold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polygene.evaluation.metrics import expected_years
from polygene.model.checkpoint import PolyGene
from polygene.model.denoising import FOLDS
from polygene.model.inference import bin_probabilities, cell_states, label_probabilities
from polygene.vocab.binning import MIN_CELLS, BinInverse
from polygene.vocab.tokenizer import CellTokenizer, EncodedCells

LEAVE = -1
STACK = 1_000
"""Perturbed copies of cells that are answered together, at least; a chunk has no more cells."""


@dataclass(frozen=True)
class Perturbation:
    """Genes (places in the panel) that are removed and genes that are raised, at once."""

    off: tuple[int, ...] = ()
    up: tuple[int, ...] = ()

    def name(self, symbols: Sequence[str]) -> str:
        """Call it in the field's words: KO for knock-out, OE for over-expression."""
        return " + ".join([*(f"{symbols[g]} KO" for g in self.off), *(f"{symbols[g]} OE" for g in self.up)])


def raised_bins(inverse: BinInverse) -> np.ndarray:
    """bins_G of raised genes: the highest bin that ten training cells or more had (0: never expressed in training).

    A bin that a gene never reached would show the model a token that it has not learned.
    """
    counts_GB = inverse.counts_GB[:, 1:]
    enough_GB = (counts_GB >= np.minimum(MIN_CELLS, counts_GB.max(axis=1, keepdims=True))) & (counts_GB > 0)
    highest_G = enough_GB.shape[1] - enough_GB[:, ::-1].argmax(axis=1)
    return np.where(enough_GB.any(axis=1), highest_G, 0).astype(np.int16)


def wanted_bins(perturbations: Sequence[Perturbation], raised_G: np.ndarray) -> np.ndarray:
    """wanted_PG int16: the bin that each perturbation gives a gene, `LEAVE` where it stays as it is."""
    wanted_PG = np.full((len(perturbations), len(raised_G)), LEAVE, dtype=np.int16)
    for p, perturbation in enumerate(perturbations):
        wanted_PG[p, list(perturbation.off)] = 0
        wanted_PG[p, list(perturbation.up)] = raised_G[list(perturbation.up)]
    return wanted_PG


def bins_of(cells: EncodedCells) -> np.ndarray:
    """bins_CG uint8 of a chunk of cells, zeros included."""
    bins_CG = np.zeros((len(cells), len(cells.measured_G)), dtype=np.uint8)
    bins_CG[cells.cells_N, cells.genes_N] = cells.bins_N
    return bins_CG


def bins_after(bins_CG: np.ndarray, wanted_CG: np.ndarray) -> np.ndarray:
    """Bins of perturbed cells; raising lowers no gene that is higher already."""
    raised_CG = np.maximum(bins_CG, np.maximum(wanted_CG, 0).astype(np.uint8))
    return np.where(wanted_CG == 0, np.uint8(0), raised_CG)


def perturbed(cells: EncodedCells, wanted_CG: np.ndarray, tokenizer: CellTokenizer) -> EncodedCells:
    """Give cells with other bins of some genes: a removed gene is unexpressed, as if it had never been read."""
    return tokenizer.from_bins(bins_after(bins_of(cells), wanted_CG), cells.labels_CP, cells.measured_G)


def stacks(bins_CG: np.ndarray, wanted_PG: np.ndarray, first: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Gather the cells that each perturbation changes, several perturbations at a time, from `first` on.

    Yields the perturbation to go on with, and row and perturbation of every copy.
    """
    rows: list[np.ndarray] = []
    for p in range(first, len(wanted_PG)):
        at = np.flatnonzero(wanted_PG[p] != LEAVE)
        now_CG = bins_CG[:, at]
        rows.append(np.flatnonzero((bins_after(now_CG, wanted_PG[p, at][None]) != now_CG).any(axis=1)))
        if sum(map(len, rows)) >= STACK or p == len(wanted_PG) - 1:
            which_S = np.repeat(np.arange(first, p + 1), [len(some) for some in rows])
            yield p + 1, np.concatenate(rows), which_S
            rows, first = [], p + 1


class Asker:
    """Asks cells, and perturbed copies of them, the same questions.

    Parameters
    ----------
    model
        What answers.
    predict
        Phenotypes, each answered by the probabilities of its labels, or where these are ages by the expected years.
    genes
        Places in the panel of the genes whose expected expression is asked (log1p counts per 10,000).

    Attributes
    ----------
    targets
        What kind and which one: ("cell_type", "B cell"), …, ("embedding", "distance"), ("expression", "LYZ"), ….
    """

    def __init__(self, model: PolyGene, predict: Sequence[str], genes: Sequence[int]) -> None:
        self.model, self._predict, self._asked = model, predict, np.array(sorted(genes), dtype=np.int64)
        schema, panel = model.tokenizer.schema, model.tokenizer.panel
        self._years = {name: schema.years(name) for name in predict if np.isfinite(schema.years(name)).any()}
        labels = {name: ["years"] if name in self._years else schema.labels[schema.index(name)] for name in predict}
        self.targets = [(name, label) for name, some in labels.items() for label in some]
        self.targets.append(("embedding", "distance"))
        self._n_first = len(self.targets)
        self.targets += [("expression", panel.symbols[g]) for g in self._asked]

    def before(self, cells: EncodedCells) -> tuple[np.ndarray, np.ndarray]:
        """Answers of cells as they are, (C, T) with distance 0, and their states, (C, D)."""
        answers_CT = np.concatenate(
            [self._labels(cells), np.zeros((len(cells), 1)), np.empty((len(cells), len(self._asked)))], axis=1
        )
        for fold_F, columns in self._folds():
            answers_CT[:, columns] = self._expression(cells, fold_F, np.zeros((len(cells), len(fold_F)), dtype=bool))
        return answers_CT, cell_states(self.model, cells)

    def effects(
        self, cells: EncodedCells, before: tuple[np.ndarray, np.ndarray], rows_S: np.ndarray, wanted_SG: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Answers before and effects (after − before) of copies of these cells, (S, T) each; NaN on a gene itself.

        A perturbed gene is told to the model even where its fold is hidden, before and after alike.
        """
        originals, changed = cells.rows(rows_S), perturbed(cells.rows(rows_S), wanted_SG, self.model.tokenizer)
        before_ST = before[0][rows_S]
        after_ST = np.empty_like(before_ST)
        after_ST[:, : self._n_first - 1] = self._labels(changed)
        moved_SD = cell_states(self.model, changed) - before[1][rows_S]
        after_ST[:, self._n_first - 1] = np.linalg.norm(moved_SD, axis=1)
        for fold_F, columns in self._folds():
            own_SF = wanted_SG[:, fold_F] != LEAVE
            after_ST[:, columns] = self._expression(changed, fold_F, own_SF)
            if (again_S := own_SF.any(axis=1)).any():
                some = originals.rows(again_S)
                before_ST[np.ix_(again_S, columns)] = self._expression(some, fold_F, own_SF[again_S])
        return before_ST, after_ST - before_ST

    def _labels(self, cells: EncodedCells) -> np.ndarray:
        parts = [np.zeros((len(cells), 0))]
        for name, x_CV in zip(
            self._predict, label_probabilities(self.model, cells, predict=self._predict), strict=True
        ):
            parts.append(expected_years(x_CV, self._years[name])[:, None] if name in self._years else x_CV)
        return np.concatenate(parts, axis=1)

    def _folds(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Genes that are hidden together, and the columns of those of them that are asked."""
        for f in range(FOLDS):
            if (here := np.flatnonzero(self._asked % FOLDS == f)).size:
                yield np.arange(f, len(self.model.tokenizer.panel), FOLDS), self._n_first + here

    def _expression(self, cells: EncodedCells, fold_F: np.ndarray, told_CF: np.ndarray) -> np.ndarray:
        """Expected expression of the asked genes of a fold, in their order, NaN where a gene is told."""
        hidden_CG = np.zeros((len(cells), len(cells.measured_G)), dtype=bool)
        hidden_CG[:, fold_F] = ~told_CF
        visible_N = ~hidden_CG[cells.cells_N, cells.genes_N]
        asked = np.isin(fold_F, self._asked)
        cells_Q, asked_Q = np.nonzero(~told_CF[:, asked])
        genes_Q = fold_F[asked][asked_Q]
        p_QB = bin_probabilities(self.model, cells, cells_Q, genes_Q, visible_N)
        expected_CA = np.full((len(cells), int(asked.sum())), np.nan)
        expected_CA[cells_Q, asked_Q] = self.model.tokenizer.inverse.expectation(p_QB, genes_Q)
        return expected_CA
