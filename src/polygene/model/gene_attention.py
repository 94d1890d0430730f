"""Attention between genes, summed over cells. Legend: G panel genes, K keys of a cell, H heads, E width of a head."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from polygene.model.batches import batches, pack_cells
from polygene.model.checkpoint import PolyGene
from polygene.model.eval_mode import predicts
from polygene.model.inference import key_labels, row_of
from polygene.nn.attention import CellOffsets
from polygene.nn.linear import linear
from polygene.vocab.cells import EncodedCells


@predicts
def attention_sums(model: PolyGene, cells: EncodedCells) -> tuple[np.ndarray, np.ndarray]:
    """Sum over cells how much each gene (row) attends to each other (column), and count the cells that express both.

    Attention of a cell is its softmax over all keys, averaged over heads and layers, times the number of keys: 1 is
    what each key would get if all got the same. The last layer does not count, since no prediction reads what it makes
    of a key, unless it is the only one. Float64 (G, G) each.
    """
    network, no_query = model.network, np.zeros(0, dtype=np.int64)
    layers, first_gene = network.bert.layers, network.config.first_gene_slot
    n_genes, one_layer = network.config.n_genes, len(layers) == 1
    sums_GG = np.zeros((n_genes, n_genes))
    seen: list[tuple[Any, Tensor]] = []
    counted = layers if one_layer else layers[:-1]
    hooks = [layer.register_forward_pre_hook(lambda one, inputs: seen.append((one, inputs[0]))) for layer in counted]
    try:
        for rows in batches(cells, first_gene + 1, network):
            part = cells.rows(rows)
            packed, _ = pack_cells(model.tokenizer, part, key_labels(model, part, ()), no_query, no_query)
            row = row_of(packed, network)
            network.encode(**row, before_last=not one_layer, few=False, known=None)
            offsets = CellOffsets(row["n_keys"], row["n_queries"])
            for layer, x_TD in seen:
                _add(sums_GG, layer, x_TD, offsets, part, first_gene)
            seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    expressed = cells.as_csr(np.ones(len(cells.genes_N)), n_genes)
    return sums_GG / len(counted), np.asarray((expressed.T @ expressed).todense())


def _add(
    sums_GG: np.ndarray, layer: Any, x_TD: Tensor, offsets: CellOffsets, cells: EncodedCells, first_gene: int
) -> None:
    """Add what one layer attends to in the cells of a row."""
    own = layer.attention["self"]
    q_HTE, k_HTE = (
        linear(x_TD, own[name]).unflatten(1, (layer.n_heads, -1)).transpose(0, 1) for name in ("query", "key")
    )
    scale = q_HTE.shape[-1] ** -0.5
    for c, (start, n_keys) in enumerate(zip(offsets.starts_C.tolist(), offsets.n_keys_C.tolist(), strict=True)):
        genes = cells.genes_N[cells.offsets_C1[c] : cells.offsets_C1[c + 1]].astype(np.int64)
        at = start + first_gene
        q_HGE, k_HKE = q_HTE[:, at : at + len(genes)], k_HTE[:, start : start + n_keys]
        attended_GK = torch.softmax(scale * q_HGE.float() @ k_HKE.float().transpose(1, 2), dim=-1).mean(0)
        here_GG = attended_GK[:, first_gene : first_gene + len(genes)] * n_keys
        sums_GG[np.ix_(genes, genes)] += here_GG.cpu().numpy()
