"""Cells with some genes removed or raised, and how the model's predictions for them change.

Legend: C cells, S perturbed copies of cells, P perturbations, G panel genes, N expressed entries, T targets (what is
predicted), F genes of one fold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polygene.evaluation.metrics import expected_years
from polygene.model.checkpoint import PolyGene
from polygene.model.denoising import folds_of
from polygene.model.inference import bin_probabilities, cell_states, label_probabilities
from polygene.vocab.binning import MIN_CELLS, BinInverse
from polygene.vocab.cells import EncodedCells
from polygene.vocab.tokenizer import CellTokenizer

UNCHANGED = -1
COPIES = 1_000
"""Perturbed copies of cells that are predicted together, at least; a chunk has no more cells."""


@dataclass(frozen=True)
class Perturbation:
    """Genes (indices of the panel) that are removed and genes that are raised, at once."""

    off: tuple[int, ...] = ()
    up: tuple[int, ...] = ()

    def name(self, symbols: Sequence[str]) -> str:
        """Name it as the field does: KO for knock-out, OE for over-expression."""
        return " + ".join([*(f"{symbols[g]} KO" for g in self.off), *(f"{symbols[g]} OE" for g in self.up)])


def raised_bins(inverse: BinInverse) -> np.ndarray:
    """bins_G of raised genes: the highest bin that ten training cells or more had (0: never expressed in training)."""
    counts_GB = inverse.counts_GB[:, 1:]
    # a bin that a gene never reached would be a token that the model has not learned
    enough_GB = (counts_GB >= np.minimum(MIN_CELLS, counts_GB.max(axis=1, keepdims=True))) & (counts_GB > 0)
    highest_G = enough_GB.shape[1] - enough_GB[:, ::-1].argmax(axis=1)
    return np.where(enough_GB.any(axis=1), highest_G, 0).astype(np.int16)


def wanted_bins(perturbations: Sequence[Perturbation], raised_G: np.ndarray) -> np.ndarray:
    """wanted_PG int16: the bin that each perturbation sets for a gene, `UNCHANGED` for the other genes."""
    wanted_PG = np.full((len(perturbations), len(raised_G)), UNCHANGED, dtype=np.int16)
    for p, perturbation in enumerate(perturbations):
        wanted_PG[p, list(perturbation.off)] = 0
        wanted_PG[p, list(perturbation.up)] = raised_G[list(perturbation.up)]
    return wanted_PG


def bins_of(cells: EncodedCells) -> np.ndarray:
    """bins_CG uint8, zeros included."""
    bins_CG = np.zeros((len(cells), len(cells.measured_G)), dtype=np.uint8)
    bins_CG[cells.cells_N, cells.genes_N] = cells.bins_N
    return bins_CG


def bins_after(bins_CG: np.ndarray, wanted_CG: np.ndarray) -> np.ndarray:
    """Bins of perturbed cells; over-expression lowers no gene that is higher already."""
    raised_CG = np.maximum(bins_CG, np.maximum(wanted_CG, 0).astype(np.uint8))
    return np.where(wanted_CG == 0, np.uint8(0), raised_CG)


def perturbed(cells: EncodedCells, wanted_CG: np.ndarray, tokenizer: CellTokenizer) -> EncodedCells:
    """Cells with other bins of some genes; a removed gene is not expressed, so it has no token."""
    return tokenizer.from_bins(bins_after(bins_of(cells), wanted_CG), cells.labels_CP, cells.measured_G)


def stacks(bins_CG: np.ndarray, wanted_PG: np.ndarray, first: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Gather the cells that each perturbation changes, several perturbations at a time, from `first` on.

    Yields the perturbation to go on with, and the row and the perturbation of every copy.
    """
    rows: list[np.ndarray] = []
    for p in range(first, len(wanted_PG)):
        at = np.flatnonzero(wanted_PG[p] != UNCHANGED)
        now_CG = bins_CG[:, at]
        rows.append(np.flatnonzero((bins_after(now_CG, wanted_PG[p, at][None]) != now_CG).any(axis=1)))
        if sum(map(len, rows)) >= COPIES or p == len(wanted_PG) - 1:
            which_S = np.repeat(np.arange(first, p + 1), [len(some) for some in rows])
            yield p + 1, np.concatenate(rows), which_S
            rows, first = [], p + 1


