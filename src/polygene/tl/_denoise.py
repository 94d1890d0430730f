"""Denoise: what each panel gene of a cell is expected to be, given the rest of the cell.

Legend: C cells, M panel genes that the file measured.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from polygene.errors import DataError, RecipeError
from polygene.io.read import Source
from polygene.io.write import Answers, Block, deliver, watched
from polygene.model.checkpoint import PolyGene
from polygene.model.denoising import Output, expected_expression
from polygene.tl._reader import CellReader, check_model, made_by, phenotypes_named

LAYERS: dict[Output, str] = {"expression": "polygene", "expressed": "polygene_expressed"}


def denoise(
    adata: Source,
    model: PolyGene,
    *,
    output: Output = "expression",
    given: str | Sequence[str] = (),
    layer: str | None = None,
    totals: str | None = None,
    out: str | Path | None = None,
) -> None:
    """Answer every panel gene that was measured from the other genes of its cell.

    Genes are hidden in folds, so no answer is told the gene's own value; it depends on nothing but the cell. An answer
    is what the model expects to be measured, zeros included, in a cell like this one: no value of it is zero.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file; no label is needed.
    model
        What answers.
    output
        "expression": expected log1p counts per 10,000. "expressed": the probability of being expressed at all.
    given
        Phenotypes that are known: their labels in `obs` are given to the model, as for `annotate`.
    layer
        Where the expression is: None for `X`, or the name of a layer.
    totals
        The column of `obs` with the counts of each cell over the whole genome, for a file that holds some genes only.
    out
        Of a file, where the answers go: a copy of it with them (.h5ad). Only some rows are in memory at a time. An
        AnnData holds its answers itself.

    Notes
    -----
    Written are:

    `layers["polygene"]` (or `layers["polygene_expressed"]`)
        float32 CSR of the shape of `X`. Panel genes hold a value in every cell, all other genes nothing: 8 bytes a
        cell and panel gene. None is left out for being small, so that an empty place always means "not answered".
    `var["polygene_panel"]`
        True for the columns that hold answers. Where several columns are one gene of the panel, they are read as their
        sum, and the first of them holds the answer.
    `uns["polygene"]["denoise"]`
        The model, the output, what was given, the version of PolyGene, and `genes`, as `annotate` writes them.

    Raises
    ------
    DataError
        A binary model is asked for values, or layer="raw", whose genes are not those of a layer.
    PhenotypeError, GeneError, ScaleError
        The labels or the expression cannot be read; the message says what to do.
    """
    deliver(denoising(adata, model, output=output, given=given, layer=layer, totals=totals), adata, out)


def denoising(
    source: Source,
    model: PolyGene,
    *,
    output: Output = "expression",
    given: str | Sequence[str] = (),
    layer: str | None = None,
    totals: str | None = None,
) -> Answers:
    """Return what `denoise` writes, found out when it is asked for."""
    check_output(model, output)
    if layer == "raw" and "raw" not in getattr(source, "layers", ()):
        msg = (
            "denoise writes a layer, which has the genes of X and not those of raw: pass adata.raw.to_adata(), or "
            "impute(…, layer='raw'), which makes a new AnnData."
        )
        raise DataError(msg)
    given = phenotypes_named(model.tokenizer.schema, given)
    reader = CellReader(source, model.tokenizer, given=given, layer=layer, totals=totals)
    genes_M, first_M = np.unique(reader.match.genes_N, return_index=True)
    columns_M = reader.match.columns_N[first_M]
    order_M = np.argsort(columns_M)
    genes_M, columns_M = genes_M[order_M], columns_M[order_M]

    def blocks(rows: range) -> Iterator[Block]:
        for names_C, encoded in reader.chunks(rows):
            x_CM = expected_expression(model, encoded, genes_M, output=output, given=given)
            yield Block(pd.DataFrame(index=names_C), {}, {LAYERS[output]: x_CM})

    done, device = f"denoised ({len(genes_M):,} genes)", model.network.device
    return Answers(
        verb="denoise",
        cells=reader.cells,
        blocks=lambda rows: watched(blocks(rows), len(rows), done=done, device=device),
        uns={**made_by(model), "output": output, "given": np.array(given, dtype=str), "genes": reader.genes},
        columns_M=columns_M,
        var={"polygene_panel": np.isin(np.arange(len(reader.cells.var)), columns_M)},
    )


def check_output(model: PolyGene, output: str) -> None:
    """Refuse what is no model, and what this model cannot be asked for.

    Raises
    ------
    DataError, RecipeError
        Says what can be asked for.
    """
    check_model(model)
    if output not in get_args(Output):
        msg = f"output is one of {', '.join(get_args(Output))}; got {output!r}."
        raise RecipeError(msg)
    if output == "expression" and model.tokenizer.binner.is_binary:
        msg = (
            "The model is binary: it knows whether a gene is expressed and not how much. Ask for output='expressed' "
            "(--output expressed), or train a model with more bins."
        )
        raise DataError(msg)
