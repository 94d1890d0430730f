import logging
import time

import numpy as np
import pandas as pd
import pytest

from polygene.errors import ColumnError, DataError, PhenotypeError
from polygene.vocab.columns import NOT_GIVEN
from polygene.vocab.phenotypes import CELLXGENE, Phenotype, PhenotypeSchema, count_labels


def test_the_absent_token_is_named_after_the_phenotype():
    tokens = [phenotype.absent_token for phenotype in CELLXGENE]
    assert tokens == ["[NO_SEX]", "[NO_TISSUE]", "[NO_CELL_TYPE]", "[NO_AGE]", "[NO_DISEASE]"]


@pytest.fixture
def obs():
    return pd.DataFrame(
        {
            "sex": pd.Categorical(
                ["female", "male", None, "unknown", "female"], categories=["male", "female", "unknown", "x"]
            ),
            "tissue": ["lung", " lung ", "N/A", "blood", np.nan],
            "development_stage": [
                "57-year-old human stage",
                "9-year-old human stage",
                "adult",
                "newborn stage",
                "adult",
            ],
            "disease": ["normal"] * 5,
        },
        index=list("abcde"),
    )


@pytest.fixture
def schema(obs):
    return PhenotypeSchema.fit(count_labels(obs))


def test_labels_are_counted_without_those_that_are_not_given(obs):
    assert count_labels(obs) == {
        "sex": {"female": 2, "male": 1},
        "tissue": {"lung": 2, "blood": 1},
        "cell_type": {},
        "age": {"57-year-old human stage": 1, "9-year-old human stage": 1, "adult": 2, "newborn stage": 1},
        "disease": {"normal": 5},
    }


def test_labels_stand_in_the_alphabet_and_ages_by_years_with_the_unreadable_last(schema):
    assert schema.labels == (
        ("female", "male"),
        ("blood", "lung"),
        (),
        ("newborn stage", "9-year-old human stage", "57-year-old human stage", "adult"),
        ("normal",),
    )
    np.testing.assert_equal(schema.years("age"), [0, 9, 57, np.nan])
    np.testing.assert_equal(schema.years("sex"), [np.nan, np.nan])


def test_the_order_of_cells_does_not_change_the_vocabulary(obs, schema):
    assert PhenotypeSchema.fit(count_labels(obs.iloc[::-1])) == schema


def test_rare_labels_are_left_out_aloud(obs, caplog):
    with caplog.at_level(logging.INFO, "polygene"):
        schema = PhenotypeSchema.fit(count_labels(obs), min_cells=2)
    assert schema.labels[:2] == (("female",), ("lung",))
    assert "sex: left out 1 labels of < 2 cells: ['male']" in caplog.messages


def test_labels_become_their_places_and_absent_ones_minus_one(obs, schema):
    labels = schema.encode(obs)
    assert labels.dtype == np.int16
    assert labels.T.tolist() == [[0, 1, -1, -1, 0], [1, 1, -1, 0, -1], [-1] * 5, [2, 1, 3, 0, 3], [0] * 5]


def test_how_many_cells_have_no_label_and_why_is_said_once(obs, schema, caplog):
    with caplog.at_level(logging.INFO, "polygene"):
        schema.encode(obs)
    assert caplog.messages == [
        "sex: 2 of 5 cells not given (1 NaN, 1 'unknown'); tissue: 2 of 5 cells not given (1 NaN, 1 'N/A'); "
        "cell_type: 5 of 5 cells not given (no column 'cell_type')"
    ]


def test_every_way_to_say_nothing_gives_the_same(schema):
    ways = [*sorted(NOT_GIVEN), "Unknown", "NaN", "NA", " none "]
    frames = [pd.DataFrame({"sex": [way]}) for way in [*ways, None, np.nan, pd.NA]]
    frames += [pd.DataFrame({"sex": pd.Categorical([None], categories=["male"])}), pd.DataFrame(index=["a"])]
    assert {tuple(schema.encode(frame)[0].tolist()) for frame in frames} == {(-1,) * 5}


def test_a_phenotype_that_is_not_asked_is_not_given_whatever_its_column_holds(obs, schema):
    obs["tissue"] = "moon"
    labels = schema.encode(obs, use=["sex"])
    assert (labels[:, 1:] == -1).all()
    assert (labels[:, 0] == schema.encode(obs.drop(columns="tissue"))[:, 0]).all()
    assert (schema.encode(obs, use=[]) == -1).all()


def test_decoded_labels_encode_to_the_same(obs, schema):
    labels = schema.encode(obs)
    decoded = schema.decode(labels)
    assert decoded["tissue"].tolist()[:2] == ["lung", "lung"]
    assert decoded["sex"].isna().tolist() == [False, False, True, True, False]
    assert list(decoded.columns) == ["sex", "tissue", "cell_type", "development_stage", "disease"]
    assert (schema.encode(decoded) == labels).all()


