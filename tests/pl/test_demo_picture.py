"""The picture of the demo: a colour means one type on both maps, and names do not lie on each other."""

from itertools import combinations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from polygene.pl._demo import TYPES, _apart, demo_picture


@pytest.fixture
def cells() -> ad.AnnData:
    rng = np.random.default_rng(0)
    kinds = np.repeat(["a", "b"], 40)
    obs = pd.DataFrame(
        {
            "label": pd.Categorical(kinds),
            "predicted": pd.Categorical(np.where(np.arange(80) < 35, "alpha", "gamma")),
            "predicted_probability": rng.random(80),
        },
        index=[f"c{i}" for i in range(80)],
    )
    return ad.AnnData(np.zeros((80, 1)), obs=obs, obsm={"X_umap": rng.normal(0, 1, (80, 2))})


def test_a_predicted_type_has_the_colour_of_the_label_it_means(cells: ad.AnnData) -> None:
    figure = demo_picture(cells, label="label", predicted="predicted", meant={"alpha": "a"}, agreement="half agree")
    left, middle, right, *_ = figure.axes
    authors, predicted = (
        [to_hex(colour) for colour in axis.collections[0].get_facecolors()] for axis in (left, middle)
    )
    assert authors[:35] == predicted[:35] == [TYPES[0].lower()] * 35
    assert not set(predicted[35:]) & {colour.lower() for colour in TYPES}
    assert "half agree" in middle.get_title()
    assert len(right.collections[0].get_offsets()) == 80


def test_names_on_a_map_lie_neither_on_each_other_nor_outside() -> None:
    places = np.array([[0.0, 0.0], [0.1, 0.05], [0.0, 0.1], [9.0, 0.0], [3.0, 1.0]])
    sizes = np.array([[2.0, 0.5]] * 4 + [[4.0, 1.0]])
    low, high = np.array([-1.0, -5.0]), np.array([9.0, 5.0])
    moved = _apart(places, sizes, low, high)
    for i, j in combinations(range(len(moved)), 2):
        assert (np.abs(moved[i] - moved[j]) >= (sizes[i] + sizes[j]) / 2 - 1e-3).any()
    assert (moved[:, 0] - sizes[:, 0] / 2 >= low[0]).all()
    assert (moved[:, 0] + sizes[:, 0] / 2 <= high[0]).all()
