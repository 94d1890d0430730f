"""Classify: a head for any label, and an honest word about how good it is."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import f1_score

from polygene.errors import ColumnError, DataError, PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.tl import annotate, classify, embed
from polygene.tl._classify import classification
from polygene.tl._head import fit_head, head_features

MakeAnnData = Callable[..., ad.AnnData]


@pytest.fixture
def adata(make_adata: MakeAnnData) -> ad.AnnData:
    """200 cells of three types that express other genes, half of them labelled in `mine`."""
    adata = make_adata(200, 36)
    adata.obs["mine"] = adata.obs["cell_type"].where(np.arange(200) % 2 == 0)
    return adata


def test_cells_without_a_label_are_answered_from_those_with_one(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="polygene")
    classify(adata, tiny_model, key="mine")
    asked = adata.obs["mine"].isna()
    assert (adata.obs["polygene_mine"] == adata.obs["cell_type"])[asked].mean() > 0.9
    np.testing.assert_allclose(adata.obsm["polygene_mine"].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(adata.obs["polygene_mine_probability"], adata.obsm["polygene_mine"].max(1))
    made = adata.uns["polygene"]["classify_mine"]
    assert (made["cells_trained"], made["held_out"]) == (100, "donors")
    assert any(
        f"100 cells with 3 labels; cross-validated macro-F1 {made['macro_f1']:.3f}" in m for m in caplog.messages
    )


def test_the_score_is_that_of_the_answers_written_for_labelled_cells(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    classify(adata, tiny_model, key="mine")
    known = adata.obs["mine"].notna()
    answers, truth = adata.obs["polygene_mine"][known].astype(str), adata.obs["mine"][known].astype(str)
    assert adata.uns["polygene"]["classify_mine"]["macro_f1"] == pytest.approx(
        f1_score(truth, answers, average="macro")
    )


def test_a_reference_teaches_and_needs_no_label_in_the_cells(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    adata.write_h5ad(tmp_path / "reference.h5ad")
    cells = adata[1::2].copy()
    del cells.obs["mine"]
    classify(cells, tiny_model, key="mine", reference=tmp_path / "reference.h5ad")
    assert (cells.obs["polygene_mine"] == cells.obs["cell_type"]).mean() > 0.9
    whole = classification(adata, tiny_model, key="mine").collect()
    np.testing.assert_allclose(cells.obsm["polygene_mine"], whole.obsm["polygene_mine"][1::2], atol=1e-4)


def test_a_file_gives_what_the_object_gives_and_labelled_cells_their_held_out_answers(
    make_adata: MakeAnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    """Cells are read a thousand at a time; the labelled ones lie in both pieces."""
    adata = make_adata(1_100, 36)
    adata.obs["mine"] = adata.obs["cell_type"].where(np.arange(1_100) % 11 == 0)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    classify(tmp_path / "cells.h5ad", tiny_model, key="mine", out=tmp_path / "out.h5ad")
    features_CF = head_features(tiny_model, tiny_model.tokenizer.encode(adata, use_labels=False), "cell_type")
    labels_C = adata.obs["mine"].astype("category").cat.codes.to_numpy()
    donors_C = adata.obs["donor_id"].cat.codes.to_numpy()
    known = labels_C >= 0
    head = fit_head(features_CF[known], labels_C[known], donors_C[known], width=32)
    written = ad.read_h5ad(tmp_path / "out.h5ad").obsm["polygene_mine"]
    np.testing.assert_allclose(written[known], head.held_out_CV, atol=1e-3)
    np.testing.assert_allclose(written[~known], head.probabilities(features_CF[~known]), atol=1e-3)


def test_a_head_that_knows_donors_only_is_not_praised() -> None:
    """States that tell donors apart, and labels by donor: right about cells of known donors, wrong about new ones."""
    rng = np.random.default_rng(0)
    donors_C = np.arange(240) % 12
    labels_C = (donors_C < 6).astype(np.int64)
    states_CD = np.eye(12)[donors_C] + 0.01 * rng.normal(size=(240, 12))
    by_donor = fit_head(states_CD, labels_C, donors_C, width=1)
    by_cell = fit_head(states_CD, labels_C, np.full(240, -1), width=1)
    assert (by_donor.held_out, by_cell.held_out) == ("donors", "cells")
    assert by_donor.macro_f1 < 0.6 < 0.99 < by_cell.macro_f1


def test_a_label_of_one_donor_is_learned_and_not_scored() -> None:
    donors_C = np.arange(90) % 9
    labels_C = np.where(donors_C == 0, 2, (np.arange(90) // 9) % 2)
    states_CD = np.eye(3)[labels_C] + 0.1 * np.random.default_rng(0).normal(size=(90, 3))
    head = fit_head(states_CD, labels_C, donors_C, width=1)
    assert head.scored.tolist() == [0, 1]
    assert head.macro_f1 == pytest.approx(1)
    assert (head.probabilities(states_CD).argmax(1) == labels_C).all()


def test_a_fold_whose_training_donors_share_one_label_answers_that_label() -> None:
    donors_C, labels_C = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 1, 0, 1, 0, 0, 0, 1])
    head = fit_head(np.eye(2)[labels_C], labels_C, donors_C, width=1)
    np.testing.assert_allclose(head.held_out_CV.sum(1), 1, rtol=1e-5)
    one_label = fit_head(
        np.eye(3)[[0, 1, 2, 0, 1, 2]], np.array([0, 0, 1, 0, 0, 1]), np.array([0, 0, 0, 1, 1, 2]), width=1
    )
    np.testing.assert_allclose(one_label.held_out_CV.sum(1), 1, rtol=1e-5)


def test_without_donors_it_says_that_the_score_flatters(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    del adata.obs["donor_id"]
    classify(adata, tiny_model, key="mine")
    assert adata.uns["polygene"]["classify_mine"]["held_out"] == "cells"
    assert "flatters" in caplog.text


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("mine_", "no column 'mine_' in obs, which should hold the labels to learn. Did you mean 'mine'"),
        ("depth", "a number is no label"),
        ("tissue", "1 labels for 200 labelled cells"),
    ],
)
def test_what_cannot_be_learned_is_refused(key: str, says: str, adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata.obs["depth"] = np.random.default_rng(0).random(200)
    with pytest.raises((PhenotypeError, ColumnError), match=says):
        classify(adata, tiny_model, key=key)
    assert f"polygene_{key}" not in adata.obs


def test_a_donor_column_that_was_named_must_be_there(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    with pytest.raises(ColumnError, match=r"no column 'patient' in obs, which should hold the donor.* It has donor_id"):
        classify(adata, tiny_model, key="mine", donor="patient")


def test_a_key_that_no_file_can_hold_is_refused(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata.obs["my/own"] = adata.obs["mine"]
    with pytest.raises(PhenotypeError, match="'my/own' cannot be written to a file"):
        classify(adata, tiny_model, key="my/own")


@pytest.mark.parametrize("model", ["runs/x", None])
def test_what_is_no_model_is_refused_with_the_way_to_load_one(adata: ad.AnnData, model: str | None) -> None:
    for verb in (annotate, embed):
        with pytest.raises(DataError, match="from_pretrained"):
            verb(adata, model)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="from_pretrained"):
        classify(adata, model, key="mine")  # type: ignore[arg-type]
