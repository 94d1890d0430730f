"""Impute: the whole panel for cells in which some of it was never measured.

Legend: C cells, G panel genes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from polygene.io.read import Source
from polygene.io.write import Answers, Block, answers_to, watched
from polygene.model.checkpoint import PolyGene
from polygene.model.denoising import Output, expected_expression
from polygene.tl._denoise import check_output
from polygene.tl._reader import CellReader, made_by, panel_var, phenotypes_named


def impute(
    adata: Source,
    model: PolyGene,
    *,
    output: Output = "expression",
    given: str | Sequence[str] = (),
    layer: str | None = None,
    totals: str | None = None,
    out: str | Path | None = None,
) -> ad.AnnData | None:
    """Answer all genes of the panel, those that were never measured too, in a new AnnData.

    A gene that was measured is answered as by `denoise`, from the other genes and never from its own value, so that all
    columns are of one kind; a gene that was not is answered from all that were.

    Parameters
    ----------
    adata, model, output, given, totals
        As for `denoise`.
    layer
        Where the expression is: None for `X`, the name of a layer, or "raw" for `adata.raw`.
    out
        Where the new AnnData goes (.h5ad), written while only some rows are in memory; None returns it.

    Returns
    -------
    The new AnnData, unless it was written to `out`:

    `X`
        float32 (C, G), in the order of the panel; dense, since every gene has an answer in every cell.
    `obs`
        That of the cells.
    `var`
        By symbol, or by Ensembl id where that is missing or repeated: `gene_id` (Ensembl), and `measured`, whether the
        cells had the gene.
    `uns["polygene"]["impute"]`
        As `denoise` writes it.

    Raises
    ------
    DataError, PhenotypeError, GeneError, ScaleError
        As for `denoise`, or `out` cannot be written.
    """
    answers = imputation(adata, model, output=output, given=given, layer=layer, totals=totals)
    if out is None:
        return answers.to_adata()
    with answers_to(out, answers.suffixes) as write:
        write(answers)
    return None


def imputation(
    source: Source,
    model: PolyGene,
    *,
    output: Output = "expression",
    given: str | Sequence[str] = (),
    layer: str | None = None,
    totals: str | None = None,
) -> Answers:
    """Return what `impute` makes, found out when it is asked for."""
    check_output(model, output)
    panel = model.tokenizer.panel
    given = phenotypes_named(model.tokenizer.schema, given)
    reader = CellReader(source, model.tokenizer, given=given, layer=layer, totals=totals)
    genes_G = np.arange(len(panel))

    def blocks(rows: range) -> Iterator[Block]:
        for names_C, encoded in reader.chunks(rows):
            x_CG = expected_expression(model, encoded, genes_G, output=output, given=given)
            yield Block(pd.DataFrame(index=names_C), {}, {"X": x_CG})

    done, device = f"imputed ({len(genes_G):,} genes)", model.network.device
    return Answers(
        verb="impute",
        cells=reader.cells,
        blocks=lambda rows: watched(blocks(rows), len(rows), done=done, device=device),
        uns={**made_by(model), "output": output, "given": np.array(given, dtype=str), "genes": reader.genes},
        genes=panel_var(panel).assign(measured=reader.match.measured_G),
    )
