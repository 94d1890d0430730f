"""Vocabulary extension: old predictions stay, and new labels are there to be learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from polygene.errors import PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.model.extend import extend_vocabulary, phenotype_of
from polygene.model.inference import bin_probabilities, cell_states, label_probabilities


@pytest.fixture
def cells(make_adata, tiny_model):
    return tiny_model.tokenizer.encode(make_adata(30, 36), unknown="not given")


def reencoded(cells, model):
    """The same cells as the extended model reads them: labels of an added phenotype are not given."""
    n_more = len(model.tokenizer.schema.names) - cells.labels_CP.shape[1]
    return replace(cells, labels_CP=np.pad(cells.labels_CP, ((0, 0), (0, n_more)), constant_values=-1))


@pytest.mark.parametrize("column", ["subtype", "cell_type"])
def test_old_predictions_stay(column: str, cells, tiny_model: PolyGene) -> None:
    extended = extend_vocabulary(tiny_model, column, ["zeta", "alpha", "B cell"])
    again = reencoded(cells, extended)
    names = tiny_model.tokenizer.schema.names
    given = ("sex",)
    queried = [name for name in names if name not in given]
    before = label_probabilities(tiny_model, cells, predict=queried, given=given)
    after = label_probabilities(extended, again, predict=queried, given=given)
    for name, was_CV, is_CV in zip(queried, before, after, strict=True):
        if name == column:  # more labels share what the old ones had
            is_CV = is_CV[:, : was_CV.shape[1]]
            is_CV = is_CV / is_CV.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(is_CV, was_CV, atol=2e-6)
    np.testing.assert_allclose(
        cell_states(extended, again, given=given), cell_states(tiny_model, cells, given=given), atol=2e-6
    )
    at = np.arange(len(cells)), np.full(len(cells), 3), cells.genes_N != 3
    np.testing.assert_allclose(
        bin_probabilities(extended, again, *at), bin_probabilities(tiny_model, cells, *at), atol=2e-6
    )


def test_labels_are_added_behind_those_that_are_known(tiny_model: PolyGene) -> None:
    known = tiny_model.tokenizer.schema.labels[tiny_model.tokenizer.schema.index("cell_type")]
    schema = extend_vocabulary(tiny_model, "cell_type", [*known, "zeta", "alpha"]).tokenizer.schema
    assert schema.labels[schema.index("cell_type")] == (*known, "alpha", "zeta")
    assert schema.names == tiny_model.tokenizer.schema.names
    twice = extend_vocabulary(
        extend_vocabulary(tiny_model, "drug", ["a", "b"]), "disease_stage", ["early", "late"]
    ).tokenizer
    assert twice.schema.names[-2:] == ("drug", "disease_stage")
    assert twice.phenotype_slots[-2:].tolist() == [twice.end_slot + 1, twice.end_slot + 2]
    assert twice.end_slot == tiny_model.tokenizer.end_slot


def test_a_new_label_that_is_given_changes_nothing_until_it_is_trained(cells, tiny_model: PolyGene) -> None:
    extended = extend_vocabulary(tiny_model, "cell_type", ["zeta"])
    schema = extended.tokenizer.schema
    labelled = reencoded(cells, extended)
    labelled.labels_CP[:, schema.index("cell_type")] = schema.label_index("cell_type", "zeta")
    one, other = (
        label_probabilities(extended, labelled, predict=["sex"], given=given)[0] for given in ((), ("cell_type",))
    )
    np.testing.assert_allclose(one, other, atol=2e-6)


def test_an_added_phenotype_that_is_given_is_a_key_behind_the_genes(cells, tiny_model: PolyGene) -> None:
    extended = extend_vocabulary(tiny_model, "drug", ["a", "b"])
    with torch.no_grad():  # as if it had been trained
        extended.network.bert.embeddings.word_embeddings.weight[extended.tokenizer.label_range(5)[0] :] += 1
    labelled = reencoded(cells, extended)
    labelled.labels_CP[::2, 5] = 1
    without, with_drug = (
        label_probabilities(extended, labelled, predict=["sex"], given=given)[0] for given in ((), ("drug",))
    )
    moved_C = np.abs(without - with_drug).max(axis=1)
    assert (moved_C[::2] > 1e-4).all()
    assert (moved_C[1::2] < 2e-6).all()


def test_an_extended_model_is_saved_and_loaded(cells, tiny_model: PolyGene, tmp_path) -> None:
    extended = extend_vocabulary(tiny_model, "disease stage", ["early", "late"])
    extended.save_pretrained(tmp_path / "extended")
    loaded = PolyGene.from_pretrained(tmp_path / "extended")
    again = reencoded(cells, extended)
    for one, other in zip(
        label_probabilities(extended, again, predict=["disease_stage", "sex"]),
        label_probabilities(loaded, again, predict=["disease_stage", "sex"]),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert loaded.tokenizer.fingerprint() == extended.tokenizer.fingerprint()


def test_a_column_that_would_take_anothers_name_is_refused(tiny_model: PolyGene) -> None:
    assert phenotype_of(tiny_model, "development_stage") == "age"
    assert phenotype_of(tiny_model, "leiden 0.5") == "leiden_0_5"
    with pytest.raises(PhenotypeError, match=r"reads age from obs\['development_stage'\].*rename"):
        phenotype_of(tiny_model, "age")