class Predictor:
    """Predicts the same targets for cells and for perturbed copies of them.

    Attributes
    ----------
    targets
        (effect_on, target): ("cell_type", "B cell"), …, ("age", "years"), ("embedding", "distance"),
        ("expression", "LYZ"), …. Ages are expected years, genes expected log1p counts per 10,000.
    """

    def __init__(self, model: PolyGene, predict: Sequence[str], genes: Sequence[int]) -> None:
        self._model, self._predict, self._genes = model, predict, np.array(sorted(genes), dtype=np.int64)
        schema, panel = model.tokenizer.schema, model.tokenizer.panel
        self._folds_G = folds_of(len(panel))
        self._years = {name: schema.years(name) for name in predict if np.isfinite(schema.years(name)).any()}
        labels = {name: ["years"] if name in self._years else schema.labels[schema.index(name)] for name in predict}
        self.targets = [(name, label) for name, some in labels.items() for label in some]
        self.targets.append(("embedding", "distance"))
        self._n_first = len(self.targets)
        self.targets += [("expression", panel.symbols[g]) for g in self._genes]

    def before(self, cells: EncodedCells) -> tuple[np.ndarray, np.ndarray]:
        """Predictions for unperturbed cells, (C, T) with distance 0, and their states, (C, D)."""
        predicted_CT = np.concatenate(
            [self._labels(cells), np.zeros((len(cells), 1)), np.empty((len(cells), len(self._genes)))], axis=1
        )
        for fold_F, columns in self._folds():
            none_CF = np.zeros((len(cells), len(fold_F)), dtype=bool)
            predicted_CT[:, columns] = self._expression(cells, fold_F, none_CF)
        return predicted_CT, cell_states(self._model, cells)

    def effects(
        self, cells: EncodedCells, before: tuple[np.ndarray, np.ndarray], rows_S: np.ndarray, wanted_SG: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predictions before and effects (after − before) for copies of cells, (S, T) each; NaN on the gene itself."""
        originals = cells.rows(rows_S)
        changed = perturbed(originals, wanted_SG, self._model.tokenizer)
        before_ST = before[0][rows_S]
        after_ST = np.empty_like(before_ST)
        after_ST[:, : self._n_first - 1] = self._labels(changed)
        moved_SD = cell_states(self._model, changed) - before[1][rows_S]
        after_ST[:, self._n_first - 1] = np.linalg.norm(moved_SD, axis=1)
        for fold_F, columns in self._folds():
            # the perturbed gene stays visible where its fold is masked: else masking would undo the perturbation
            own_SF = wanted_SG[:, fold_F] != UNCHANGED
            after_ST[:, columns] = self._expression(changed, fold_F, own_SF)
            if (again_S := own_SF.any(axis=1)).any():
                before_ST[np.ix_(again_S, columns)] = self._expression(originals.rows(again_S), fold_F, own_SF[again_S])
        return before_ST, after_ST - before_ST

    def _labels(self, cells: EncodedCells) -> np.ndarray:
        parts = [np.zeros((len(cells), 0))]
        p_PCV = label_probabilities(self._model, cells, predict=self._predict)
        for name, p_CV in zip(self._predict, p_PCV, strict=True):
            parts.append(expected_years(p_CV, self._years[name])[:, None] if name in self._years else p_CV)
        return np.concatenate(parts, axis=1)

    def _folds(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Genes that are masked together, and the columns of those of them that are targets."""
        for fold in np.unique(self._folds_G[self._genes]):
            columns = self._n_first + np.flatnonzero(self._folds_G[self._genes] == fold)
            yield np.flatnonzero(self._folds_G == fold), columns

    def _expression(self, cells: EncodedCells, fold_F: np.ndarray, visible_CF: np.ndarray) -> np.ndarray:
        """Expected expression of the target genes of a fold, ascending; NaN for a gene that stays visible."""
        masked_CG = np.zeros((len(cells), len(cells.measured_G)), dtype=bool)
        masked_CG[:, fold_F] = ~visible_CF
        visible_N = ~masked_CG[cells.cells_N, cells.genes_N]
        is_target_F = np.isin(fold_F, self._genes)
        cells_Q, targets_Q = np.nonzero(~visible_CF[:, is_target_F])
        genes_Q = fold_F[is_target_F][targets_Q]
        p_QB = bin_probabilities(self._model, cells, cells_Q, genes_Q, visible_N)
        expected_CT = np.full((len(cells), int(is_target_F.sum())), np.nan)
        expected_CT[cells_Q, targets_Q] = self._model.tokenizer.inverse.expectation(p_QB, genes_Q)
        return expected_CT
