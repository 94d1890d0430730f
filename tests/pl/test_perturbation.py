"""The volcano of perturbations: which points it has, which are named, and what it refuses."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from polygene.errors import DataError
from polygene.pl import perturbation


@pytest.fixture
def effects() -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            "perturbation": [f"GENE{g} KO" for g in range(20)],
            "effect_on": "cell_type",
            "target": "B cell",
            "effect": np.linspace(-0.2, 0.1, 20),
            "p": np.linspace(1e-6, 1, 20),
            "q": [0.001, 0.02, *[0.9] * 18],
            "replicates": "donors",
        }
    )
    rows.loc[19, "p"] = np.nan
    genes = rows.assign(perturbation="GENE0 KO", effect_on="expression", target=[f"OTHER{g}" for g in range(20)])
    return pd.concat([rows, genes], ignore_index=True)


@pytest.mark.parametrize(
    ("chosen", "title", "first"),
    [
        ({"target": "B cell"}, "knock-out of one gene: cell_type, B cell", "GENE0"),
        ({"perturbation": "GENE0 KO"}, "GENE0 KO on other genes", "OTHER0"),
    ],
)
def test_points_are_effects_with_a_p_value_and_the_least_are_named(
    chosen: dict[str, str], title: str, first: str, effects: pd.DataFrame
) -> None:
    ax = perturbation(effects, n_names=3, **chosen)
    grey, red = (points.get_offsets() for points in ax.collections)
    np.testing.assert_allclose(red, np.c_[effects["effect"][:2], -np.log10(effects["p"][:2])])
    np.testing.assert_allclose(grey, np.c_[effects["effect"][2:19], -np.log10(effects["p"][2:19])])
    assert ax.get_title() == title
    assert next(text.get_text() for text in ax.texts) == first
    assert len(ax.texts) == 3
    assert "association, not mechanism" in ax.get_xlabel()


def test_an_anndata_is_read_and_the_picture_saved(effects: pd.DataFrame, tmp_path: Path) -> None:
    adata = ad.AnnData(np.ones((2, 2), np.float32), uns={"polygene": {"perturb": {"effects": effects}}})
    perturbation(adata, target="B cell", save=tmp_path / "volcano.png")
    assert (tmp_path / "volcano.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_told(effects: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"run pg\.tl\.perturb"):
        perturbation(ad.AnnData(np.ones((2, 2), np.float32)), target="B cell")
    with pytest.raises(DataError, match="either a target"):
        perturbation(effects)
    with pytest.raises(DataError, match="no effect of 'T cell' with a p-value; the table has the targets B cell"):
        perturbation(effects, target="T cell")
    with pytest.raises(DataError, match="genes='all'"):
        perturbation(effects, perturbation="GENE1 KO")
