"""Denoise: expected expression given the rest of a cell. Legend: C cells, G panel genes, M genes that are predicted."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import anndata as ad
import numpy as np
import pandas as pd

from polygene.errors import DataError, check_choice
from polygene.io.read import Source
from polygene.io.results import MATRIX_SUFFIXES, ResultsChunk
from polygene.io.write import check_out, results_writer, write_results
from polygene.model.checkpoint import PolyGene
from polygene.model.denoising import Output, expected_expression
from polygene.model.shipped import DEFAULT
from polygene.tl._reader import CellReader, load_model, panel_var, phenotypes_named, results_of
from polygene.vocab.cells import EncodedCells

logger = logging.getLogger("polygene")
LAYERS: dict[Output, str] = {"expression": "polygene", "expressed": "polygene_expressed"}
Genes = Literal["measured", "all"]


def denoise(
    adata: Source,
    model: PolyGene | str | Path = DEFAULT,
    *,
    output: Output = "expression",
    panel: Genes = "measured",
    given: str | Sequence[str] = (),
    layer: str | None = None,
    totals: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> ad.AnnData | None:
    """Predict the expression of each panel gene from the other genes of its cell.

    Genes are masked in folds, so no prediction sees the gene's own value. It is the expected measurement in a cell like
    this one, zeros included, so it is never zero.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file; no label is needed.
    model
        A PolyGene, or the name or folder of one.
    output
        "expression": expected log1p counts per 10,000. "expressed": the probability of being expressed at all.
    panel
        "measured": the panel genes that the file measures, as a layer. "all": the whole panel, as a new AnnData.
    given
        Phenotypes to condition on: their labels in `obs`, as for `annotate`.
    layer, totals
        Where the expression is, as for `annotate`. "raw" only with panel="all", as a layer has the genes of `X`.
    out
        Where the results of a file go (.h5ad), written while only some rows are in memory.
    overwrite
        As for `annotate`; with panel="all" `out` is never the file of the cells.

    Returns
    -------
    With panel="all" and without `out` a new AnnData: `X` float32 (C, G), dense, in the order of the panel; the `obs` of
    the cells; `var["gene_id"]` (Ensembl) and `var["measured"]`. Else None.

    Notes
    -----
    With panel="measured" the AnnData, or the copy of the file, gets

    `layers["polygene"]` (or `layers["polygene_expressed"]`)
        float32 CSR of the shape of `X`. Panel genes hold a value in every cell, 8 bytes each. Other genes hold none,
        which reads as 0: they are not predicted, so take `adata[:, adata.var["polygene_panel"]]`.
    `var["polygene_panel"]`
        True for the columns that hold values. Where several columns are one panel gene, their sum is read, and the
        first of them holds the value.

    Both write `uns["polygene"]["denoise"]`.
    """
    _check(output, panel, adata, layer)
    if panel == "measured" or out is not None:
        check_out(adata, out, overwrite=overwrite, suffixes=MATRIX_SUFFIXES, new=panel == "all")
    model = load_model(model)
    if output == "expression" and model.tokenizer.binner.n_bins == 2:
        msg = (
            "The model is binary: it predicts whether a gene is expressed, not how much. Use output='expressed' "
            "(--output expressed), or a model with more bins."
        )
        raise DataError(msg)
    given = phenotypes_named(model.tokenizer.schema, given, "given")
    reader = CellReader(adata, model.tokenizer, given=given, layer=layer, totals=totals)
    if panel == "measured":
        genes_M, layout = _measured_genes(reader)
    else:
        var = panel_var(model.tokenizer.panel).assign(measured=reader.match.measured_G)
        genes_M, layout = np.arange(len(var)), {"new_var": var}

    def block(names_C: pd.Index, cells: EncodedCells) -> ResultsChunk:
        x_CM = expected_expression(model, cells, genes_M, output=output, given=given)
        return ResultsChunk(pd.DataFrame(index=names_C), {}, {LAYERS[output] if panel == "measured" else "X": x_CM})

    uns = {"output": output, "panel": panel, "given": np.array(given, dtype=str)}
    results = results_of("denoise", model, reader, block, done=f"denoised ({len(genes_M):,} genes)", uns=uns, **layout)
    if panel == "measured":
        write_results(results, adata, out, overwrite=overwrite)
    elif out is None:
        return results.to_adata()
    else:
        check_out(reader.cells.path, out, overwrite=overwrite, suffixes=MATRIX_SUFFIXES, new=True)  # what a glob named
        with results_writer(out, results.suffixes) as write:
            write(results)
    return None


def _check(output: str, panel: str, source: Source, layer: str | None) -> None:
    check_choice("output", output, get_args(Output))
    check_choice("panel", panel, get_args(Genes))
    if panel == "measured" and layer == "raw" and "raw" not in getattr(source, "layers", ()):
        msg = (
            "A new layer has the genes of X, not those of raw: pass adata.raw.to_adata(), or panel='all' "
            "(--panel all), which makes a new AnnData."
        )
        raise DataError(msg)


def _measured_genes(reader: CellReader) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the measured panel genes in the order of the file's columns, and where their values go."""
    genes_M, first_M = np.unique(reader.match.genes_N, return_index=True)
    columns_M = reader.cells.columns_G[reader.match.columns_N[first_M]]
    order_M = np.argsort(columns_M)
    is_panel = np.isin(np.arange(len(reader.cells.features)), columns_M)
    if n_others := int((~is_panel).sum()):
        why = "the model does not know them; var['polygene_panel'] is True for those that have one"
        logger.warning("%s genes get no value, which reads as 0 in the layer: %s", f"{n_others:,}", why)
    return genes_M[order_M], {"columns_M": columns_M[order_M], "var": {"polygene_panel": is_panel}}
