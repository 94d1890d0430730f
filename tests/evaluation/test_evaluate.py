"""Scores on held-out donors: which rows there are, and that their numbers are those of scikit-learn and of plain sums.

The corpus has two sources of eight donors each. Sex and cell type vary in both; every cell of a source has the tissue
of the source; all have the same disease; the second source did not measure five of the genes.
"""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, mean_absolute_error

from polygene.corpus.arrow import SPLITS
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import CorpusError, DataError
from polygene.evaluation import evaluate as evaluation
from polygene.evaluation import masked_genes
from polygene.evaluation import test_cells as held_out
from polygene.evaluation.ages import years_interval
from polygene.evaluation.evaluate import evaluate, predict_split, summarise
from polygene.evaluation.masked_genes import score_genes
from polygene.evaluation.novelty import learn_novelty, query_states, score_novelty
from polygene.evaluation.reliability import score_reliability
from polygene.evaluation.tables import interval
from polygene.evaluation.test_cells import MODEL, CellBlocks, model_predictions
from polygene.evaluation.validation import validation_scores
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.model.recipe import Recipe, TrainingConfig
from polygene.nn.losses import LossConfig
from polygene.training.train import calibration
from polygene.vocab.ontology import SURE, LabelTree

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SEX, TISSUE, CELL_TYPE, AGE, DISEASE = range(5)


@pytest.fixture(scope="module")
def corpus(make_adata, tmp_path_factory):
    first, second = make_adata(160, seed=1), make_adata(160, seed=1)[:, :25].copy()
    second.obs["tissue"] = pd.Categorical(["lung"] * 160)
    second.obs["donor_id"] = pd.Categorical([f"{donor} of the second" for donor in second.obs["donor_id"]])
    second.obs_names = [f"{name} of the second" for name in second.obs_names]
    return prepare(
        {"first": first, "second": second},
        tmp_path_factory.mktemp("two") / "corpus",
        config=PrepareConfig(n_genes=24, fractions=(0.5, 0.2, 0.3), seen=0.05),
    )


@pytest.fixture(scope="module")
def model(corpus):
    """An untrained model with large weights: its answers differ from cell to cell."""
    return PolyGene.new(corpus.tokenizer, initializer_range=0.4, **SHAPE)


@pytest.fixture(scope="module")
def results(model, corpus):
    return evaluate(model, corpus)


@pytest.fixture(scope="module")
def scores(results):
    return results.scores


@pytest.fixture(scope="module")
def answers(model, corpus):
    """Answers for the test cells, by phenotype, in double precision and summing to one."""
    cells = corpus.split("test").cells(slice(None))
    found = label_probabilities(model, cells, predict=model.tokenizer.schema.names)
    return [p_CV.astype(float) / p_CV.sum(1, keepdims=True, dtype=float) for p_CV in found]


def value_row(scores, phenotype, predictor, score):
    rows = scores[(scores.phenotype == phenotype) & (scores.predictor == predictor) & (scores.score == score)]
    assert len(rows) == 1
    return rows.to_dict("records")[0]


def value_of(scores, phenotype, predictor, score):
    return value_row(scores, phenotype, predictor, score)["value"]


def test_the_toy_corpus_is_what_these_tests_need(corpus):
    test = corpus.split("test")
    assert corpus.measured_SG[0].all()
    assert 0 < corpus.measured_SG[1].sum() < 24
    for source in (0, 1):
        labels_CP = test.labels_CP[test.sources_C == source]
        assert [len(np.unique(labels_CP[:, p])) for p in (SEX, TISSUE, CELL_TYPE)] == [2, 1, 3]


# --- the table ---


def test_the_model_stands_beside_every_baseline(scores):
    expected = {
        "majority",
        "source majority",
        "measured genes + library size",
        "k-nearest neighbours",
        "logistic regression",
        "logistic regression, tuned for log loss",
    }
    for phenotype in ("sex", "cell_type"):
        rows = scores[scores.phenotype == phenotype]
        assert set(rows.predictor) == expected | {MODEL}
        assert set(rows.score) == {"accuracy", "macro_f1", "balanced_accuracy", "log_loss"}
    assert set(scores[scores.phenotype == "age in years"].predictor) == {MODEL, "training mean", "ridge regression"}


