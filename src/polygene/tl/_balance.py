"""Balance: generated cells beside the real ones, until all labels have as many.

Legend: C cells, G panel genes, P phenotypes, V labels of the phenotype that is balanced.
"""

import logging
from collections.abc import Sequence
from operator import attrgetter

import anndata as ad
import numpy as np
from scipy import sparse

from polygene.errors import DataError
from polygene.io.read import Source
from polygene.model.checkpoint import PolyGene
from polygene.model.sampling import SamplingConfig
from polygene.tl._generate import GENERATED, drawn
from polygene.tl._reader import CellReader, check_model, made_by, panel_var

logger = logging.getLogger("polygene")


def balance(
    adata: Source,
    model: PolyGene,
    *,
    key: str = "cell_type",
    n_cells: int | None = None,
    given: str | Sequence[str] = (),
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
) -> ad.AnnData:
    """Add generated cells to rare labels, marked as such.

    What they are worth for training on a few cells, beside oversampling and class weights: docs/control.md.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file, in memory as a whole.
    model
        What draws cells.
    key
        The phenotype whose labels, read from `obs`, are to be even.
    n_cells
        Cells that a label has afterwards, where it has fewer. None: as many as the most frequent one.
    given
        Phenotypes that a generated cell takes over from a real cell of its label, drawn at random.
    layer, totals
        Where the expression is, as for `annotate`.
    seed, sampling
        What decides the draws, as for `generate`.

    Returns
    -------
    A new AnnData over the panel, real cells first: `X` float32 csr, log1p counts per 10,000; `layers["polygene_bins"]`;
    `obs` as it was, and `polygene_generated`, True for the added cells, whose other columns are empty.

    Raises
    ------
    PhenotypeError
        The model does not know the phenotype or a label.
    DataError, GeneError, ScaleError
        The cells cannot be read, or none has a label; the message says what to do.
    """
    check_model(model)
    tokenizer, schema = model.tokenizer, model.tokenizer.schema
    given = [given] if isinstance(given, str) else list(given)
    reader = CellReader(adata, tokenizer, given=list(dict.fromkeys([key, *given])), layer=layer, totals=totals)
    chunks = [cells for _, cells in reader.chunks()]
    labels_CP = np.concatenate([np.zeros((0, len(schema.names)), np.int16), *(cells.labels_CP for cells in chunks)])
    p = schema.index(key)
    order_CP = _orders(labels_CP, p, n_cells, np.random.default_rng(seed))
    for v in np.unique(order_CP[:, p]):
        n_real, n_added = (int((of_CP[:, p] == v).sum()) for of_CP in (labels_CP, order_CP))
        logger.info("%s: %s real cells, %s generated", schema.labels[p][v], f"{n_real:,}", f"{n_added:,}")
    x_CG, bins_CG = (
        sparse.vstack([cells.as_csr(entries_of(cells), len(tokenizer.panel)) for cells in chunks], format="csr")
        for entries_of in (attrgetter("values_N"), attrgetter("bins_N"))
    )
    real = ad.AnnData(X=x_CG, obs=reader.cells.obs.assign(**{GENERATED: False}), var=panel_var(tokenizer.panel))
    real.layers["polygene_bins"] = bins_CG
    if not len(order_CP):
        return real
    nothing_G = np.full(len(tokenizer.panel), -1, dtype=np.int16)
    added = drawn(model, order_CP, nothing_G, seed=seed, sampling=sampling or SamplingConfig())
    added.obs = added.obs.loc[:, [schema.phenotypes[schema.index(name)].column for name in [key, *given]] + [GENERATED]]
    both = ad.concat([real, added], join="outer")
    both.var = real.var
    both.uns["polygene"] = {"balance": {**made_by(model), "key": key, "generated": len(order_CP), "seed": seed}}
    return both


def _orders(labels_CP: np.ndarray, p: int, n_cells: int | None, rng: np.random.Generator) -> np.ndarray:
    """Labels of the cells to be drawn: for each label that has too few, real cells of it drawn with replacement."""
    counts_V = np.bincount(labels_CP[labels_CP[:, p] >= 0, p])
    if not counts_V.sum():
        msg = "No cell has a label of it, so there is nothing to balance: give cells with labels in obs."
        raise DataError(msg)
    wanted = int(counts_V.max()) if n_cells is None else n_cells
    rows = [
        rng.choice(np.flatnonzero(labels_CP[:, p] == v), wanted - n, replace=True)
        for v, n in enumerate(counts_V)
        if 0 < n < wanted
    ]
    return labels_CP[np.concatenate([np.zeros(0, dtype=np.int64), *rows])]
