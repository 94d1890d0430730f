"""Cells through the network: answers belong to the cell and the question, not to the batch."""

import threading
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polygene.errors import PhenotypeError
from polygene.model.batches import batches, by_rows, pack_cells
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import (
    bin_probabilities,
    bins_from_logits,
    cell_states,
    known_tokens,
    label_probabilities,
    shared_tokens,
)
from polygene.model.masking import MaskingCollator, MaskingConfig
from polygene.nn.known import KnownTokens
from polygene.nn.losses import LossConfig, gene_targets
from polygene.vocab.binning import ExpressionBinner

NAMES = ("sex", "tissue", "cell_type", "age", "disease")
N_LABELS = (2, 2, 3, 4, 2)


def all_visible(cells):
    return np.ones(len(cells.genes_N), dtype=bool)


def with_gene(cells, gene, bin_):
    """Set `gene` to `bin_` in every cell; 0 leaves it out."""
    offsets, genes, bins = [0], [], []
    for c in range(len(cells)):
        here = slice(cells.offsets_C1[c], cells.offsets_C1[c + 1])
        of_cell = dict(zip(cells.genes_N[here].tolist(), cells.bins_N[here].tolist(), strict=True))
        of_cell[gene] = bin_
        kept = sorted((g, b) for g, b in of_cell.items() if b)
        genes += [g for g, _ in kept]
        bins += [b for _, b in kept]
        offsets.append(len(genes))
    return replace(
        cells,
        offsets_C1=np.array(offsets),
        genes_N=np.array(genes, dtype=np.uint16),
        bins_N=np.array(bins, dtype=np.uint8),
        values_N=np.array(bins, dtype=np.float32),
    )


def test_the_prediction_for_a_hidden_gene_is_the_same_whether_it_is_zero_or_in_the_top_bin(tiny_model, toy_cells):
    """Hidden by the inference, as evaluation and generation do."""
    answers, shown = [], []
    for bin_ in (0, 1, 9):
        cells = with_gene(toy_cells, 7, bin_)
        everyone = np.arange(len(cells))
        hidden = bin_probabilities(tiny_model, cells, everyone, 0 * everyone + 7, cells.genes_N != 7)
        answers.append(hidden)
        shown.append(bin_probabilities(tiny_model, cells, everyone, 0 * everyone + 8, all_visible(cells)))
    for other in answers[1:]:
        assert np.abs(other - answers[0]).max() <= 1e-6
    assert np.abs(shown[0] - shown[2]).max() > 1e-3, "a gene that is shown does move the answers"


def test_in_training_too_a_hidden_gene_is_answered_alike_whether_it_is_zero_or_in_the_top_bin(tiny_model, toy_cells):
    answers = []
    for bin_ in (0, 9):
        cells = with_gene(toy_cells, 7, bin_)
        numbers_C = np.arange(len(cells))
        collator = MaskingCollator(
            tokenizer=tiny_model.tokenizer,
            measured_SG=cells.measured_G[None],
            config=MaskingConfig(gene_rate=0.5, varied_rate=0, zero_rate=1.0),
        )
        batch = collator(cells, 0 * numbers_C, numbers_C, 0 * numbers_C)
        slot = tiny_model.network.config.first_gene_slot + 7
        of_gene = batch["position_ids"][0, batch["gene_at"]] == slot
        assert set(batch["bins"][of_gene].tolist()) == {bin_}
        with torch.no_grad():
            out = tiny_model.network(
                **{name: batch[name] for name in (*_PACKED, "gene_at", "label_at", "label_phenotype")}
            )
        cell_T = torch.repeat_interleave(torch.arange(len(cells)), batch["n_keys"] + batch["n_queries"])
        asked_of = cell_T[batch["gene_at"][of_gene]]
        answers.append(out.gene_logits[of_gene][asked_of.argsort()])
    assert len(answers[0]) >= 3
    assert (answers[0] - answers[1]).abs().max() <= 1e-5


_PACKED = ("input_ids", "position_ids", "token_type_ids", "n_keys", "n_queries")


