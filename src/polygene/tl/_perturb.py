"""Perturb: what the model would answer if genes were removed from cells, or raised.

Legend: C cells, G panel genes, P perturbations, R replicates (donors), S perturbed copies of cells, T targets.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import stats

from polygene.errors import DataError
from polygene.io.read import Source
from polygene.io.write import note_in, write_table, written_beside
from polygene.model.checkpoint import PolyGene
from polygene.runtime.distributed import world_size
from polygene.tl._annotate import questions
from polygene.tl._perturb_cells import Asker, Perturbation
from polygene.tl._perturb_null import FEWEST, Sums, against_matched
from polygene.tl._perturb_run import ALL, Study
from polygene.tl._reader import CellReader, check_model, made_by
from polygene.vocab.panel import GenePanel

logger = logging.getLogger("polygene")

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
    test works: `polygene.tl._perturb_null.against_matched`. Nothing is drawn at random.

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
        study = Study(CellReader(adata, model.tokenizer, layer=layer, totals=totals), model, donor)
        tests = study.tests(off, up)
        asked = np.flatnonzero(study.measured_G) if genes == ALL else _named(panel, genes) or ()
        asker = Asker(model, predict, [int(g) for g in asked])
        controls = {test: study.matched(test) for test in tests}
        everything = list(dict.fromkeys([*tests, *(one for some in controls.values() for one in some)]))
        sums = study.run(everything, asker, None if out is None else Path(f"{out}.part"))
        table = _table(sums, everything, controls, asker, panel, by_donor=study.by_donor)
        if whole is not None:
            write_table(whole, table)
    if out is not None:
        Path(f"{out}.part").unlink(missing_ok=True)
    logger.info("%s", NOTE)
    if isinstance(adata, ad.AnnData):
        said = {"knock_out": off, "over_express": up}
        names = {key: np.array(ALL if some is None else [panel.symbols[g] for g in some]) for key, some in said.items()}
        made = {**made_by(model), **names, "donor": donor, "genes": study.reader.genes, "note": NOTE}
        note_in(adata, "perturb", {**made, "effects": table})
    return table


def _named(panel: GenePanel, names: str | Sequence[str]) -> list[int] | None:
    """Places of genes in the panel, each once; None for all."""
    if isinstance(names, str) and names == ALL:
        return None
    return list(dict.fromkeys(panel.index(name) for name in ([names] if isinstance(names, str) else names)))


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
