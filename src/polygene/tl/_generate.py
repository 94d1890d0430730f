"""Generate: cells to order, from control tokens.

Legend: C cells, G panel genes, N expressed entries, P phenotypes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from polygene.errors import DataError, GeneError, PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.model.sampling import VALUES, SamplingConfig, draw_cells, draw_labels, draw_values
from polygene.runtime.hashing import uniform
from polygene.runtime.progress import progress
from polygene.tl._reader import check_model, made_by, panel_var
from polygene.vocab.phenotypes import PhenotypeSchema

GENERATED = "polygene_generated"
CELLS = 1_000
"""Cells that are drawn at a time."""


def generate(
    model: PolyGene,
    labels: Mapping[str, str],
    *,
    n_cells: int = 100,
    predict: str | Sequence[str] = (),
    genes: Mapping[str, int] | None = None,
    counts: bool = False,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
) -> ad.AnnData:
    """Draw cells that have these labels, as the model believes such cells to be.

    They are drawn from what the training cells had in common and are no measurement: use them to look at what the model
    learned, or to train on, never as evidence. How close they come to real ones: docs/control.md.

    Parameters
    ----------
    model
        What draws them.
    labels
        Control tokens: phenotype to label, such as ``{"tissue": "blood", "cell_type": "memory B cell"}``. A phenotype
        that is left out stays "not given", and the cells are like those of all its labels together.
    n_cells
        How many.
    predict
        Phenotypes whose labels are drawn first, from the labels that are given, and then stand as control tokens too.
    genes
        Genes whose bin is fixed: symbol or Ensembl id to bin, 0 for "not expressed".
    counts
        Whether to add whole counts; most genes of a cell are supposed to be counted once, as in shallow sequencing.
    seed
        Decides everything that is drawn; the first cells are the same whatever `n_cells`.
    sampling
        Steps and temperature.

    Returns
    -------
    AnnData over the panel: `X` float32 csr, log1p counts per 10,000, drawn inside the bin from the distribution of the
    gene's bin in training; `layers["polygene_bins"]`; `layers["counts"]` if asked for; in `obs` the labels,
    in the columns of the model's schema, and `polygene_generated`, True; in `uns["polygene"]["generate"]` what was
    ordered of which model.

    Raises
    ------
    PhenotypeError
        The model does not know a phenotype or a label (the nearest are named), or one is ordered and drawn at once.
    GeneError
        A gene is not in the panel, or its bin does not exist.
    DataError
        No cell is ordered, or a model of binary expression is asked for values.
    """
    check_model(model)
    tokenizer, sampling = model.tokenizer, sampling or SamplingConfig()
    label_P = control_labels(tokenizer.schema, labels)
    predict = [predict] if isinstance(predict, str) else list(predict)
    for name in predict:
        if label_P[tokenizer.schema.index(name)] >= 0 or not tokenizer.schema.labels[tokenizer.schema.index(name)]:
            why = "given and drawn at once" if name in labels else "a phenotype of which the model learned no label"
            msg = f"{name} is {why}; leave it out of `predict`."
            raise PhenotypeError(msg)
    if n_cells < 1:
        msg = f"n_cells = {n_cells:,}: ask for one cell or more."
        raise DataError(msg)
    if counts and tokenizer.binner.is_binary:
        msg = "This model tells only whether a gene is expressed, so it has no counts: leave counts (--counts) out."
        raise DataError(msg)
    given_G = _given_genes(model, genes or {})
    adata = drawn(model, np.tile(label_P, (n_cells, 1)), given_G, predict=predict, seed=seed, sampling=sampling)
    if counts:
        adata.layers["counts"] = as_counts(adata.X, adata.layers["polygene_bins"])
    adata.uns["polygene"] = {
        "generate": {
            **made_by(model),
            "labels": dict(labels),
            "genes": dict(genes or {}),
            "predict": np.array(predict, dtype=str),
            "seed": seed,
            **asdict(sampling),
        }
    }
    return adata


def drawn(
    model: PolyGene,
    labels_CP: np.ndarray,
    given_G: np.ndarray,
    *,
    predict: Sequence[str] = (),
    seed: int,
    sampling: SamplingConfig,
) -> ad.AnnData:
    """Draw a cell for each row of labels, chunk by chunk."""
    tokenizer, n_cells = model.tokenizer, len(labels_CP)
    parts, found_CP = [], []
    with progress(n_cells, done="generated", device=model.network.device) as advance:
        for first in range(0, n_cells, CELLS):
            ids_C = np.arange(first, min(first + CELLS, n_cells))
            part_CP = draw_labels(model, labels_CP[ids_C], predict, ids_C, seed, sampling.temperature)
            bins_CG = draw_cells(model, part_CP, given_G, ids_C=ids_C, seed=seed, config=sampling)
            cells_N, genes_N = np.nonzero(bins_CG)
            bins_N = bins_CG[cells_N, genes_N]
            random_C1 = uniform(seed, np.full(len(ids_C), VALUES), ids_C, np.arange(1))
            values_N = draw_values(tokenizer.inverse, genes_N, bins_N, random_C1[cells_N, 0])
            parts.append([sparse.csr_matrix((x_N, (cells_N, genes_N)), bins_CG.shape) for x_N in (values_N, bins_N)])
            found_CP.append(part_CP)
            advance(len(ids_C))
    x_CG, bins_CG = (sparse.vstack(of_parts, format="csr") for of_parts in zip(*parts, strict=True))
    obs = tokenizer.schema.decode(np.concatenate(found_CP))
    obs.index = pd.Index([f"generated-{i}" for i in range(n_cells)])
    obs[GENERATED] = True
    return ad.AnnData(X=x_CG, obs=obs, var=panel_var(tokenizer.panel), layers={"polygene_bins": bins_CG})


def control_labels(schema: PhenotypeSchema, labels: Mapping[str, str]) -> np.ndarray:
    """Give label_P int16 of control tokens, -1 where none is ordered.

    Raises
    ------
    PhenotypeError
        Names what is unknown, and the nearest that is known.
    """
    label_P = np.full(len(schema.names), -1, dtype=np.int16)
    for name, label in labels.items():
        label_P[schema.index(name)] = schema.label_index(name, label)
    return label_P


def _given_genes(model: PolyGene, genes: Mapping[str, int]) -> np.ndarray:
    """Bins of the genes that are fixed, int16 (G,); -1 for the others."""
    panel, n_bins = model.tokenizer.panel, model.tokenizer.binner.n_bins
    given_G = np.full(len(panel), -1, dtype=np.int16)
    for gene, bin_ in genes.items():
        given_G[panel.index(gene)] = bin_
        if not 0 <= bin_ < n_bins:
            msg = f"{gene}: there is no bin {bin_}; a gene has the bins 0 (not expressed) to {n_bins - 1}."
            raise GeneError(msg)
    return given_G


def as_counts(x_CG: sparse.csr_matrix, bins_CG: sparse.csr_matrix) -> sparse.csr_matrix:
    """Turn log1p counts per 10,000 into whole counts, at least 1 each.

    The genes that were counted once have one value, so they share a bin, the fullest one of most cells: it and the bins
    below stand for one count, its mean value for the unit of the others.
    """
    counts_CG = sparse.csr_matrix((np.expm1(x_CG.data), x_CG.indices, x_CG.indptr), x_CG.shape)
    for first, last in pairwise(counts_CG.indptr):
        if last > first:
            values_N, bins_N = counts_CG.data[first:last], bins_CG.data[first:last]
            ones = np.bincount(bins_N).argmax()
            unit = values_N[bins_N == ones].mean()
            counts_CG.data[first:last] = np.where(bins_N <= ones, 1, np.maximum(np.rint(values_N / unit), 1))
    return counts_CG
