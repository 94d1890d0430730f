"""The cells of an AnnData or a file as tokens, chunk by chunk, whatever the verb.

Legend: C cells, G panel genes, P phenotypes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from polygene import __version__
from polygene.checkpoint import PolyGene
from polygene.errors import DataError
from polygene.reading import CellSource, Source, open_cells
from polygene.scale import log1p_values
from polygene.tokenizer import CellTokenizer, EncodedCells


def encoded_chunks(
    source: Source | CellSource,
    tokenizer: CellTokenizer,
    *,
    given: Sequence[str] = (),
    layer: str | None = None,
    totals: str | None = None,
    rows: range | np.ndarray | None = None,
) -> Iterator[tuple[pd.Index, EncodedCells]]:
    """Read the names and the tokens of cells, all or some `rows`; of labels only the `given` phenotypes.

    What can be wrong with labels, scale and genes is found before the first chunk.
    """
    cells = source if isinstance(source, CellSource) else open_cells(source, layer=layer)
    labels_CP = _labels(cells, tokenizer, given)
    if totals is not None and totals not in cells.columns:
        msg = f"{cells.label} has no column {totals!r} in obs; it has {', '.join(cells.columns[:10])}."
        raise DataError(msg)
    scale = cells.scale
    columns_G = tokenizer.panel.match(cells.var)
    measured_G = columns_G >= 0
    if rows is not None:
        rows = None if len(rows) == cells.n_obs else np.asarray(rows, dtype=np.int64)  # all: 8 bytes a cell less
        labels_CP = labels_CP if rows is None else labels_CP[rows]
    first = 0
    for chunk in cells.chunks(rows, columns=[totals] if totals else ()):
        values_CM = log1p_values(chunk, columns_G[measured_G], totals=totals, scale=scale)
        last = first + chunk.n_obs
        yield chunk.obs_names, tokenizer.encode_values(values_CM, measured_G, labels_CP[first:last])
        first = last


def _labels(cells: CellSource, tokenizer: CellTokenizer, given: Sequence[str]) -> np.ndarray:
    """Read labels_CP of all cells, not given but for these phenotypes."""
    schema = tokenizer.schema
    columns = [schema.phenotypes[schema.index(name)].column for name in given]
    complete = set(columns) <= set(cells.columns)
    return schema.encode(cells.frame(columns) if complete else cells.obs, use=given)  # all of obs for a helpful error


def made_by(model: PolyGene) -> dict[str, str]:
    """Say which model and version gave an answer, for `uns`."""
    return {
        "model": model.network.name_or_path or "not saved",
        "tokenizer": model.tokenizer.fingerprint(),
        "version": __version__,
    }
