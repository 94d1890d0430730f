"""Drawing cells: classes follow the probabilities, and a cell does not depend on its batch."""

from dataclasses import replace

import numpy as np
import pytest

from polygene.errors import DataError
from polygene.model.inference import bin_probabilities, label_probabilities
from polygene.model.sampling import SamplingConfig, draw, draw_cells, draw_labels, draw_values
from polygene.vocab.binning import LEVELS

N_GENES, N_PHENOTYPES = 40, 5
NOTHING = np.full(N_GENES, -1, dtype=np.int16)
ALL = np.ones(N_GENES, dtype=bool)


def drawn(model, ids, *, seed=0, given_G=NOTHING, measured_G=ALL, **sampling):
    labels_CP = np.full((len(ids), N_PHENOTYPES), -1, dtype=np.int16)
    config = SamplingConfig(**sampling)
    return draw_cells(model, labels_CP, given_G, measured_G, ids_C=np.asarray(ids), seed=seed, config=config)


def test_classes_are_drawn_as_often_as_they_are_likely():
    probabilities_V = np.array([0.1, 0.0, 0.6, 0.3], dtype=np.float32)
    random_Q = (np.arange(1000) + 0.5) / 1000
    found_Q = draw(np.tile(probabilities_V, (1000, 1)), random_Q, 1.0)
    assert np.bincount(found_Q, minlength=4).tolist() == [100, 0, 600, 300]


def test_a_low_temperature_sharpens_and_a_high_one_flattens():
    probabilities_QV = np.tile(np.array([0.2, 0.8], dtype=np.float32), (1000, 1))
    random_Q = (np.arange(1000) + 0.5) / 1000
    shares = [float(draw(probabilities_QV, random_Q, t).mean()) for t in (0.5, 1.0, 2.0)]
    expected = [0.8 ** (1 / t) / (0.8 ** (1 / t) + 0.2 ** (1 / t)) for t in (0.5, 1.0, 2.0)]
    assert shares == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.001, 0.01, 0.1])
def test_near_temperature_zero_the_most_probable_class_is_drawn(temperature):
    """Powers of small probabilities underflow: 0.4 ** 1000 is 0, and so is every other."""
    p_QV = np.random.default_rng(0).dirichlet(np.ones(60), size=200).astype(np.float32)
    p_QV[:, 37] = p_QV.max(axis=1) * 4
    random_Q = np.linspace(0.001, 0.999, 200)
    assert set(draw(p_QV / p_QV.sum(axis=1, keepdims=True), random_Q, temperature)) == {37}


def test_a_class_without_probability_is_never_drawn():
    assert draw(np.array([[0.0, 0.5, 0.5]], dtype=np.float32), np.zeros(1), 1.0).tolist() == [1]


def test_one_step_draws_every_gene_from_the_tokens_alone(tiny_model):
    """2,000 cells: the share of cells that express a gene is the model's probability, to five standard errors."""
    bins_CG = drawn(tiny_model, range(2000), steps=1)
    empty = tiny_model.tokenizer.from_bins(
        np.zeros((1, N_GENES), np.uint8), np.full((1, N_PHENOTYPES), -1, np.int16), ALL
    )
    p_GB = bin_probabilities(
        tiny_model, empty, np.zeros(N_GENES, np.int64), np.arange(N_GENES), np.zeros(0, bool), visible_share=0.0
    )
    expected_G = 1 - p_GB[:, 0]
    assert np.abs((bins_CG > 0).mean(0) - expected_G).max() < 5 * np.sqrt(0.25 / 2000)


def test_a_cell_does_not_depend_on_its_batch(tiny_model):
    whole = drawn(tiny_model, range(30), steps=4)
    np.testing.assert_array_equal(drawn(tiny_model, [7, 23, 4], steps=4), whole[[7, 23, 4]])


def test_another_seed_draws_other_cells(tiny_model):
    assert (drawn(tiny_model, range(5), steps=2) != drawn(tiny_model, range(5), seed=1, steps=2)).any()


