"""Sums over the genes of a cell: of those that were not measured, and of those that are visible.

Legend: C cells (or 1 for all cells alike), T packed tokens, N visible genes, Q queries, D width, G genes, V labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polygene.nn.attention import CellOffsets
from polygene.nn.config import PolyGeneConfig


class UnmeasuredGenes(nn.Module):
    """A vector for each gene, zero at the start, summed over the unmeasured genes of a cell.

    Unexpressed genes are not in the row: without it a gene that the file lacks and one that is zero are the same input.
    """

    def __init__(self, config: PolyGeneConfig) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(config.n_genes, config.hidden_size))
        self.scale = config.n_genes**-0.5  # a file may lack most genes, whose vectors all move with every step

    def forward(self, unmeasured_CG: Tensor) -> Tensor:
        """Sum over the unmeasured genes, (C, D)."""
        return self.scale * (unmeasured_CG.to(self.vectors.dtype) @ self.vectors).float()


class LinearBranch(nn.Module):
    """A linear branch from visible genes to phenotype queries.

    Each visible gene's vector, scaled by the value of its bin, is summed over the cell and added to the states of the
    cell's phenotype queries, beside the encoder (wide and deep, Cheng et al. 2016). In training half of the cells do
    without it, so that the encoder learns to predict alone and its states separate cells (docs/decisions.md).

    With `label_regression` a gene's vector is longer: what follows the state are its weights for every label, of a
    logistic regression that is fitted when training ends, and `bias` is that of the labels.
    """

    def __init__(self, config: PolyGeneConfig) -> None:
        super().__init__()
        n_labels = sum(config.phenotype_sizes) if config.label_regression else 0
        self.width = config.hidden_size
        self.genes = nn.Embedding(config.n_genes, self.width + n_labels)
        self.bias = nn.Parameter(torch.zeros(n_labels)) if n_labels else None
        # not by torch.linspace, which imports sympy where tensors have no memory: 0.4 s of a command's start
        self.bins = nn.Parameter(torch.tensor([0.5 + b / max(config.n_bins - 1, 1) for b in range(config.n_bins)]))
        self.unmeasured = UnmeasuredGenes(config) if config.unmeasured_vectors else None
        self.first_slot = config.first_gene_slot

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        cells: CellOffsets,
        label_at: Tensor,
        unmeasured: Tensor | None = None,
    ) -> Tensor:
        """Sum for the queries at these places of the row, (Q, D), with `label_regression` (Q, D + all labels)."""
        ids_T, genes_T = input_ids[0], position_ids[0] - self.first_slot
        lengths_C = cells.n_keys_C + cells.n_queries_C
        cell_T = torch.arange(len(lengths_C), device=ids_T.device).repeat_interleave(lengths_C, output_size=len(ids_T))
        is_gene_T = (genes_T >= 0) & (genes_T < self.genes.num_embeddings)
        visible_T = is_gene_T & (ids_T < len(self.bins))  # a query has the id of [MASK]
        before_T = visible_T.cumsum(0) - visible_T.long()
        sums_CX = nn.functional.embedding_bag(
            genes_T[visible_T], self.genes.weight, before_T[cells.starts_C], mode="sum",
            per_sample_weights=self.bins[ids_T[visible_T]],
        )  # fmt: skip
        sums_CD, logits_CL = sums_CX[:, : self.width], sums_CX[:, self.width :]
        if self.unmeasured is not None and unmeasured is not None:
            sums_CD = sums_CD + self.unmeasured(unmeasured)
        if self.training:  # what is masked decides which half: no batch and no process changes it
            sums_CD = sums_CD * (cells.n_keys_C % 2)[:, None]
        if self.bias is None:
            return sums_CD[cell_T[label_at]]
        return torch.cat([sums_CD, logits_CL + self.bias], dim=1)[cell_T[label_at]]
