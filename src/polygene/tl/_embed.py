"""Embed: a cell as a point in the model's space. Legend: C cells, D width."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from polygene.errors import check_choice
from polygene.io.read import Source
from polygene.io.results import ResultsChunk
from polygene.io.write import check_out, write_results
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import cell_states, key_states, predict_labels
from polygene.model.shipped import DEFAULT
from polygene.tl._reader import CellReader, load_model, results_of
from polygene.vocab.cells import EncodedCells

States = Literal["cell_type", "cls", "phenotypes", "genes", "all"]


def embed(
    adata: Source,
    model: PolyGene | str | Path = DEFAULT,
    *,
    states: States = "cell_type",
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
    states
        Which hidden states: of the cell type, as above; of [CLS]; of all phenotypes from which they are predicted, side
        by side; the mean of the expressed genes; or "all", [CLS], phenotypes and genes side by side. Those of [CLS] and
        genes are before the last layer, as no prediction reads what it makes of them.
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
    check_choice("states", states, get_args(States))
    check_out(adata, out, overwrite=overwrite)
    model = load_model(model)
    reader = CellReader(adata, model.tokenizer, layer=layer, totals=totals)

    def block(names_C: pd.Index, cells: EncodedCells) -> ResultsChunk:
        return ResultsChunk(pd.DataFrame(index=names_C), {key_added: states_of_cells(model, cells, states)})

    blocks = {"phenotypes": len(model.tokenizer.schema.names), "all": len(model.tokenizer.schema.names) + 2}
    done = f"embedded in {blocks.get(states, 1) * model.network.config.hidden_size} dimensions"
    results = results_of("embed", model, reader, block, done=done, uns={"key": key_added, "states": states})
    write_results(results, adata, out, overwrite=overwrite)


def states_of_cells(model: PolyGene, cells: EncodedCells, states: States) -> np.ndarray:
    """Compute what `embed` writes, float32 (C, D)."""
    if states == "cell_type":
        return cell_states(model, cells)
    keys = list(key_states(model, cells))
    cls_CD = np.concatenate([part.leading_CSD[:, 0] for part in keys])
    genes_CD = np.concatenate([part.means_CD for part in keys])
    if states in ("cls", "genes"):
        return cls_CD if states == "cls" else genes_CD
    queries = predict_labels(model, cells, predict=model.tokenizer.schema.names, branch=True)[1]
    return np.concatenate(queries if states == "phenotypes" else [cls_CD, *queries, genes_CD], axis=1)
