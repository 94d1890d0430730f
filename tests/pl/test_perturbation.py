"""The picture of perturbations: which effects it draws, in which order, and what it refuses."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from polygene.errors import DataError
from polygene.pl import perturbation


@pytest.fixture
def effects() -> pd.DataFrame:
    effect = np.linspace(-0.2, 0.1, 20)
    rows = pd.DataFrame(
        {
            "perturbation": [f"GENE{g} KO" for g in range(20)],
            "effect_on": "cell_type",
            "target": "B cell",
            "effect": effect,
            "low": effect - 0.01,
            "high": effect + 0.01,
            "replicates": "donors",
        }
    )
    rows.loc[1, ["low", "high"]] = np.nan
    genes = rows.assign(perturbation="GENE0 KO", effect_on="expression", target=[f"OTHER{g}" for g in range(20)])
    return pd.concat([rows, genes], ignore_index=True)


@pytest.mark.parametrize(
    ("chosen", "title", "names"),
    [
        ({"target": "B cell"}, "knock-out of one gene: cell_type, B cell", ["GENE0", "GENE1", "GENE2"]),
        ({"perturbation": "GENE0 KO"}, "GENE0 KO on other genes", ["OTHER0", "OTHER1", "OTHER2"]),
    ],
)
def test_the_largest_effects_are_drawn_first_with_their_intervals(
    chosen: dict[str, str], title: str, names: list[str], effects: pd.DataFrame
) -> None:
    ax = perturbation(effects, n_names=3, **chosen)
    lines, points = ax.collections
    np.testing.assert_allclose(points.get_offsets()[:, 0], effects["effect"][:3])
    ends = [tuple(segment[:, 0]) for segment in lines.get_segments()]
    np.testing.assert_allclose(ends, effects.loc[[0, 2], ["low", "high"]])
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert ax.yaxis_inverted()
    assert ax.get_title() == title
    assert "association, not mechanism" in ax.get_xlabel()


def test_an_anndata_is_read_and_the_picture_saved(effects: pd.DataFrame, tmp_path: Path) -> None:
    adata = ad.AnnData(np.ones((2, 2), np.float32), uns={"polygene": {"perturb": {"effects": effects}}})
    perturbation(adata, target="B cell", save=tmp_path / "effects.png")
    assert (tmp_path / "effects.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_effects_is_refused(effects: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"run pg\.tl\.perturb"):
        perturbation(ad.AnnData(np.ones((2, 2), np.float32)), target="B cell")
    with pytest.raises(DataError, match="either a target"):
        perturbation(effects)
    with pytest.raises(DataError, match="no effect of 'T cell'; the table has the targets B cell"):
        perturbation(effects, target="T cell")
    with pytest.raises(DataError, match="genes='all'"):
        perturbation(effects, perturbation="GENE1 KO")
