"""Losses of each group of slots.

Legend: Q queries for genes or labels, B bins, V labels, C cells, P phenotypes.

A loss is a weighted sum over the queries of a cell, divided by the *expected* number of queries (fixed, so that
sampling does not bias it), then a mean over cells. The weights carry that division: see `masking`.

Labels have a granularity. A cell labelled "T cell" may well be a CD4 T cell, so its loss is −log of the summed
probability of "T cell" and all labels below it: no finer label of another source is punished for being right.
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
    """Weights of the losses and shape of their targets.

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
    granularity
        A label trains the summed probability of all labels at and below it in its ontology; else its own alone.
    """

    smoothing: float = 0.1
    smoothing_kind: Literal["ordinal", "uniform"] = "ordinal"
    bin_reach: float = 1.0
    years_reach: float = 5.0
    gene_weight: float = 1.0
    phenotype_weight: float = 1.0
    granularity: bool = True

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


def cross_entropy(
    logits_QV: Tensor, truth_Q: Tensor, targets_VV: Tensor, at_or_below_VV: Tensor | None = None
) -> Tensor:
    """Cross-entropy in nats of each prediction against the target distribution of its truth, (Q,).

    With `at_or_below_VV` (row v: the labels at or below v), the share of the target that falls on the true label is for
    all labels at or below it together.
    """
    log_p_QV, target_QV = log_softmax(logits_QV.float(), dim=-1), targets_VV[truth_Q]
    loss_Q = -(target_QV * log_p_QV).sum(-1)
    if at_or_below_VV is None:
        return loss_Q
    truth_Q1 = truth_Q[:, None]
    own_Q, own_log_p_Q = (x_QV.gather(1, truth_Q1)[:, 0] for x_QV in (target_QV, log_p_QV))
    summed_Q = log_p_QV.masked_fill(~at_or_below_VV[truth_Q], -inf).logsumexp(-1)
    return loss_Q + own_Q * (own_log_p_Q - summed_Q)


def binary_cross_entropy(logits_Q1: Tensor, truth_Q: Tensor) -> Tensor:
    """Binary cross-entropy in nats of "expressed", one logit for each gene, (Q,)."""
    return binary_cross_entropy_with_logits(logits_Q1.float()[:, 0], truth_Q.float(), reduction="none")


@dataclass(frozen=True, kw_only=True)
class PolyGeneLoss:
    """Gene loss plus phenotype loss of a batch, each normalised by itself, then weighted.

    Two bins mean binary cross-entropy. For each phenotype `years` are those of its labels, or None where they are no
    ages, and `at_or_below` is bool (V, V), whether the label of the column is at or below the one of the row, or None;
    it is empty where no phenotype has such a table.
    """

    config: LossConfig
    n_bins: int
    phenotype_sizes: Sequence[int]
    years: Sequence[Sequence[float] | None]
    at_or_below: Sequence[Tensor | None] = ()

    def __post_init__(self) -> None:
        tables = tuple(label_targets(n, y, self.config) for n, y in zip(self.phenotype_sizes, self.years, strict=True))
        object.__setattr__(self, "_bins_BB", gene_targets(self.n_bins, self.config))
        object.__setattr__(self, "_labels_VV", tables)

    def genes(self, logits_QB: Tensor, bins_Q: Tensor) -> Tensor:
        """Loss of each gene query, (Q,)."""
        if self.n_bins == 2:
            return binary_cross_entropy(logits_QB, bins_Q)
        return cross_entropy(logits_QB, bins_Q, self._bins_BB.to(logits_QB.device))  # type: ignore[attr-defined]

    def labels(self, logits_QV: Tensor, labels_Q: Tensor, phenotype: int) -> Tensor:
        """Loss of each query for a phenotype, (Q,)."""
        targets_VV = self._labels_VV[phenotype].to(logits_QV.device)  # type: ignore[attr-defined]
        table_VV = self.at_or_below[phenotype] if self.config.granularity and self.at_or_below else None
        return cross_entropy(
            logits_QV, labels_Q, targets_VV, None if table_VV is None else table_VV.to(logits_QV.device)
        )

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
        """Mean over cells of the weighted sums over queries: `loss`, its parts `gene_loss`, `phenotype_loss`."""
        gene_loss = (bin_weights * self.genes(gene_logits, bins)).sum() / n_cells
        phenotype_loss = gene_loss.new_zeros(())
        # every head enters, with an empty sum where it has no query: without its gradient other ranks would wait
        for p, logits_QV in enumerate(label_logits):
            of_p = label_phenotype == p
            phenotype_loss = phenotype_loss + (label_weights[of_p] * self.labels(logits_QV, labels[of_p], p)).sum()
        phenotype_loss = phenotype_loss / n_cells
        loss = self.config.gene_weight * gene_loss + self.config.phenotype_weight * phenotype_loss
        return {"loss": loss, "gene_loss": gene_loss, "phenotype_loss": phenotype_loss}
