"""UMAP pictures: what is drawn where and in which colour."""

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest
from matplotlib.colors import to_hex

from polygene.errors import ColumnError, DataError
from polygene.pl import umap


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    adata = make_adata(30, 5)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(30, 2))
    adata.obs["answer"] = np.where(np.arange(30) < 3, None, adata.obs["cell_type"].astype(object)[::-1])
    return adata


def test_every_cell_is_a_point_in_every_panel(adata: ad.AnnData) -> None:
    figure = umap(adata, color=["cell_type", "answer"])
    assert [axis.get_title() for axis in figure.axes] == ["cell_type", "answer"]
    for axis in figure.axes:
        np.testing.assert_array_equal(axis.collections[0].get_offsets(), adata.obsm["X_umap"])


def test_a_label_has_one_colour_in_all_panels_and_the_legend_names_it(adata: ad.AnnData) -> None:
    figure = umap(adata, color=["cell_type", "answer"])
    legend = figure.legends[0]
    colour_of = {
        text.get_text(): to_hex(handle.get_facecolor()[0])
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }
    assert list(colour_of) == ["B cell", "T cell", "monocyte", "not given"]
    assert len(set(colour_of.values())) == 4
    for axis in figure.axes:
        labels = adata.obs[axis.get_title()].astype(object).fillna("not given")
        drawn = [to_hex(colour) for colour in axis.collections[0].get_facecolors()]
        assert drawn == [colour_of[label] for label in labels]


def test_many_labels_and_one_column_are_drawn_too(adata: ad.AnnData) -> None:
    adata.obs["own"] = adata.obs_names
    assert len(umap(adata, color="own").legends[0].get_texts()) == 30


def test_what_is_missing_is_named(adata: ad.AnnData) -> None:
    with pytest.raises(ColumnError, match=r"no column 'nothing' in obs. It has donor_id"):
        umap(adata, color="nothing")
    del adata.obsm["X_umap"]
    with pytest.raises(DataError, match=r"no 'X_umap': run sc\.pp\.neighbors"):
        umap(adata, color="cell_type")
