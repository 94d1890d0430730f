"""Every perturbation of every cell: what the cells are then, what the model predicts for them, and sums by donor.

Legend: C cells, S perturbed copies of cells, G panel genes, P perturbations, R replicates (donors), T targets (what is
predicted), F genes of one fold, Q queries.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Self
from zipfile import BadZipFile

import numpy as np

from polygene.errors import DataError, check_sums
from polygene.evaluation.metrics import expected_years
from polygene.model.checkpoint import PolyGene
from polygene.model.denoising import folds_of
from polygene.model.inference import bin_probabilities, cell_states, label_probabilities
from polygene.runtime.atomic import atomic_file
from polygene.runtime.progress import progress
from polygene.tl._reader import CellReader, donors_of
from polygene.vocab.binning import MIN_CELLS, BinInverse
from polygene.vocab.cells import EncodedCells

logger = logging.getLogger("polygene")

UNCHANGED = -1
COPIES = 1_000
"""Perturbed copies of cells that are predicted together, at least; a chunk has no more cells."""
SAVE_EVERY = 15.0  # seconds


class Perturbation(NamedTuple):
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
    return cells.as_csr(cells.bins_N, len(cells.measured_G)).toarray()


def bins_after(bins_CG: np.ndarray, wanted_CG: np.ndarray) -> np.ndarray:
    """Bins of perturbed cells; over-expression lowers no gene that is higher already."""
    raised_CG = np.maximum(bins_CG, np.maximum(wanted_CG, 0).astype(np.uint8))
    return np.where(wanted_CG == 0, np.uint8(0), raised_CG)


def _stacks(bins_CG: np.ndarray, wanted_PG: np.ndarray, first: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
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
    """Predicts the same `targets` for cells and for perturbed copies of them.

    They are ("cell_type", "B cell"), …, ("age", "years"), ("embedding", "distance"), ("expression", "LYZ"), …, in
    probability, expected years, distance and expected log1p counts per 10,000.
    """

    def __init__(self, model: PolyGene, predict: Sequence[str], genes: Sequence[int]) -> None:
        self._model, self._predict, self._genes = model, predict, np.array(sorted(genes), dtype=np.int64)
        schema, panel = model.tokenizer.schema, model.tokenizer.panel
        self._years = {name: schema.years(name) for name in predict if np.isfinite(schema.years(name)).any()}
        labels = {name: ["years"] if name in self._years else schema.labels[schema.index(name)] for name in predict}
        self.targets = [(name, label) for name, some in labels.items() for label in some]
        self._distance = len(self.targets)  # its column; those of the genes follow
        self.targets += [("embedding", "distance"), *(("expression", panel.symbols[g]) for g in self._genes)]
        folds_G = folds_of(len(panel))
        # genes that are masked together, and the columns of those of them that are targets
        self._folds = [
            (np.flatnonzero(folds_G == fold), self._distance + 1 + np.flatnonzero(folds_G[self._genes] == fold))
            for fold in np.unique(folds_G[self._genes])
        ]

    def before(self, cells: EncodedCells) -> tuple[np.ndarray, np.ndarray]:
        """Predictions for unperturbed cells, (C, T) with distance 0, and their states, (C, D)."""
        predicted_CT = np.zeros((len(cells), len(self.targets)))
        predicted_CT[:, : self._distance] = self._labels(cells)
        for fold_F, columns in self._folds:
            predicted_CT[:, columns] = self._expression(cells, fold_F, np.zeros((len(cells), len(fold_F)), dtype=bool))
        return predicted_CT, cell_states(self._model, cells)

    def effects(
        self, cells: EncodedCells, before: tuple[np.ndarray, np.ndarray], rows_S: np.ndarray, wanted_SG: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predictions before and effects (after − before) for copies of cells, (S, T) each; NaN on the gene itself."""
        originals = cells.rows(rows_S)
        bins_SG = bins_after(bins_of(originals), wanted_SG)
        changed = self._model.tokenizer.from_bins(bins_SG, originals.labels_CP, originals.measured_G)
        before_ST = before[0][rows_S]
        after_ST = np.empty_like(before_ST)
        after_ST[:, : self._distance] = self._labels(changed)
        moved_SD = cell_states(self._model, changed) - before[1][rows_S]
        after_ST[:, self._distance] = np.linalg.norm(moved_SD, axis=1)
        for fold_F, columns in self._folds:
            # the perturbed gene stays visible where its fold is masked: else masking would undo the perturbation
            own_SF = wanted_SG[:, fold_F] != UNCHANGED
            after_ST[:, columns] = self._expression(changed, fold_F, own_SF)
            if (again_S := own_SF.any(axis=1)).any():
                before_ST[np.ix_(again_S, columns)] = self._expression(originals.rows(again_S), fold_F, own_SF[again_S])
        return before_ST, after_ST - before_ST

    def _labels(self, cells: EncodedCells) -> np.ndarray:
        p_PCV = label_probabilities(self._model, cells, predict=self._predict)
        parts = [
            expected_years(p_CV, self._years[name])[:, None] if name in self._years else p_CV
            for name, p_CV in zip(self._predict, p_PCV, strict=True)
        ]
        return np.concatenate([np.zeros((len(cells), 0)), *parts], axis=1)

    def _expression(self, cells: EncodedCells, fold_F: np.ndarray, visible_CF: np.ndarray) -> np.ndarray:
        """Expected expression of the target genes of a fold, ascending; NaN for a gene that stays visible."""
        masked_CG = np.zeros((len(cells), len(cells.measured_G)), dtype=bool)
        masked_CG[:, fold_F] = ~visible_CF
        is_target_F = np.isin(fold_F, self._genes)
        cells_Q, targets_Q = np.nonzero(~visible_CF[:, is_target_F])
        genes_Q = fold_F[is_target_F][targets_Q]
        p_QB = bin_probabilities(self._model, cells, cells_Q, genes_Q, ~masked_CG[cells.cells_N, cells.genes_N])
        expected_CT = np.full((len(cells), int(is_target_F.sum())), np.nan)
        expected_CT[cells_Q, targets_Q] = self._model.tokenizer.inverse.expectation(p_QB, genes_Q)
        return expected_CT


