"""Bars of votes, and dots of a reference against predictions: what stands where."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from polygene.errors import ColumnError, DataError
from polygene.pl import dotplot, vote


@pytest.fixture
def adata() -> ad.AnnData:
    """Ten cells, two clusters; the vote is on their types."""
    obs = pd.DataFrame(
        {
            "author": ["b"] * 4 + ["t"] * 6,
            "polygene_cell_type": ["B cell"] * 5 + ["T cell"] * 4 + ["monocyte"],
            "polygene_cell_type_probability": np.float32([1, 1, 0.5, 0.5, 0.2, 0.9, 0.9, 0.9, 0.9, 0.3]),
        },
        index=[f"cell{c}" for c in range(10)],
    )
    table = pd.DataFrame(
        {
            "group": ["0", "1"], "cells": [4, 6], "label": ["B cell", "T cell"], "probability": [0.9, 0.8],
            "agree": [1.0, 0.4], "heterogeneous": [False, True], "runner_up": ["", "monocyte"],
            "runner_up_share": [0.0, 0.3],
        }
    )  # fmt: skip
    votes = {"cell_type_leiden": {"share": 0.5, "weight": 1.0, "table": table}}
    order = {"cell_type": np.array(["T cell", "monocyte", "B cell"])}
    return ad.AnnData(np.ones((10, 1)), obs, uns={"polygene": {"annotate": {"votes": votes, "order": order}}})


def test_a_bar_is_cut_into_the_label_its_runner_up_and_the_others(adata, tmp_path):
    ax = vote(adata, save=tmp_path / "vote.png")
    widths = np.array([[bar.get_width() for bar in bars] for bars in ax.containers])
    np.testing.assert_allclose(widths, [[1, 0.4], [0, 0.3], [0, 0.3]], atol=1e-9)
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["B cell  0.90", "heterogeneous: T cell  0.80", "then monocyte"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0  (4)", "1  (6)"]
    assert (tmp_path / "vote.png").read_bytes().startswith(b"\x89PNG")


def test_bars_need_a_vote(adata):
    with pytest.raises(DataError, match=r"no vote on sex by 'donor_id' \(there are: cell_type_leiden\)"):
        vote(adata, "donor_id", "sex")
    with pytest.raises(DataError, match="there are: none"):
        vote(ad.AnnData(np.ones((2, 2))))


def test_a_dot_is_as_large_as_its_share_and_as_dark_as_the_mean_probability(adata, tmp_path):
    ax = dotplot(adata, "author", save=tmp_path / "dots.png")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["T cell", "monocyte", "B cell"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["t  (6)", "b  (4)"]
    dots = ax.collections[0]
    found = {
        tuple(at.astype(int)): (round(float(size), 4), round(float(sure), 4))
        for at, size, sure in zip(dots.get_offsets(), dots.get_sizes() / 170, dots.get_array(), strict=True)
    }
    assert found == {(0, 0): (0.6667, 0.9), (1, 0): (0.1667, 0.3), (2, 0): (0.1667, 0.2), (2, 1): (1.0, 0.75)}
    assert (tmp_path / "dots.png").read_bytes().startswith(b"\x89PNG")


def test_cells_without_a_reference_are_left_out_and_a_missing_column_is_named(adata):
    adata.obs.loc["cell9", "author"] = np.nan
    ax = dotplot(adata, "author")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["T cell", "B cell"]
    with pytest.raises(ColumnError, match=r"no column 'polygene_sex'.*`annotate` writes the predictions"):
        dotplot(adata, "author", "polygene_sex")