def test_a_phenotype_that_varies_in_no_source_is_named_and_not_scored(results, scores):
    assert {"tissue", "disease"} <= set(results.not_scored)
    assert not {"sex", "cell_type"} & set(results.not_scored)
    assert not {"tissue", "disease"} & set(scores.phenotype)


def test_pooled_sources_stand_apart_and_naming_the_source_wins_them(scores):
    assert "disease, sources pooled" not in set(scores.phenotype)
    assert value_of(scores, "tissue, sources pooled", "source majority", "accuracy") == 1
    assert value_of(scores, "tissue, sources pooled", "measured genes + library size", "accuracy") == 1
    assert value_of(scores, "tissue, sources pooled", "majority", "accuracy") < 1


def test_a_corpus_of_one_source_has_no_pooled_rows(toy_corpus):
    found = predict_split(PolyGene.new(toy_corpus.tokenizer, **SHAPE), toy_corpus).tallies
    assert "cell_type" in found
    assert not [name for name in found if "pooled" in name]


RECOMPUTE = {
    "accuracy": lambda truth, p: accuracy_score(truth, p.argmax(1)),
    "balanced_accuracy": lambda truth, p: balanced_accuracy_score(truth, p.argmax(1)),
    "macro_f1": lambda truth, p: f1_score(truth, p.argmax(1), average="macro", labels=np.unique(truth)),
    "log_loss": lambda truth, p: log_loss(truth, p, labels=np.arange(p.shape[1])),
}


@pytest.mark.parametrize("score", RECOMPUTE)
@pytest.mark.parametrize("phenotype", ["sex", "cell_type"])
def test_a_score_is_that_of_scikit_learn_averaged_over_sources(phenotype, score, corpus, answers, scores):
    p, test = corpus.tokenizer.schema.index(phenotype), corpus.split("test")
    by_source = []
    for source in (0, 1):
        here_C = test.sources_C == source
        by_source.append(RECOMPUTE[score](test.labels_CP[here_C, p], answers[p][here_C]))
    assert value_of(scores, phenotype, MODEL, score) == pytest.approx(np.mean(by_source), rel=1e-5)


def test_the_majority_is_counted_in_training_and_the_majority_of_the_source_in_its_source(corpus, scores):
    train, test = corpus.split("train"), corpus.split("test")
    pooled, within = [], []
    for source in (0, 1):
        here_C = test.sources_C == source
        truth = test.labels_CP[here_C, CELL_TYPE]
        most = np.bincount(train.labels_CP[:, CELL_TYPE]).argmax()
        most_here = np.bincount(train.labels_CP[train.sources_C == source, CELL_TYPE]).argmax()
        pooled.append((truth == most).mean())
        within.append((truth == most_here).mean())
    assert value_of(scores, "cell_type", "majority", "accuracy") == pytest.approx(np.mean(pooled))
    assert value_of(scores, "cell_type", "source majority", "accuracy") == pytest.approx(np.mean(within))


def test_the_error_in_years_is_that_of_the_expected_age(corpus, answers, scores):
    train, test = corpus.split("train"), corpus.split("test")
    years_V = np.array([int(label[:2]) for label in corpus.tokenizer.schema.labels[AGE]])
    for predictor, years_C in (
        (MODEL, answers[AGE] @ years_V),
        ("training mean", np.full(len(test), years_V[train.labels_CP[:, AGE]].mean())),
    ):
        errors = []
        for source in (0, 1):
            here_C = (test.sources_C == source) & (test.labels_CP[:, AGE] >= 0)
            errors.append(mean_absolute_error(years_V[test.labels_CP[here_C, AGE]], years_C[here_C]))
        assert value_of(scores, "age in years", predictor, "mae_years") == pytest.approx(np.mean(errors), rel=1e-5)


def test_every_interval_holds_its_value_and_every_gain_is_a_difference_to_the_reference(scores):
    assert (scores.low <= scores.value + 1e-12).all()
    assert (scores.value <= scores.high + 1e-12).all()
    for (phenotype, score), rows in scores.groupby(["phenotype", "score"]):
        reference = "ridge regression" if "years" in phenotype else "logistic regression"
        sign = -1 if score in ("log_loss", "mae_years", "mae_years_by_donor") else 1
        gain = sign * (rows.value - rows.value[rows.predictor == reference].item())
        np.testing.assert_allclose(rows.gain, gain, atol=1e-12)
        assert (rows.at_or_above == (rows.gain_high >= 0)).all()


