"""benchmarks/models/screen.py: cells that contradict their own label."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.models import screen

APART = ~np.eye(3, dtype=bool)


def test_a_cell_is_suspect_where_another_label_is_as_probable_as_for_its_own_cells() -> None:
    p_CV = np.array([[0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [0.02, 0.97, 0.01], [0.85, 0.15, 0], [0.75, 0, 0.25]])
    label_C = np.array([0, 0, 1, 1, 2])
    # Cells of label 0 are predicted so with 0.8 on average: 0.85 contradicts another label, 0.75 does not.
    assert screen.suspects(p_CV, label_C, APART).tolist() == [-1, -1, -1, 0, -1]


def test_labels_above_or_below_one_another_do_not_contradict() -> None:
    p_CV = np.array([[0.95, 0.05], [0.95, 0.05], [0.05, 0.95]])
    related = np.zeros((2, 2), dtype=bool)
    assert (screen.suspects(p_CV, np.array([0, 1, 1]), related) == -1).all()


def test_swapped_labels_are_found_and_only_they() -> None:
    rng = np.random.default_rng(0)
    kind_C = np.repeat([0, 1], 200)
    mean_VG = np.array([[8.0] * 20 + [0.5] * 20, [0.5] * 20 + [8.0] * 20])
    x_CG = rng.poisson(mean_VG[kind_C])
    label_C = kind_C.copy()
    label_C[:6] = 1  # mislabelled
    obs = pd.DataFrame({"author_cell_type": np.array(["T cell", "B cell"])[label_C], "author_donor_id": np.nan})
    obs.index = [f"cell{i}" for i in range(400)]
    cells = ad.AnnData(sparse.csr_matrix(x_CG.astype(np.float32)), obs=obs)
    terms = obs["author_cell_type"].map({"T cell": "CL:0000084", "B cell": "CL:0000236"})
    result = screen.within(cells, terms, seed=0)
    assert result["suspects"] == 6
    (pair,) = result["pairs"]
    assert (pair["label"], pair["predicted"], pair["cells"]) == ("B cell", "T cell", 6)
    assert sorted(pair["names"]) == sorted(f"cell{i}" for i in range(6))


class Other:
    """A model of other studies that takes the first cell for a naive B cell, and cannot tell the others apart."""

    labels = ("T cell", "B cell", "naive B cell", "memory B cell")

    def __call__(self, cells: ad.AnnData) -> np.ndarray:
        p_CV = np.full((cells.n_obs, 4), 0.25)
        p_CV[0] = [0.02, 0.0, 0.95, 0.03]
        p_CV[1] = [0.05, 0.05, 0.4, 0.5]
        return p_CV


def test_across_sources_the_finest_sure_label_is_named() -> None:
    obs = pd.DataFrame({"author_cell_type": ["T", "T", "T", "B"]}, index=list("abcd"))
    cells = ad.AnnData(np.ones((4, 2), dtype=np.float32), obs=obs)
    result = screen.across(cells, obs["author_cell_type"].map({"T": "CL:0000084", "B": "CL:0000236"}), Other())
    assert [(pair["names"], pair["predicted"]) for pair in result["pairs"]] == [
        (["b"], "B cell"),
        (["a"], "naive B cell"),
    ]
    assert result["suspects"] == 2


def test_labels_that_one_type_can_be_both_of_do_not_contradict() -> None:
    assert screen.apart("B cell", "T cell")
    assert screen.apart("B cell", "my cluster")
    assert not screen.apart("B cell", "memory B cell")
    assert not screen.apart("B cell", "professional antigen presenting cell")
    assert not screen.apart("regulatory T cell", "CD4-positive, alpha-beta T cell")
