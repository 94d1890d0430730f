"""The targets of the models that ship, and their cards."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks.models import __main__ as models
from benchmarks.models import card as cards
from benchmarks.shared.command import RESULTS
from benchmarks.shared.markdown import markdown
from polygene.model.checkpoint import PolyGene


def test_a_target_is_met_from_its_bound_on():
    assert [models.row("", now, 0.8)["met"] for now in (0.79, 0.8, 1.3)] == [False, True, True]
    assert [models.row("", now, 0.8, 1.2)["met"] for now in (0.79, 1.2, 1.3)] == [False, True, False]
    assert [models.row("", now, None, 0.05)["met"] for now in (-0.2, 0.06)] == [True, False]
    assert [models.row("", -0.1, 0.0, ends=(-0.3, high))["met"] for high in (-0.01, 0.02)] == [False, True]


def test_the_interval_of_a_gain_is_that_of_cells_or_of_five_donors():
    own, other = "1" * 60 + "0" * 40, "1" * 40 + "0" * 60
    low, high = models.interval(own, other, np.array([""] * 100, dtype=object))
    error = np.sqrt(0.2 * 0.8 / 100)  # of a mean of 20 ones and 80 zeros
    assert [low, high] == pytest.approx([0.2 - 1.96 * error, 0.2 + 1.96 * error], abs=0.02)
    low, high = models.interval(own, other, np.repeat(list("abcde"), 20).astype(object))
    assert (low, high) == (0, pytest.approx(0.6, abs=0.01))  # one donor of five has all of the gain
    assert models.interval(own, own, np.arange(100)) == [0, 0]


def bits(accuracy: float) -> str:
    return "".join("1" if n < accuracy * 1000 else "0" for n in range(1000))


def test_a_model_is_compared_with_the_best_baseline_of_each_study_and_with_the_best_of_their_means():
    own = {("heart_san_kanemaru", models.TYPES): 0.9, ("b", models.TYPES): 0.5, ("b", models.SAME): 0.7}
    never_seen = [
        {"model": name, "study": study, "score": score, "accuracy": value, "macro_f1": value / 2, "right": bits(value)}
        for name, factor in (("mine", 1.0), ("other", 0.0))
        for (study, score), of in own.items()
        for value in [factor * of]
    ]
    others = {("heart_san_kanemaru", "x"): 0.95, ("b", "x"): 0.1, ("heart_san_kanemaru", "y"): 0.5, ("b", "y"): 0.6}
    external = [
        {"study": study, "method": who, "accuracy": value, "macro_f1": value / 2, "right": bits(value)}
        for (study, who), value in others.items()
    ]
    known = [
        {"source": "s", "method": who, "accuracy": value}
        for who, value in (("mine", 0.8), (models.known.REGRESSION, 0.7))
    ]
    results = {"never_seen": {"rows": never_seen}, "external": {"rows": external}, "known": {"rows": known}}
    donors = dict.fromkeys(("heart_san_kanemaru", "b"), np.zeros(1000))
    found = pd.DataFrame(models.of_model(results, "mine", donors)).set_index("target")
    assert found["now"].to_dict() == pytest.approx(
        {
            "heart_san_kanemaru: types, by ontology, accuracy": 0.9,
            "heart_san_kanemaru: accuracy over the best baseline": -0.05,
            "b: accuracy over the best baseline": -0.1,
            "mean of studies: accuracy over the best baseline": 0.7 - 0.55,
            "mean of studies: macro_f1 over the best baseline": 0.35 - 0.275,
            "mean of studies: same type, thinned to a third": 0.7,
            "s, new donors: accuracy over regression": 0.1,
        }
    )
    assert found["met"].tolist() == [True, False, False, True, False, False, True]


def test_tables_are_markdown():
    assert markdown([["a", "b"], ["1|2", "3"]]) == "| a | b |\n| --- | --- |\n| 1\\|2 | 3 |"


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
