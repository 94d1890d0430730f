"""Tokens that many cells share, embedded and projected once for the first layer.

What a token is before the first layer attends depends on its id, slot and type alone, and a gene has few bins.

Legend: N known tokens, T packed tokens, A those of them that are not known, P phenotypes, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from polygene.nn.config import PolyGeneConfig
from polygene.nn.encoder import Encoder, First, filled


class KnownTokens(NamedTuple):
    """Genes in their bins, [CLS], [END], and phenotypes that are not given or asked for, ascending by slot and id.

    Not [START], to which is added what a file did not measure, and no given label.
    """

    keys_N: Tensor
    first: First

    @classmethod
    def of(cls, bert: Encoder, config: PolyGeneConfig) -> KnownTokens:
        """Compute them all, (N, D) each."""
        n_genes, n_bins, first_slot = config.n_genes, config.n_bins, config.first_gene_slot
        slots_P = torch.arange(1, first_slot - 1)
        sizes_P = torch.tensor([0, *config.phenotype_sizes])[: len(slots_P)]
        absent_P = n_bins + 4 + sizes_P.cumsum(0) + torch.arange(len(slots_P))  # behind bins and special tokens
        ends, ids_of_ends = torch.tensor([0, first_slot + n_genes]), torch.tensor([n_bins, n_bins + 2])
        of_genes = torch.arange(first_slot, first_slot + n_genes).repeat_interleave(n_bins)
        slots_N = torch.cat([of_genes, ends, slots_P, slots_P])
        ids_N = torch.cat([torch.arange(n_bins).repeat(n_genes), ids_of_ends, absent_P, n_bins + 3 + 0 * slots_P])
        keys_N, order_N = (slots_N * config.vocab_size + ids_N).sort()
        words: torch.nn.Embedding = bert.embeddings["word_embeddings"]  # type: ignore[assignment]
        ids_N, slots_N = (x_N[order_N].to(words.weight.device) for x_N in (ids_N, slots_N))
        x_ND = bert.embed(words(ids_N), slots_N, torch.zeros_like(ids_N))
        return cls(keys_N.to(words.weight.device), bert.layers[0].projected(x_ND))

    def look_up(self, bert: Encoder, keys_T: Tensor, words_TD: Tensor, slots_T: Tensor, types_T: Tensor) -> First:
        """Take known tokens of a row from the table and compute the others, (T, D) each and what fills up the row."""
        row_T = torch.searchsorted(self.keys_N, keys_T).clamp_(max=len(self.keys_N) - 1)
        other_A = (self.keys_N[row_T] != keys_T).nonzero()[:, 0]
        x_AD = bert.embed(words_TD[other_A], slots_T[other_A], types_T[other_A])
        others = bert.layers[0].projected(filled(x_AD, bert.FULL))
        row_T = pad(row_T, (0, -len(row_T) % bert.FULL))
        return First(
            *(
                known_ND.index_select(0, row_T).index_copy_(0, other_A, other_AD[: len(other_A)])
                for known_ND, other_AD in zip(self.first, others, strict=True)
            )
        )