@pytest.mark.parametrize("given", [(), ("tissue", "disease")])
def test_the_answer_for_a_phenotype_is_the_same_for_every_predict_that_contains_it(tiny_model, toy_cells, given):
    """And whatever the order in which they are asked for."""
    asked = [name for name in NAMES if name not in given]
    alone = {name: label_probabilities(tiny_model, toy_cells, predict=[name], given=given)[0] for name in asked}
    for predict in (asked, asked[::-1], asked[:2], asked[1:]):
        for name, found_CV in zip(
            predict, label_probabilities(tiny_model, toy_cells, predict=predict, given=given), strict=True
        ):
            assert np.abs(found_CV - alone[name]).max() <= 1e-6


def test_labels_of_a_cell_are_not_read_unless_they_are_given(tiny_model, toy_cells):
    unlabelled = replace(toy_cells, labels_CP=np.full_like(toy_cells.labels_CP, -1))
    for of_labelled, of_unlabelled in zip(
        label_probabilities(tiny_model, toy_cells, predict=NAMES),
        label_probabilities(tiny_model, unlabelled, predict=NAMES),
        strict=True,
    ):
        assert np.array_equal(of_labelled, of_unlabelled)
    assert np.array_equal(cell_states(tiny_model, toy_cells), cell_states(tiny_model, unlabelled))


def test_given_labels_act_and_a_given_phenotype_without_a_label_is_as_if_not_given(tiny_model, toy_cells):
    plain_CV = label_probabilities(tiny_model, toy_cells, predict=["cell_type"])[0]
    with_sex_CV = label_probabilities(tiny_model, toy_cells, predict=["cell_type"], given=["sex"])[0]
    labelled_C = toy_cells.labels_CP[:, 0] >= 0
    assert labelled_C.any()
    assert not labelled_C.all()
    assert np.abs(with_sex_CV - plain_CV)[labelled_C].max(1).min() > 1e-4
    assert np.abs(with_sex_CV - plain_CV)[~labelled_C].max() <= 1e-6


@pytest.mark.parametrize("tokens_per_row", [1, 40, 100])
def test_answers_do_not_depend_on_batch_size_order_or_neighbours(tiny_model, toy_cells, monkeypatch, tokens_per_row):
    def answers(cells):
        everyone = np.repeat(np.arange(len(cells)), 2)
        genes = np.tile([7, 30], len(cells))
        visible_N = ~np.isin(cells.genes_N, [7, 30])
        return [
            *label_probabilities(tiny_model, cells, predict=NAMES, given=()),
            label_probabilities(tiny_model, cells, predict=["sex"], given=["disease"])[0],
            cell_states(tiny_model, cells, given=["age"]),
            bin_probabilities(tiny_model, cells, everyone, genes, visible_N, given=["sex"]).reshape(len(cells), -1),
        ]

    together = answers(toy_cells)
    order = np.random.default_rng(0).permutation(len(toy_cells))[:9]
    monkeypatch.setattr("polygene.model.batches.TOKENS_PER_ROW", tokens_per_row)
    assert len(list(batches(toy_cells, 13, tiny_model.network))) > 1
    for one, other in zip(together, answers(toy_cells), strict=True):
        assert np.abs(one - other).max() <= 2e-6
    for one, other in zip(together, answers(toy_cells.rows(order)), strict=True):
        assert np.abs(one[order] - other).max() <= 2e-6


def test_answers_are_probabilities_over_the_labels_of_the_phenotype(tiny_model, toy_cells):
    answers = label_probabilities(tiny_model, toy_cells, predict=NAMES)
    for probabilities_CV, n_labels in zip(answers, N_LABELS, strict=True):
        assert probabilities_CV.dtype == np.float32
        assert probabilities_CV.shape == (len(toy_cells), n_labels)
        assert probabilities_CV.sum(1) == pytest.approx(1, abs=1e-5)
        assert probabilities_CV.std(0).min() > 1e-3, "cells are told apart"


