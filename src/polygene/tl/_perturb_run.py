"""A perturbation study: which cells express which gene, and every perturbation of every cell, summed by donor.

Legend: C cells, G panel genes, P perturbations, R replicates (donors), S perturbed copies of cells, T targets.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from polygene.errors import GeneError
from polygene.model.checkpoint import PolyGene
from polygene.runtime.atomic import atomic_file
from polygene.runtime.progress import progress
from polygene.tl._perturb_cells import Perturbation, Predictor, bins_of, raised_bins, stacks, wanted_bins
from polygene.tl._reader import CellReader, donors_of
from polygene.vocab.cells import EncodedCells

logger = logging.getLogger("polygene")

ALL = "all"
SAVE_EVERY = 15.0  # seconds


@dataclass(eq=False)
class Sums:
    """Predictions before and effects, summed a donor at a time; one donor of all cells where donors are not known."""

    n_PR: np.ndarray
    before_PRT: np.ndarray
    effect_PRT: np.ndarray
    squares_PT: np.ndarray

    @classmethod
    def zeros(cls, n_perturbations: int, n_donors: int, n_targets: int) -> "Sums":
        """Start with no cell."""
        shape = (n_perturbations, n_donors, n_targets)
        return cls(np.zeros(shape[:2], np.int64), np.zeros(shape), np.zeros(shape), np.zeros(shape[::2]))

    def add(self, which_S: np.ndarray, donors_S: np.ndarray, before_ST: np.ndarray, effect_ST: np.ndarray) -> None:
        """Add copies of cells."""
        np.add.at(self.n_PR, (which_S, donors_S), 1)
        np.add.at(self.before_PRT, (which_S, donors_S), before_ST)
        np.add.at(self.effect_PRT, (which_S, donors_S), effect_ST)
        np.add.at(self.squares_PT, which_S, effect_ST**2)

    def means(self, *, by_donor: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Mean prediction before, mean effect, its standard error, (P, T) each, and the number of replicates, (P,).

        With donors as replicates it is the mean of the donors' means, so that each donor counts once.
        """
        n_PR1 = self.n_PR[:, :, None]
        with np.errstate(invalid="ignore"):
            before_PRT, effect_PRT = self.before_PRT / n_PR1, self.effect_PRT / n_PR1
        there_PR1 = n_PR1 > 0
        n_P = there_PR1.sum(axis=(1, 2)) if by_donor else self.n_PR[:, 0]
        n_P1, n_donors_P1 = n_P[:, None], np.maximum(there_PR1.sum(axis=1), 1)
        before_PT, effect_PT = (np.where(there_PR1, x, 0).sum(axis=1) / n_donors_P1 for x in (before_PRT, effect_PRT))
        squares_PT = np.where(there_PR1, effect_PRT**2, 0).sum(axis=1) if by_donor else self.squares_PT
        with np.errstate(invalid="ignore", divide="ignore"):
            variance_PT = np.maximum(squares_PT - n_P1 * effect_PT**2, 0) / (n_P1 - 1)
            return before_PT, effect_PT, np.where(n_P1 > 1, np.sqrt(variance_PT / n_P1), np.nan), n_P


