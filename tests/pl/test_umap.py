"""UMAP pictures: what is drawn where and in which colour."""

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from polygene.errors import ColumnError, DataError
from polygene.pl import umap
from polygene.pl._umap import distinct_colours, embedding


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    adata = make_adata(110, 5)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(110, 2))
    adata.obs["predicted"] = np.where(np.arange(110) < 3, None, adata.obs["cell_type"].astype(object)[::-1])
    return adata


def colours_of_points(axis) -> set[str]:
    return {to_hex(colour, keep_alpha=False) for points in axis.collections for colour in points.get_facecolors()}


def test_every_cell_is_a_point_in_every_panel_and_the_cells_are_not_changed(adata: ad.AnnData) -> None:
    before = set(adata.uns)
    figure = umap(adata, color=["cell_type", "predicted"])
    assert [axis.get_title() for axis in figure.axes] == ["cell_type", "predicted"]
    for axis in figure.axes:
        drawn = np.concatenate([points.get_offsets() for points in axis.collections if len(points.get_offsets()) > 1])
        assert sorted(map(tuple, drawn)) == sorted(map(tuple, adata.obsm["X_umap"]))
    assert set(adata.uns) == before


def test_a_label_has_one_colour_in_all_panels_and_the_legend_names_it(adata: ad.AnnData) -> None:
    figure = umap(adata, color=["cell_type", "predicted"])
    legend = figure.legends[0]
    colour_of = {
        text.get_text(): to_hex(handle.get_color())
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }
    assert list(colour_of) == ["B cell", "T cell", "monocyte", "not given"]
    assert len(set(colour_of.values())) == 4
    for axis, column in zip(figure.axes, ["cell_type", "predicted"], strict=True):
        label_of = {
            tuple(xy): label
            for xy, label in zip(
                adata.obsm["X_umap"], adata.obs[column].astype(object).fillna("not given"), strict=True
            )
        }
        drawn = [
            (label_of[tuple(xy)], to_hex(colour))
            for points in axis.collections
            for xy, colour in zip(points.get_offsets(), np.resize(points.get_facecolors(), (110, 4)), strict=False)
        ]
        assert len(drawn) == 110
        assert all(colour == colour_of[label] for label, colour in drawn)


@pytest.mark.parametrize("n_labels", [20, 28, 54, 100])
def test_up_to_a_hundred_labels_have_colours_of_their_own(n_labels: int, adata: ad.AnnData) -> None:
    adata.obs["many"] = [f"label {cell % n_labels}" for cell in range(adata.n_obs)]
    assert len(set(distinct_colours([f"label {v}" for v in range(n_labels)]).values())) == n_labels
    figure = umap(adata, color="many")
    assert len(figure.legends[0].get_texts()) == n_labels
    assert len(colours_of_points(figure.axes[0])) == n_labels


@pytest.mark.parametrize("n_labels", [3, 40])
def test_long_labels_leave_the_panel_its_size(n_labels: int, adata: ad.AnnData) -> None:
    long = "effector memory CD8-positive, alpha-beta T cell, terminally differentiated"
    adata.obs["long"] = [f"{long}, {cell % n_labels}" for cell in range(adata.n_obs)]
    figure = umap(adata, color="long")
    figure.draw_without_rendering()
    assert min(figure.axes[0].get_window_extent().size) / figure.dpi > 3.3
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1


def test_numbers_are_drawn_by_their_size_and_the_title_holds_the_range(adata: ad.AnnData) -> None:
    adata.obs["age"] = np.linspace(20, 80, adata.n_obs)
    axis = embedding(adata, "age", ax=Figure().subplots())
    assert axis.get_title() == "age\n20 (dark) to 80 (bright)"
    assert np.ptp(axis.collections[0].get_array()) == 60


def test_many_numbers_are_no_labels_and_the_legend_names_none(adata: ad.AnnData) -> None:
    adata.obs["novelty"] = np.linspace(0.25, 1.75, adata.n_obs)
    adata.obs["cluster"] = np.arange(adata.n_obs) % 5
    figure = umap(adata, color=["novelty", "cluster"])
    assert [axis.get_title() for axis in figure.axes] == ["novelty\n0.25 (dark) to 1.75 (bright)", "cluster"]
    assert np.ptp(figure.axes[0].collections[0].get_array()) == 1.5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2", "3", "4"]
    alone = umap(adata, color="novelty")
    assert not alone.legends[0].get_texts()
    assert alone.get_figwidth() < 5


def test_what_is_missing_is_named(adata: ad.AnnData) -> None:
    with pytest.raises(ColumnError, match=r"no column 'nothing' in obs. It has donor_id"):
        umap(adata, color="nothing")
    del adata.obsm["X_umap"]
    with pytest.raises(DataError, match=r"no 'X_umap': run sc\.pp\.neighbors"):
        umap(adata, color="cell_type")