@pytest.mark.parametrize(
    "binner", [ExpressionBinner.linear(), ExpressionBinner.binary()], ids=lambda binner: binner.kind
)
def test_genes_are_answered_by_probabilities_over_the_bins(make_tokenizer, make_cells, binner):
    tokenizer = make_tokenizer(20, binner)
    cells = make_cells(tokenizer, 5, 0.4)
    model = PolyGene.new(tokenizer, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    probabilities_QB = bin_probabilities(model, cells, np.array([0, 2, 2]), np.array([3, 1, 3]), all_visible(cells))
    assert probabilities_QB.shape == (3, binner.n_bins)
    assert probabilities_QB.sum(1) == pytest.approx(1, abs=1e-5)
    assert probabilities_QB.min() > 0


def test_smoothing_is_taken_off_the_answers_about_genes():
    """A network that answers the smoothed target of what it believes is read as what it believes."""
    targets_BB = gene_targets(6, LossConfig(smoothing=0.3))
    believed_QB = torch.distributions.Dirichlet(torch.ones(6)).sample((50,)) * 0.9 + 0.1 / 6
    answered_QB = believed_QB @ targets_BB
    found_QB = bins_from_logits(answered_QB.log(), targets_BB.tolist())
    torch.testing.assert_close(found_QB, believed_QB, atol=1e-5, rtol=0)
    impossible_QB = bins_from_logits(torch.eye(6) * 20, targets_BB.tolist())
    assert (impossible_QB > 0).all()
    torch.testing.assert_close(impossible_QB.sum(1), torch.ones(6))


def test_one_logit_is_the_log_odds_of_expressed():
    probabilities_QB = bins_from_logits(torch.tensor([[0.0], [2.0], [-30.0]]))
    assert probabilities_QB[:, 1].tolist() == pytest.approx([0.5, 1 / (1 + np.exp(-2)), np.exp(-30)], rel=1e-5)
    assert probabilities_QB.sum(1).tolist() == pytest.approx([1, 1, 1])


def test_no_cells_give_no_answers(tiny_model, toy_cells):
    none = toy_cells.rows(slice(0, 0))
    nobody = np.zeros(0, dtype=np.int64)
    assert [x.shape for x in label_probabilities(tiny_model, none, predict=NAMES)] == [(0, n) for n in N_LABELS]
    assert cell_states(tiny_model, none).shape == (0, 32)
    assert bin_probabilities(tiny_model, none, nobody, nobody, all_visible(none)).shape == (0, 10)


def test_a_phenotype_that_the_model_does_not_know_is_named(tiny_model, toy_cells):
    with pytest.raises(PhenotypeError, match=r"'cell_tpe'.*mean 'cell_type'"):
        label_probabilities(tiny_model, toy_cells, predict=["cell_tpe"])
    with pytest.raises(PhenotypeError, match=r"'sexe'.*mean 'sex'"):
        cell_states(tiny_model, toy_cells, given=["sexe"])


def test_predictions_on_a_cpu_are_float32_under_autocast_too(tiny_model, toy_cells, monkeypatch):
    monkeypatch.setattr("polygene.model.batches.TOKENS_PER_ROW", 60)
    monkeypatch.setattr(
        "polygene.model.inference.known_tokens",
        lambda model, _: KnownTokens.of(model.network.bert, shared_tokens(model.tokenizer)),
    )
    plain, before = label_probabilities(tiny_model, toy_cells, predict=NAMES), torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with torch.autocast("cpu", torch.bfloat16):
                found = label_probabilities(tiny_model, toy_cells, predict=NAMES)
            for one, other in zip(plain, found, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)
    finally:
        torch.set_num_threads(before)


def test_threads_share_the_rows_and_change_no_prediction(tiny_model, toy_cells, monkeypatch):
    monkeypatch.setattr("polygene.model.batches.TOKENS_PER_ROW", 60)
    network, before, both = tiny_model.network, torch.get_num_threads(), threading.Barrier(2, timeout=60)
    n_rows = len(list(batches(toy_cells, 12, network)))

    def meet(rows):
        if rows.start == 0 or rows.stop == len(toy_cells):
            both.wait()  # the first and the last row are in two threads at a time
        return rows, torch.get_num_threads(), torch.is_inference_mode_enabled()

    try:
        torch.set_num_threads(1)
        alone = label_probabilities(tiny_model, toy_cells, predict=NAMES)
        torch.set_num_threads(n_rows)
        found = by_rows(meet, toy_cells, 12, network)
        assert [rows for rows, _, _ in found] == list(batches(toy_cells, 12, network))
        assert {(threads, inference) for _, threads, inference in found} == {(1, True)}
        assert torch.get_num_threads() == n_rows
        shared = label_probabilities(tiny_model, toy_cells, predict=NAMES)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, shared, strict=True):
        assert np.abs(one - other).max() <= 1e-6


