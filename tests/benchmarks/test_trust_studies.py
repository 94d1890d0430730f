"""benchmarks/trust/studies.py and page.py: scores of what `annotate` wrote, by hand, and the page made of them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from benchmarks.trust import page, studies

CD4, CD8 = "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell"
LABELS = [CD4, CD8, "T cell", "B cell"]


@pytest.fixture
def cells() -> ad.AnnData:
    """Four cells as `annotate` leaves them; the last one has no true type."""
    obs = pd.DataFrame(
        {
            "cell_type": ["T cell", CD4, "B cell", None],
            "leiden": ["0", "0", "1", "1"],
            "polygene_cell_type": pd.Categorical([CD4, CD8, "B cell", "B cell"]),
            "polygene_cell_type_probability": [0.9, 0.6, 0.8, 0.5],
            "polygene_cell_type_error": [0.1, 0.7, 0.1, 0.5],
            "polygene_cell_type_set": [CD4, f"{CD8} | {CD4}", "B cell", "B cell"],
            "polygene_cell_type_set_size": [1, 2, 1, 1],
            "polygene_cell_type_leiden_within": [CD4, CD4, "B cell", "B cell"],
            "polygene_novelty": [0.5, 0.7, 0.9, 1.2],
            "polygene_unknown": [False, False, False, True],
        },
        index=list("abcd"),
    )
    table = pd.DataFrame({"group": ["0", "1"], "label": [CD4, "B cell"], "heterogeneous": [True, False]})
    votes = {"cell_type_leiden": {"table": table}}
    return ad.AnnData(
        np.ones((4, 1)), obs, uns={"polygene": {"annotate": {"labels": {"cell_type": LABELS}, "votes": votes}}}
    )


def test_what_annotate_wrote_is_scored_by_the_ontology(cells: ad.AnnData) -> None:
    scores = studies.of_study(cells)
    assert (scores["cells"], scores["accuracy"], scores["unknown_types"]) == (3, pytest.approx(2 / 3), 0)
    assert (scores["coverage_external"], scores["set_size"]) == (1, pytest.approx(4 / 3))
    assert (scores["auroc_wrong"], scores["auroc_wrong_1_minus_probability"], scores["auroc_wrong_novelty"]) == (
        1,
        1,
        0.5,
    )
    assert (scores["vote_gain"], scores["heterogeneous"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (scores["vote_broader"], scores["vote_wrong_less"]) == (0, pytest.approx(1 / 3))
    assert scores["within_gain"] == pytest.approx(1 / 3)
    assert scores["ece_external"] == pytest.approx((0.1 + 0.3 + 0.1) / 3)
    assert studies.of_study(cells[3:].copy()) == {}


def test_a_vote_for_a_broader_label_is_neither_right_nor_wrong(cells: ad.AnnData) -> None:
    cells.uns["polygene"]["annotate"]["votes"]["cell_type_leiden"]["table"]["label"] = ["T cell", "B cell"]
    scores = studies.of_study(cells)  # the second cell is CD4: CD8 of its own is wrong, "T cell" is true but broader
    assert (scores["vote_gain"], scores["vote_broader"]) == (0, pytest.approx(1 / 3))
    assert scores["vote_wrong_less"] == pytest.approx(1 / 3)


def test_the_tables_hold_a_row_a_study_and_a_row_a_phenotype_of_donors(cells: ad.AnnData) -> None:
    scores = studies.of_study(cells)
    donors = {"sex": {"donors": 8, "score": "accuracy", "PolyGene, vote": 0.75, "pseudobulk": 0.5}}
    results = {
        "date": "2026-01-01", "seed": 0, "hardware": {"processor": "one"}, "model": "m", "other_models": {}, **scores,
        "by_study": {"pbmc": scores}, "novel_tissue_by": {"novelty": 0.9, "error": None}, "donor_scores": donors,
    }  # fmt: skip
    text = "\n".join(page.of_studies(results))
    assert text.count("| pbmc | 3 | 0.67 | 1.00 | 1.33 | 1.00 |") == 1
    assert "| sex | 8 | accuracy | 0.75 | 0.50 |" in text
    assert "novelty 0.90." in text
