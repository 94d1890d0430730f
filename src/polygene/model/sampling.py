"""Draw cells from control tokens: labels first, then expression, gene by gene in random order.

Legend: C cells, G panel genes, N expressed entries, P phenotypes, B bins, Q queries, V classes of one query, R quantile
levels.

A cell starts with its labels and no visible gene. In every step a random share of its genes is predicted, their bins
are drawn from the predictions, and the drawn genes are visible from then on (any-order autoregression: Uria, Murray &
Larochelle 2014; Chang et al. 2022 draw images so). Genes of one step are drawn independently given all earlier ones, so
more steps keep more of the correlation.

All randomness of a cell comes from (seed, number of the cell): the batch it is made in changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from sys import float_info

import numpy as np

from polygene.errors import check_number
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import bin_probabilities, label_probabilities
from polygene.runtime.hashing import uniform
from polygene.runtime.seeds import check_count
from polygene.vocab.binning import LEVELS, BinInverse

ORDER, BINS, LABELS, VALUES = range(4)
"""What a random number decides: each has its own stream."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How cells are drawn.

    Parameters
    ----------
    steps
        In how many steps the genes of a cell are drawn, about equally many in each.
    temperature
        1 draws from the model's probabilities; below 1 probable bins and labels become more probable.
    """

    steps: int = 32
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 65_535)
        check_number("temperature", self.temperature, 1e-3, float_info.max, what="a number of at least 0.001")


def draw(probabilities_QV: np.ndarray, random_Q: np.ndarray, temperature: float) -> np.ndarray:
    """Draw one class for each row of probabilities by its random number, int64 (Q,)."""
    # relative to the most probable class: near temperature 0 the powers of plain probabilities all become 0
    relative_QV = probabilities_QV.astype(np.float64) / probabilities_QV.max(axis=1, keepdims=True)
    weights_QV = relative_QV ** (1 / temperature)
    cumulative_QV = np.cumsum(weights_QV, axis=1)
    return (cumulative_QV <= (random_Q * cumulative_QV[:, -1])[:, None]).sum(axis=1)


def draw_labels(
    model: PolyGene,
    labels_CP: np.ndarray,
    predict: Sequence[str],
    measured_G: np.ndarray,
    ids_C: np.ndarray,
    seed: int,
    temperature: float,
) -> np.ndarray:
    """Draw the labels of some phenotypes, each given the labels before it; (C, P)."""
    schema, labels_CP = model.tokenizer.schema, labels_CP.copy()
    nothing_CG = np.zeros((len(labels_CP), len(measured_G)), dtype=np.uint8)
    random_CP = uniform(seed, np.full(len(ids_C), LABELS), ids_C, np.arange(len(schema.names)))
    for p in map(schema.index, predict):
        cells = model.tokenizer.from_bins(nothing_CG, labels_CP, measured_G)
        others = [*schema.names[:p], *schema.names[p + 1 :]]
        (p_CV,) = label_probabilities(model, cells, predict=[schema.names[p]], given=others, visible_share=0.0)
        labels_CP[:, p] = draw(p_CV, random_CP[:, p], temperature)
    return labels_CP


def draw_cells(
    model: PolyGene,
    labels_CP: np.ndarray,
    given_G: np.ndarray,
    measured_G: np.ndarray,
    *,
    ids_C: np.ndarray,
    seed: int,
    config: SamplingConfig,
) -> np.ndarray:
    """Draw the bins of all measured genes that are not given.

    Parameters
    ----------
    labels_CP
        Control tokens of each cell; -1 is not given.
    given_G
        Bins of the genes that are given, in all cells alike; -1 elsewhere.
    measured_G
        The genes that the cells' file shall have measured, the given ones among them; the others stay 0.
    ids_C
        Numbers of the cells, which decide their randomness with the seed.

    Returns
    -------
    uint8 (C, G).
    """
    ids_G, schema = np.arange(len(given_G)), model.tokenizer.schema
    order_CG, random_CG = (uniform(seed, np.full(len(ids_C), what), ids_C, ids_G) for what in (ORDER, BINS))
    order_CG[:, (given_G >= 0) | ~measured_G] = -1  # given genes come first, unmeasured ones never
    bins_CG = np.tile(np.maximum(given_G, 0).astype(np.uint8), (len(ids_C), 1))
    given = float((given_G[measured_G] >= 0).mean())
    for step in range(config.steps):
        first, last = step / config.steps, (step + 1) / config.steps
        cells_Q, genes_Q = np.nonzero((order_CG >= first) & (order_CG < last))
        cells = model.tokenizer.from_bins(bins_CG, labels_CP, measured_G)
        all_N, visible_share = np.ones(len(cells.genes_N), dtype=bool), given + (1 - given) * first
        p_QB = bin_probabilities(model, cells, cells_Q, genes_Q, all_N, given=schema.names, visible_share=visible_share)
        bins_CG[cells_Q, genes_Q] = draw(p_QB, random_CG[cells_Q, genes_Q], config.temperature)
    return bins_CG


def draw_values(inverse: BinInverse, genes_N: np.ndarray, bins_N: np.ndarray, random_N: np.ndarray) -> np.ndarray:
    """Draw values inside bins from the training distribution of each gene's bin, float32 log1p counts per 10,000.

    The kept quantiles are joined by lines; beyond the outermost ones the values stay at these.
    """
    quantiles_NR = inverse.quantiles_GBR[genes_N, bins_N]
    at_N = np.interp(random_N, LEVELS, np.arange(len(LEVELS)))
    low_N = np.minimum(at_N.astype(np.int64), len(LEVELS) - 2)
    rows_N = np.arange(len(genes_N))
    low, high = quantiles_NR[rows_N, low_N], quantiles_NR[rows_N, low_N + 1]
    return (low + (at_N - low_N) * (high - low)).astype(np.float32)