def test_results_say_how_cells_were_held_out_and_are_json(results, corpus):
    assert results.split == "donor"
    assert results.cells == {name: len(corpus.split(name)) for name in SPLITS}
    assert results.donors == len(set(corpus.split("test").donors_C))
    written = results.to_dict()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert len(written["scores"]) == len(results.scores)
    assert written["confusion"]["sex"]["counts"] == results.confusion["sex"].to_numpy().tolist()


def test_results_at_a_prompt_are_the_summary_and_no_longer_than_a_screen(results):
    lines = repr(results).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 160
    html = results._repr_html_()
    assert html.count("<table") == 1
    for text in (repr(results), html):
        assert interval(value_row(results.scores, "sex", MODEL, "macro_f1")) in text
        assert "not tested" in text


def test_the_summary_has_a_row_for_each_phenotype_with_its_baselines(results):
    frame = results.summary().frame.set_index("phenotype")
    assert set(frame.index) == {"sex", "cell type", "age in years", "tissue", "disease"}
    row = frame.loc["cell type"]
    reference = value_row(results.scores, "cell_type", "logistic regression", "macro_f1")
    assert row["regression, same genes"] == f"{reference['value']:.3f}"
    assert row["gain"] == interval(value_row(results.scores, "cell_type", MODEL, "macro_f1"), "gain", "+z.3f")


