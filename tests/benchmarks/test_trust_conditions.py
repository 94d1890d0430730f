"""What knowing helps: the same cells on every row, asked with and without what is known."""

from copy import copy

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from benchmarks.trust.conditions import conditions
from polygene.evaluation.test_cells import CellBlocks, model_predictions
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def model(toy_corpus):
    """An untrained model with large weights: its answers differ with what is given."""
    return PolyGene.new(toy_corpus.tokenizer, initializer_range=0.4, **SHAPE)


@pytest.fixture(scope="module")
def table(model, toy_corpus):
    test = toy_corpus.split("test")
    answers, _ = model_predictions(model, CellBlocks(toy_corpus, test))
    return conditions(model, toy_corpus.split("train"), test, answers)


def test_each_phenotype_that_varies_is_asked_with_nothing_each_other_and_all_others(table, toy_corpus):
    assert set(table.phenotype) >= {"sex", "cell_type"}
    assert not {"tissue", "disease"} & set(table.phenotype)
    names = set(toy_corpus.tokenizer.schema.names)
    for phenotype, rows in table.groupby("phenotype"):
        assert set(rows.given) == (names - {phenotype}) | {"nothing", "all others"}
        assert set(rows.score) == {"accuracy", "macro_f1"}


@pytest.mark.parametrize("given", ["nothing", "sex", "all others"])
def test_values_are_those_of_scikit_learn_with_every_donor_counting_the_same(given, table, model, toy_corpus):
    test, schema = toy_corpus.split("test"), toy_corpus.tokenizer.schema
    others = [name for name in schema.names if name != "cell_type"]
    known = {"nothing": [], "all others": others}.get(given, [given])
    (p_CV,) = label_probabilities(model, test.cells(slice(None)), predict=["cell_type"], given=known)
    truth_C, weights_C = test.labels_CP[:, 2], 1 / pd.Series(test.donors_C).map(pd.Series(test.donors_C).value_counts())
    rows = table[(table.phenotype == "cell_type") & (table.given == given)].set_index("score")
    for score, expected in {
        "accuracy": accuracy_score(truth_C, p_CV.argmax(1), sample_weight=weights_C),
        "macro_f1": f1_score(truth_C, p_CV.argmax(1), average="macro", sample_weight=weights_C),
    }.items():
        assert rows.value[score] == pytest.approx(expected)
    nothing = table[(table.phenotype == "cell_type") & (table.given == "nothing")].set_index("score")
    np.testing.assert_allclose(rows.gain, rows.value - nothing.value, atol=1e-12)


def test_knowing_nothing_gains_nothing_and_intervals_hold_their_value(table, toy_corpus):
    nothing = table[table.given == "nothing"]
    assert (nothing[["gain", "gain_low", "gain_high"]] == 0).all(axis=None)
    assert (table.low <= table.value).all()
    assert (table.value <= table.high).all()
    known_P = (toy_corpus.split("test").labels_CP >= 0).mean(axis=0)
    for p, name in enumerate(toy_corpus.tokenizer.schema.names):
        assert set(table.known[table.given == name]) <= {known_P[p]}
    assert known_P.min() < 1, "some test donors are of an age that no training donor has"


def test_a_model_whose_test_cells_vary_in_nothing_has_an_empty_table(model, toy_corpus):
    test = copy(toy_corpus.split("test"))  # the corpus keeps its splits, and other tests read them
    test.__dict__["labels_CP"] = np.full_like(test.labels_CP, -1)
    answers, _ = model_predictions(model, CellBlocks(toy_corpus, test))
    assert not len(conditions(model, toy_corpus.split("train"), test, answers))
