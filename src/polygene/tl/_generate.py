"""Generate: draw cells from control tokens. Legend: C cells, G panel genes, N expressed entries, P phenotypes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from polygene.errors import DataError, GeneError, PhenotypeError, check_names, check_type
from polygene.io.h5ad import write_held
from polygene.io.read import Source, open_cells
from polygene.model.checkpoint import PolyGene
from polygene.model.sampling import VALUES, SamplingConfig, draw_cells, draw_labels, draw_values
from polygene.model.shipped import DEFAULT
from polygene.runtime.hashing import uniform
from polygene.runtime.progress import progress
from polygene.runtime.ranks import one_process
from polygene.runtime.seeds import check_count, check_seed
from polygene.tl._reader import check_given, load_model, made_by, panel_var, written
from polygene.vocab.phenotypes import PhenotypeSchema

GENERATED = "polygene_generated"
CELLS = 1_000
"""Cells that are drawn at a time."""
MOST_CELLS = 10_000_000
"""All of them are in memory at the end, some 40 bytes an expressed gene."""


def generate(
    model: PolyGene | str | Path = DEFAULT,
    labels: Mapping[str, str] = MappingProxyType({}),
    *,
    n_cells: int = 100,
    predict: str | Sequence[str] = (),
    genes: Mapping[str, int] = MappingProxyType({}),
    like: Source | None = None,
    counts: bool = False,
    steps: int = 32,
    temperature: float = 1.0,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> ad.AnnData:
    """Draw cells that have these labels, from the model's probabilities.

    They show what the model learned that the training cells have in common, and are no measurement: never use them as
    evidence. How close they come to real cells: docs/control.md; with `like` they come closer to those of one study.
    Types that are rare in training often do not come out: annotate the drawn cells before you take them for the type.

    Parameters
    ----------
    model
        A PolyGene, or the name or folder of one.
    labels
        Control tokens: phenotype to label, such as ``{"tissue": "blood", "cell_type": "memory B cell"}``. A phenotype
        that is left out is not given, and the cells are a mixture over its labels.
    n_cells
        How many.
    predict
        Phenotypes whose labels are drawn first and then condition the genes too.
    genes
        Genes with a fixed bin: symbol or Ensembl id to bin, 0 for "not expressed".
    like
        Cells whose study the drawn ones shall look like, an AnnData or a file: only panel genes that it measures are
        drawn, and the network is given which these are. None: the whole panel.
    counts
        Whether to add whole counts. Most genes of a cell are taken as counted once, as in shallow sequencing.
    steps
        In how many steps the genes of a cell are drawn; more keep more of the correlation of genes.
    temperature
        1 draws from the model's probabilities; near 0 always the most probable bin.
    seed
        Decides everything that is drawn; the first cells are the same whatever `n_cells`.
    out, overwrite
        Also write the cells here (.h5ad); in place of a file that is there only with `overwrite`.

    Returns
    -------
    AnnData over the panel: `X` float32 CSR, log1p counts per 10,000, drawn inside the bin from the training values of
    the gene; `layers["polygene_bins"]`; `layers["counts"]` with `counts`; in `obs` the labels, in the columns of the
    model's schema, and `polygene_generated`, True; `uns["polygene"]["generate"]`.

    Examples
    --------
    >>> import polygene as pg
    >>> cells = pg.tl.generate(labels={"cell_type": "monocyte"}, n_cells=5, steps=2)
    >>> cells.shape
    (5, 512)
    """
    one_process("generate")
    check_seed(seed)
    sampling = SamplingConfig(steps=steps, temperature=temperature)
    check_count("n_cells", n_cells, MOST_CELLS)
    model = load_model(model)
    tokenizer, predict = model.tokenizer, check_names("predict", predict)
    labels_CP = _label_indices(tokenizer.schema, labels, predict, n_cells)
    measured_G = np.ones(len(tokenizer.panel), dtype=bool)
    if like is not None:
        measured_G = tokenizer.panel.match(open_cells(like).var).measured_G
    given_G = _given_bins(model, genes, measured_G)
    if counts and tokenizer.binner.n_bins == 2:
        msg = "This model predicts whether a gene is expressed, not how much, so it has no counts: leave counts out."
        raise DataError(msg)
    facts = {"labels": dict(labels), "genes": dict(genes), "predict": np.array(predict, dtype=str), "seed": seed}
    with written(out, (".h5ad",), like, overwrite=overwrite) as part:
        adata = draw_adata(model, labels_CP, given_G, measured_G, predict=predict, seed=seed, sampling=sampling)
        if like is not None:
            adata = adata[:, measured_G].copy()
        if counts:
            adata.layers["counts"] = as_counts(adata.X, adata.layers["polygene_bins"])
        adata.uns["polygene"] = {"generate": {**made_by(model), **facts, "steps": steps, "temperature": temperature}}
        if part is not None:
            write_held(adata, part)
    return adata


def draw_adata(
    model: PolyGene,
    labels_CP: np.ndarray,
    given_G: np.ndarray,
    measured_G: np.ndarray,
    *,
    predict: Sequence[str] = (),
    seed: int,
    sampling: SamplingConfig,
) -> ad.AnnData:
    """Draw a cell for each row of labels, chunk by chunk."""
    tokenizer, n_cells = model.tokenizer, len(labels_CP)
    parts, drawn_CP = [], []
    with progress(n_cells, done="generated", device=model.network.device) as advance:
        for first in range(0, n_cells, CELLS):
            ids_C = np.arange(first, min(first + CELLS, n_cells))
            part_CP = draw_labels(model, labels_CP[ids_C], predict, measured_G, ids_C, seed, sampling.temperature)
            bins_CG = draw_cells(model, part_CP, given_G, measured_G, ids_C=ids_C, seed=seed, config=sampling)
            cells_N, genes_N = np.nonzero(bins_CG)
            bins_N = bins_CG[cells_N, genes_N]
            # one random number a cell: depth moves all values of a cell together
            random_C1 = uniform(seed, np.full(len(ids_C), VALUES), ids_C, np.arange(1))
            values_N = draw_values(tokenizer.inverse, genes_N, bins_N, random_C1[cells_N, 0])
            parts.append([sparse.csr_matrix((x_N, (cells_N, genes_N)), bins_CG.shape) for x_N in (values_N, bins_N)])
            drawn_CP.append(part_CP)
            advance(len(ids_C))
    x_CG, bins_CG = (sparse.vstack(of_parts, format="csr") for of_parts in zip(*parts, strict=True))
    obs = tokenizer.schema.decode(np.concatenate(drawn_CP))
    obs.index = pd.Index([f"generated-{i}" for i in range(n_cells)])
    obs[GENERATED] = True
    return ad.AnnData(X=x_CG, obs=obs, var=panel_var(tokenizer.panel), layers={"polygene_bins": bins_CG})


def _label_indices(
    schema: PhenotypeSchema, labels: Mapping[str, str], predict: Sequence[str], n_cells: int
) -> np.ndarray:
    """labels_CP int16 of control tokens, -1 where none is given."""
    check_type("labels", labels, Mapping, what="a dict such as {'cell_type': 'B cell'}")
    labels_CP = np.full((n_cells, len(schema.names)), -1, dtype=np.int16)
    check_given(schema, labels)
    for name, label in labels.items():
        labels_CP[:, schema.index(name)] = schema.label_indices(name, label, n_cells)
    for name in predict:
        if name in labels or not schema.labels[schema.index(name)]:
            why = "given and drawn at once" if name in labels else "a phenotype of which the model learned no label"
            msg = f"{name} is {why}; leave it out of `predict`."
            raise PhenotypeError(msg)
    return labels_CP


def _given_bins(model: PolyGene, genes: Mapping[str, int], measured_G: np.ndarray) -> np.ndarray:
    """Bins of the genes that are fixed, int16 (G,); -1 for the others."""
    check_type("genes", genes, Mapping, what="a dict such as {'CD79A': 9}")
    panel, n_bins = model.tokenizer.panel, model.tokenizer.binner.n_bins
    given_G = np.full(len(panel), -1, dtype=np.int16)
    for gene, bin_ in genes.items():
        given_G[g := panel.index(gene)] = bin_
        if not measured_G[g]:
            msg = f"{gene} has a fixed bin, but the cells of `like` do not measure it: leave one of them out."
            raise GeneError(msg)
        if not 0 <= bin_ < n_bins:
            msg = f"{gene}: there is no bin {bin_}; a gene has the bins 0 (not expressed) to {n_bins - 1}."
            raise GeneError(msg)
    return given_G


def as_counts(x_CG: sparse.csr_matrix, bins_CG: sparse.csr_matrix) -> sparse.csr_matrix:
    """Turn log1p counts per 10,000 into whole counts, at least 1 each."""
    counts_CG = sparse.csr_matrix((np.expm1(x_CG.data), x_CG.indices, x_CG.indptr), x_CG.shape)
    for first, last in pairwise(counts_CG.indptr):
        if last > first:
            values_N, bins_N = counts_CG.data[first:last], bins_CG.data[first:last]
            # genes that were counted once share one value, so one bin, the fullest of most cells: it and the bins
            # below stand for one count, and its mean is the unit of the others
            ones = np.bincount(bins_N).argmax()
            unit = values_N[bins_N == ones].mean()
            counts_CG.data[first:last] = np.where(bins_N <= ones, 1, np.maximum(np.rint(values_N / unit), 1))
    return counts_CG
