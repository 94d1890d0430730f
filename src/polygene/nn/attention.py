"""Attention within the cells of a packed row.

Legend: C cells, T packed tokens, A those of them that attend, K keys, H heads, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class CellOffsets:
    """Where each cell's tokens and keys lie in the row; made once a batch, used by every layer.

    `attending_at_A` are the places in the row, ascending, of the tokens that attend; None means all. `few` says that
    they are so few that keys and values of all tokens are more work than `few_attention`.
    """

    n_keys_C: Tensor
    n_queries_C: Tensor
    attending_at_A: Tensor | None = None
    few: bool = False

    @cached_property
    def ends_C(self) -> Tensor:
        """Place behind each cell's last token."""
        return (self.n_keys_C + self.n_queries_C).cumsum(0)

    @cached_property
    def starts_C(self) -> Tensor:
        """Place of each cell's first token, its [CLS]."""
        return self.ends_C - self.n_keys_C - self.n_queries_C

    @cached_property
    def n_attending_C(self) -> Tensor:
        """How many tokens of each cell attend."""
        if self.attending_at_A is None:
            return self.n_keys_C + self.n_queries_C
        return torch.searchsorted(self.attending_at_A, self.ends_C).diff(prepend=self.ends_C.new_zeros(1))

    @cached_property
    def attending(self) -> list[int]:
        """`n_attending_C` as numbers."""
        return self.n_attending_C.tolist()

    @cached_property
    def keys_then_queries(self) -> list[int]:
        """Number of keys, number of queries, alternating over the cells: 2C numbers."""
        return torch.stack([self.n_keys_C, self.n_queries_C], dim=1).flatten().tolist()

    @cached_property
    def key_at_K(self) -> Tensor:
        """Place of every key in the row."""
        first_key_C = self.n_keys_C.cumsum(0) - self.n_keys_C
        shift_K = (self.starts_C - first_key_C).repeat_interleave(self.n_keys_C)
        return torch.arange(len(shift_K), device=shift_K.device) + shift_K

    def cumulative(self, counts_C: Tensor) -> Tensor:
        """0 and the running sums, int32, as variable-length kernels read them."""
        return nn.functional.pad(counts_C.cumsum(0), (1, 0)).to(torch.int32)


def packed_attention(
    q_1HAE: Tensor,
    k_1HTE: Tensor,
    v_1HTE: Tensor,
    cells: CellOffsets,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attend within each cell: every token, key or query, sees the keys of its own cell and nothing else.

    The loop is exact and simple; the CUDA kernel, which runs in half precision only, is tested against it.
    """
    half = q_1HAE.dtype in (torch.bfloat16, torch.float16)
    if q_1HAE.is_cuda and half and dropout == 0:
        return _kernel(q_1HAE, k_1HTE, v_1HTE, cells, scaling)
    return _loop(q_1HAE, k_1HTE, v_1HTE, cells, scaling, dropout)


def _loop(
    q_1HAE: Tensor, k_1HTE: Tensor, v_1HTE: Tensor, cells: CellOffsets, scaling: float | None, dropout: float
) -> Tensor:
    """Cell by cell, in float32; (1, A, H, E).

    `split` rather than slices: the backward pass of a slice fills a row-long gradient for every cell. Half precision is
    widened, since its backward pass of attention is the slower one on CPUs; autocast would narrow it again.
    """
    dtype = q_1HAE.dtype
    q_1HAE, k_1HTE, v_1HTE = (
        x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in (q_1HAE, k_1HTE, v_1HTE)
    )
    n_tokens = sum(cells.keys_then_queries)
    queries = q_1HAE[:, :, : sum(cells.attending)].split(cells.attending, dim=2)
    keys = k_1HTE[:, :, :n_tokens].split(cells.keys_then_queries, dim=2)[::2]
    values = v_1HTE[:, :, :n_tokens].split(cells.keys_then_queries, dim=2)[::2]
    with torch.autocast(q_1HAE.device.type, enabled=False):
        outputs = [  # the kernel lays them out by tokens, so that only joining them copies
            scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling).transpose(1, 2)
            for q, k, v in zip(queries, keys, values, strict=True)
        ]
    filling = q_1HAE.new_zeros(1, q_1HAE.shape[2] - sum(cells.attending), q_1HAE.shape[1], q_1HAE.shape[3])
    return torch.cat([*outputs, filling], dim=1).to(dtype)


def _kernel(q_1HAE: Tensor, k_1HTE: Tensor, v_1HTE: Tensor, cells: CellOffsets, scaling: float | None) -> Tensor:
    """All cells in one variable-length kernel, with separate offsets for queries and keys; (1, A, H, E)."""
    from torch.nn.attention.varlen import varlen_attn

    o_AHE: Tensor = varlen_attn(  # type: ignore[assignment]
        q_1HAE[0].transpose(0, 1),
        k_1HTE[0].transpose(0, 1)[cells.key_at_K],
        v_1HTE[0].transpose(0, 1)[cells.key_at_K],
        cells.cumulative(cells.n_attending_C),
        cells.cumulative(cells.n_keys_C),
        int(cells.n_attending_C.max()),
        int(cells.n_keys_C.max()),
        scale=scaling,
    )
    return o_AHE[None]


def few_attention(q_RHE: Tensor, x_TD: Tensor, key: nn.Linear, value: nn.Linear, cells: CellOffsets) -> Tensor:
    """Attend to states in place of keys and values, (R, D): the same, rounding apart, for a few tokens of each cell.

    A score is q · (K x + b) = (qK) · x and q · b, which is alike for all keys and so changes no softmax; the weighted
    mean of values is the value of the weighted mean of states.
    """
    n_heads, scale = q_RHE.shape[1], q_RHE.shape[2] ** -0.5
    keys_HED, values_HED = (layer.weight.unflatten(0, (n_heads, -1)) for layer in (key, value))
    asked_RHD = torch.bmm(q_RHE.transpose(0, 1) * scale, keys_HED).transpose(0, 1)
    asked = asked_RHD[: sum(cells.attending)].split(cells.attending)
    states = x_TD[: sum(cells.keys_then_queries)].split(cells.keys_then_queries)[::2]
    means = [(a_QHD.flatten(0, 1) @ x_KD.T).softmax(1) @ x_KD for a_QHD, x_KD in zip(asked, states, strict=True)]
    filling = x_TD.new_zeros(q_RHE.shape[0] * n_heads - sum(map(len, means)), x_TD.shape[1])
    means_RHD = torch.cat([*means, filling]).unflatten(0, (-1, n_heads))
    o_HRE = torch.bmm(means_RHD.transpose(0, 1), values_HED.transpose(1, 2))
    return o_HRE.transpose(0, 1).flatten(1) + value.bias
