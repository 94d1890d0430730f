"""A perturbation study: who expresses which gene, what is compared with what, and cells perturbed and asked.

Legend: C cells, G panel genes, P perturbations, S perturbed copies of cells, T targets.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from polygene.errors import DataError, GeneError
from polygene.io.write import Block, watched
from polygene.model.checkpoint import PolyGene
from polygene.tl._perturb_cells import Asker, Perturbation, bins_of, raised_bins, stacks, wanted_bins
from polygene.tl._perturb_null import Sums, matched, nearest_genes
from polygene.tl._reader import CellReader
from polygene.vocab.columns import given_texts
from polygene.vocab.tokenizer import EncodedCells

logger = logging.getLogger("polygene")

ALL = "all"
SAVE_EVERY = 15.0  # seconds


class Study:
    """The cells that are perturbed, and what of them must be known before: who expresses which gene.

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
        self.n_cells, self.measured_G, sums_G = 0, np.zeros(n_genes, dtype=bool), np.zeros(n_genes)
        digest = hashlib.sha256(model.tokenizer.fingerprint().encode())
        for cells, donors_C in self._chunks():
            self.measured_G = cells.measured_G
            self.n_cells += len(cells)
            self._n_on_G += np.bincount(cells.genes_N, minlength=n_genes)
            self._n_low_G += (bins_of(cells) < self._raised_G).sum(axis=0)
            sums_G += np.bincount(cells.genes_N, cells.values_N, minlength=n_genes)
            for array in (cells.offsets_C1, cells.genes_N, cells.bins_N, cells.measured_G, donors_C):
                digest.update(np.ascontiguousarray(array).tobytes())
        for name, weights in model.network.state_dict().items():
            digest.update(name.encode() + weights.detach().cpu().float().numpy().tobytes())
        self._key = digest.hexdigest()
        level_G = sums_G / np.maximum(self._n_on_G, 1)
        may_off_G = self.measured_G & (self._n_on_G > 0)
        may_up_G = self.measured_G & (self._n_low_G > 0)
        self._off, self._up = (nearest_genes(self._n_on_G, level_G, may_G) for may_G in (may_off_G, may_up_G))

    def _read_donors(self, donor: str) -> tuple[np.ndarray, int]:
        """Read the donor of each cell, -1 = not given, and how many there are, 0 where cells are the replicates."""
        cells = self.reader.cells
        if donor not in cells.columns and donor != "donor_id":
            msg = (
                f"{cells.label} has no column {donor!r} in obs with the donor; it has {', '.join(cells.columns[:10])}."
            )
            raise DataError(msg)
        frame = cells.frame([donor])
        donors_C, names = given_texts(frame[donor]) if donor in frame else (np.zeros(0, np.int32), [])
        if not names:
            logger.warning(
                "no donors in obs[%r]: cells are the replicates, so intervals are too narrow and p-values too small",
                donor,
            )
            return np.zeros(cells.n_obs, dtype=np.int32), 0
        if len(names) == 1:
            logger.warning("there is one donor: effects have no interval, and p-values do not know how donors differ")
        if n_missing := int((donors_C < 0).sum()):
            logger.warning("%s cells without a donor are left out", f"{n_missing:,}")
        return donors_C, len(names)

    def _chunks(self) -> Iterator[tuple[EncodedCells, np.ndarray]]:
        first = 0
        for names_C, cells in self.reader.chunks():
            donors_C = self._donors_C[first : first + len(names_C)]
            first += len(names_C)
            yield cells.rows(donors_C >= 0), donors_C[donors_C >= 0]

    def tests(self, off: list[int] | None, up: list[int] | None) -> list[Perturbation]:
        """List what is to be tested, and say of how many cells; refuse what would change none."""
        symbols = self.model.tokenizer.panel.symbols
        if off is None or up is None:
            if off or up:
                msg = f"{ALL!r} changes genes one after another, so no others can be named beside it."
                raise GeneError(msg)
            found = []
            for genes, may, verb in ((off, self._off, "knocked out"), (up, self._up, "over-expressed")):
                if genes is None:
                    n, n_measured = len(symbols), int(self.measured_G.sum())
                    logger.info(
                        "%d of %d panel genes are %s in turn; left out: %d not measured, %d that would change no cell",
                        len(may), n, verb, n - n_measured, n_measured - len(may),
                    )  # fmt: skip
                    found += [Perturbation(off=(g,)) if verb == "knocked out" else Perturbation(up=(g,)) for g in may]
            return found
        if not off and not up:
            msg = f"No gene is named: give genes to knock out or to over-express, or {ALL!r}."
            raise GeneError(msg)
        if both := [symbols[g] for g in off if g in up]:
            msg = f"{', '.join(both)}: knocked out and over-expressed at once. Choose one."
            raise GeneError(msg)
        for genes, may, why in (
            (off, self._off, "is expressed in no cell, so there is nothing to knock out"),
            (
                up,
                self._up,
                "cannot be raised: it is as high as in training in every cell, or was never expressed there",
            ),
        ):
            for g in genes:
                if not self.measured_G[g]:
                    msg = f"{symbols[g]} is not measured in {self.reader.cells.label}, so it cannot be perturbed."
                    raise GeneError(msg)
                if g not in may:
                    msg = f"{symbols[g]} {why}. Leave it out, or choose cells that express it."
                    raise GeneError(msg)
                logger.info(
                    "%s is expressed in %s of %s cells", symbols[g], f"{self._n_on_G[g]:,}", f"{self.n_cells:,}"
                )
        return [Perturbation(tuple(off), tuple(up))]

    def matched(self, test: Perturbation) -> list[Perturbation]:
        """List perturbations of genes that are expressed alike."""
        return matched(test, self._off if test.off else {}, self._up if test.up else {})

    def run(self, perturbations: Sequence[Perturbation], asker: Asker, part: Path | None) -> Sums:
        """Perturb and ask, cell by cell; go on from a part if there is one of the same run."""
        sums = Sums.zeros(len(perturbations), max(self._n_donors, 1), len(asker.targets))
        said = json.dumps([self._key, [vars(one) for one in perturbations], asker.targets])
        key = hashlib.sha256(said.encode()).hexdigest()
        at = _resume(part, key, sums) if part is not None else (0, 0)
        n_done = int(sums.n_PR.sum())
        n_all = sum(
            min(self.n_cells, int(self._n_on_G[list(one.off)].sum() + self._n_low_G[list(one.up)].sum()))
            for one in perturbations
        )
        steps = self._steps(perturbations, asker, sums, at, part, key)
        for _ in watched(steps, n_all - n_done, done="perturbed", device=self.model.network.device):
            pass
        return sums

    def _steps(
        self,
        perturbations: Sequence[Perturbation],
        asker: Asker,
        sums: Sums,
        at: tuple[int, int],
        part: Path | None,
        key: str,
    ) -> Iterator[Block]:
        wanted_PG = wanted_bins(perturbations, self._raised_G)
        saved = time.monotonic()
        for number, (cells, donors_C) in enumerate(self._chunks()):
            if number < at[0] or not len(cells):
                continue
            before = asker.before(cells)
            for following, rows_S, which_S in stacks(bins_of(cells), wanted_PG, at[1] if number == at[0] else 0):
                if len(rows_S):
                    before_ST, effect_ST = asker.effects(cells, before, rows_S, wanted_PG[which_S])
                    sums.add(which_S, donors_C[rows_S], before_ST, effect_ST)
                yield Block(pd.DataFrame(index=pd.RangeIndex(len(rows_S))), {})
                if part is not None and time.monotonic() - saved > SAVE_EVERY:
                    _save(part, key, sums, (number, following))
                    saved = time.monotonic()


def _save(part: Path, key: str, sums: Sums, at: tuple[int, int]) -> None:
    """Write how far a run has come beside its place, and move it there."""
    beside = part.with_name(f"{part.name}.new")
    with beside.open("wb") as file:
        np.savez(file, key=key, at=at, **vars(sums))
    beside.replace(part)


def _resume(part: Path, key: str, sums: Sums) -> tuple[int, int]:
    """Take up a part of the same run: the chunk and the perturbation to go on with. Any other is left unread."""
    if not part.exists():
        return 0, 0
    try:
        with part.open("rb") as file, np.load(file) as stored:
            if str(stored["key"]) == key:
                for array, saved in [(array, stored[name]) for name, array in vars(sums).items()]:
                    array[...] = saved
                at = int(stored["at"][0]), int(stored["at"][1])
                logger.info("going on from %s", part)
                return at
            why = "is of another model, other cells or other questions"
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        why = "is damaged"
    logger.warning("%s %s: starting from the beginning", part, why)
    return 0, 0