@pytest.mark.parametrize("dtype", [int, float, np.float32, "Int64", str, "category"])
def test_ages_given_as_numbers_are_labels_too(dtype):
    ages = pd.DataFrame({"age": pd.Series([57, 9, 57]).astype(dtype)})
    schema = PhenotypeSchema.fit(count_labels(ages, [age := Phenotype(name="age", column="age", ordinal="age")]), [age])
    assert schema.labels == (("9", "57"),)
    assert schema.encode(ages).ravel().tolist() == [1, 0, 1]
    assert schema.years("age").tolist() == [9, 57]


def test_other_columns_and_more_phenotypes_are_configuration(obs):
    obs["drug"] = ["DMSO", "DMSO", "panobinostat", "DMSO", "normal"]
    phenotypes = (*CELLXGENE, Phenotype(name="treatment", column="drug"))
    schema = PhenotypeSchema.fit(count_labels(obs, phenotypes), phenotypes)
    assert schema.index("treatment") == 5
    assert schema.labels[5] == ("DMSO", "normal", "panobinostat")
    assert schema.encode(obs)[:, 5].tolist() == [0, 0, 2, 0, 1]


def test_a_label_outside_the_vocabulary_is_an_error_that_names_the_nearest(obs, schema):
    obs["tissue"] = ["lungs", "lungs", "blod", "lung", "xxxxxxx"]
    with pytest.raises(PhenotypeError) as caught:
        schema.encode(obs)
    message = str(caught.value)
    assert "tissue: the model does not know the label" in message
    assert "'lungs' (2 cells; the nearest is 'lung')" in message
    assert "'blod' (1 cells; the nearest is 'blood')" in message
    assert "'xxxxxxx' (1 cells; it knows 'blood', 'lung')" in message
    assert "It knows 2 of tissue. Rename the labels in obs" in message


def test_a_label_outside_the_vocabulary_can_be_not_given_aloud(obs, schema, caplog):
    obs["tissue"] = ["lungs", "moon", "moon", "lung", None]
    with caplog.at_level(logging.INFO, "polygene"):
        labels = schema.encode(obs, use=["tissue"], unknown="not given")
    assert labels[:, 1].tolist() == [-1, -1, -1, 1, -1]
    assert caplog.messages == ["tissue: 4 of 5 cells not given (1 NaN, 3 outside the vocabulary: 'lungs', 'moon')"]


def test_a_category_that_no_cell_has_is_no_error(schema):
    obs = pd.DataFrame({"tissue": pd.Categorical(["lung"], categories=["moon", "lung"])})
    assert schema.encode(obs)[0, 1] == 1


def test_a_column_that_was_asked_and_is_missing_is_an_error_that_names_the_nearest(obs, schema):
    with pytest.raises(ColumnError, match=r"no column 'cell_type' in obs, which .* cell_type. Did you mean 'celltype'"):
        schema.encode(obs.assign(celltype="B cell"), use=["cell_type"])
    with pytest.raises(ColumnError, match=r"no column 'cell_type'.* It has sex, tissue"):
        schema.encode(obs, use=["cell_type"])


def test_a_label_has_its_place_and_one_that_is_unknown_or_never_seen_is_an_error(schema):
    assert [schema.label_index("tissue", label) for label in schema.labels[1]] == [0, 1]
    with pytest.raises(PhenotypeError, match=r"tissue: the model does not know .* 'lungs'; the nearest is 'lung'"):
        schema.label_index("tissue", "lungs")
    with pytest.raises(PhenotypeError, match="label 'xyz'; it knows 'blood', 'lung'"):
        schema.label_index("tissue", "xyz")
    with pytest.raises(PhenotypeError, match=r"never saw a label of cell_type.*it knows labels of sex, tissue, age"):
        schema.label_index("cell_type", "B cell")


def test_an_unknown_phenotype_is_an_error_that_names_the_nearest(schema):
    with pytest.raises(
        PhenotypeError, match=r"no phenotype 'celltype'; the model knows sex, .*Did you mean 'cell_type'"
    ):
        schema.index("celltype")
    with pytest.raises(PhenotypeError, match="no phenotype 'celltype'"):
        schema.encode(pd.DataFrame(index=["a"]), use=["celltype"])


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Phenotype(name="cell type", column="x"), "a word of letters"),
        (lambda: Phenotype(name="stage", column="x", ordinal="years"), "'age' or None, got 'years'"),
        (lambda: PhenotypeSchema(phenotypes=CELLXGENE, labels=()), "labels for each phenotype, got 0 for 5"),
        (lambda: PhenotypeSchema(phenotypes=CELLXGENE[:1], labels=(("a", "a"),)), "once each"),
        (lambda: PhenotypeSchema(phenotypes=CELLXGENE[:1] * 2, labels=((), ())), "once each"),
    ],
)
def test_impossible_phenotypes_are_refused(make, problem):
    with pytest.raises(PhenotypeError, match=problem):
        make()


