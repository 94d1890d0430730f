"""Losses per slot group: what a wrong answer costs.

Legend: Q asked genes or labels, B bins, V labels, C cells, P phenotypes.

A loss is a weighted sum over the asked tokens of a cell, divided by the number a cell is *expected* to be asked (fixed,
so that sampling does not bias it), then a mean over cells. The weights carry that division: see `masking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from polygene.runtime.toml import check_bounds


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is paid for which mistake.

    Parameters
    ----------
    smoothing
        Share ε of the target that is spread over a slot's own group; 0 switches it off.
    smoothing_kind
        "ordinal" spreads over near bins above 0 and near ages by exp(-distance / τ), and leaves labels without an order
        as they are; "uniform" spreads over all alike.
    bin_reach, years_reach
        τ of the ordinal kind: in bins, and in years for ages.
    gene_weight, phenotype_weight
        Weights of the two parts of the loss.
    """

    smoothing: float = 0.1
    smoothing_kind: Literal["ordinal", "uniform"] = "ordinal"
    bin_reach: float = 1.0
    years_reach: float = 5.0
    gene_weight: float = 1.0
    phenotype_weight: float = 1.0

    def __post_init__(self) -> None:
        check_bounds(
            "loss",
            self,
            smoothing=(0, 1),
            bin_reach=(1e-6, inf),
            years_reach=(1e-6, inf),
            gene_weight=(0, inf),
            phenotype_weight=(0, inf),
        )


def smoothed_targets(n: int, smoothing: float, places: Sequence[float] | None = None, reach: float = 1.0) -> Tensor:
    """Target distribution for each true class of a group of n, (n, n): (1 - ε) · one-hot + ε · q.

    q is uniform, or falls with the distance between `places`: q_ij ∝ exp(-|place_i - place_j| / reach). A class
    without a place (nan) is smoothed uniformly and receives nothing from the placed ones.
    """
    q = torch.full((n, n), 1.0 / max(n, 1))
    if places is not None:
        at = torch.tensor(places, dtype=torch.float32)
        known = ~at.isnan()
        near = torch.exp(-(at[:, None] - at[None, :]).abs() / reach)
        near[:, ~known] = 0
        q[known] = (near / near.sum(1, keepdim=True))[known]
    return (1 - smoothing) * torch.eye(n) + smoothing * q


def gene_targets(n_bins: int, config: LossConfig) -> Tensor:
    """Target distributions over the bins of a gene, (B, B).

    Ordinal smoothing stays among the bins of expressed genes: mass that crosses between bin 0 and the others would bias
    every answer to "expressed?", and generated cells express half as many genes again (docs/decisions.md).
    """
    if config.smoothing_kind == "uniform":
        return smoothed_targets(n_bins, config.smoothing)
    targets_BB = torch.eye(n_bins)
    targets_BB[1:, 1:] = smoothed_targets(n_bins - 1, config.smoothing, range(n_bins - 1), config.bin_reach)
    return targets_BB


def label_targets(n_labels: int, years: Sequence[float] | None, config: LossConfig) -> Tensor:
    """Target distributions over the labels of a phenotype, (V, V); `years` where the labels are ages.

    Labels without an order have no near ones: ordinal smoothing does not touch them, which takes over half off their
    log loss (docs/decisions.md).
    """
    if config.smoothing_kind == "uniform":
        return smoothed_targets(n_labels, config.smoothing)
    if years is None:
        return torch.eye(n_labels)
    return smoothed_targets(n_labels, config.smoothing, years, config.years_reach)


def cross_entropy(logits_QV: Tensor, truth_Q: Tensor, targets_VV: Tensor) -> Tensor:
    """Cross-entropy in nats of each answer against the target distribution of its truth, (Q,)."""
    return -(targets_VV[truth_Q] * log_softmax(logits_QV.float(), dim=-1)).sum(-1)


def binary_cross_entropy(logits_Q1: Tensor, truth_Q: Tensor) -> Tensor:
    """Binary cross-entropy in nats of "expressed", one logit a gene, (Q,)."""
    return binary_cross_entropy_with_logits(logits_Q1.float()[:, 0], truth_Q.float(), reduction="none")


@dataclass(frozen=True, kw_only=True)
class PolyGeneLoss:
    """Gene loss plus phenotype loss of a batch, each normalised by itself, then weighted.

    Parameters
    ----------
    config
        Weights and smoothing.
    n_bins
        Expression bins; two bins mean binary cross-entropy.
    phenotype_sizes
        Labels of each phenotype.
    years
        For each phenotype the years of its labels, or None where they are no ages.
    """

    config: LossConfig
    n_bins: int
    phenotype_sizes: Sequence[int]
    years: Sequence[Sequence[float] | None]

    def __post_init__(self) -> None:
        tables = tuple(label_targets(n, y, self.config) for n, y in zip(self.phenotype_sizes, self.years, strict=True))
        object.__setattr__(self, "_bins_BB", gene_targets(self.n_bins, self.config))
        object.__setattr__(self, "_labels_VV", tables)

    def genes(self, logits_QB: Tensor, bins_Q: Tensor) -> Tensor:
        """Loss of each asked gene, (Q,)."""
        if self.n_bins == 2:
            return binary_cross_entropy(logits_QB, bins_Q)
        return cross_entropy(logits_QB, bins_Q, self._bins_BB.to(logits_QB.device))  # type: ignore[attr-defined]

    def labels(self, logits_QV: Tensor, labels_Q: Tensor, phenotype: int) -> Tensor:
        """Loss of each time a phenotype was asked, (Q,)."""
        targets_VV = self._labels_VV[phenotype].to(logits_QV.device)  # type: ignore[attr-defined]
        return cross_entropy(logits_QV, labels_Q, targets_VV)

    def __call__(
        self,
        *,
        gene_logits: Tensor,
        label_logits: Sequence[Tensor],
        bins: Tensor,
        bin_weights: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        label_phenotype: Tensor,
        n_cells: int,
    ) -> dict[str, Tensor]:
        """Mean over cells of the weighted sums over asked tokens: `loss`, its parts `gene_loss`, `phenotype_loss`.

        Every head enters, with an empty sum where nothing was asked: without a gradient of it, other ranks would wait.
        """
        gene_loss = (bin_weights * self.genes(gene_logits, bins)).sum() / n_cells
        phenotype_loss = gene_loss.new_zeros(())
        for p, logits_QV in enumerate(label_logits):
            asked = label_phenotype == p
            phenotype_loss = phenotype_loss + (label_weights[asked] * self.labels(logits_QV, labels[asked], p)).sum()
        phenotype_loss = phenotype_loss / n_cells
        loss = self.config.gene_weight * gene_loss + self.config.phenotype_weight * phenotype_loss
        return {"loss": loss, "gene_loss": gene_loss, "phenotype_loss": phenotype_loss}
