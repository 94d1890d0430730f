"""The scores and the cards of benchmarks/models, on numbers made up."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from benchmarks.models import __main__ as models
from benchmarks.models import baselines as baselines
from benchmarks.models import card as cards
from benchmarks.models import scores as scoring
from benchmarks.models import speed as speed
from benchmarks.models import tables as laid
from benchmarks.shared.command import RESULTS
from polygene.evaluation.baselines import baseline_probabilities, tuned_probabilities
from polygene.evaluation.estimators import CellTable
from polygene.model.checkpoint import PolyGene
from polygene.vocab.ontology import LabelTree

LABELS = ("T cell", "CD8-positive, alpha-beta T cell", "B cell")
ROWS = ("PolyGene", "logistic regression", "k-nearest neighbours", "CellTypist", "majority", "source majority",
        "measured genes + library size")  # fmt: skip


def sure(answers_C, n_labels=3):
    """Probabilities of somebody who is nearly sure."""
    return np.full((len(answers_C), n_labels), 0.05) + 0.85 * np.eye(n_labels)[answers_C]


@pytest.fixture
def asked():
    """Two sources of a corpus, the second without variation, and a study never seen."""
    labels = ["B cell", "T cell"] * 6 + ["T cell"] * 4 + ["T cell", "platelet", "T cell"]
    donors = [f"d{i % 4}" for i in range(12)] + ["e"] * 4 + ["f"] * 3
    return baselines.Asked(
        table=CellTable(
            x_CG=sparse.csr_matrix((19, 2)),
            sources_C=np.repeat([0, 1, 2], [12, 4, 3]),
            measured_SG=np.ones((3, 2), dtype=bool),
            donors_C=np.array(donors, dtype=object),
        ),
        parts=[],
        sources=("varied", "constant", "new"),
        n_corpus=2,
        labels=pd.DataFrame({"cell_type": labels, "sex": [None] * 19}, dtype=object),
        years=pd.DataFrame({"age": [20.0, 30.0, 40.0, 50.0] * 3 + [60.0] * 4 + [np.nan] * 3}),
    )


def rows_of(asked, phenotype="cell_type"):
    scored = scoring.scored_labels(asked, phenotype, LABELS, np.array([0, 0, 1, 1, 2, 2]), None)
    truth_C = np.maximum(asked.truth(phenotype, LABELS), 0)
    answers = {who: sure(np.where(np.arange(19) % 5 == n, 1, truth_C)) for n, who in enumerate(ROWS)}
    return scoring.label_rows(asked, phenotype, LABELS, scored, answers)


def test_an_answer_below_the_true_label_is_credited_and_one_above_it_is_not():
    tree = LabelTree(LABELS)
    truth_C, answer_C = np.array([0, 1, 0, 2]), np.array([1, 0, 2, 2])
    changed_CV = scoring.credited(sure(answer_C), truth_C, tree)
    assert changed_CV.argmax(axis=1).tolist() == [0, 0, 2, 2]
    np.testing.assert_allclose(np.sort(changed_CV), np.sort(sure(answer_C)))


def test_a_source_is_scored_where_the_phenotype_varies_and_a_new_study_with_one_cell_type_too(asked):
    scored = scoring.scored_labels(asked, "cell_type", LABELS, np.array([0, 0, 2, 2]), None)
    assert {s: labels_V.tolist() for s, labels_V in scored.items()} == {0: [True, False, True], 2: [True, False, False]}
    assert scoring.scored_labels(asked, "sex", LABELS, np.array([0, 0, 2, 2]), None) == {}


def test_a_label_that_one_training_cell_has_is_not_scored(asked):
    assert scoring.scored_labels(asked, "cell_type", LABELS, np.array([0, 0, 2]), None).keys() == {2}


def test_rows_count_the_cells_that_are_scored_and_those_that_are_not(asked):
    varied, new = rows_of(asked)
    assert (varied["cells"], varied["donors"], varied["unit"], varied["not_scored"]) == (12, 4, "donor", 0)
    assert (new["cells"], new["donors"], new["unit"], new["not_scored"]) == (2, 1, "cell", 1)
    accuracy = scoring.of(varied, "PolyGene", "accuracy")["value"]
    assert accuracy == pytest.approx(9 / 12)  # cells 0, 5 and 10 are answered otherwise
    credited = scoring.of(varied, "PolyGene", "accuracy", "by_ontology")["value"]
    assert credited == pytest.approx(10 / 12)  # cell 5 is a T cell, answered with a kind of T cell


def test_fewer_than_three_donors_leave_cells_to_resample():
    assert scoring.resampling_unit(np.array(["a", "b", "b", "a"])) == "cell"
    assert scoring.resampling_unit(np.array(["a", "b", "c"])) == "donor"
    assert scoring.resampling_unit(np.array(["a", "b", ""])) == "cell"


def test_years_are_scored_by_donor_and_without_interval_where_donors_are_few(asked):
    truth_C = asked.years["age"].fillna(0).to_numpy()
    answers = {"PolyGene": truth_C + 2, "ridge regression": truth_C - 3, "training mean": np.full(19, 35.0)}
    (row,) = scoring.years_rows(asked, "age", answers)
    assert row["source"] == "varied"
    assert scoring.of(row, "PolyGene", "mae_years_by_donor")["value"] == pytest.approx(2)
    assert scoring.of(row, "PolyGene", "mae_years_by_donor")["gain"] == pytest.approx(1)
    few = replace(asked, table=replace(asked.table, donors_C=np.where(np.arange(19) % 2, "a", "b").astype(object)))
    (row,) = scoring.years_rows(few, "age", answers)
    assert scoring.of(row, "PolyGene", "mae_years_by_donor")["gain_low"] is None
    assert scoring.targets([row]) == []


def test_marks_name_the_score_of_the_model_and_the_rows_beside_it(asked):
    found = scoring.marks(rows_of(asked))
    assert found["varied"]["cell_type"].keys() == {"macro_f1", *ROWS[1:]}
    assert found["new"]["cell_type"]["accuracy_by_ontology"] == 1.0


def test_targets_are_missed_where_the_interval_of_the_gain_lies_below_zero():
    score = {"predictor": "PolyGene", "score": "macro_f1", "gain": -0.1, "gain_low": -0.2, "gain_high": -0.05}
    row = {"source": "s", "phenotype": "sex", "external": False, "labels": 2, "unit": "donor", "scores": [score]}
    (found,) = scoring.targets([row])
    assert (found["met"], found["found"]) == (False, "below")
    (found,) = scoring.targets([row | {"scores": [score | {"gain_high": 0.0}]}])
    assert (found["met"], found["found"]) == (True, "not told apart")


def test_one_against_rest_is_what_scikit_learn_calls_so():
    rng = np.random.default_rng(0)
    x_CG, labels_C = rng.normal(size=(60, 4)), rng.choice(["a", "b", "c"], 60)
    own = baselines.OneAgainstRest(C=1.0, solver="lbfgs", max_iter=100, multi_class="ovr", n_jobs=None)
    other = OneVsRestClassifier(LogisticRegression(C=1.0, max_iter=100))
    np.testing.assert_allclose(
        own.fit(x_CG, labels_C).decision_function(x_CG), other.fit(x_CG, labels_C).decision_function(x_CG), atol=1e-6
    )


def test_tuning_for_two_scores_at_once_gives_what_tuning_for_each_gives():
    rng = np.random.default_rng(0)
    labels_C = rng.integers(0, 3, 90)
    x_CG = sparse.csr_matrix(rng.poisson(1 + 2.0 * np.eye(3)[labels_C]).astype(np.float32))
    table = CellTable(
        x_CG=x_CG,
        sources_C=np.zeros(90, dtype=int),
        measured_SG=np.ones((1, 3), dtype=bool),
        donors_C=rng.choice(list("abcdef"), 90).astype(object),
    )
    asked = "logistic regression", table, labels_C, table, 3
    both = tuned_probabilities(*asked, tune_for=["log_loss", "macro_f1"])
    for score, found in zip(("log_loss", "macro_f1"), both, strict=True):
        np.testing.assert_allclose(found, baseline_probabilities(*asked, tune_for=score), atol=1e-4)


@pytest.fixture
def folder(make_adata, tmp_path):
    """A folder with one study never seen, whose first cell is of a type that nobody taught."""
    adata = make_adata(20, seed=5)
    adata.obs["cell_type"] = ["platelet", *adata.obs["cell_type"][1:]]
    (tmp_path / "external").mkdir()
    adata.write_h5ad(tmp_path / "external" / "new.h5ad")
    return tmp_path


def test_asked_are_the_test_cells_and_after_them_the_studies_never_seen(toy_corpus, folder):
    test, found = toy_corpus.split("test"), baselines.asked_cells(toy_corpus, folder)
    assert found.sources == (*toy_corpus.sources, "new")
    assert len(found.table) == sum(map(len, found.parts)) == len(found.labels) == len(test) + 20
    assert found.labels["cell_type"].iloc[len(test)] == "platelet"
    schema = toy_corpus.tokenizer.schema
    truth_C = found.truth("cell_type", schema.labels[schema.index("cell_type")])
    assert truth_C[: len(test)].tolist() == test.labels_CP[:, schema.index("cell_type")].tolist()
    assert truth_C[len(test)] == -1
    np.testing.assert_array_equal(found.table.x_CG[: len(test)].toarray(), test.values().toarray())
    assert found.table.x_CG[len(test) :].nnz == len(found.parts[1].values_N)


def test_answers_of_baselines_are_read_again_from_where_they_are_kept(toy_corpus, folder):
    asked = baselines.asked_cells(toy_corpus, folder)
    first = baselines.Baselines(toy_corpus, asked, folder, {})
    assert first._once("one", lambda: np.arange(3)).tolist() == [0, 1, 2]
    again = baselines.Baselines(toy_corpus, asked, folder, {})
    assert again._once("one", lambda: pytest.fail("answered twice")).tolist() == [0, 1, 2]
    with (folder / "external" / "new.h5ad").open("ab") as file:
        file.write(b"other")
    other = baselines.Baselines(toy_corpus, asked, folder, {})
    assert other._once("one", lambda: np.zeros(1)).tolist() == [0]


def test_numbers_of_the_last_line_are_json_s_own():
    found = models.plain({"a": np.float32(np.nan), "b": (np.int64(2), np.bool_(True)), "c": [1 / 3]})
    assert json.dumps(found) == '{"a": null, "b": [2, true], "c": [0.33333]}'


def test_tables_are_markdown_and_show_intervals():
    assert laid.markdown([["a", "b"], ["1|2", "3"]]) == "| a | b |\n| --- | --- |\n| 1\\|2 | 3 |"
    assert laid.interval({"value": 0.5, "low": 0.25, "high": 0.75}) == "0.500 [0.250, 0.750]"
    assert laid.interval({"gain": 0.5, "gain_low": None, "gain_high": None}, "gain") == "+0.500"


@pytest.mark.parametrize(
    ("took", "load", "said"), [(59, 9.0, "met"), (61, 0.1, "missed"), (61, 9.0, "not told, the machine was busy")]
)
def test_a_long_time_on_a_busy_machine_says_nothing(took, load, said):
    found = speed.verdict("polygene-512", {"annotate_s": took, "load_average": load})
    assert found == f"at most 60 s were wanted: {said}"
    assert speed.verdict("polygene-2432", {"annotate_s": took, "load_average": load}) == ""


@pytest.fixture
def results(asked):
    rows = rows_of(asked)
    scores = {
        f"{score}{end}": value
        for score in ("ece", "log_loss")
        for end, value in (("", 0.1), ("_low", 0.05), ("_high", 0.2))
    }
    took = {"import_s": 4, "load_s": 0.2, "annotate_s": 20, "cells_per_s": 500, "peak_mb": 800, "cells": 10_000}
    return {
        "rows": rows,
        "marks": scoring.marks(rows),
        "targets": scoring.targets(rows),
        "calibration": [
            {"phenotype": "sex", "temperature": np.nan, "calibration_donors": 0, "informative": True, **scores}
            | {"marginal_log_loss": 0.3}
        ],
        "unknown": {"stated": 0.05, "test donors": {"varied": 0.04}, "studies never seen": {"new": 0.5}},
        "speed": took | {"threads": 2, "cpu_s": 39, "load_average": 0.0, "cores": 2, "verdict": "met"},
        "seed": 0,
        "date": "2026-01-01",
        "machine": "a machine",
    }


def test_a_card_is_a_page_that_says_what_the_model_knows_how_good_it_is_and_its_data(toy_corpus):
    results = json.loads((RESULTS / "never_seen.json").read_text())
    model = PolyGene.new(toy_corpus.tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    text = cards.card("polygene-512", model, toy_corpus, results)
    assert text.startswith("---\nlicense: mit\n")
    assert "$" not in text
    for said in (
        "velmeshev_asd_pfc_glia".partition("_")[0].title(),
        "CC-BY-4.0",
        "never seen",
        "PBMC 3k: eight types",
        "| heart nuclei, Kanemaru 2023 | 0.",
        *toy_corpus.sources,
    ):
        assert said in text
    assert len(text.splitlines()) < 150


def test_a_card_counts_real_and_sampled_cells_of_each_tissue(toy_corpus):
    head, *rows = cards.tissue_table(toy_corpus)
    assert head == ["tissue", "real cells", "cells sampled from profiles"]
    train = toy_corpus.split("train")
    p = toy_corpus.tokenizer.schema.index("tissue")
    counted = sum(int(row[1].replace(",", "")) for row in rows)
    assert counted == (train.labels_CP[:, p] >= 0).sum() > 0
    assert {row[2] for row in rows} == {"0"}


def test_the_marks_are_written_into_the_metrics_and_training_s_numbers_stay(results, tmp_path):
    (tmp_path / "metrics.json").write_text('{"validation": {"loss": 1.0}}')
    models.write(tmp_path, results)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["validation"] == {"loss": 1.0}
    assert metrics["marks"] == results["marks"]
    assert metrics["judged"]["speed"]["verdict"] == "met"