def test_later_genes_are_drawn_given_earlier_ones(tiny_model):
    """One gene is left: its bins follow the prediction from the other 39."""
    given_G = (np.arange(N_GENES) % 3).astype(np.int16)
    given_G[17] = -1
    bins_CG = drawn(tiny_model, range(3000), given_G=given_G, steps=1)
    assert (bins_CG[:, np.arange(N_GENES) != 17] == given_G[np.arange(N_GENES) != 17]).all()
    shown = np.maximum(given_G, 0).astype(np.uint8)[None]
    cell = tiny_model.tokenizer.from_bins(shown, np.full((1, N_PHENOTYPES), -1, np.int16), ALL)
    everything = np.ones(len(cell.genes_N), bool)
    (p_B,) = bin_probabilities(tiny_model, cell, np.array([0]), np.array([17]), everything, visible_share=39 / 40)
    shares_B = np.bincount(bins_CG[:, 17], minlength=len(p_B)) / 3000
    assert np.abs(shares_B - p_B).max() < 5 * np.sqrt(0.25 / 3000)


def test_genes_that_are_not_measured_stay_out_and_change_what_is_drawn(tiny_model):
    some_G = np.arange(N_GENES) % 4 > 0
    bins_CG = drawn(tiny_model, range(200), measured_G=some_G, steps=1)
    assert (bins_CG[:, ~some_G] == 0).all()
    empty = tiny_model.tokenizer.from_bins(np.zeros((1, N_GENES), np.uint8), np.full((1, N_PHENOTYPES), -1), some_G)
    genes_Q = np.flatnonzero(some_G)
    p_QB = bin_probabilities(
        tiny_model, empty, np.zeros(len(genes_Q), int), genes_Q, np.zeros(0, bool), visible_share=0.0
    )
    expressed_Q = (bins_CG[:, some_G] > 0).mean(axis=0)
    assert np.abs(expressed_Q - (1 - p_QB[:, 0])).max() < 5 * np.sqrt(0.25 / 200)


def test_labels_are_drawn_one_after_the_other_from_those_that_are_given(tiny_model):
    schema = tiny_model.tokenizer.schema
    given_CP = np.full((2000, N_PHENOTYPES), -1, np.int16)
    given_CP[:, 0] = 1
    labels_CP = draw_labels(tiny_model, given_CP, ["cell_type"], ALL, np.arange(2000), 0, 1.0)
    assert (np.delete(labels_CP, 2, axis=1) == np.delete(given_CP, 2, axis=1)).all()
    empty = tiny_model.tokenizer.from_bins(np.zeros((1, N_GENES), np.uint8), given_CP[:1], ALL)
    ((p_V,),) = label_probabilities(tiny_model, empty, predict=["cell_type"], given=["sex"], visible_share=0.0)
    shares_V = np.bincount(labels_CP[:, 2], minlength=len(schema.labels[2])) / 2000
    assert np.abs(shares_V - p_V).max() < 5 * np.sqrt(0.25 / 2000)


def test_values_are_drawn_inside_the_bin_from_its_quantiles(tiny_model):
    rng = np.random.default_rng(0)
    quantiles_GBR = np.sort(rng.random((N_GENES, 10, len(LEVELS))), axis=2).astype(np.float32)
    inverse = replace(tiny_model.tokenizer.inverse, quantiles_GBR=quantiles_GBR)
    genes_N, bins_N = rng.integers(0, N_GENES, 500), rng.integers(1, 10, 500)
    random_N = rng.random(500)
    values_N = draw_values(inverse, genes_N, bins_N, random_N)
    expected = [np.interp(u, LEVELS, quantiles_GBR[g, b]) for g, b, u in zip(genes_N, bins_N, random_N, strict=True)]
    np.testing.assert_allclose(values_N, expected, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"temperature": 0.0}])
def test_wrong_sampling_is_refused(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        SamplingConfig(**wrong)
