"""Perturb: what the model would answer if genes were removed from cells, or raised.

Legend: C cells, G panel genes, P perturbations, R replicates (donors), S perturbed copies of cells, T targets.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import anndata as ad
import numpy as np
import pandas as pd
from scipy import stats

from polygene.checkpoint import PolyGene
from polygene.distributed import world_size
from polygene.errors import DataError, GeneError
from polygene.genes import GenePanel
from polygene.reading import Source
from polygene.splitting import given_texts
from polygene.tl._cells import CellReader, check_model, made_by
from polygene.tl._matched import FEWEST, Sums, against_matched, matched, nearest_genes
from polygene.tl._perturbed import Asker, Perturbation, bins_of, raised_bins, stacks, wanted_bins
from polygene.tl._progress import watched
from polygene.tl.annotate import questions
from polygene.tokenizer import EncodedCells
from polygene.writing import ROOT, Block, written_beside

logger = logging.getLogger("polygene")

ALL = "all"
SAVE_EVERY = 15.0  # seconds
NOTE = (
    "Effects are associations that the model learned from unperturbed cells, not mechanisms: "
    "a gene that only goes along with a cell type moves its probability as much as one that makes it."
)


def perturb(
    adata: Source,
    model: PolyGene,
    *,
    knock_out: str | Sequence[str] = (),
    over_express: str | Sequence[str] = (),
    predict: str | Sequence[str] | None = None,
    genes: str | Sequence[str] = (),
    donor: str = "donor_id",
    layer: str | None = None,
    totals: str | None = None,
    out: str | Path | None = None,
) -> pd.DataFrame:
    """Remove or raise genes in cells, and tell how the model's answers change.

    The genes that are named change together, in every cell; "all" changes every gene of the panel, one after another.
    An effect is an association that the model learned from unperturbed cells, not a mechanism.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file. Give B cells alone to ask what matters in B cells.
    model
        What answers.
    knock_out
        Genes to remove: their tokens are taken out, as of genes that are not expressed. Only cells that express one of
        them change.
    over_express
        Genes to raise: to the highest bin that at least ten training cells had for the gene (under bins by the cell's
        own quantiles, mostly the top ninth of the genes that the cell expresses). The other genes keep their bins. Only
        cells change in which one of them is lower.
    predict
        Phenotypes to ask. None: all that the model knows. Ages are answered in years; a phenotype of one label is left
        out, since its probability is always 1.
    genes
        Genes whose expected expression is asked, or "all". They are asked with every seventh gene of the panel hidden,
        before and after alike.
    donor
        The column of `obs` with the donor. Without it cells are the replicates, which makes intervals too narrow.
    layer
        Where the expression is: None for `X`, the name of a layer, or "raw" for `adata.raw`.
    totals
        The column of `obs` with the counts of each cell over the whole genome, for a file that holds some genes only.
    out
        Also write the table here (.csv, .parquet). A run that was stopped goes on from `<out>.part` beside it.

    Returns
    -------
    A row for each perturbation and target:

    `perturbation`, `effect_on`, `target`
        Such as "GATA1 KO + IRF7 OE"; "cell_type" and "B cell", "embedding" and "distance" (how far `X_polygene` of
        `embed` moves), "expression" and a gene's symbol. An effect of a gene on itself is not told.
    `before`, `effect`
        The answer without the perturbation, and by how much it changes: in probability, years, distance, log1p counts
        per 10,000. Means over the cells that change, first of each donor, then over donors.
    `low`, `high`
        95 % interval of the effect over donors (t); none of a single donor.
    `matched`
        The mean effect of the same perturbation of 30 genes of the panel that are expressed alike.
    `p`, `q`
        Whether the effect lies outside of those (two-sided), and Benjamini–Hochberg over the rows of one `effect_on`.
    `n_cells`, `n_donors`
        How many cells change, and of how many donors they are, 0 = not known.
    `replicates`, `evidence`
        "donors" or "cells"; "association".

    Notes
    -----
    An AnnData also gets it in `uns["polygene"]["perturb"]`, under `effects`, with how it was made and a `note`. How the
    test works: `polygene.tl._matched.against_matched`. Nothing is drawn at random.

    Raises
    ------
    GeneError
        A gene is not in the panel (names the nearest), not measured, or nothing would change: expressed in no cell.
    PhenotypeError, DataError, ScaleError
        What is asked cannot be answered, or the cells cannot be read; the message says what to do.
    """
    check_model(model)
    if world_size() > 1:
        msg = f"perturb runs in one process, and this is one of {world_size()}: start it without torchrun."
        raise DataError(msg)
    panel, binner = model.tokenizer.panel, model.tokenizer.binner
    off, up = _named(panel, knock_out), _named(panel, over_express)
    if binner.kind == "binary" and len(genes):
        msg = "This model tells only whether a gene is expressed, not how much: leave `genes` out."
        raise DataError(msg)
    schema = model.tokenizer.schema
    predict = [name for name in questions(schema, (), predict)[1] if len(schema.labels[schema.index(name)]) > 1]
    with ExitStack() as stack:
        whole = stack.enter_context(written_beside(out, (".csv", ".parquet"))) if out is not None else None
        study = _Study(CellReader(adata, model.tokenizer, layer=layer, totals=totals), model, donor)
        tests = study.tests(off, up)
        asked = np.flatnonzero(study.measured_G) if genes == ALL else _named(panel, genes) or ()
        asker = Asker(model, predict, [int(g) for g in asked])
        controls = {test: study.matched(test) for test in tests}
        everything = list(dict.fromkeys([*tests, *(one for some in controls.values() for one in some)]))
        sums = study.run(everything, asker, None if out is None else Path(f"{out}.part"))
        table = _table(sums, everything, controls, asker, panel, by_donor=study.by_donor)
        if whole is not None:
            table.to_csv(whole, index=False) if whole.suffix == ".csv" else table.to_parquet(whole, index=False)
    if out is not None:
        Path(f"{out}.part").unlink(missing_ok=True)
    logger.info("%s", NOTE)
    if isinstance(adata, ad.AnnData):
        said = {"knock_out": off, "over_express": up}
        names = {key: np.array(ALL if some is None else [panel.symbols[g] for g in some]) for key, some in said.items()}
        made = {**made_by(model), **names, "donor": donor, "genes": study.reader.genes, "note": NOTE}
        adata.uns[ROOT] = {**adata.uns.get(ROOT, {}), "perturb": {**made, "effects": table}}
    return table


def _named(panel: GenePanel, names: str | Sequence[str]) -> list[int] | None:
    """Places of genes in the panel, each once; None for all."""
    if isinstance(names, str) and names == ALL:
        return None
    return list(dict.fromkeys(panel.index(name) for name in ([names] if isinstance(names, str) else names)))


class _Study:
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
        with np.load(part) as stored:
            if str(stored["key"]) == key:
                for name, array in vars(sums).items():
                    array[...] = stored[name]
                at = int(stored["at"][0]), int(stored["at"][1])
                logger.info("going on from %s", part)
                return at
            why = "is of another model, other cells or other questions"
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        why = "is damaged"
    logger.warning("%s %s: starting from the beginning", part, why)
    return 0, 0


def _table(
    sums: Sums,
    perturbations: Sequence[Perturbation],
    controls: dict[Perturbation, list[Perturbation]],
    asker: Asker,
    panel: GenePanel,
    *,
    by_donor: bool,
) -> pd.DataFrame:
    """Lay out means, intervals and tests as rows."""
    place = {one: p for p, one in enumerate(perturbations)}
    before_PT, effect_PT, error_PT, n_P = sums.means(donors=by_donor)
    effect_on, targets = zip(*asker.targets, strict=True)
    parts: list[pd.DataFrame] = []
    for test, like in controls.items():
        p = place[test]
        mean_T, p_T = against_matched(effect_PT, error_PT, n_P, p, [place[one] for one in like])
        half_T = stats.t.ppf(0.975, max(int(n_P[p]) - 1, 1)) * error_PT[p]
        columns: dict[str, Any] = {
            "perturbation": test.name(panel.symbols), "effect_on": effect_on, "target": targets,
            "before": before_PT[p], "effect": effect_PT[p], "low": effect_PT[p] - half_T, "high": effect_PT[p] + half_T,
            "matched": mean_T, "p": p_T, "q": np.nan,
            "n_cells": int(sums.n_PR[p].sum()), "n_donors": int(n_P[p]) if by_donor else 0,
        }  # fmt: skip
        own = [panel.symbols[g] for g in (*test.off, *test.up)]
        rows = pd.DataFrame(columns)
        parts.append(rows[~((rows["effect_on"] == "expression") & rows["target"].isin(own))])
    table = pd.concat(parts, ignore_index=True)
    table["replicates"], table["evidence"] = "donors" if by_donor else "cells", "association"
    for _, p_of in table["p"].groupby(table["effect_on"]):
        tested = p_of.dropna()
        table.loc[tested.index, "q"] = stats.false_discovery_control(tested) if len(tested) else np.nan
    if n_few := sum(len(like) < FEWEST for like in controls.values()):
        logger.warning(
            "%d of %d perturbations have no p-value: fewer than %d other genes to compare with",
            n_few,
            len(controls),
            FEWEST,
        )
    return table
