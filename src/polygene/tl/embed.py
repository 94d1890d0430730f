"""Embed: a cell as a point in the model's space.

Legend: C cells, D width.
"""

import logging

import anndata as ad
import numpy as np
import pandas as pd

from polygene.checkpoint import PolyGene
from polygene.inference import cell_states
from polygene.reading import Source
from polygene.tl._cells import CellReader, made_by
from polygene.writing import Added

logger = logging.getLogger("polygene")


def embed(
    adata: ad.AnnData,
    model: PolyGene,
    *,
    key_added: str = "X_polygene",
    layer: str | None = None,
    totals: str | None = None,
) -> None:
    """Place cells in the model's space, from their expression alone.

    The point of a cell is the mean of the states of its expressed panel genes before the last layer; it depends on
    nothing but the cell. A cell that expresses none of them stands at the origin.

    Parameters
    ----------
    adata
        Cells with counts or log1p values; no label is needed or used.
    model
        What places them.
    key_added
        Name in `obsm`.
    layer
        Where the expression is: None for `X`, the name of a layer, or "raw" for `adata.raw`.
    totals
        The column of `obs` with the counts of each cell over the whole genome, for a file that holds some genes only.

    Notes
    -----
    Written are `obsm["X_polygene"]`, float32 (C, D), for `sc.pp.neighbors(adata, use_rep="X_polygene")`, and
    `uns["polygene"]["embed"]`: the model, the version of PolyGene, and `genes`, as `annotate` writes them.

    Raises
    ------
    DataError, GeneError, ScaleError
        The expression cannot be read; the message says what to do.
    """
    embedding(adata, model, key_added=key_added, layer=layer, totals=totals).add_to(adata)


def embedding(
    source: Source,
    model: PolyGene,
    *,
    key_added: str = "X_polygene",
    layer: str | None = None,
    totals: str | None = None,
) -> Added:
    """Return what `embed` writes, for an AnnData or for a file, of which only some rows are in memory at a time."""
    reader = CellReader(source, model.tokenizer, layer=layer, totals=totals)
    names_C, states_CD = states(reader, model)
    logger.info("embedded %s cells in %d dimensions", f"{len(names_C):,}", states_CD.shape[1])
    uns = {**made_by(model), "key": key_added, "genes": reader.genes}
    return Added(verb="embed", obs=pd.DataFrame(index=names_C), obsm={key_added: states_CD}, uns=uns)


def states(reader: CellReader, model: PolyGene) -> tuple[pd.Index, np.ndarray]:
    """Return the names of the cells and their states, float32 (C, D)."""
    names: list[pd.Index] = []
    parts: list[np.ndarray] = []
    for names_C, cells in reader.chunks():
        names.append(names_C)
        parts.append(cell_states(model, cells))
    return names[0].append(names[1:]), np.concatenate(parts)
