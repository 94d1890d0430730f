"""Baselines against scikit-learn on dense, centred matrices, and against what they must not know."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from polygene.evaluation import baselines, estimators
from polygene.evaluation.baselines import LABEL_BASELINES, baseline_probabilities, baseline_years
from polygene.evaluation.estimators import CellTable

N_LABELS = 5
"""The vocabulary; training has seen labels 0, 1 and 3."""


def some_cells(seed: int, n_cells: int = 240, n_genes: int = 30) -> tuple[CellTable, np.ndarray]:
    """Sparse log1p values of 8 donors in 2 sources; labels 0, 1 and 3 shift three genes each."""
    rng = np.random.default_rng(seed)
    labels_C = rng.choice([0, 1, 3], n_cells, p=[0.6, 0.3, 0.1])
    donors_C = rng.integers(0, 8, n_cells)
    rate_CG = np.full((n_cells, n_genes), 0.4) + 0.3 * np.random.default_rng(99).random((8, n_genes))[donors_C]
    for gene in range(9):
        rate_CG[labels_C == (0, 1, 3)[gene // 3], gene] += 1.0
    x_CG = np.log1p(100.0 * rng.poisson(rate_CG)).astype(np.float32)
    measured_SG = np.ones((2, n_genes), dtype=bool)
    measured_SG[1, 20:] = False
    x_CG[~measured_SG[donors_C % 2]] = 0
    names = np.array([f"donor {donor}" for donor in donors_C])
    table = CellTable(x_CG=sparse.csr_matrix(x_CG), sources_C=donors_C % 2, measured_SG=measured_SG, donors_C=names)
    return table, labels_C


@pytest.fixture
def train():
    return some_cells(0)


@pytest.fixture
def test():
    return some_cells(1, n_cells=90)


def dense(table: CellTable) -> np.ndarray:
    return table.x_CG.toarray().astype(float)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("name", LABEL_BASELINES)
def test_every_baseline_answers_with_probabilities_over_the_whole_vocabulary(name, class_weight, train, test):
    answers_CV = baseline_probabilities(name, *train, test[0], N_LABELS, class_weight=class_weight)
    assert answers_CV.shape == (90, N_LABELS)
    np.testing.assert_allclose(answers_CV.sum(axis=1), 1)
    assert (answers_CV[:, [2, 4]] == 0).all()
    assert (answers_CV >= 0).all()


@pytest.mark.parametrize("name", LABEL_BASELINES)
def test_cells_without_a_label_and_the_donors_of_test_cells_change_nothing(name, train, test):
    table, labels_C = train
    answers_CV = baseline_probabilities(name, table, labels_C, test[0], N_LABELS)
    labels_C = labels_C.copy()
    labels_C[::5] = -1
    kept = labels_C >= 0
    without = baseline_probabilities(name, table, labels_C, replace(test[0], donors_C=None), N_LABELS)
    np.testing.assert_array_equal(without, baseline_probabilities(name, table[kept], labels_C[kept], test[0], N_LABELS))
    assert not np.array_equal(answers_CV, without)


@pytest.mark.parametrize("name", LABEL_BASELINES)
def test_the_same_seed_gives_the_same_answers(name, train, test):
    first, second = (baseline_probabilities(name, *train, test[0], N_LABELS, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_an_unknown_baseline_is_refused_with_the_names_there_are(train, test):
    with pytest.raises(ValueError, match=r"no baseline 'lr'; choose one of majority, .*logistic regression"):
        baseline_probabilities("lr", *train, test[0], N_LABELS)
    with pytest.raises(ValueError, match="no baseline 'lr'; choose one of training mean, ridge regression"):
        baseline_years("lr", train[0], train[1].astype(float), test[0])


def test_a_phenotype_with_one_label_gets_that_label_from_all(train, test):
    for name in LABEL_BASELINES:
        answers_CV = baseline_probabilities(name, train[0], np.full(240, 2), test[0], N_LABELS)
        np.testing.assert_array_equal(answers_CV, np.tile(np.eye(N_LABELS)[2], (90, 1)))


# Majority


def test_majority_answers_with_the_training_frequencies(train, test):
    answers_CV = baseline_probabilities("majority", *train, test[0], N_LABELS)
    frequencies_V = [np.mean(train[1] == label) for label in range(N_LABELS)]
    np.testing.assert_allclose(answers_CV, np.tile(frequencies_V, (90, 1)))


def test_source_majority_answers_with_those_of_the_source_shrunk_by_one_cell():
    def table(sources_C):
        n = len(sources_C)
        return CellTable(
            x_CG=sparse.csr_matrix((n, 3)), sources_C=np.array(sources_C), measured_SG=np.ones((3, 3), dtype=bool)
        )

    answers_CV = baseline_probabilities(
        "source majority", table([0, 0, 0, 1]), np.array([0, 0, 1, 1]), table([0, 1, 2]), 2
    )
    np.testing.assert_allclose(answers_CV, [[2.5 / 4, 1.5 / 4], [0.5 / 2, 1.5 / 2], [0.5, 0.5]])


# Measured genes and library size


def test_measured_genes_and_library_size_name_no_gene(train, test):
    name = "measured genes + library size"
    answers_CV = baseline_probabilities(name, *train, test[0], N_LABELS)
    shuffled = test[0].x_CG.tocsc()[:, np.random.default_rng(0).permutation(30)].tocsr()
    np.testing.assert_allclose(
        baseline_probabilities(name, *train, replace(test[0], x_CG=shuffled), N_LABELS), answers_CV
    )
    regression = baseline_probabilities("logistic regression", *train, test[0], N_LABELS)
    other = baseline_probabilities("logistic regression", *train, replace(test[0], x_CG=shuffled), N_LABELS)
    assert np.abs(other - regression).max() > 0.1


@pytest.mark.parametrize("tell", ["library size", "measured genes"])
def test_measured_genes_and_library_size_find_labels_that_differ_in_nothing_else(tell):
    def cells(seed):
        rng = np.random.default_rng(seed)
        labels_C = rng.integers(0, 2, 200)
        totals_C = np.where(labels_C == 1, 2000, 500) if tell == "library size" else np.full(200, 1000)
        x_CG = np.log1p(rng.poisson(totals_C[:, None] / 1000, (200, 20)) / totals_C[:, None] * 1e4)
        measured_SG = np.ones((2, 20), dtype=bool)
        sources_C = np.zeros(200, dtype=int)
        if tell == "measured genes":
            measured_SG[1, 19], sources_C = False, labels_C
            x_CG[:, 19] = 0  # the gene is silent: only that it was not measured tells
        return CellTable(x_CG=sparse.csr_matrix(x_CG), sources_C=sources_C, measured_SG=measured_SG), labels_C

    table, labels_C = cells(1)
    answers_CV = baseline_probabilities("measured genes + library size", *cells(0), table, 2)
    assert np.mean(answers_CV.argmax(axis=1) == labels_C) > 0.95
    without = replace(table, sources_C=np.zeros(200, dtype=int), x_CG=sparse.csr_matrix(np.ones((200, 20))))
    answers_CV = baseline_probabilities("measured genes + library size", *cells(0), without, 2)
    assert np.ptp(answers_CV[:, 0]) == 0


def test_the_number_of_expressed_genes_is_seen_where_total_and_smallest_value_are_the_same():
    few, many = np.log1p([1.0, 9.0] + [0.0] * 8), np.log1p([1.0] * 10)
    labels_C = np.arange(100) % 2
    table = CellTable(
        x_CG=sparse.csr_matrix(np.where(labels_C[:, None] == 1, many, few)),
        sources_C=np.zeros(100, dtype=int),
        measured_SG=np.ones((1, 10), dtype=bool),
    )
    answers_CV = baseline_probabilities("measured genes + library size", table, labels_C, table, 2)
    assert (answers_CV[np.arange(100), labels_C] > 0.9).all()


def test_a_cell_that_expresses_nothing_gets_an_answer(train, test):
    x_CG = test[0].x_CG.tolil()
    x_CG[0] = 0
    empty = replace(test[0], x_CG=x_CG.tocsr())
    for name in LABEL_BASELINES:
        assert np.isfinite(baseline_probabilities(name, *train, empty, N_LABELS)).all()


# Nearest neighbours


@pytest.mark.parametrize(("n_components", "k"), [(4, 7), (29, 3)])
def test_neighbours_are_those_of_sklearn_on_dense_principal_components(n_components, k, train, test, monkeypatch):
    monkeypatch.setattr(baselines, "NEIGHBOURS", ((n_components, k),))
    answers_CV = baseline_probabilities("k-nearest neighbours", *train, test[0], N_LABELS)
    pca = make_pipeline(StandardScaler(), PCA(n_components, svd_solver="full"))
    knn = KNeighborsClassifier(k).fit(pca.fit_transform(dense(train[0])), train[1])
    share_CV = knn.predict_proba(pca.transform(dense(test[0])))
    prior_V = np.bincount(train[1])[[0, 1, 3]] / len(train[1])
    np.testing.assert_allclose(answers_CV[:, [0, 1, 3]], (k * share_CV + prior_V) / (k + 1), atol=1e-9)


def test_balanced_neighbours_weigh_each_vote_against_the_frequency_of_its_label(train, test, monkeypatch):
    monkeypatch.setattr(baselines, "NEIGHBOURS", ((5, 9),))
    answers_CV = baseline_probabilities("k-nearest neighbours", *train, test[0], N_LABELS)
    balanced_CV = baseline_probabilities("k-nearest neighbours", *train, test[0], N_LABELS, class_weight="balanced")
    labels = [0, 1, 3]
    frequencies_V = np.bincount(train[1])[labels] / len(train[1])
    votes_CV = answers_CV[:, labels] * 10 - frequencies_V
    weighed_CV = votes_CV / frequencies_V
    weighed_CV /= weighed_CV.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(balanced_CV[:, labels], (9 * weighed_CV + 1 / 3) / 10, atol=1e-9)


# Logistic regression


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("labels", [(0, 1, 3), (0, 1)])
def test_logistic_regression_is_that_of_sklearn_on_dense_standardised_genes(
    labels, class_weight, train, test, monkeypatch
):
    monkeypatch.setattr(baselines, "PENALTIES_C", (0.03,))
    labels_C = np.where(np.isin(train[1], labels), train[1], -1)
    answers_CV = baseline_probabilities(
        "logistic regression", train[0], labels_C, test[0], N_LABELS, class_weight=class_weight
    )
    regression = LogisticRegression(C=0.03, tol=1e-8, max_iter=10_000, class_weight=class_weight)
    given = labels_C >= 0
    model = make_pipeline(StandardScaler(), regression).fit(dense(train[0])[given], labels_C[given])
    np.testing.assert_allclose(answers_CV[:, list(labels)], model.predict_proba(dense(test[0])), atol=2e-4)


@pytest.mark.parametrize("penalty", baselines.PENALTIES_C)
def test_logistic_regression_has_converged_for_every_penalty(penalty, train):
    """On its own training cells, the gradient for the unpenalised intercepts is zero: mean probability = frequency."""
    table, labels_C = train
    path = list(estimators.logistic(table, labels_C, table, baselines.PENALTIES_C, N_LABELS, None))
    answers_CV = path[baselines.PENALTIES_C.index(penalty)]
    frequencies_V = np.bincount(labels_C, minlength=N_LABELS) / len(labels_C)
    np.testing.assert_allclose(answers_CV.mean(axis=0), frequencies_V, atol=2 * estimators.TOLERANCE)
    (alone,) = estimators.logistic(table, labels_C, table, [penalty], N_LABELS, None)
    np.testing.assert_allclose(answers_CV, alone, atol=2e-3)  # where the path began does not matter


def test_a_regression_that_has_not_converged_says_so(train, test, monkeypatch, caplog):
    monkeypatch.setattr(estimators, "MAX_ITERATIONS", 1)
    baseline_probabilities("logistic regression", *train, test[0], N_LABELS)
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "LogisticRegression with C=1: newton-cg failed to converge" in " ".join(r.getMessage() for r in warned)


# Tuning


@pytest.mark.parametrize("with_donors", [True, False])
def test_folds_hold_out_every_cell_once_and_share_no_donor(with_donors, train):
    table, labels_C = train
    folds = baselines._folds(table if with_donors else replace(table, donors_C=None), labels_C, seed=0)
    assert len(folds) == 3
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(240))
    for fitted, held_out in folds:
        assert set(fitted) == set(range(240)) - set(held_out)
        shared = set(table.donors_C[fitted]) & set(table.donors_C[held_out])
        assert not shared if with_donors else shared


def test_cells_without_a_donor_are_held_out_together_with_their_source(train):
    table, labels_C = train
    donors_C = table.donors_C.astype(object)
    donors_C[::4], donors_C[1::4] = None, ""
    missing = np.isin(np.arange(240) % 4, [0, 1])
    assert len(np.unique(baselines._donors(replace(table, donors_C=donors_C)))) == 8 + 2
    for _, held_out in baselines._folds(replace(table, donors_C=donors_C), labels_C, seed=0):
        for source in range(2):
            of_source = missing & (table.sources_C == source)
            assert of_source[held_out].sum() in (0, of_source.sum())


def test_one_donor_alone_is_tuned_on_cells_and_two_on_each_other(train, test, caplog):
    table, labels_C = train
    caplog.set_level(logging.INFO)
    one = replace(table, donors_C=np.array(["a"] * 240))
    assert len(baselines._folds(one, labels_C, seed=0)) == 3
    assert "all training cells are of one donor: tuning on held-out cells" in caplog.messages
    two = replace(table, donors_C=np.array(["a", "b"] * 120))
    assert len(baselines._folds(two, labels_C, seed=0)) == 2


@pytest.mark.parametrize("tune_for", ["macro_f1", "log_loss"])
def test_the_penalty_is_the_best_of_a_plain_loop_over_held_out_donors(tune_for, train, test, caplog):
    table, labels_C = train
    caplog.set_level(logging.INFO)
    baseline_probabilities("logistic regression", table, labels_C, test[0], N_LABELS, tune_for=tune_for)
    scores = []
    for penalty in baselines.PENALTIES_C:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, tol=1e-8, max_iter=10_000))
        p_CV = np.zeros((240, 3))
        for fitted, held_out in baselines._folds(table, labels_C, seed=0):
            p_CV[held_out] = model.fit(dense(table)[fitted], labels_C[fitted]).predict_proba(dense(table)[held_out])
        truth_C = np.searchsorted([0, 1, 3], labels_C)
        macro_f1 = f1_score(truth_C, p_CV.argmax(axis=1), average="macro")
        log_loss = -np.log(p_CV[np.arange(240), truth_C]).mean()
        scores.append(macro_f1 if tune_for == "macro_f1" else -log_loss)
    best = int(np.argmax(scores))
    assert best > 0  # the grid's first entry wins no test by accident
    assert f"chose {baselines.PENALTIES_C[best]} of" in caplog.text
    assert float(caplog.messages[-1].rpartition(" ")[2]) == pytest.approx(max(scores), abs=1e-3)


@pytest.mark.parametrize("name", ["logistic regression", "k-nearest neighbours"])
def test_settings_are_chosen_on_some_cells_and_all_are_learned_with_the_chosen_one(name, train, test, monkeypatch):
    sizes: list[int] = []

    def fitted(predictor):
        return lambda train, *rest, **options: sizes.append(len(train)) or predictor(train, *rest, **options)

    for predictor in ("logistic", "neighbours"):
        monkeypatch.setattr(baselines, predictor, fitted(getattr(baselines, predictor)))
    monkeypatch.setattr(baselines, "MOST_TUNING_CELLS", 60)
    baseline_probabilities(name, *train, test[0], N_LABELS)
    *folds, last = sizes
    assert len(folds) == baselines.N_FOLDS
    assert sum(folds) == 60 * (baselines.N_FOLDS - 1), "each fold is fitted on the cells of the others"
    assert last == 240


def test_tuning_on_donors_sees_through_genes_that_name_the_donor(caplog):
    """Each donor has a label and a gene of its own; five genes tell the label weakly, in donors never seen as well."""
    rng = np.random.default_rng(0)
    donors_C = np.repeat(np.arange(12), 30)
    labels_C = donors_C % 2
    x_CG = rng.normal(2, 1, (360, 17))
    x_CG[:, :5] += 0.3 * labels_C[:, None]
    x_CG[np.arange(360), 5 + donors_C] += 4
    table = CellTable(
        x_CG=sparse.csr_matrix(x_CG),
        sources_C=np.zeros(360, dtype=int),
        measured_SG=np.ones((1, 17), dtype=bool),
        donors_C=donors_C,
    )
    caplog.set_level(logging.INFO)
    chosen = []
    for cells in (table, replace(table, donors_C=None)):
        baseline_probabilities("logistic regression", cells, labels_C, table, 2, tune_for="log_loss")
        chosen.append(float(caplog.messages[-1].split("chose ")[1].split(" of")[0]))
    assert chosen[0] <= chosen[1] / 100


@pytest.mark.parametrize("name", ["k-nearest neighbours", "logistic regression"])
def test_labels_that_one_fold_keeps_to_itself_do_not_spoil_tuning(name, train, test, caplog):
    table, labels_C = train
    labels_C = labels_C.copy()
    labels_C[np.flatnonzero(table.donors_C == "donor 0")[:10]] = 4
    caplog.set_level(logging.INFO)
    answers_CV = baseline_probabilities(name, table, labels_C, test[0], N_LABELS, tune_for="log_loss")
    assert (answers_CV[:, 4] > 0).all()
    assert float(caplog.messages[-1].rpartition(" ")[2]) > np.log(1 / 3)  # ten impossible answers would cost 1.4 more


# Years


@pytest.mark.parametrize("penalty", [1.0, 1e4])
def test_ridge_is_that_of_sklearn_on_dense_standardised_genes(penalty, train, test, monkeypatch):
    monkeypatch.setattr(baselines, "PENALTIES_ALPHA", (penalty,))
    years_C = 40 + 10.0 * train[1] + np.random.default_rng(0).normal(0, 5, 240)
    years_C[:20] = np.nan
    model = make_pipeline(StandardScaler(), Ridge(alpha=penalty)).fit(dense(train[0])[20:], years_C[20:])
    np.testing.assert_allclose(
        baseline_years("ridge regression", train[0], years_C, test[0]), model.predict(dense(test[0])), rtol=1e-9
    )


def test_ridge_finds_the_penalty_that_a_plain_loop_over_held_out_donors_finds(train, test, caplog):
    table, labels_C = train
    years_C = 40 + 3.0 * labels_C + np.random.default_rng(0).normal(0, 6, 240)
    caplog.set_level(logging.INFO)
    baseline_years("ridge regression", table, years_C, test[0])
    errors = []
    for penalty in baselines.PENALTIES_ALPHA:
        error_C = np.zeros(240)
        for fitted, held_out in baselines._folds(table, (years_C > np.median(years_C)).astype(int), seed=0):
            model = make_pipeline(StandardScaler(), Ridge(alpha=penalty)).fit(dense(table)[fitted], years_C[fitted])
            error_C[held_out] = np.abs(model.predict(dense(table)[held_out]) - years_C[held_out])
        errors.append(error_C.mean())
    best = int(np.argmin(errors))
    assert 0 < best < len(errors) - 1
    assert f"chose {baselines.PENALTIES_ALPHA[best]} of" in caplog.text


def test_the_training_mean_leaves_out_unknown_ages(train, test):
    years_C = np.where(np.arange(240) < 10, np.nan, np.arange(240) * 1.0)
    np.testing.assert_array_equal(baseline_years("training mean", train[0], years_C, test[0]), np.full(90, 124.5))


def test_tuning_for_two_scores_at_once_gives_what_tuning_for_each_gives() -> None:
    rng = np.random.default_rng(0)
    labels_C = rng.integers(0, 3, 90)
    x_CG = sparse.csr_matrix(rng.poisson(1 + 2.0 * np.eye(3)[labels_C]).astype(np.float32))
    table = estimators.CellTable(
        x_CG=x_CG,
        sources_C=np.zeros(90, dtype=int),
        measured_SG=np.ones((1, 3), dtype=bool),
        donors_C=rng.choice(list("abcdef"), 90).astype(object),
    )
    asked = "logistic regression", table, labels_C, table, 3
    both = baselines.tuned_probabilities(*asked, tune_for=["log_loss", "macro_f1"])
    for score, found in zip(("log_loss", "macro_f1"), both, strict=True):
        np.testing.assert_allclose(found, baselines.baseline_probabilities(*asked, tune_for=score), atol=1e-4)
