"""Embed: a cell as a point in the model's space.

Legend: C cells, D width.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from polygene.io.read import Source
from polygene.io.write import Answers, Block, deliver, watched
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import cell_states
from polygene.tl._reader import CellReader, check_model, made_by


def embed(
    adata: Source,
    model: PolyGene,
    *,
    key_added: str = "X_polygene",
    layer: str | None = None,
    totals: str | None = None,
    out: str | Path | None = None,
) -> None:
    """Place cells in the model's space, from their expression alone.

    The point of a cell is the mean of the states of its expressed panel genes before the last layer; it depends on
    nothing but the cell. A cell that expresses none of them stands at the origin.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file; no label is needed or used.
    model
        What places them.
    key_added
        Name in `obsm`.
    layer
        Where the expression is: None for `X`, the name of a layer, or "raw" for `adata.raw`.
    totals
        The column of `obs` with the counts of each cell over the whole genome, for a file that holds some genes only.
    out
        Of a file, where the points go: a copy of it with them (.h5ad), or a table of them (.parquet, .csv). Only some
        rows are in memory at a time. An AnnData holds its points itself.

    Notes
    -----
    Written are `obsm["X_polygene"]`, float32 (C, D), for `sc.pp.neighbors(adata, use_rep="X_polygene")`, and
    `uns["polygene"]["embed"]`: the model, the version of PolyGene, and `genes`, as `annotate` writes them.

    Raises
    ------
    DataError, GeneError, ScaleError
        The expression cannot be read; the message says what to do.
    """
    deliver(embedding(adata, model, key_added=key_added, layer=layer, totals=totals), adata, out)


def embedding(
    source: Source,
    model: PolyGene,
    *,
    key_added: str = "X_polygene",
    layer: str | None = None,
    totals: str | None = None,
) -> Answers:
    """Return what `embed` writes, found out when it is asked for."""
    check_model(model)
    reader = CellReader(source, model.tokenizer, layer=layer, totals=totals)

    def blocks(rows: range) -> Iterator[Block]:
        for names_C, encoded in reader.chunks(rows):
            yield Block(pd.DataFrame(index=names_C), {key_added: cell_states(model, encoded)})

    done, device = f"embedded in {model.network.config.hidden_size} dimensions", model.network.device
    return Answers(
        verb="embed",
        cells=reader.cells,
        blocks=lambda rows: watched(blocks(rows), len(rows), done=done, device=device),
        uns={**made_by(model), "key": key_added, "genes": reader.genes},
    )
