"""Tokens that many cells share, embedded and projected once for the first layer.

What a token is before the first layer attends depends on its id, slot and type alone, and a gene has few bins.

Legend: N known tokens, T packed tokens, A those of them that are not known, D width.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from polygene.nn.encoder import Encoder, First, filled
from polygene.nn.packing import PackedCells


class KnownTokens(NamedTuple):
    """Tokens of type 0, ascending by slot and id. Not [START], to which is added what a file did not measure."""

    keys_N: Tensor
    first: First

    @classmethod
    def of(cls, bert: Encoder, packed: PackedCells) -> KnownTokens:
        """Embed and project the tokens of these cells, each once."""
        shared_T = packed.token_type_ids[0] == 0
        ids_N, slots_N = packed.input_ids[0, shared_T], packed.position_ids[0, shared_T]
        keys_N, order_N = _keys(bert, ids_N, slots_N).sort()
        once_N = keys_N.diff(prepend=keys_N.new_full((1,), -1)) > 0
        ids_N, slots_N = ids_N[order_N[once_N]], slots_N[order_N[once_N]]
        x_ND = bert.embed(_words(bert)(ids_N), slots_N, torch.zeros_like(ids_N))
        return cls(keys_N[once_N], bert.layers[0].projected(x_ND, x_ND))

    def look_up(self, bert: Encoder, ids_T: Tensor, words_TD: Tensor, slots_T: Tensor, types_T: Tensor) -> First:
        """Take known tokens of a row from the table and compute the others, (T, D) each and what fills up the row."""
        keys_T = _keys(bert, ids_T, slots_T)
        row_T = torch.searchsorted(self.keys_N, keys_T).clamp_(max=len(self.keys_N) - 1)
        other_A = (self.keys_N[row_T] != keys_T).nonzero()[:, 0]
        x_AD = filled(bert.embed(words_TD[other_A], slots_T[other_A], types_T[other_A]), bert.FULL)
        row_T = pad(row_T, (0, -len(row_T) % bert.FULL))
        return First._make(
            known_ND.index_select(0, row_T).index_copy_(0, other_A, other_AD[: len(other_A)])
            for known_ND, other_AD in zip(self.first, bert.layers[0].projected(x_AD, x_AD), strict=True)
        )


def _keys(bert: Encoder, ids: Tensor, slots: Tensor) -> Tensor:
    """Give slot and id of tokens as one number."""
    return slots * _words(bert).num_embeddings + ids


def _words(bert: Encoder) -> nn.Embedding:
    return cast("nn.Embedding", bert.embeddings["word_embeddings"])
