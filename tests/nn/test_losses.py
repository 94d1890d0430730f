"""What a wrong answer costs, against torch and against sums written down one by one."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from polygene.model.masking import MaskingCollator, MaskingConfig
from polygene.nn.losses import (
    LossConfig,
    PolyGeneLoss,
    binary_cross_entropy,
    cross_entropy,
    gene_targets,
    label_targets,
)
from polygene.vocab.binning import ExpressionBinner

YEARS = [8 / 12, 57.0, 58.0, 80.0]
SOME_UNREADABLE = [1.0, float("nan"), 57.0, 60.0, float("nan")]


def answers(n, n_classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, n_classes, generator=generator)
    return logits, torch.randint(0, n_classes, (n,), generator=generator)


def test_without_smoothing_it_is_the_cross_entropy_of_torch():
    logits_QB, truth_Q = answers(50, 10)
    for kind in ("ordinal", "uniform"):
        loss_Q = cross_entropy(logits_QB, truth_Q, gene_targets(10, LossConfig(smoothing=0, smoothing_kind=kind)))
        assert torch.allclose(loss_Q, functional.cross_entropy(logits_QB, truth_Q, reduction="none"), atol=1e-6)


def test_uniform_smoothing_is_that_of_torch():
    logits_QB, truth_Q = answers(50, 10)
    loss_Q = cross_entropy(logits_QB, truth_Q, gene_targets(10, LossConfig(smoothing=0.3, smoothing_kind="uniform")))
    expected_Q = functional.cross_entropy(logits_QB, truth_Q, reduction="none", label_smoothing=0.3)
    assert torch.allclose(loss_Q, expected_Q, atol=1e-6)


def test_ordinal_smoothing_of_bins_falls_off_by_distance():
    config = LossConfig(smoothing=0.2, bin_reach=1.5)
    targets_BB = gene_targets(6, config)
    assert targets_BB[0].tolist() == [1, 0, 0, 0, 0, 0], "nothing crosses between expressed and not expressed"
    for i in range(1, 6):
        near = [math.exp(-abs(i - j) / 1.5) for j in range(1, 6)]
        row = [0.0] + [0.8 * (i == j) + 0.2 * near[j - 1] / sum(near) for j in range(1, 6)]
        assert targets_BB[i].tolist() == pytest.approx(row, abs=1e-6)
        assert all(targets_BB[i, j] > targets_BB[i, j + 1] for j in range(i, 5)), "nearer bins get more"
        assert all(targets_BB[i, j] < targets_BB[i, j + 1] for j in range(1, i))


def test_a_wide_reach_is_uniform_and_a_short_one_is_no_smoothing():
    uniform_BB = gene_targets(5, LossConfig(smoothing=0.2, smoothing_kind="uniform"))
    assert torch.allclose(gene_targets(6, LossConfig(smoothing=0.2, bin_reach=1e6))[1:, 1:], uniform_BB, atol=1e-5), (
        "among the bins of expressed genes"
    )
    assert torch.allclose(gene_targets(6, LossConfig(smoothing=0.2, bin_reach=1e-2)), torch.eye(6), atol=1e-5)


def test_ages_are_smoothed_by_years():
    targets_VV = label_targets(4, YEARS, LossConfig(smoothing=0.1, years_reach=5.0))
    near = [math.exp(-abs(57 - year) / 5) for year in YEARS]
    assert targets_VV[1].tolist() == pytest.approx([0.9 * (j == 1) + 0.1 * near[j] / sum(near) for j in range(4)])
    assert targets_VV[1, 2] > 50 * targets_VV[1, 3], "58 years are near 57, 80 are not"


def test_an_age_without_years_is_smoothed_uniformly_and_receives_nothing_from_the_others():
    targets_VV = label_targets(5, SOME_UNREADABLE, LossConfig(smoothing=0.1))
    uniform_VV = label_targets(5, None, LossConfig(smoothing=0.1, smoothing_kind="uniform"))
    for i in (1, 4):
        assert torch.equal(targets_VV[i], uniform_VV[i])
    for i in (0, 2, 3):
        assert targets_VV[i, 1] == targets_VV[i, 4] == 0
    assert targets_VV[2, 3] > targets_VV[2, 0]


def test_labels_without_an_order_are_smoothed_by_the_uniform_kind_alone():
    assert torch.equal(label_targets(4, None, LossConfig(smoothing_kind="ordinal")), torch.eye(4))
    uniform_VV = label_targets(4, None, LossConfig(smoothing=0.2, smoothing_kind="uniform"))
    assert torch.allclose(uniform_VV, 0.8 * torch.eye(4) + 0.05)


@pytest.mark.parametrize("kind", ["ordinal", "uniform"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("years", [None, YEARS, SOME_UNREADABLE, [float("nan")] * 3, [3.0], []])
def test_every_row_of_a_smoothing_table_is_a_distribution_that_favours_its_truth(kind, smoothing, years):
    config = LossConfig(smoothing=smoothing, smoothing_kind=kind)
    n = 6 if years is None else len(years)
    for table in (label_targets(n, years, config), gene_targets(10, config)):
        assert (table >= 0).all()
        assert torch.allclose(table.sum(1), torch.ones(len(table)))
        assert torch.equal(table.argmax(1) if len(table) else torch.zeros(0).long(), torch.arange(len(table)))


def test_binary_loss_is_minus_the_log_of_the_probability_of_what_is_true():
    logits_Q1, truth_Q = answers(40, 1)[0] * 3, torch.arange(40) % 2
    expected = [
        -math.log(1 / (1 + math.exp(-x if t else x))) for x, t in zip(logits_Q1[:, 0].tolist(), truth_Q, strict=True)
    ]
    assert binary_cross_entropy(logits_Q1, truth_Q).tolist() == pytest.approx(expected, abs=1e-6)


def test_two_bins_are_scored_by_binary_cross_entropy_and_more_by_smoothed_cross_entropy():
    config = LossConfig(smoothing=0.3)
    binary = PolyGeneLoss(config=config, n_bins=2, phenotype_sizes=[], years=[])
    logits_Q1, truth_Q = answers(9, 1)[0], torch.arange(9) % 2
    assert torch.equal(binary.genes(logits_Q1, truth_Q), binary_cross_entropy(logits_Q1, truth_Q))
    binned = PolyGeneLoss(config=config, n_bins=5, phenotype_sizes=[], years=[])
    logits_QB, truth_Q = answers(9, 5)
    assert torch.equal(binned.genes(logits_QB, truth_Q), cross_entropy(logits_QB, truth_Q, gene_targets(5, config)))


TREE = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
"""Label 0 stands above 1 and 2; 3 is apart."""


@pytest.mark.parametrize(("kind", "smoothing"), [("ordinal", 0.1), ("uniform", 0.3)])
def test_a_label_trains_the_summed_probability_of_the_labels_at_and_below_it(kind, smoothing):
    logits_QV, truth_Q = answers(40, 4)
    config = LossConfig(smoothing=smoothing, smoothing_kind=kind)
    loss_Q = cross_entropy(logits_QV, truth_Q, label_targets(4, None, config), TREE)
    spread = smoothing / 4 if kind == "uniform" else 0.0
    for loss, logits_V, truth in zip(loss_Q, logits_QV, truth_Q.tolist(), strict=True):
        p_V = functional.softmax(logits_V, 0)
        summed = sum(p for p, below in zip(p_V, TREE[truth], strict=True) if below)
        expected = -(1 - 4 * spread + spread) * summed.log() - spread * sum(
            p.log() for v, p in enumerate(p_V) if v != truth
        )
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_finer_prediction_costs_a_coarse_label_nothing_and_a_sibling_costs():
    logits_QV = torch.tensor([[0.0, 60, 0, 0], [0, 60, 0, 0], [0, 60, 0, 0]], requires_grad=True)
    loss_Q = cross_entropy(logits_QV, torch.tensor([0, 2, 3]), torch.eye(4), TREE)
    assert loss_Q.tolist() == pytest.approx([0, 60, 60], abs=1e-4)
    loss_Q.sum().backward()
    assert logits_QV.grad.isfinite().all()
    assert logits_QV.grad[0].abs().max() < 1e-6


def test_labels_that_form_no_tree_train_as_without_one():
    logits_QV, truth_Q = answers(40, 4)
    plain_Q = cross_entropy(logits_QV, truth_Q, torch.eye(4))
    assert torch.allclose(cross_entropy(logits_QV, truth_Q, torch.eye(4), torch.eye(4).bool()), plain_Q, atol=1e-6)
    config = LossConfig(granularity=False)
    loss = PolyGeneLoss(config=config, n_bins=5, phenotype_sizes=[4], years=[None], at_or_below=[TREE])
    assert torch.equal(loss.labels(logits_QV, truth_Q, 0), plain_Q)
    loss = PolyGeneLoss(config=LossConfig(), n_bins=5, phenotype_sizes=[4], years=[None], at_or_below=[TREE])
    assert (loss.labels(logits_QV, truth_Q, 0) < plain_Q - 0.1).any()


def batch_of_answers(sizes, seed=0, n_cells=4, n_genes=20, n_labels=8):
    """Random answers and truths as `PolyGeneLoss` takes them."""
    generator = torch.Generator().manual_seed(seed)
    label_phenotype = torch.arange(n_labels) % len(sizes)
    gene_logits, bins = answers(n_genes, 5, seed)
    return {
        "gene_logits": gene_logits.requires_grad_(),
        "label_logits": [
            answers(int((label_phenotype == p).sum()), n, seed + p)[0].requires_grad_() for p, n in enumerate(sizes)
        ],
        "bins": bins,
        "bin_weights": torch.rand(n_genes, generator=generator),
        "labels": torch.tensor([int(torch.randint(0, sizes[p], (1,), generator=generator)) for p in label_phenotype]),
        "label_weights": torch.rand(n_labels, generator=generator),
        "label_phenotype": label_phenotype,
        "n_cells": n_cells,
    }


def loss_of(sizes, **config):
    return PolyGeneLoss(config=LossConfig(**config), n_bins=5, phenotype_sizes=sizes, years=[None] * len(sizes))


def test_the_loss_is_the_weighted_sum_over_questions_divided_by_cells_and_the_parts_are_weighted_apart():
    sizes = [2, 3, 4]
    batch = batch_of_answers(sizes)
    parts = loss_of(sizes, smoothing=0, gene_weight=2.0, phenotype_weight=0.5)(**batch)
    gene_loss = sum(
        weight * -functional.log_softmax(logits, 0)[truth]
        for weight, logits, truth in zip(batch["bin_weights"], batch["gene_logits"], batch["bins"], strict=True)
    )
    phenotype_loss, seen = 0.0, [0] * len(sizes)
    for weight, truth, p in zip(
        batch["label_weights"], batch["labels"], batch["label_phenotype"].tolist(), strict=True
    ):
        phenotype_loss += weight * -functional.log_softmax(batch["label_logits"][p][seen[p]], 0)[truth]
        seen[p] += 1
    assert parts["gene_loss"].item() == pytest.approx(gene_loss.item() / 4, rel=1e-5)
    assert parts["phenotype_loss"].item() == pytest.approx(phenotype_loss.item() / 4, rel=1e-5)
    assert parts["loss"].item() == pytest.approx((2 * gene_loss + 0.5 * phenotype_loss).item() / 4, rel=1e-5)


def test_a_phenotype_that_is_not_asked_enters_with_a_gradient_of_zero():
    sizes = [2, 3, 4]
    batch = batch_of_answers(sizes)
    batch["label_phenotype"] = torch.zeros(8, dtype=torch.int64)
    batch["labels"] = batch["labels"] % 2
    batch["label_logits"] = [torch.randn(8 if p == 0 else 0, n, requires_grad=True) for p, n in enumerate(sizes)]
    weights = [torch.randn(n, n, requires_grad=True) for n in sizes]
    answers_p = [logits @ w for logits, w in zip(batch["label_logits"], weights, strict=True)]
    loss_of(sizes)(**batch | {"label_logits": answers_p})["loss"].backward()
    assert weights[0].grad.abs().sum() > 0
    assert all((w.grad == 0).all() for w in weights[1:]), "a gradient of None would make other ranks wait"


def test_a_phenotype_without_labels_costs_nothing():
    batch = batch_of_answers([3])
    with_empty = batch | {"label_logits": [*batch["label_logits"], torch.zeros(0, 0)]}
    assert torch.equal(loss_of([3, 0])(**with_empty)["loss"], loss_of([3])(**batch)["loss"])


def gene_loss_of_epoch(tokenizer, cells, logits_CGB, config, epoch, loss):
    """Gene loss of masked cells whose answers are looked up in a fixed table; sum over the cells."""
    numbers_C = np.arange(len(cells))
    collator = MaskingCollator(tokenizer=tokenizer, measured_SG=cells.measured_G[None], config=config)
    batch = collator(cells, np.zeros_like(numbers_C), numbers_C, np.full_like(numbers_C, epoch))
    cell_T = torch.repeat_interleave(torch.arange(len(cells)), batch["n_keys"] + batch["n_queries"])
    genes_Q = batch["position_ids"][0, batch["gene_at"]] - len(tokenizer.schema.phenotypes) - 2
    logits_QB = logits_CGB[cell_T[batch["gene_at"]], genes_Q]
    return (batch["bin_weights"] * loss.genes(logits_QB, batch["bins"])).sum().item()


@pytest.mark.parametrize(
    "binner", [ExpressionBinner.linear(), ExpressionBinner.binary()], ids=lambda binner: binner.kind
)
@pytest.mark.parametrize("zero_rate", [1.0, 0.25])
def test_sampling_hidden_zeros_leaves_the_expected_loss_unchanged(make_tokenizer, make_cells, binner, zero_rate):
    """Against the full sum: the mean loss over all measured genes of a cell, zeros included.

    The mean over 1,500 epochs must lie within four of its standard errors, which right weights miss once in 16,000 runs
    (and never here, as the seeds are fixed).
    """
    tokenizer = make_tokenizer(40, binner)
    cells = make_cells(tokenizer, 12, 0.3, measured_G=np.arange(40) < 36)
    n_logits = 1 if binner.n_bins == 2 else binner.n_bins
    logits_CGB = torch.randn(12, 40, n_logits, generator=torch.Generator().manual_seed(0))
    loss = PolyGeneLoss(config=LossConfig(), n_bins=binner.n_bins, phenotype_sizes=[], years=[])
    bins_CG = np.zeros((12, 40), dtype=np.int64)
    bins_CG[np.repeat(np.arange(12), np.diff(cells.offsets_C1)), cells.genes_N] = cells.bins_N
    full_CG = loss.genes(logits_CGB.flatten(0, 1), torch.from_numpy(bins_CG.ravel())).view(12, 40)
    expected = full_CG[:, cells.measured_G].mean(1).sum().item()
    config = MaskingConfig(zero_rate=zero_rate)
    drawn = np.array([gene_loss_of_epoch(tokenizer, cells, logits_CGB, config, epoch, loss) for epoch in range(1500)])
    standard_error = drawn.std() / math.sqrt(len(drawn))
    assert standard_error < 0.01 * expected, "enough draws to notice an error of 4 %"
    assert abs(drawn.mean() - expected) < 4 * standard_error


def test_the_loss_of_a_batch_is_the_mean_of_its_halves(tiny_model, toy_tokenizer, toy_cells):
    """So accumulating the gradients of two half batches is the step on the whole batch."""
    sizes = tiny_model.network.config.phenotype_sizes
    loss = PolyGeneLoss(config=LossConfig(), n_bins=10, phenotype_sizes=sizes, years=[None] * len(sizes))
    collator = MaskingCollator(
        tokenizer=toy_tokenizer, measured_SG=toy_cells.measured_G[None], config=MaskingConfig(gene_rate=0.5)
    )

    def step(numbers_C):
        batch = collator(toy_cells.rows(numbers_C), 0 * numbers_C, numbers_C, 0 * numbers_C)
        truth = {name: batch.pop(name) for name in ("bins", "bin_weights", "labels", "label_weights")}
        out = tiny_model.network(**batch)
        truth |= {"gene_logits": out.gene_logits, "label_logits": out.label_logits}
        tiny_model.network.zero_grad()
        value = loss(**truth, label_phenotype=batch["label_phenotype"], n_cells=len(numbers_C))["loss"]
        value.backward()
        return value.item(), {name: w.grad.clone() for name, w in tiny_model.network.named_parameters()}

    whole, gradients = step(np.arange(12))
    halves = [step(np.arange(0, 6)), step(np.arange(6, 12))]
    assert halves[0][0] != pytest.approx(halves[1][0], abs=1e-3)
    assert whole == pytest.approx((halves[0][0] + halves[1][0]) / 2, abs=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, (halves[0][1][name] + halves[1][1][name]) / 2, atol=1e-6), name