def test_a_word_for_unknown_labels_that_is_none_is_refused():
    with pytest.raises(DataError, match="unknown is one of error, not given; got 'x'"):
        PhenotypeSchema(phenotypes=(), labels=()).encode(pd.DataFrame(), unknown="x")


AGES = ("10-year-old stage", "20-year-old stage", "40-year-old stage")


def aged(*labels: str) -> PhenotypeSchema:
    age = next(one for one in CELLXGENE if one.name == "age")
    return PhenotypeSchema(phenotypes=(age,), labels=(labels or AGES,))


def test_one_age_has_many_names():
    obs = pd.DataFrame(
        {"development_stage": ["20-year-old human stage", "20", 20.0, "20-year-old stage", "240 months"]}
    )
    assert aged().encode(obs)[:, 0].tolist() == [1] * 5
    assert aged().label_index("age", "20") == 1


def test_names_of_one_age_become_one_label_of_the_commonest_name():
    obs = pd.DataFrame({"development_stage": ["17-year-old human stage"] * 2 + ["17-year-old stage"] * 3 + ["adult"]})
    schema = PhenotypeSchema.fit(count_labels(obs))
    assert schema.labels[3] == ("17-year-old stage", "adult")
    assert schema.encode(obs)[:, 3].tolist() == [0] * 5 + [1]


def test_an_age_between_known_ones_is_the_mixture_of_its_neighbours():
    # 25 is a quarter of the way from 20 to 40.
    cells = aged().label_indices("age", "25-year-old stage", 8)
    assert sorted(cells.tolist()) == [1] * 6 + [2] * 2
    obs = pd.DataFrame({"development_stage": ["25-year-old stage"] * 8 + ["40-year-old stage"]})
    assert sorted(aged().encode(obs)[:, 0].tolist()) == [1] * 6 + [2] * 3
    assert aged().encode(obs, unknown="not given")[:, 0].tolist() == [-1] * 8 + [2]
    assert aged().label_indices("age", "20-year-old stage", 3).tolist() == [1, 1, 1]


def test_an_age_beyond_the_known_ones_is_refused_with_what_is_known():
    with pytest.raises(PhenotypeError, match="it knows ages from 10 to 40 years"):
        aged().label_index("age", "80-year-old stage")


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("lung", "it knows 'colon', 'rectum', 'pancreas'"),
        ("large intestine", "it knows 'colon', 'rectum' of it"),
        ("islet of Langerhans", "it knows 'pancreas' which it is part of"),
        ("pancras", "the nearest is 'pancreas'"),
    ],
)
def test_an_unknown_tissue_is_answered_with_what_is_known_of_it(label, says):
    tissue = next(one for one in CELLXGENE if one.name == "tissue")
    schema = PhenotypeSchema(phenotypes=(tissue,), labels=(("colon", "rectum", "pancreas"),))
    with pytest.raises(PhenotypeError, match=f"does not know the label '{label}'; {says}"):
        schema.label_index("tissue", label)


def test_a_synonym_or_an_id_means_its_term(schema):
    assert schema.label_index("tissue", "UBERON:0002048") == schema.label_index("tissue", "lung")


def test_a_label_in_another_case_is_read_where_it_is_clear_which_is_meant(schema):
    assert schema.label_index("sex", "Male") == schema.label_index("sex", "male")
    assert schema.find(schema.index("sex"), "M") == -1
    own = PhenotypeSchema(phenotypes=(Phenotype(name="stage", column="stage"),), labels=(("NK", "nk", "T"),))
    assert [own.find(0, text) for text in ("NK", "nk", "Nk", "t")] == [0, 1, -1, 2]


def test_an_age_under_another_name_is_not_outside_the_vocabulary():
    assert aged().find(0, "20-year-old human stage") == 1
    assert aged().find(0, "21") == -1


@pytest.mark.parametrize("name", ["unknown", "novelty", "no_panel_genes", "generated", "cell_type_probability",
                                  "cell_type_set", "tissue_term_id"])  # fmt: skip
def test_a_phenotype_that_would_overwrite_what_a_verb_writes_is_refused(name):
    phenotypes = (*CELLXGENE, Phenotype(name=name, column=name, added=True))
    with pytest.raises(PhenotypeError, match=rf"cannot be called '{name}': obs\['polygene_{name}'\] would hold two"):
        PhenotypeSchema(phenotypes=phenotypes, labels=((),) * 6)


@pytest.mark.parametrize("name", ["cell_type", "age"])
def test_a_hundred_thousand_unknown_names_are_looked_up_in_seconds(name):
    phenotype = next(one for one in CELLXGENE if one.name == name)
    schema = PhenotypeSchema(phenotypes=(phenotype,), labels=(tuple(f"type {v}" for v in range(2_000)),))
    obs = pd.DataFrame({phenotype.column: [f"name {c}" for c in range(100_000)] + ["type 7"]})
    started = time.process_time()
    labels_CP = schema.encode(obs, unknown="not given")
    assert time.process_time() - started < 5
    assert (labels_CP[:-1] == -1).all()
    assert labels_CP[-1, 0] == 7
