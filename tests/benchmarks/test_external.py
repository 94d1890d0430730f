"""benchmarks/models/external.py: scores by ontology, and methods on made-up cells."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from benchmarks.models import external, known, never_seen

LABELS = ("T cell", "CD4-positive, alpha-beta T cell", "B cell", "naive B cell", "monocyte")


def one_hot(*labels: str) -> np.ndarray:
    return np.eye(len(LABELS), dtype=np.float32)[[LABELS.index(label) for label in labels]]


def test_a_prediction_below_the_true_label_is_right_and_one_above_it_is_not() -> None:
    p_CV = one_hot("naive B cell", "T cell", "monocyte")
    scores = external.by_ontology(p_CV, LABELS, ["B cell", "CD4-positive, alpha-beta T cell", "monocyte"])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx((1 + 0 + 1) / 3)


def test_a_cell_of_a_known_study_is_right_at_or_below_its_true_label() -> None:
    truth = ["B cell", "CD4-positive, alpha-beta T cell", "monocyte"]
    assert known.right(one_hot("naive B cell", "T cell", "monocyte"), LABELS, truth).tolist() == [True, False, True]


def test_a_t_cell_is_contradicted_by_the_other_kinds_gene_where_its_own_is_not_expressed() -> None:
    genes = pd.DataFrame(index=["CD4", "CD8A", "CD8B", "CD3E"])
    cells = ad.AnnData(
        sparse.csr_matrix(
            np.float32([[0, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1], [2, 0, 0, 1], [0, 0, 3, 1], [0, 0, 1, 0]])
        ),
        var=genes,
    )
    truth = ["CD4-positive, alpha-beta memory T cell"] * 3 + ["CD8-positive, alpha-beta T cell"] * 2 + ["B cell"]
    wrong = never_seen.contradicted(cells, np.array(truth))
    assert wrong.tolist() == [True, False, False, True, False, False]


def test_among_the_labels_of_the_study_probabilities_below_each_are_summed() -> None:
    # The most probable label is monocyte, but B cells of both kinds together are more probable.
    p_CV = np.array([[0, 0, 0.3, 0.3, 0.4]], dtype=np.float32)
    scores = external.by_ontology(np.repeat(p_CV, 2, 0), LABELS, ["B cell", "monocyte"])
    assert (scores["accuracy"], scores["among_accuracy"]) == (0.5, 0.5)
    assert external.by_ontology(p_CV, LABELS, ["B cell"])["among_accuracy"] == 1
    assert external.by_ontology(p_CV, LABELS, ["B cell"])["accuracy"] == 0


def test_a_coarse_label_of_the_study_does_not_win_by_holding_the_finer_ones() -> None:
    p_CV = np.array([[0.3, 0.6, 0.1, 0, 0], [0.6, 0.3, 0.1, 0, 0]], dtype=np.float32)
    truth = ["CD4-positive, alpha-beta T cell", "T cell"]
    assert external.by_ontology(p_CV, LABELS, truth)["among_accuracy"] == 1


def test_macro_f1_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    found_C, truth_C = rng.integers(-1, 4, 200), rng.integers(0, 4, 200)
    expected = f1_score(truth_C, found_C, labels=range(4), average="macro")
    assert external.macro_f1(found_C, truth_C) == pytest.approx(expected)


def test_correlation_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 30)), rng.random((4, 30))
    assert np.allclose(external._correlation(a, b), np.corrcoef(a, b)[:5, 5:])
    assert not external._correlation(np.ones((1, 30)), b).any()


def test_genes_that_a_file_does_not_measure_are_zero() -> None:
    cells = ad.AnnData(sparse.csr_matrix(np.array([[5.0, 0, 5]], np.float32)), var=pd.DataFrame(index=["A", "B", "C"]))
    x = external.matrix(cells, pd.Index(["C", "X", "A"])).toarray()
    assert x == pytest.approx(np.array([[np.log1p(5000), 0, np.log1p(5000)]]))


class Toy:
    """T cells of which some say CD4, B cells, over ten genes."""

    labels = LABELS[:3]

    def cells(self, part: str, genes: pd.Index) -> tuple[sparse.csr_matrix, np.ndarray]:
        rng = np.random.default_rng(len(part))
        label_C = rng.integers(0, 3, 1200)
        mean_VG = np.full((3, 10), 0.2)
        mean_VG[:2, :3], mean_VG[2, 3:6] = 4, 4
        return sparse.csr_matrix(np.log1p(rng.poisson(mean_VG[label_C])).astype(np.float32)), label_C


def test_regression_does_not_set_a_label_against_what_stands_above_it() -> None:
    fit = external.Regression(Toy(), pd.Index([f"G{i}" for i in range(10)]), seed=0)
    x_CG, label_C = Toy().cells("test", fit.genes)
    p_CV = fit._log_p(fit._weights, x_CG).exp().numpy()
    t_cells = label_C < 2
    # T cells and CD4 T cells look alike here: all of them may be CD4 T cells, and none has to be "T cell" only.
    assert (p_CV[t_cells, :2].sum(axis=1) > 0.9).mean() > 0.9
    assert p_CV[t_cells, 1].mean() > 10 * p_CV[t_cells, 0].mean()
    assert fit.l2 in external.L2S


@pytest.mark.data
def test_the_nearest_profile_tells_b_cells_and_platelets_of_blood() -> None:
    data = Path(os.environ["POLYGENE_DATA"])
    labels = ("CD14-positive monocyte", "B cell", "natural killer cell", "platelet")
    cells = ad.read_h5ad(data / "pbmc3k_10x.h5ad")
    cells = cells[cells.obs["cell_type"].isin(["B cell", "platelet"])][:60].copy()
    p_CV = external.NearestProfile(data, labels)(cells)
    found = np.array(labels)[p_CV.argmax(axis=1)]
    assert (found == cells.obs["cell_type"].astype(str)).mean() > 0.9
