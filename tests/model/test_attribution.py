"""Attribution: what genes add to the log-odds of a label adds up, and is a known number where the network is linear."""

import numpy as np
import pytest
import torch

from polygene.errors import DataError, PhenotypeError
from polygene.model.attribution import integrated_gradients, log_odds, removal_effects
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.vocab.cells import EncodedCells


@pytest.fixture(params=[False, True], ids=["alone", "with regression"])
def model(tiny_model: PolyGene, request: pytest.FixtureRequest) -> PolyGene:
    if request.param:
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        tiny_model = PolyGene.new(tiny_model.tokenizer, label_regression=True, initializer_range=0.2, **shape)
    torch.nn.init.normal_(tiny_model.network.linear_branch.genes.weight, std=0.3)
    return tiny_model


def test_log_odds_are_those_of_the_predicted_probabilities(model: PolyGene, toy_cells: EncodedCells) -> None:
    (p_CV,) = label_probabilities(model, toy_cells, predict=["cell_type"])
    found_C = log_odds(model, toy_cells, "cell_type", "T cell")
    np.testing.assert_allclose(found_C, np.log(p_CV[:, 1] / (1 - p_CV[:, 1])), rtol=1e-4)


def test_attributions_of_a_cell_add_up_to_its_log_odds_less_those_of_the_start(
    model: PolyGene, toy_cells: EncodedCells
) -> None:
    found_N = integrated_gradients(model, toy_cells, "cell_type", "T cell", n_steps=40)
    by_hand_C = np.zeros(len(toy_cells))
    for c in range(len(toy_cells)):
        by_hand_C[c] = found_N[toy_cells.cells_N == c].sum()
    coarse_N = integrated_gradients(model, toy_cells, "cell_type", "T cell", n_steps=80)
    np.testing.assert_allclose(found_N, coarse_N, atol=2e-3)
    with torch.no_grad():  # genes that say nothing: every gene token and gene of the branch is zero
        network = model.network
        embed, genes = network.bert.embed, network.linear_branch.genes.weight.clone()
        network.linear_branch.genes.weight.zero_()

        def silent(words_TD: torch.Tensor, slots_T: torch.Tensor, types_T: torch.Tensor) -> torch.Tensor:
            is_gene_T = (slots_T >= network.config.first_gene_slot) & (slots_T < network.config.first_gene_slot + 40)
            return embed(words_TD, slots_T, types_T) * ~is_gene_T[:, None]

        network.bert.embed = silent
        nothing_C = log_odds(model, toy_cells, "cell_type", "T cell")
        del network.bert.embed
        network.linear_branch.genes.weight.copy_(genes)
    np.testing.assert_allclose(by_hand_C, log_odds(model, toy_cells, "cell_type", "T cell") - nothing_C, atol=5e-3)


def test_attributions_do_not_depend_on_the_other_cells(model: PolyGene, toy_cells: EncodedCells) -> None:
    found_N = integrated_gradients(model, toy_cells, "cell_type", "B cell", n_steps=4)
    alone_N = integrated_gradients(model, toy_cells.rows(np.array([5])), "cell_type", "B cell", n_steps=4)
    np.testing.assert_allclose(alone_N, found_N[toy_cells.cells_N == 5], atol=1e-5)


def test_removal_is_what_the_cell_without_the_gene_loses(model: PolyGene, toy_cells: EncodedCells) -> None:
    cells, genes, effects = removal_effects(model, toy_cells, "cell_type", "B cell", [3, 8])
    assert set(genes) == {3, 8}
    assert len(cells) == np.isin(toy_cells.genes_N, [3, 8]).sum()
    bins_CG = toy_cells.as_csr(toy_cells.bins_N, 40).toarray()
    bins_CG[cells[-1], genes[-1]] = 0
    without = model.tokenizer.from_bins(bins_CG, toy_cells.labels_CP, toy_cells.measured_G)
    before, after = (log_odds(model, some, "cell_type", "B cell")[cells[-1]] for some in (toy_cells, without))
    assert effects[-1] == pytest.approx(before - after, abs=1e-4)


def test_the_network_is_left_in_the_mode_it_was_in_and_without_gradients(
    model: PolyGene, toy_cells: EncodedCells
) -> None:
    model.network.train()
    integrated_gradients(model, toy_cells, "cell_type", "B cell", n_steps=1)
    assert model.network.training
    assert all(weights.grad is None for weights in model.network.parameters())


def test_a_label_or_a_phenotype_that_the_model_lacks_is_named(model: PolyGene, toy_cells: EncodedCells) -> None:
    with pytest.raises(DataError, match=r"no label 'hepatocyte' of cell_type.*knows B cell, T cell, monocyte"):
        log_odds(model, toy_cells, "cell_type", "hepatocyte")
    with pytest.raises(PhenotypeError, match="smoking"):
        log_odds(model, toy_cells, "smoking", "yes")
