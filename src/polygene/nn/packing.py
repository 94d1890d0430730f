"""The tokens of many cells in one row, without padding.

Legend: C cells, T packed tokens, S leading slots ([CLS], phenotypes, [START]), N visible expressed genes, Q queries,
G panel genes.

One cell stands in the row as its keys, then its queries::

    [CLS] [SEX] … [START] gene gene … [END] | [MASK] [MASK] …
    <------------- n_keys ----------------> | <- n_queries ->

A key is seen by every token of its own cell. A query sees the keys and is seen by nothing, so one more query changes no
other prediction, and what is not in the row (unexpressed, unmeasured, masked) takes no time. Unexpressed and unmeasured
genes are both not in the row: `unmeasured` says which ones the file did not measure.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

VISIBLE_LEVELS = 9
"""In how many levels the network is given how much of a cell is visible: the token types of [START]."""


@dataclass(frozen=True, kw_only=True)
class PackedCells:
    """Tokens of C cells in one row of length T; the names of the fields are arguments of `PolyGeneModel.forward`.

    Token, slot and type of every packed token are int64 (1, T); the type is 0 but at [START], where it says how much of
    the cell is visible (`batches.visible_level`). How many tokens are keys and queries: int64 (C,). Panel genes that
    a cell's file did not measure: bool (C, G), or (1, G) for all cells; None: none.
    """

    input_ids: Tensor
    position_ids: Tensor
    token_type_ids: Tensor
    n_keys: Tensor
    n_queries: Tensor
    unmeasured: Tensor | None = None

    def __len__(self) -> int:
        return len(self.n_keys)

    @property
    def cls_at(self) -> Tensor:
        """Place of each cell's [CLS] in the row, (C,)."""
        lengths_C = self.n_keys + self.n_queries
        return lengths_C.cumsum(0) - lengths_C

    def as_dict(self) -> dict[str, Tensor]:
        """Return the tensors by name, without copying them; `unmeasured` only where it is known."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def rank_within(cells_N: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the entries of each cell and number them from 0 within their cell; `cells_N` is sorted."""
    counts_C = np.bincount(cells_N, minlength=n_cells)
    starts_C = np.cumsum(counts_C) - counts_C
    return counts_C, np.arange(len(cells_N)) - starts_C[cells_N]


def pack(
    *,
    leading_ids_CS: np.ndarray,
    start_types_C: np.ndarray,
    gene_cells_N: np.ndarray,
    gene_slots_N: np.ndarray,
    gene_ids_N: np.ndarray,
    query_cells_Q: np.ndarray,
    query_slots_Q: np.ndarray,
    end_id: int,
    end_slot: int,
    mask_id: int,
    unmeasured_CG: np.ndarray | None = None,
) -> tuple[PackedCells, np.ndarray]:
    """Lay cells out in one row.

    Parameters
    ----------
    leading_ids_CS, start_types_C
        Token ids of [CLS], the phenotype slots and [START], whose slots are 0 … S-1; token type of each [START].
    gene_cells_N, gene_slots_N, gene_ids_N
        Cell (sorted), slot and token id of every gene that is a key (or other key that only some cells have).
    query_cells_Q, query_slots_Q
        Cell and slot of every query, in any order.

    Returns
    -------
    The packed cells, and `query_at_Q`: where in the row each query stands.
    """
    n_cells, n_leading = leading_ids_CS.shape
    genes_C, gene_rank_N = rank_within(gene_cells_N, n_cells)
    order_Q = np.argsort(query_cells_Q, kind="stable")
    queries_C, rank_of_sorted_Q = rank_within(query_cells_Q[order_Q], n_cells)
    query_rank_Q = np.empty(len(order_Q), dtype=np.int64)
    query_rank_Q[order_Q] = rank_of_sorted_Q

    n_keys_C = n_leading + genes_C + 1
    lengths_C = n_keys_C + queries_C
    starts_C = np.cumsum(lengths_C) - lengths_C
    leading_at_CS = starts_C[:, None] + np.arange(n_leading)
    gene_at_N = starts_C[gene_cells_N] + n_leading + gene_rank_N
    query_at_Q = (starts_C + n_keys_C)[query_cells_Q] + query_rank_Q

    token_ids_T = np.full(int(lengths_C.sum()), mask_id, dtype=np.int64)
    slots_T = np.full_like(token_ids_T, end_slot)
    token_ids_T[leading_at_CS] = leading_ids_CS
    slots_T[leading_at_CS] = np.arange(n_leading)
    token_ids_T[gene_at_N] = gene_ids_N
    slots_T[gene_at_N] = gene_slots_N
    token_ids_T[starts_C + n_keys_C - 1] = end_id
    slots_T[query_at_Q] = query_slots_Q
    types_T = np.zeros_like(token_ids_T)
    types_T[leading_at_CS[:, -1]] = start_types_C
    packed = PackedCells(
        input_ids=torch.from_numpy(token_ids_T)[None],
        position_ids=torch.from_numpy(slots_T)[None],
        token_type_ids=torch.from_numpy(types_T)[None],
        n_keys=torch.from_numpy(n_keys_C.astype(np.int64)),
        n_queries=torch.from_numpy(queries_C.astype(np.int64)),
        unmeasured=None if unmeasured_CG is None else torch.from_numpy(unmeasured_CG),
    )
    return packed, query_at_Q