@pytest.mark.parametrize("tokens_per_row", [1, 25, 60, 10**6])
def test_batches_hold_every_cell_once_in_order_and_are_full_but_not_overfull(
    tiny_model, toy_cells, monkeypatch, tokens_per_row
):
    monkeypatch.setattr("polygene.model.batches.TOKENS_PER_ROW", tokens_per_row)
    tokens_C = np.diff(toy_cells.offsets_C1) + 9
    cut = list(batches(toy_cells, 9, tiny_model.network))
    assert np.concatenate([np.arange(rows.start, rows.stop) for rows in cut]).tolist() == list(range(len(toy_cells)))
    for rows in cut:
        assert tokens_C[rows].sum() <= tokens_per_row or rows.stop - rows.start == 1
        assert rows.stop == len(toy_cells) or tokens_C[rows.start : rows.stop + 1].sum() > tokens_per_row


def test_the_state_of_a_cell_predicts_its_type(tiny_model, toy_cells):
    state_CD = torch.from_numpy(cell_states(tiny_model, toy_cells))
    p = tiny_model.tokenizer.schema.index("cell_type")
    with torch.inference_mode():
        logits_CV = tiny_model.network.decode_labels(state_CD, p) / tiny_model.calibration.temperature("cell_type")
    expected_CV = label_probabilities(tiny_model, toy_cells, predict=["cell_type"])[0]
    np.testing.assert_allclose(torch.softmax(logits_CV, dim=1), expected_CV, atol=1e-6)