class Study:
    """The cells that are perturbed, and how many of them each gene can be removed from or raised in.

    Attributes
    ----------
    measured_G
        Which genes the file measured.
    by_donor
        Whether donors are the replicates.
    """

    def __init__(self, reader: CellReader, model: PolyGene, donor: str) -> None:
        self.reader, self.model = reader, model
        self._donors_C, self._n_donors = self._read_donors(donor)
        self.by_donor = self._n_donors > 0
        self._raised_G = raised_bins(model.tokenizer.inverse)
        n_genes = len(model.tokenizer.panel)
        self._n_on_G, self._n_low_G = np.zeros(n_genes, dtype=np.int64), np.zeros(n_genes, dtype=np.int64)
        self.n_cells, self.measured_G = 0, np.zeros(n_genes, dtype=bool)
        digest = hashlib.sha256(model.tokenizer.fingerprint().encode())
        for cells, donors_C in self._chunks():
            self.measured_G = cells.measured_G
            self.n_cells += len(cells)
            self._n_on_G += np.bincount(cells.genes_N, minlength=n_genes)
            self._n_low_G += (bins_of(cells) < self._raised_G).sum(axis=0)
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
            donors_C = self._donors_C[first : first + len(names_C)]
            first += len(names_C)
            yield cells.rows(donors_C >= 0), donors_C[donors_C >= 0]

    def perturbations(self, off: list[int] | None, up: list[int] | None) -> list[Perturbation]:
        """List the perturbations (None: every gene in turn); refuse one that changes no cell."""
        symbols = self.model.tokenizer.panel.symbols
        if off is None or up is None:
            if off or up:
                msg = f"{ALL!r} perturbs genes one after another, so no others can be named beside it."
                raise GeneError(msg)
            scan = [Perturbation(off=(g,)) for g in self._scanned(self._n_on_G, "knocked out")] if off is None else []
            if up is None:
                scan += [Perturbation(up=(g,)) for g in self._scanned(self._n_low_G, "over-expressed")]
            return scan
        if not off and not up:
            msg = f"No gene is named: give genes to knock out or to over-express, or {ALL!r}."
            raise GeneError(msg)
        if both := [symbols[g] for g in off if g in up]:
            msg = f"{', '.join(both)}: knocked out and over-expressed at once. Choose one."
            raise GeneError(msg)
        never = "is expressed in no cell, so there is nothing to knock out"
        highest = "cannot be raised: it is as high as in training in every cell, or was never expressed there"
        self._check(off, self._n_on_G, never)
        self._check(up, self._n_low_G, highest)
        return [Perturbation(tuple(off), tuple(up))]

    def _scanned(self, n_changed_G: np.ndarray, verb: str) -> list[int]:
        """List the genes of a scan, and log how many are left out."""
        genes, n_measured = np.flatnonzero(self.measured_G & (n_changed_G > 0)).tolist(), int(self.measured_G.sum())
        logger.info(
            "%d of %d panel genes are %s in turn; left out: %d not measured, %d that would change no cell",
            len(genes), len(n_changed_G), verb, len(n_changed_G) - n_measured, n_measured - len(genes),
        )  # fmt: skip
        return list(genes)

    def _check(self, genes: Sequence[int], n_changed_G: np.ndarray, why: str) -> None:
        symbols = self.model.tokenizer.panel.symbols
        for g in genes:
            if not self.measured_G[g]:
                msg = f"{symbols[g]} is not measured in {self.reader.cells.label}, so it cannot be perturbed."
                raise GeneError(msg)
            if not n_changed_G[g]:
                msg = f"{symbols[g]} {why}. Leave it out, or choose cells that express it."
                raise GeneError(msg)
            logger.info("%s is expressed in %s of %s cells", symbols[g], f"{self._n_on_G[g]:,}", f"{self.n_cells:,}")

    def run(self, perturbations: Sequence[Perturbation], predictor: Predictor, part: Path | None) -> Sums:
        """Perturb cell by cell; go on from the saved state `part` if it is one of the same run."""
        sums = Sums.zeros(len(perturbations), max(self._n_donors, 1), len(predictor.targets))
        run = json.dumps([self._key, [vars(one) for one in perturbations], predictor.targets])
        key = hashlib.sha256(run.encode()).hexdigest()
        at = _resume(part, key, sums) if part is not None else (0, 0)
        n_all = sum(
            min(self.n_cells, int(self._n_on_G[list(one.off)].sum() + self._n_low_G[list(one.up)].sum()))
            for one in perturbations
        )
        wanted_PG, saved = wanted_bins(perturbations, self._raised_G), time.monotonic()
        with progress(n_all - int(sums.n_PR.sum()), done="perturbed", device=self.model.network.device) as advance:
            for number, (cells, donors_C) in enumerate(self._chunks()):
                if number < at[0] or not len(cells):
                    continue
                before, first = predictor.before(cells), at[1] if number == at[0] else 0
                for following, rows_S, which_S in stacks(bins_of(cells), wanted_PG, first):
                    if len(rows_S):
                        before_ST, effect_ST = predictor.effects(cells, before, rows_S, wanted_PG[which_S])
                        sums.add(which_S, donors_C[rows_S], before_ST, effect_ST)
                    advance(len(rows_S))
                    if part is not None and time.monotonic() - saved > SAVE_EVERY:
                        _save(part, key, sums, (number, following))
                        saved = time.monotonic()
        return sums


def _save(part: Path, key: str, sums: Sums, at: tuple[int, int]) -> None:
    with atomic_file(part) as new, new.open("wb") as file:
        np.savez(file, key=key, at=at, **vars(sums))


def _resume(part: Path, key: str, sums: Sums) -> tuple[int, int]:
    """Fill the sums from a saved state of the same run: the chunk and the perturbation to go on with."""
    if not part.exists():
        return 0, 0
    try:
        with part.open("rb") as file, np.load(file) as saved:
            if str(saved["key"]) == key:
                for array, one in [(array, saved[name]) for name, array in vars(sums).items()]:
                    array[...] = one
                at = int(saved["at"][0]), int(saved["at"][1])
                logger.info("going on from %s", part)
                return at
            why = "is of another model, other cells or other targets"
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        why = "is damaged"
    logger.warning("%s %s: starting from the beginning", part, why)
    return 0, 0