def printed(tables):
    console = Console(width=400, record=True, quiet=False, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    for table in tables:
        console.print(table)
    console.file.close()
    return console.export_text()


@pytest.mark.parametrize("word", ["donor", "study", "random"])
def test_every_table_carries_the_word_of_the_split(word, results):
    of_word = replace(results, split=word)
    for table in [of_word.summary(), *of_word.tables()]:
        assert word in table.title
        assert "cells, not donors" in table.title or word != "random"


def test_each_part_has_a_table_and_the_terminal_prints_what_its_frame_holds(results, scores):
    tables = results.tables()
    assert len(tables) == len(set(scores.phenotype)) + len(results.confusion) + 4
    assert {table.section for table in tables} == {"scores", "classes", "confidence", "age", "genes"}
    for table in tables:
        text = printed([table])
        for cell in table.frame.to_numpy().ravel():
            assert cell in text


def test_tables_hold_the_numbers_with_their_intervals(results):
    text = printed(results.tables())
    assert interval(value_row(results.scores, "sex", MODEL, "macro_f1")) in text
    genes = results.genes.set_index("predictor")
    assert f"{genes.cross_entropy[MODEL]:.3f}" in text
    assert np.isnan(genes.spearman_gene["training mean"])
    assert "–" in text
    assert "nan" not in text
    assert "None" not in text


def test_tables_show_calibration_and_by_how_much_sets_fail_and_why(results, model, corpus):
    known, test = replace(model, calibration=calibration(model, corpus.split("validation"))), corpus.split("test")
    predictions, _ = model_predictions(known, CellBlocks(corpus, test))
    found = score_reliability(known, corpus.split("train"), test, predictions)
    with_sets = replace(results, calibration=found.calibration, sets=found.sets)
    text = printed(with_sets.tables())
    for row in found.calibration.to_dict("records"):
        assert interval(row, "ece") + ("" if row["informative"] else ", void") in text
    sets = found.sets[found.sets.label == ""]
    assert set(sets.phenotype) >= {"sex", "cell_type"}
    for row in sets.to_dict("records"):
        assert interval(row, "coverage") in text
    assert sets.why.notna().any()
    for row in sets[sets.why.notna()].itertuples():
        assert f"{row.off:+.3f}: {row.why}".replace("-", "−") in text


def test_scores_do_not_depend_on_how_many_test_cells_are_in_memory(model, corpus, scores, monkeypatch):
    monkeypatch.setattr(held_out, "BLOCK", 7)
    np.testing.assert_allclose(summarise(predict_split(model, corpus).tallies).value, scores.value, rtol=1e-6)


def test_baselines_learn_from_so_many_cells_at_most_and_it_is_said(model, corpus, monkeypatch, caplog):
    caplog.set_level("INFO", logger="polygene")
    monkeypatch.setattr(evaluation, "MOST_BASELINE_CELLS", 50)
    seen = []

    def predict(name, train, labels_C, test, n_labels, *, tune_for, **kwargs):
        seen.append((len(train), len(labels_C), len(set(train.donors_C))))
        return [np.full((len(test), n_labels), 1 / n_labels)] * len(tune_for)

    monkeypatch.setattr(held_out, "tuned_probabilities", predict)
    results = evaluate(model, corpus)
    n_train = len(corpus.split("train"))
    assert set(seen) == {(50, 50, len(set(corpus.split("train").donors_C)))}
    assert results.baseline_cells == 50
    assert f"baselines learn from 50 of {n_train} training cells, evenly spread" in caplog.text


# --- what is refused ---


def test_a_corpus_of_another_tokenizer_is_refused(model, toy_corpus):
    with pytest.raises(CorpusError, match="another tokenizer"):
        evaluate(model, toy_corpus)


def test_a_corpus_without_test_cells_is_refused(make_adata, tmp_path):
    config = PrepareConfig(n_genes=8, fractions=(0.7, 0.3, 0.0))
    corpus = prepare(make_adata(60), tmp_path / "corpus", config=config)
    with pytest.raises(CorpusError, match="no test cells"):
        evaluate(PolyGene.new(corpus.tokenizer, **SHAPE), corpus)


def test_a_negative_seed_is_refused(model, corpus):
    with pytest.raises(DataError, match="the seed is -1"):
        evaluate(model, corpus, seed=-1)


@pytest.mark.parametrize(
    ("training", "balanced"),
    [
        (TrainingConfig(), set()),
        (TrainingConfig(class_weights=True), {"sex", "cell_type", "tissue", "age"}),
    ],
    ids=["none", "class weights"],
)
def test_baselines_get_the_weights_that_the_model_had(training, balanced, model, corpus, monkeypatch):
    given = {}

    def predict(name, train, labels_C, test, n_labels, *, class_weight, tune_for, **kwargs):
        phenotype = next(p for p in range(5) if np.array_equal(labels_C, corpus.split("train").labels_CP[:, p]))
        given[corpus.tokenizer.schema.names[phenotype]] = class_weight
        return [np.full((len(test), n_labels), 1 / n_labels)] * len(tune_for)

    monkeypatch.setattr(held_out, "tuned_probabilities", predict)
    recipe = Recipe(corpus="corpus", out="out", training=training)
    predict_split(replace(model, recipe=recipe), corpus)
    assert {"sex", "cell_type"} <= given.keys()
    assert given == {name: "balanced" if name in balanced else None for name in given}


# --- genes ---


@pytest.fixture
def asked(monkeypatch):
    """Record what the network is asked about genes, and what it answers."""
    calls = []

    def record(model, cells, *args, answer=masked_genes.bin_probabilities, **kwargs):
        probabilities_QB = answer(model, cells, *args, **kwargs)
        calls.append((cells, *args, probabilities_QB))
        return probabilities_QB

    monkeypatch.setattr(masked_genes, "bin_probabilities", record)
    return calls


def test_a_gene_that_is_asked_is_never_visible_and_was_measured(model, corpus, asked):
    test = corpus.split("test")
    score_genes(model, test)
    ((cells, cells_Q, genes_Q, visible_N, _),) = asked
    assert (np.diff(cells_Q) >= 0).all()
    cells_N = np.repeat(np.arange(len(cells)), np.diff(cells.offsets_C1))
    visible = set(zip(cells_N[visible_N], cells.genes_N[visible_N], strict=True))
    questions = list(zip(cells_Q, genes_Q, strict=True))
    assert len(questions) == len(set(questions)) > 100
    assert not visible & set(questions)
    hidden = set(zip(cells_N[~visible_N], cells.genes_N[~visible_N], strict=True))
    assert hidden <= set(questions), "every expressed gene that is hidden is asked"
    assert corpus.measured_SG[test.sources_C[cells_Q], genes_Q].all()
    assert (~visible_N).mean() == pytest.approx(0.15, abs=0.04)


def test_scores_of_genes_are_plain_weighted_sums(model, corpus, asked):
    test, train = corpus.split("test"), corpus.split("train")
    found = score_genes(model, test)
    ((cells, cells_Q, genes_Q, _, answers_QB),) = asked
    bins_CG = np.zeros((len(cells), 24), dtype=int)
    bins_CG[np.repeat(np.arange(len(cells)), np.diff(cells.offsets_C1)), cells.genes_N] = cells.bins_N
    bins_Q = bins_CG[cells_Q, genes_Q]
    weights_Q = np.where(bins_Q > 0, 1, 4) / corpus.measured_SG.sum(1)[test.sources_C[cells_Q]]  # a quarter of zeros
    counts_GB = np.full((24, 10), 0.5)
    for c in range(len(train)):
        cell = train.cells(np.array([c]))
        bins_G = np.zeros(24, dtype=int)
        bins_G[cell.genes_N] = cell.bins_N
        measured_G = corpus.measured_SG[train.sources_C[c]]
        counts_GB[np.flatnonzero(measured_G), bins_G[measured_G]] += 1
    means_GB = counts_GB / counts_GB.sum(1, keepdims=True)
    for name, probabilities_QB in ((MODEL, answers_QB), ("training mean", means_GB[genes_Q])):
        surprise_Q = -np.log(probabilities_QB[np.arange(len(bins_Q)), bins_Q].astype(float))
        expected = (weights_Q * surprise_Q).sum() / weights_Q.sum()
        assert found[name]["cross_entropy"] == pytest.approx(expected, rel=1e-5), name
        expressed_Q = bins_Q > 0
        hit_Q = probabilities_QB.argmax(1)[expressed_Q] == bins_Q[expressed_Q]
        of_cells_Q = weights_Q[expressed_Q]
        assert found[name]["bin_accuracy"] == pytest.approx((hit_Q * of_cells_Q).sum() / of_cells_Q.sum()), name


def test_what_is_hidden_depends_on_the_seed_alone(model, corpus):
    test = corpus.split("test")
    first, again, other = (score_genes(model, test, seed=seed)[MODEL] for seed in (1, 1, 2))
    assert first == again
    assert first["cross_entropy"] != other["cross_entropy"]


# --- validation during training ---


def test_the_validation_loss_is_cross_entropy_without_smoothing(corpus):
    """In it a phenotype costs at most what the frequencies of training cost; some would be above."""
    model = PolyGene.new(corpus.tokenizer, initializer_range=0.15, seed=2, **SHAPE)
    train, validation = corpus.split("train"), corpus.split("validation")
    found = validation_scores(model, train, validation, LossConfig(smoothing=0.5, gene_weight=2, phenotype_weight=3))
    label_losses, capped = [], []
    for p in (SEX, TISSUE, CELL_TYPE, AGE):
        name = corpus.tokenizer.schema.names[p]
        donors = pd.Series(train.donors_C).groupby(train.labels_CP[:, p]).nunique()
        kept = np.flatnonzero(np.isin(validation.labels_CP[:, p], donors[donors >= 2].index))
        truth_C = validation.labels_CP[kept, p]
        (answer_CV,) = label_probabilities(model, validation.cells(kept), predict=[name])
        of_model = -np.log(answer_CV[np.arange(len(truth_C)), truth_C].astype(float)).mean()
        frequencies_V = np.bincount(train.labels_CP[:, p]) / len(train)
        of_frequencies = -np.log(frequencies_V[truth_C]).mean()
        assert found[f"{name}_log_loss"] == pytest.approx(of_model, rel=1e-5)
        label_losses.append(min(of_model, of_frequencies))
        capped.append(bool(of_model > of_frequencies))
    assert set(capped) == {True, False}
    assert "disease_log_loss" not in found
    genes = score_genes(model, validation)[MODEL]["cross_entropy"]
    assert found["loss"] == pytest.approx(2 * genes + 3 * np.mean(label_losses), rel=1e-5)
    assert found == validation_scores(
        model, train, validation, LossConfig(smoothing=0, gene_weight=2, phenotype_weight=3)
    )


def test_the_error_in_years_needs_no_age_that_training_donors_share(make_adata, tmp_path):
    """Held-out donors rarely have the very age of two training donors; their error in years is known all the same."""
    adata = make_adata(120)
    ages = {f"donor{d}": f"{age}-year-old stage" for d, age in enumerate([30, 40, 50, 60, 30, 40, 50, 60])}
    adata.obs["development_stage"] = pd.Categorical(adata.obs["donor_id"].astype(str).map(ages))
    corpus = prepare(adata, tmp_path / "corpus", config=PrepareConfig(n_genes=16, fractions=(0.5, 0.25, 0.25)))
    model = PolyGene.new(corpus.tokenizer, initializer_range=0.4, **SHAPE)
    found = validation_scores(model, corpus.split("train"), corpus.split("validation"), LossConfig())
    validation, years_V = corpus.split("validation"), corpus.tokenizer.schema.years("age")
    (answer_CV,) = label_probabilities(model, validation.cells(slice(None)), predict=["age"])
    actual_C = np.array([int(ages[donor][:2]) for donor in validation.donors_C])
    assert not np.isin(actual_C, years_V).all(), "an age that no training donor has at all is scored too"
    error_C = np.abs(answer_CV.astype(float) @ years_V - actual_C)
    assert found["age_mae_years"] == pytest.approx(error_C.mean(), rel=1e-5)
    assert "age_accuracy" not in found


def test_without_validation_cells_there_is_no_score(model, corpus, make_adata, tmp_path):
    config = PrepareConfig(n_genes=8, fractions=(0.7, 0.0, 0.3))
    empty = prepare(make_adata(60), tmp_path / "corpus", config=config).split("validation")
    assert validation_scores(model, corpus.split("train"), empty, LossConfig()) == {}


def test_the_interval_of_ages_is_scored_on_the_test_donors(results, model, corpus, answers):
    test, years_V = corpus.split("test"), corpus.tokenizer.schema.years("age")
    low_C, high_C = years_interval(answers[AGE], years_V)
    held_C = (low_C <= test.years_C) & (test.years_C <= high_C)
    by_donor = [held_C[test.donors_C == donor].mean() for donor in set(test.donors_C)]
    assert results.ages.set_index("phenotype").coverage["age"] == pytest.approx(np.mean(by_donor))


# --- cells unlike any in training ---


def test_false_alarms_are_the_mean_over_donors_of_the_share_that_is_flagged(model, corpus):
    test = corpus.split("test")
    assert model_predictions(model, CellBlocks(corpus, test))[1] is None
    assert score_novelty(model, test, None).empty
    known = replace(model, novelty=learn_novelty(model, corpus.split("train"), corpus.split("validation")))
    found = score_novelty(known, test, model_predictions(known, CellBlocks(corpus, test))[1]).iloc[0]
    flagged_C = known.novelty.score(query_states(known, test, "cell_type")) > 1
    by_donor = [flagged_C[test.donors_C == donor].mean() for donor in set(test.donors_C)]
    assert found["false_alarms"] == pytest.approx(np.mean(by_donor))
    assert found["low"] <= found["false_alarms"] <= found["high"]
    assert (found["cells"], found["donors"]) == (len(test), len(by_donor))
    assert found["set_on_donors"] == len(set(corpus.split("validation").donors_C))


def test_the_rate_of_false_alarms_has_a_table_where_the_model_has_a_detector(results):
    assert results.novelty.empty
    scored = {"stated": 0.05, "set_on_donors": 3, "false_alarms": 0.061, "low": 0.04, "high": 0.08}
    with_novelty = replace(results, novelty=pd.DataFrame([scored | {"cells": 1200, "donors": 7}]))
    (table,) = (one for one in with_novelty.tables() if one.section == "novelty")
    assert "0.061 [0.040,\N{NO-BREAK SPACE}0.080]" in printed([table])


# --- the hierarchy of cell types ---


def test_cell_types_are_also_scored_by_the_ontology(results, model, corpus, answers):
    test = corpus.split("test")
    labels = model.tokenizer.schema.labels[CELL_TYPE]
    tree = LabelTree(labels)
    backed_off, label = results.hierarchy.to_dict("records")
    assert (backed_off["level"], backed_off["labels_found"], backed_off["labels"]) == (SURE, 3, 3)
    expected = tree.scores(answers[CELL_TYPE], test.labels_CP[:, CELL_TYPE], test.donors_C)["backed_off"]
    assert {name: backed_off[name] for name in expected} == pytest.approx(expected)
    by_donor = pd.Series(answers[CELL_TYPE].argmax(1) == test.labels_CP[:, CELL_TYPE]).groupby(test.donors_C).mean()
    assert label["correct"] == pytest.approx(by_donor.mean())
