"""Scores of calibration and sets, against the definitions cell by cell."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

from polygene.evaluation import test_cells as held_out
from polygene.evaluation.reliability import confidence_tally, score_reliability, set_scores
from polygene.evaluation.test_cells import CellBlocks, model_predictions
from polygene.model.calibration import Calibration, calibrate
from polygene.model.checkpoint import PolyGene
from polygene.training.train import calibration
from polygene.vocab.ontology import at_or_below


class Cells(SimpleNamespace):
    """Labels, donors and sources of cells, as a split of a corpus has them."""

    def __len__(self):
        return len(self.labels_CP)


LABELS = ("a", "b", "c")


@pytest.fixture
def answers():
    """300 cells of 12 donors: truth follows the answers, more or less."""
    rng = np.random.default_rng(0)
    p_CV = rng.dirichlet([0.5, 0.5, 0.5], 300)
    truth_C = (p_CV.cumsum(1) < rng.random((300, 1))).sum(1)
    return p_CV, truth_C, (np.arange(300) % 12).astype(object)


def test_ece_log_loss_and_brier_score_are_those_of_their_definitions(answers):
    p_CV, truth_C, donors_C = answers
    tally = confidence_tally(
        p_CV, truth_C=truth_C, kept_C=np.ones(300, bool), sources_C=np.zeros(300, int), donors_C=donors_C
    )
    scores = {name: value[0] for name, value in tally.scores().items()}
    order = np.argsort(p_CV.max(1))
    gaps = [
        abs((p_CV[some].argmax(1) == truth_C[some]).mean() - p_CV[some].max(1).mean()) for some in np.split(order, 15)
    ]
    assert scores["ece"] == pytest.approx(np.mean(gaps))
    assert scores["log_loss"] == pytest.approx(log_loss(truth_C, p_CV))
    assert scores["brier"] == pytest.approx(((p_CV - np.eye(3)[truth_C]) ** 2).sum(1).mean())


def test_confidence_log_loss_and_brier_score_take_a_label_with_all_labels_below_it(answers):
    labels = ("T cell", "CD4-positive, alpha-beta T cell", "B cell")
    p_CV, truth_C, donors_C = answers
    tally = confidence_tally(
        p_CV,
        truth_C=truth_C,
        kept_C=np.ones(300, bool),
        sources_C=np.zeros(300, int),
        donors_C=donors_C,
        at_or_below_VV=at_or_below("cell_type", labels),
    )
    scores = {name: value[0] for name, value in tally.scores().items()}
    losses, squares, confident, right = [], [], [], []
    for (t, cd4, b), truth in zip(p_CV, truth_C, strict=True):
        # to "T cell" both T cells are one label; to the others every label is one
        p_true, others = {0: (t + cd4, [b]), 1: (cd4, [t, b]), 2: (b, [t, cd4])}[truth]
        losses.append(-np.log(p_true))
        squares.append((1 - p_true) ** 2 + sum(p**2 for p in others))
        reported = 2 if b > t + cd4 else 1 if cd4 > t else 0
        confident.append((t + cd4, cd4, b)[reported])
        right.append(reported == truth or (reported, truth) == (1, 0))
    assert scores["log_loss"] == pytest.approx(np.mean(losses))
    assert scores["brier"] == pytest.approx(np.mean(squares))
    confident, right = np.array(confident), np.array(right)
    gaps = [abs(right[some].mean() - confident[some].mean()) for some in np.split(np.argsort(confident), 15)]
    assert scores["ece"] == pytest.approx(np.mean(gaps))


def test_coverage_and_size_are_averaged_by_donor(answers):
    p_CV, truth_C, donors_C = answers
    kept_C = (donors_C != 0) | (np.arange(300) < 30)
    p_CV, truth_C, donors_C = p_CV[kept_C], truth_C[kept_C], donors_C[kept_C]
    one = calibrate(p_CV, truth_C, donors_C)
    table = set_scores(p_CV, truth_C, donors_C, one, LABELS, seed=0)
    found = table.iloc[0]
    set_CV, _ = one.sets(p_CV, 0.9)
    held_C = set_CV[np.arange(len(truth_C)), truth_C]
    donors = np.unique(donors_C)
    assert found["coverage"] == pytest.approx(np.mean([held_C[donors_C == d].mean() for d in donors]))
    assert found["size"] == pytest.approx(np.mean([set_CV[donors_C == d].sum(1).mean() for d in donors]))
    assert found["abstained"] == pytest.approx((set_CV.sum(1) != 1).mean())
    single_C = set_CV.sum(1) == 1
    assert found["single_accuracy"] == pytest.approx((set_CV.argmax(1) == truth_C)[single_C].mean())
    assert table.label.tolist() == ["", *LABELS]
    assert set(table.basis[1:]) == {"own"}


@pytest.mark.parametrize(("finer", "held"), [(False, [0, 1, 0]), (True, [1, 1, 0])], ids=["alone", "below another"])
def test_a_cell_without_a_typical_label_has_the_set_that_annotate_writes(finer, held):
    truth_C, donors_C = np.arange(240) % 3, (np.arange(240) // 3 % 12).astype(object)
    tree_VV = np.eye(3, dtype=bool)
    tree_VV[0, 1] = finer
    one = calibrate(0.01 + 0.97 * np.eye(3)[truth_C], truth_C, donors_C, tree_VV)
    table = set_scores(np.tile([0.2, 0.5, 0.3], (240, 1)), truth_C, donors_C, one, LABELS, tree_VV, seed=0)
    assert table["size"].tolist() == [1] * 4
    assert table["coverage"].tolist() == pytest.approx([sum(held) / 3, *held])
    assert table["abstained"].iloc[0] == 1
    assert table["why"].iloc[2] == "a set holds one label at least"


@pytest.mark.parametrize(
    ("n_calibration", "why"),
    [(3, "3 calibration donors have it, 9 are needed"), (12, "test donors differ from the 12")],
)
def test_where_coverage_fails_it_says_by_how_much_and_why(answers, n_calibration, why):
    p_CV, truth_C, donors_C = answers
    few_C = np.isin(donors_C, range(n_calibration))
    one = calibrate(p_CV[few_C], truth_C[few_C], donors_C[few_C])
    found = set_scores(p_CV, (truth_C + 1) % 3, donors_C, one, LABELS, seed=0).iloc[0]
    assert found["off"] == pytest.approx(found["coverage"] - 0.9)
    assert found["off"] < -0.02
    assert why in found["why"]


@pytest.fixture(scope="module")
def model(toy_corpus):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = PolyGene.new(toy_corpus.tokenizer, initializer_range=0.4, **shape)
    return replace(model, calibration=calibration(model, toy_corpus.split("validation")))


def scored(model, corpus):
    """The reliability of the model on the test cells."""
    test = corpus.split("test")
    return score_reliability(model, corpus.split("train"), test, model_predictions(model, CellBlocks(corpus, test))[0])


def test_every_phenotype_that_varies_is_scored(model, toy_corpus):
    found = scored(model, toy_corpus)
    for table in (found.calibration, found.sets, found.bins):
        assert {"sex", "cell_type"} <= set(table.phenotype)
        assert "tissue" not in set(table.phenotype)
    row = found.calibration.set_index("phenotype").loc["cell_type"]
    assert row.temperature == model.calibration.temperature("cell_type") != 1
    assert found.bins.cells[found.bins.phenotype == "cell_type"].sum() == len(toy_corpus.split("test"))
    assert not row.informative, "an untrained network does not beat the frequencies in training"


def test_a_model_that_was_not_calibrated_has_no_sets(model, toy_corpus):
    found = scored(replace(model, calibration=type(model.calibration)()), toy_corpus)
    assert found.calibration.temperature.isna().all()
    assert found.sets.empty


def test_blocks_change_no_number(model, toy_corpus, monkeypatch):
    whole = scored(model, toy_corpus)
    monkeypatch.setattr(held_out, "BLOCK", 7)
    pd.testing.assert_frame_equal(scored(model, toy_corpus).sets, whole.sets)


@pytest.mark.parametrize(
    ("test_share", "knowledge", "informative"),
    [(0.5, 0.0, False), (0.9, 0.0, False), (0.5, 0.3, True), (0.9, 0.3, True)],
    ids=[
        "equal shares beat the marginal",
        "the marginal is right",
        "knows in both",
        "knows where the marginal is right",
    ],
)
def test_one_prediction_for_every_cell_is_not_informative_even_if_it_beats_the_marginal(
    test_share, knowledge, informative
):
    """Nine in ten training cells are female; a model that learned nothing predicts one half for every cell."""
    rng = np.random.default_rng(0)
    labels_C = (np.arange(2_000) >= 2_000 * test_share).astype(int)
    right_C = 0.5 + knowledge + rng.normal(0, 1e-3, 2_000)
    p_CV = np.where(labels_C[:, None] == np.arange(2), right_C[:, None], 1 - right_C[:, None])
    donors_C = np.array([f"donor{c % 20}" for c in range(2_000)], dtype=object)
    train = SimpleNamespace(
        labels_CP=(np.arange(100) >= 90).astype(int)[:, None], donors_C=np.array(["a", "b"] * 50, dtype=object)
    )
    test = Cells(labels_CP=labels_C[:, None], donors_C=donors_C, sources_C=np.zeros(2_000, int))
    schema = SimpleNamespace(names=("sex",), labels=(("female", "male"),))
    model = SimpleNamespace(
        tokenizer=SimpleNamespace(schema=schema), calibration=Calibration(), at_or_below=lambda _: None
    )
    row = score_reliability(model, train, test, [p_CV]).calibration.iloc[0]
    assert row.uniform_log_loss == pytest.approx(np.log(2))
    assert (row.uniform_log_loss < row.marginal_log_loss) == (test_share == 0.5)
    assert row.informative == informative


def test_a_network_that_names_finer_types_than_the_file_is_informative():
    labels, donors_C = ("T cell", "CD4-positive, alpha-beta T cell", "B cell"), np.array(["a", "b"] * 60, dtype=object)
    labels_C = np.where(np.arange(120) < 60, 0, 2)
    p_CV = np.where(labels_C[:, None] == 0, [0.02, 0.9, 0.08], [0.02, 0.06, 0.92])
    split = Cells(labels_CP=labels_C[:, None], donors_C=donors_C, sources_C=np.zeros(120, int))
    schema = SimpleNamespace(names=("cell_type",), labels=(labels,))
    model = SimpleNamespace(
        tokenizer=SimpleNamespace(schema=schema),
        calibration=Calibration(),
        at_or_below=lambda name: at_or_below(name, labels),
    )
    row = score_reliability(model, split, split, [p_CV]).calibration.iloc[0]
    assert row.log_loss == pytest.approx(-np.log(0.92))
    assert row.informative