@dataclass(eq=False)
class Sums:
    """Predictions before and effects, summed a donor at a time; one donor of all cells where donors are not known."""

    n_PR: np.ndarray
    before_PRT: np.ndarray
    effect_PRT: np.ndarray
    squares_PT: np.ndarray

    @classmethod
    def zeros(cls, *shape: int) -> Self:
        check_sums(16 * np.prod(shape, dtype=float), shape[1])
        return cls(np.zeros(shape[:2], np.int64), np.zeros(shape), np.zeros(shape), np.zeros(shape[::2]))

    def add(self, which_S: np.ndarray, donors_S: np.ndarray, before_ST: np.ndarray, effect_ST: np.ndarray) -> None:
        np.add.at(self.n_PR, (which_S, donors_S), 1)
        np.add.at(self.before_PRT, (which_S, donors_S), before_ST)
        np.add.at(self.effect_PRT, (which_S, donors_S), effect_ST)
        np.add.at(self.squares_PT, which_S, effect_ST**2)

    def means(self, *, by_donor: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Mean prediction before, mean effect, its standard error, (P, T) each, and the number of replicates, (P,).

        With donors as replicates it is the mean of the donors' means, so that each donor counts once.
        """
        n_PR1 = self.n_PR[:, :, None]
        there_PR1 = n_PR1 > 0
        before_PRT, effect_PRT = (x / np.maximum(n_PR1, 1) for x in (self.before_PRT, self.effect_PRT))
        n_donors_P1 = np.maximum(there_PR1.sum(axis=1), 1)
        before_PT, effect_PT = (x.sum(axis=1) / n_donors_P1 for x in (before_PRT, effect_PRT))
        n_P = there_PR1.sum(axis=(1, 2)) if by_donor else self.n_PR[:, 0]
        squares_PT = (effect_PRT**2).sum(axis=1) if by_donor else self.squares_PT
        with np.errstate(invalid="ignore", divide="ignore"):
            variance_PT = np.maximum(squares_PT - n_P[:, None] * effect_PT**2, 0) / (n_P[:, None] - 1)
            error_PT = np.where(n_P[:, None] > 1, np.sqrt(variance_PT / n_P[:, None]), np.nan)
        return before_PT, effect_PT, error_PT, n_P


class Study:
    """The cells that are perturbed, in which of them each gene can be removed or raised, and the run over them.

    `measured_G` is which genes the file measured, `n_off_G` and `n_up_G` in how many cells removing or raising a gene
    changes something, `by_donor` whether donors are the replicates.
    """

    def __init__(self, reader: CellReader, model: PolyGene, donor: str) -> None:
        self.reader, self.model = reader, model
        self._donors_C, self._n_donors = self._read_donors(donor)
        self.by_donor = self._n_donors > 0
        self._raised_G = raised_bins(model.tokenizer.inverse)
        self.n_cells, self.n_off_G, self.n_up_G = 0, *np.zeros((2, len(self._raised_G)), dtype=np.int64)
        digest = hashlib.sha256(model.tokenizer.fingerprint().encode())
        for cells, donors_C in self._chunks():
            self.measured_G = cells.measured_G
            self.n_cells += len(cells)
            self.n_off_G += np.bincount(cells.genes_N, minlength=len(self._raised_G))
            self.n_up_G += (bins_of(cells) < self._raised_G).sum(axis=0)
            for array in (cells.offsets_C1, cells.genes_N, cells.bins_N, cells.measured_G, donors_C):
                digest.update(np.ascontiguousarray(array).tobytes())
        for name, weights in model.network.state_dict().items():
            digest.update(name.encode() + weights.detach().cpu().float().numpy().tobytes())
        self._key = digest.hexdigest()

    def _read_donors(self, donor: str) -> tuple[np.ndarray, int]:
        """Read the donor of each cell, -1 = not given, and how many there are, 0 where cells are the replicates."""
        donors_C, names = donors_of(self.reader.cells, donor)
        if not names:
            logger.warning("no donors in obs[%r]: cells are the replicates, so intervals are too narrow", donor)
            return np.zeros_like(donors_C), 0
        if len(names) == 1:
            logger.warning("there is one donor: effects have no interval")
        if n_missing := int((donors_C < 0).sum()):
            logger.warning("%s cells without a donor are left out", f"{n_missing:,}")
        return donors_C, len(names)

    def _chunks(self) -> Iterator[tuple[EncodedCells, np.ndarray]]:
        first = 0
        for names_C, cells in self.reader.chunks():
            donors_C = self._donors_C[first : (first := first + len(names_C))]
            yield cells.rows(donors_C >= 0), donors_C[donors_C >= 0]

    def run(self, perturbations: Sequence[Perturbation], predictor: Predictor, part: Path | None) -> Sums:
        """Perturb cell by cell; go on from the saved state `part` if it is one of the same run."""
        sums = Sums.zeros(len(perturbations), max(self._n_donors, 1), len(predictor.targets))
        key = hashlib.sha256(json.dumps([self._key, perturbations, predictor.targets]).encode()).hexdigest()
        at, saved = _resume(part, key, sums), time.monotonic()
        changed = [self.n_off_G[list(one.off)].sum() + self.n_up_G[list(one.up)].sum() for one in perturbations]
        n_all = int(np.minimum(changed, self.n_cells).sum())
        wanted_PG = wanted_bins(perturbations, self._raised_G)
        with progress(n_all - int(sums.n_PR.sum()), done="perturbed", device=self.model.network.device) as advance:
            for number, (cells, donors_C) in enumerate(self._chunks()):
                if number < at[0] or not len(cells):
                    continue
                before, first = predictor.before(cells), at[1] if number == at[0] else 0
                for following, rows_S, which_S in _stacks(bins_of(cells), wanted_PG, first):
                    if len(rows_S):
                        before_ST, effect_ST = predictor.effects(cells, before, rows_S, wanted_PG[which_S])
                        sums.add(which_S, donors_C[rows_S], before_ST, effect_ST)
                    advance(len(rows_S))
                    if part is not None and time.monotonic() - saved > SAVE_EVERY:
                        _save(part, key, (number, following), sums)
                        saved = time.monotonic()
        return sums


def _save(part: Path, key: str, at: tuple[int, int], sums: Sums) -> None:
    np.savez(arrays := BytesIO(), key=key, at=at, **vars(sums))
    with atomic_file(part) as new:
        new.write_bytes(hashlib.sha256(arrays.getvalue()).digest() + arrays.getvalue())


def _resume(part: Path | None, key: str, sums: Sums) -> tuple[int, int]:
    """Fill the sums from a saved state of the same run: the chunk and the perturbation to go on with."""
    if part is None or not part.exists():
        return 0, 0
    try:
        content = part.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError
        with np.load(BytesIO(content[32:])) as saved:
            if str(saved["key"]) == key:
                at = int(saved["at"][0]), int(saved["at"][1])
                vars(sums).update({name: saved[name] for name in vars(sums)})
                logger.info("going on from %s", part)
                return at
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        logger.warning("%s is damaged: starting from the beginning", part)
        return 0, 0
    msg = f"{part} is a stopped run of another model, other cells or other targets: finish that, or delete the file."
    raise DataError(msg)
