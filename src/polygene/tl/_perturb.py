"""Perturb: how predictions change if genes are removed or raised. Legend: G panel genes, P perturbations, T targets."""

import logging
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import stats

from polygene.errors import DataError, GeneError, check_names
from polygene.io.read import Source
from polygene.io.results import record_in_uns
from polygene.io.write import write_table
from polygene.model.checkpoint import PolyGene
from polygene.model.shipped import DEFAULT
from polygene.runtime.ranks import one_process
from polygene.tl._annotate import check_phenotypes
from polygene.tl._perturb_run import Perturbation, Predictor, Study, Sums
from polygene.tl._reader import CellReader, load_model, made_by, written
from polygene.vocab.panel import GenePanel

logger = logging.getLogger("polygene")

ALL = "all"
NOTE = (
    "Effects are associations that the model learned from unperturbed cells, not mechanisms: "
    "a gene that only goes along with a cell type moves its probability as much as one that makes it."
)


def perturb(
    adata: Source,
    model: PolyGene | str | Path = DEFAULT,
    *,
    knock_out: str | Sequence[str] = (),
    over_express: str | Sequence[str] = (),
    predict: str | Sequence[str] | None = None,
    genes: str | Sequence[str] = (),
    donor: str = "donor_id",
    layer: str | None = None,
    totals: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Remove or raise genes in cells, and rank how the model's predictions change.

    The named genes change together, in every cell; "all" perturbs every panel gene, one after another. An effect is an
    association that the model learned from unperturbed cells, not a mechanism.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file. Give B cells alone to see what matters in B cells.
    model
        A PolyGene, or the name or folder of one.
    knock_out
        Genes to remove: their tokens are left out, as of genes that are not expressed.
    over_express
        Genes to raise to the highest bin that at least ten training cells had for the gene.
    predict
        Phenotypes to predict, by default all. Ages are predicted in years; a phenotype with one label is left out.
    genes
        Genes whose expected expression is predicted, or "all", masked in the folds of `denoise`. A perturbed gene stays
        visible, before and after.
    donor
        Column of `obs` with the donor. Without it cells are the replicates, and the intervals are too narrow.
    layer, totals
        Where the expression is, as for `annotate`.
    out, overwrite
        Also write the table here (.csv, .parquet); in place of a file that is there only with `overwrite`. A run that
        was stopped goes on from `<out>.part` beside it.

    Returns
    -------
    A row for each perturbation and target:

    `perturbation`, `effect_on`, `target`
        Such as "GATA1 KO + IRF7 OE"; "cell_type" and "B cell", "embedding" and "distance" (how far the state of the
        cell type moves), "expression" and a gene's symbol. The effect of a gene on itself is left out.
    `before`, `effect`
        The prediction for the unperturbed cells, and its change: in probability, years, distance, log1p counts per
        10,000. Means over the cells that change, first of each donor, then over donors.
    `low`, `high`
        95 % interval of the effect over donors (Student's t), NaN for a single donor.
    `rank`
        Among the perturbations of this table on this target, 1 = largest effect in size.
    `n_cells`, `n_donors`, `replicates`, `evidence`
        How many cells change (those that express a removed gene, or have a raised one lower), and of how many donors
        they are, 0 = not known; "donors" or "cells"; "association".

    An AnnData also gets the table in `uns["polygene"]["perturb"]["effects"]`.
    """
    one_process("perturb")
    model = load_model(model)
    tokenizer = model.tokenizer
    panel, schema = tokenizer.panel, tokenizer.schema
    off, up = _named(panel, knock_out, "knock_out"), _named(panel, over_express, "over_express")
    targets = _named(panel, genes, "genes")
    if tokenizer.binner.is_binary and targets != []:
        msg = "This model predicts whether a gene is expressed, not how much: leave `genes` out."
        raise DataError(msg)
    predict = [name for name in check_phenotypes(schema, (), predict)[1] if len(schema.labels[schema.index(name)]) > 1]
    with written(out, (".csv", ".parquet"), adata, overwrite=overwrite) as whole:
        study = Study(CellReader(adata, tokenizer, layer=layer, totals=totals), model, donor)
        perturbations = _perturbations(study, off, up)
        predictor = Predictor(model, predict, np.flatnonzero(study.measured_G).tolist() if targets is None else targets)
        sums = study.run(perturbations, predictor, None if out is None else Path(f"{out}.part"))
        table = _table(sums, perturbations, predictor, panel, by_donor=study.by_donor)
        if whole is not None:
            write_table(whole, table)
    if out is not None:
        Path(f"{out}.part").unlink(missing_ok=True)
    logger.info("%s", NOTE)
    if isinstance(adata, ad.AnnData):
        named = {"knock_out": off, "over_express": up}
        names = {key: np.array(ALL if g is None else [panel.symbols[i] for i in g]) for key, g in named.items()}
        made = {**made_by(model), **names, "donor": donor, "genes": study.reader.genes, "note": NOTE}
        record_in_uns(adata, "perturb", {**made, "effects": table})
    return table


def _named(panel: GenePanel, names: str | Sequence[str], argument: str) -> list[int] | None:
    """Indices of genes in the panel, each once; None for all."""
    listed = check_names(argument, names)
    return None if listed == [ALL] else list(dict.fromkeys(map(panel.index, listed)))


def _perturbations(study: Study, off: list[int] | None, up: list[int] | None) -> list[Perturbation]:
    """List the perturbations (None: every gene in turn); refuse one that changes no cell."""
    if off is None or up is None:
        if off or up:
            msg = f"{ALL!r} perturbs genes one after another, so no others can be named beside it."
            raise GeneError(msg)
        scan = [Perturbation(off=(g,)) for g in _scanned(study, study.n_off_G, "knocked out")] if off is None else []
        if up is None:
            scan += [Perturbation(up=(g,)) for g in _scanned(study, study.n_up_G, "over-expressed")]
        return scan
    if not off and not up:
        msg = f"No gene is named: give genes to knock out or to over-express, or {ALL!r}."
        raise GeneError(msg)
    symbols = study.model.tokenizer.panel.symbols
    if both := [symbols[g] for g in off if g in up]:
        msg = f"{', '.join(both)}: knocked out and over-expressed at once. Choose one."
        raise GeneError(msg)
    never = "is expressed in no cell, so there is nothing to knock out"
    highest = "cannot be raised: it is as high as in training in every cell, or was never expressed there"
    for g, n_changed_G, why in [*((g, study.n_off_G, never) for g in off), *((g, study.n_up_G, highest) for g in up)]:
        if not study.measured_G[g]:
            msg = f"{symbols[g]} is not measured in {study.reader.cells.label}, so it cannot be perturbed."
            raise GeneError(msg)
        if not n_changed_G[g]:
            msg = f"{symbols[g]} {why}. Leave it out, or choose cells that express it."
            raise GeneError(msg)
        logger.info("%s is expressed in %s of %s cells", symbols[g], f"{study.n_off_G[g]:,}", f"{study.n_cells:,}")
    return [Perturbation(tuple(off), tuple(up))]


def _scanned(study: Study, n_changed_G: np.ndarray, verb: str) -> list[int]:
    """List the genes of a scan, and log how many are left out."""
    genes, n_measured = np.flatnonzero(study.measured_G & (n_changed_G > 0)).tolist(), int(study.measured_G.sum())
    logger.info(
        "%d of %d panel genes are %s in turn; left out: %d not measured, %d that would change no cell",
        len(genes), len(n_changed_G), verb, len(n_changed_G) - n_measured, n_measured - len(genes),
    )  # fmt: skip
    return list(genes)


def _table(
    sums: Sums, perturbations: Sequence[Perturbation], predictor: Predictor, panel: GenePanel, *, by_donor: bool
) -> pd.DataFrame:
    """Tabulate means, intervals and ranks."""
    before_PT, effect_PT, error_PT, n_P = sums.means(by_donor=by_donor)
    half_PT = stats.t.ppf(0.975, np.maximum(n_P - 1, 1))[:, None] * error_PT
    effect_on, targets = zip(*predictor.targets, strict=True)
    parts: list[pd.DataFrame] = []
    for p, one in enumerate(perturbations):
        rows = pd.DataFrame({
            "perturbation": one.name(panel.symbols), "effect_on": effect_on, "target": targets,
            "before": before_PT[p], "effect": effect_PT[p],
            "low": effect_PT[p] - half_PT[p], "high": effect_PT[p] + half_PT[p], "rank": 0,
            "n_cells": int(sums.n_PR[p].sum()), "n_donors": int(n_P[p]) if by_donor else 0,
        })  # fmt: skip
        own = [panel.symbols[g] for g in (*one.off, *one.up)]
        parts.append(rows[~((rows["effect_on"] == "expression") & rows["target"].isin(own))])
    table = pd.concat(parts, ignore_index=True)
    sizes = table["effect"].abs().groupby([table["effect_on"], table["target"]])
    table["rank"] = sizes.rank(method="first", ascending=False).astype(int)
    table["replicates"], table["evidence"] = "donors" if by_donor else "cells", "association"
    return table
