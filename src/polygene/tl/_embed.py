"""Embed: a cell as a point in the model's space. Legend: C cells, D width."""

from pathlib import Path

import pandas as pd

from polygene.io.read import Source
from polygene.io.results import ResultsChunk
from polygene.io.write import write_results
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import cell_states
from polygene.model.shipped import DEFAULT
from polygene.tl._reader import CellReader, load_model, results_of
from polygene.vocab.cells import EncodedCells


def embed(
    adata: Source,
    model: PolyGene | str | Path = DEFAULT,
    *,
    key_added: str = "X_polygene",
    layer: str | None = None,
    totals: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Embed cells in the model's space, from their expression alone.

    The embedding of a cell is the mean of the hidden states of its expressed panel genes before the last layer. It
    depends on nothing but the cell. A cell that expresses none of them is at the origin.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file; no label is needed or used.
    model
        A PolyGene, or the name or folder of one.
    key_added
        Name in `obsm`.
    layer, totals, out, overwrite
        As for `annotate`; a table (.parquet, .csv) gets a column for each dimension.

    Notes
    -----
    Written are `obsm["X_polygene"]`, float32 (C, D), for `sc.pp.neighbors(adata, use_rep="X_polygene")`, and
    `uns["polygene"]["embed"]`.

    Examples
    --------
    >>> import polygene as pg
    >>> adata = pg.datasets.pbmc()[:50].copy()
    >>> pg.tl.embed(adata)
    >>> adata.obsm["X_polygene"].shape
    (50, 128)
    """
    model = load_model(model)
    reader = CellReader(adata, model.tokenizer, layer=layer, totals=totals)

    def block(names_C: pd.Index, cells: EncodedCells) -> ResultsChunk:
        return ResultsChunk(pd.DataFrame(index=names_C), {key_added: cell_states(model, cells)})

    done = f"embedded in {model.network.config.hidden_size} dimensions"
    results = results_of("embed", model, reader, block, done=done, uns={"key": key_added})
    write_results(results, adata, out, overwrite=overwrite)
