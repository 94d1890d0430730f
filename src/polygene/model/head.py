"""A head: what fine-tuning fits for the labels of a user, beside a network that stays as it was.

It reads what the network makes of a cell, and the cell's own genes, also those outside the panel.

Legend: C cells, D width of the network, N labels that the network knows, H genes of the head, V labels of the head,
F = D + N + H features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from polygene.errors import CheckpointError
from polygene.vocab.cells import EncodedCells
from polygene.vocab.panel import GenePanel

NEVER = -100.0
"""Logit of a label that no cell had."""
LEAST = 1e-4
"""A label that is less probable counts as this probable: what the network rules out carries no more than that."""


PARTS = ("places_V", "mean_H", "weights_FV", "bias_V")


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A linear classifier of some labels; their logits are `features_CF @ weights_FV + bias_V`.

    Attributes
    ----------
    query
        The phenotype whose states and probabilities it reads.
    genes
        Its own genes, whose values it reads.
    places_V
        Which of the phenotype's labels they are.
    mean_H
        What a gene counts as where a file does not measure it, the mean of the cells that it was fitted on: then the
        gene contributes nothing.
    """

    query: str
    genes: GenePanel
    places_V: np.ndarray
    mean_H: np.ndarray
    weights_FV: np.ndarray
    bias_V: np.ndarray

    def n_known(self, width: int) -> int:
        """How many labels of the network it reads."""
        return len(self.weights_FV) - width - len(self.genes)

    def logits(self, states_CD: np.ndarray, p_CN: np.ndarray, values_CH: np.ndarray, n_labels: int) -> np.ndarray:
        """Give the logits of all labels of the phenotype; genes that were not measured are NaN."""
        n_known = self.n_known(states_CD.shape[1])
        filled_CH = np.where(np.isnan(values_CH), self.mean_H, values_CH)
        features_CF = np.concatenate([states_CD, log_probabilities(p_CN[:, :n_known]), filled_CH], axis=1)
        logits_CV = np.full((len(features_CF), n_labels), NEVER)
        logits_CV[:, self.places_V] = features_CF @ self.weights_FV + self.bias_V
        return logits_CV

    def values(self, cells: EncodedCells, panel: GenePanel) -> np.ndarray:
        """Give the values of its genes as far as the tokens have them: for cells of which no more was read."""
        place = {pair: g for g, pair in enumerate(zip(panel.symbols, panel.ensembl_ids, strict=True))}
        genes_H = [place.get(pair, -1) for pair in zip(self.genes.symbols, self.genes.ensembl_ids, strict=True)]
        values_CG = cells.as_csr(cells.values_N, len(panel)).toarray()
        values_CG[np.broadcast_to(cells.unmeasured_CG, values_CG.shape)] = np.nan
        return np.pad(values_CG, ((0, 0), (0, 1)), constant_values=np.nan)[:, genes_H]


def log_probabilities(p_CN: np.ndarray) -> np.ndarray:
    """Give the logarithms of what the network thinks of the labels it knows, none below `LEAST`."""
    shares_CN = p_CN / np.maximum(p_CN.sum(axis=1, keepdims=True), LEAST)
    logs_CN: np.ndarray = np.log(np.maximum(shares_CN, LEAST))
    return logs_CN


def save_heads(heads: Mapping[str, Head], file: Path) -> None:
    """Write the heads of a checkpoint, by phenotype."""
    tensors: dict[str, np.ndarray] = {}
    names = {}
    for name, head in heads.items():
        names[name] = json.dumps([head.query, head.genes.symbols, head.genes.ensembl_ids])
        tensors |= {f"{name}.{part}": getattr(head, part) for part in PARTS}
    save_file(tensors, file, metadata=names)


def load_heads(file: Path, sizes: Mapping[str, int], width: int) -> dict[str, Head]:
    """Read what `save_heads` wrote, for phenotypes of these sizes and a network of this width.

    Raises
    ------
    CheckpointError
        The file is broken, or of another model.
    """
    heads = {}
    try:
        with safe_open(file, framework="numpy") as stored:
            for name, text in (stored.metadata() or {}).items():
                query, symbols, ids = json.loads(text)
                genes = GenePanel(symbols=tuple(symbols), ensembl_ids=tuple(ids))
                parts = {part: stored.get_tensor(f"{name}.{part}") for part in PARTS}
                heads[name] = head = Head(query=query, genes=genes, **parts)
                n_labels, shape = len(head.places_V), head.weights_FV.shape
                fits = head.mean_H.shape == (len(genes),) and head.bias_V.shape == (n_labels,) == shape[1:]
                fits = (
                    fits and 0 < head.n_known(width) <= sizes[query] and set(head.places_V) <= set(range(sizes[name]))
                )
                if not fits or not all(np.isfinite(x).all() for x in parts.values()):
                    msg = f"the head for {name} is of another model, or its numbers are none"
                    raise ValueError(msg)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        msg = f"{file} is broken ({type(error).__name__}: {error}): copy it again from where it was made."
        raise CheckpointError(msg) from error
    return heads