def test_with_the_cell_type_given_the_state_is_the_mean_of_the_genes_before_the_last_layer(tiny_model, toy_cells):
    """Against each cell alone in a row, its genes found by their slots, the states caught on their way."""
    network, first = tiny_model.network, tiny_model.network.config.first_gene_slot
    caught = []
    hook = network.bert.encoder.layer[-1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    unlabelled = replace(toy_cells, labels_CP=np.full_like(toy_cells.labels_CP, -1))
    found_CD = cell_states(tiny_model, unlabelled, given=["cell_type"])
    assert not caught  # the last layer is not run
    nobody = np.zeros(0, dtype=np.int64)
    for c in range(len(toy_cells)):
        cell = toy_cells.rows(np.array([c]))
        packed, _ = pack_cells(tiny_model.tokenizer, cell, np.full_like(cell.labels_CP, -1), nobody, nobody)
        with torch.inference_mode():
            network.encode(**packed.as_dict())
        slots_T = packed.position_ids[0]
        hidden_TD = caught.pop()[: len(slots_T)]  # behind it the row is filled up
        genes_ND = hidden_TD[(slots_T >= first) & (slots_T < first + network.config.n_genes)]
        expected_D = genes_ND.mean(0) if len(genes_ND) else torch.zeros(hidden_TD.shape[1])
        np.testing.assert_allclose(found_CD[c], expected_D, atol=1e-5)
    hook.remove()


def test_removing_a_gene_and_measuring_it_as_zero_are_different_inputs(tiny_model, toy_cells):
    """And cells of several files are each read with what their own file measured."""
    model, kept = deepcopy(tiny_model), toy_cells.genes_N != 7
    torch.nn.init.normal_(model.network.unmeasured.vectors)
    zero = with_gene(toy_cells, 7, 0)
    assert kept.sum() == len(zero.genes_N)
    measured_G = toy_cells.measured_G.copy()
    measured_G[7] = False
    removed = replace(zero, measured_G=measured_G)
    of_zero, of_removed = (label_probabilities(model, cells, predict=NAMES) for cells in (zero, removed))
    assert min(np.abs(a - b).max() for a, b in zip(of_zero, of_removed, strict=True)) > 1e-4
    sources_C = np.arange(len(zero)) % 2
    mixed = replace(removed, measured_SG=np.stack([zero.measured_G, measured_G]), sources_C=sources_C)
    for a, b, both in zip(of_zero, of_removed, label_probabilities(model, mixed, predict=NAMES), strict=True):
        np.testing.assert_allclose(both, np.where(sources_C[:, None] == 0, a, b), atol=1e-6)
    everyone = np.arange(len(zero))
    genes = [bin_probabilities(model, cells, everyone, 0 * everyone + 8, kept[kept]) for cells in (zero, removed)]
    assert np.abs(genes[0] - genes[1]).max() > 1e-4
    assert np.abs(cell_states(model, zero) - cell_states(model, removed)).max() > 1e-4


def test_a_network_left_in_training_mode_predicts_without_dropout_and_keeps_its_mode(tiny_model, toy_cells):
    network = tiny_model.network
    network.bert.dropout = 0.5
    queries = np.zeros(1, np.int64), np.full(1, 38)
    expected = [
        label_probabilities(tiny_model, toy_cells, predict=["cell_type"])[0],
        cell_states(tiny_model, toy_cells),
        bin_probabilities(tiny_model, toy_cells, *queries, all_visible(toy_cells)),
    ]
    network.train()
    network.bert.encoder.eval()  # frozen, say
    modes = [module.training for module in network.modules()]
    found = [
        label_probabilities(tiny_model, toy_cells, predict=["cell_type"])[0],
        cell_states(tiny_model, toy_cells),
        bin_probabilities(tiny_model, toy_cells, *queries, all_visible(toy_cells)),
    ]
    assert all(np.array_equal(one, two) for one, two in zip(found, expected, strict=True))
    assert [module.training for module in network.modules()] == modes
    with pytest.raises(PhenotypeError):
        label_probabilities(tiny_model, toy_cells, predict=["shoe_size"])
    assert [module.training for module in network.modules()] == modes


@pytest.mark.parametrize(("width", "tokens"), [(128, 8_192), (1_024, 4_096), (4_096, 2_048)])
def test_rows_are_shorter_where_the_network_is_wider(toy_cells, width, tokens):
    many = toy_cells.rows(np.resize(np.arange(len(toy_cells)), 3_000))
    config = SimpleNamespace(intermediate_size=width)
    first = next(batches(many, 9, SimpleNamespace(device=torch.device("cpu"), config=config)))
    tokens_C = np.diff(many.offsets_C1) + 9
    assert tokens_C[first].sum() <= tokens < tokens_C[: first.stop + 1].sum()


def test_many_cells_share_what_their_tokens_are_before_the_first_layer_attends(tiny_model, toy_cells, monkeypatch):
    many = toy_cells.rows(np.resize(np.arange(len(toy_cells)), 2_000))
    assert known_tokens(tiny_model, toy_cells) is None
    assert len(known_tokens(tiny_model, many).keys_N) > len(tiny_model.tokenizer.panel)
    for given in ([], ["sex"]):
        shared = label_probabilities(tiny_model, many, predict=["cell_type", "disease"], given=given)
        with monkeypatch.context() as patch:
            patch.setattr("polygene.model.inference.MOST_KNOWN", 0)
            alone = label_probabilities(tiny_model, many, predict=["cell_type", "disease"], given=given)
        assert max(np.abs(one - other).max() for one, other in zip(shared, alone, strict=True)) <= 1e-6
