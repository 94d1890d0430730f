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

    The embedding of a cell is the state from which the model predicts its cell type; of a model that has learned no
    types, the mean state of the cell's genes. It depends on nothing but the cell.

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

    On studies never seen it is level with 50 principal components of the file where the model knows the tissue, and
    below them where it does not (docs/decisions.md, "The state of a cell"). The two joined, each scaled to the same
    size, are at or near the better one in both cases, as in the second example.

    Examples
    --------
    >>> import polygene as pg
    >>> adata = pg.datasets.pbmc()[:50].copy()
    >>> pg.tl.embed(adata)
    >>> adata.obsm["X_polygene"].shape
    (50, 128)

    >>> import numpy as np, scanpy as sc
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> sc.pp.pca(adata, n_comps=20)
    >>> scaled = [x / np.linalg.norm(x - x.mean(axis=0)) for x in (adata.obsm["X_polygene"], adata.obsm["X_pca"])]
    >>> adata.obsm["X_joint"] = np.hstack(scaled)
    """
    model = load_model(model)
    reader = CellReader(adata, model.tokenizer, layer=layer, totals=totals)

    def block(names_C: pd.Index, cells: EncodedCells) -> ResultsChunk:
        return ResultsChunk(pd.DataFrame(index=names_C), {key_added: cell_states(model, cells)})

    done = f"embedded in {model.network.config.hidden_size} dimensions"
    results = results_of("embed", model, reader, block, done=done, uns={"key": key_added})
    write_results(results, adata, out, overwrite=overwrite)
