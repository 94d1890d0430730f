"""Encoded cells as packed rows of keys and queries, batch by batch.

Legend: C cells, G panel genes, N expressed entries (cell, gene), P phenotypes, Q queries, S leading slots.

Cells of a batch do not see each other, so batches are cut where the row is full: at a number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from polygene.nn.network import PolyGeneModel
from polygene.nn.packing import VISIBLE_LEVELS, PackedCells, pack
from polygene.vocab.cells import EncodedCells
from polygene.vocab.tokenizer import CellTokenizer

TOKENS_PER_ROW, LEAST_TOKENS, NUMBERS_PER_ROW = 8_192, 2_048, 2**22
"""Tokens of a row on a CPU, so that its widest layer has 16 MB (docs/decisions.md); elsewhere 16,384, not measured."""


def batches(cells: EncodedCells, extra_tokens: int, network: PolyGeneModel) -> Iterator[slice]:
    """Cut cells into runs of as many tokens as a row holds on the network's device (and at least one cell)."""
    on_cpu = min(TOKENS_PER_ROW, max(LEAST_TOKENS, NUMBERS_PER_ROW // network.config.intermediate_size))
    longest = on_cpu if network.device.type == "cpu" else 2 * TOKENS_PER_ROW
    tokens_C = np.diff(cells.offsets_C1) + extra_tokens
    ends_C = np.cumsum(tokens_C)
    first = 0
    while first < len(cells):
        before = ends_C[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends_C, before + longest, side="right")))
        yield slice(first, last)
        first = last


def by_rows(
    compute: Callable[[slice], Any], cells: EncodedCells, extra_tokens: int, network: PolyGeneModel
) -> list[Any]:
    """Compute something of each batch, without gradients; on a CPU each thread takes batches of its own.

    Threads that share a product wait for each other at each of them, on a busy computer most of the time.
    """
    rows, threads = list(batches(cells, extra_tokens, network)), torch.get_num_threads()
    workers, compute = min(threads, len(rows)) if network.device.type == "cpu" else 1, torch.inference_mode()(compute)
    if workers < 2:
        return list(map(compute, rows))
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            return list(pool.map(compute, rows))
    finally:
        torch.set_num_threads(threads)  # with so many start the threads to come, too


def visible_level(visible_share: np.ndarray | float) -> np.ndarray:
    """Give the token type of [START] by the share of a cell's measured genes, zeros included, that is not masked.

    Tenths, but from 80 % on all alike: a cell in training, 15 % of whose genes are masked, stands for a whole one.
    """
    return np.minimum(np.asarray(visible_share) * 10 + 1e-6, VISIBLE_LEVELS - 1).astype(np.int64)


def pack_cells(
    tokenizer: CellTokenizer,
    cells: EncodedCells,
    key_labels_CP: np.ndarray,
    query_cells_Q: np.ndarray,
    query_slots_Q: np.ndarray,
    visible_N: np.ndarray | None = None,
    visible_share: np.ndarray | float = 1.0,
    unmeasured_CG: np.ndarray | None = None,
) -> tuple[PackedCells, np.ndarray]:
    """Lay out cells with these labels and visible genes as keys, and these queries.

    Parameters
    ----------
    visible_N
        Which expressed entries are keys; all if None.
    visible_share
        Share of each cell's measured genes, zeros included, that is not masked (one number, or one for each cell). It
        is given and not counted, since how many of the masked genes are expressed must not be visible.
    unmeasured_CG
        Genes that count as unmeasured, and are not visible; those that the cells' files did not measure if None.

    Returns
    -------
    The packed cells, and where in the row each query stands.
    """
    n_cells, n_leading = len(key_labels_CP), tokenizer.schema.n_leading
    cells_N, slots_N = cells.cells_N, cells.genes_N.astype(np.int64) + n_leading + 2
    ids_N: np.ndarray = cells.bins_N
    if visible_N is not None:
        cells_N, slots_N, ids_N = cells_N[visible_N], slots_N[visible_N], ids_N[visible_N]
    phenotype_ids_CP = tokenizer.phenotype_token_ids(key_labels_CP)
    if (key_labels_CP[:, n_leading:] >= 0).any():  # labels of added phenotypes follow the genes of their cell
        given_A, added_A = np.nonzero(key_labels_CP[:, n_leading:] >= 0)
        cells_N = np.concatenate([cells_N, given_A])
        slots_N = np.concatenate([slots_N, tokenizer.phenotype_slots[n_leading + added_A]])
        ids_N = np.concatenate([ids_N, phenotype_ids_CP[given_A, n_leading + added_A]])
        order_N = np.argsort(cells_N, kind="stable")
        cells_N, slots_N, ids_N = cells_N[order_N], slots_N[order_N], ids_N[order_N]
    unmeasured_CG = cells.unmeasured_CG if unmeasured_CG is None else unmeasured_CG
    leading_ids_CS = np.empty((n_cells, n_leading + 2), dtype=np.int64)
    leading_ids_CS[:, 0] = tokenizer.cls_id
    leading_ids_CS[:, 1:-1] = phenotype_ids_CP[:, :n_leading]
    leading_ids_CS[:, -1] = tokenizer.start_id
    return pack(
        leading_ids_CS=leading_ids_CS,
        start_types_C=np.broadcast_to(visible_level(visible_share), n_cells),
        gene_cells_N=cells_N,
        gene_slots_N=slots_N,
        gene_ids_N=ids_N,
        query_cells_Q=query_cells_Q,
        query_slots_Q=query_slots_Q,
        end_id=tokenizer.end_id,
        end_slot=tokenizer.end_slot,
        mask_id=tokenizer.mask_id,
        unmeasured_CG=unmeasured_CG,
    )
