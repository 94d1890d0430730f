"""Age gap: what the table says, and what is refused."""

from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from polygene.errors import PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.tl import age_gap, annotate


@pytest.fixture
def annotated(make_adata: Callable[..., ad.AnnData], tiny_model: PolyGene) -> ad.AnnData:
    adata = make_adata(60, 36)
    annotate(adata, tiny_model, predict="age")
    return adata


def test_the_table_compares_what_annotate_wrote_with_ages_that_the_model_need_not_know(annotated: ad.AnnData) -> None:
    table = age_gap(annotated).set_index("donor")
    assert set(table.index) == set(annotated.obs["donor_id"])
    known = {8 / 12: 0, 57.0: 1, 80.0: 2}  # the fourth label is no age
    for donor, row in table.iterrows():
        mine = (annotated.obs["donor_id"] == donor).to_numpy()
        mean_V = annotated.obsm["polygene_age"][mine].mean(axis=0, dtype=float)
        share = {years: mean_V[v] for years, v in known.items()}
        assert row.actual == 30 + int(donor.removeprefix("donor")) % 4
        assert row.predicted == pytest.approx(sum(y * p for y, p in share.items()) / sum(share.values()), rel=1e-5)


def test_years_and_patients_may_stand_in_columns_of_other_names(annotated: ad.AnnData) -> None:
    expected = age_gap(annotated)
    annotated.obs["years"] = annotated.obs["development_stage"].astype(str).str[:2].astype(float)
    renamed = annotated.obs.rename(columns={"donor_id": "patient"}).drop(columns="development_stage")
    annotated.obs = renamed
    pd.testing.assert_frame_equal(age_gap(annotated, donor="patient", age="years"), expected)


def test_intervals_of_cells_hold_their_expected_years_and_the_level_is_written_down(annotated: ad.AnnData) -> None:
    obs = annotated.obs
    assert (obs["polygene_age_years_low"] <= obs["polygene_age_years"]).all()
    assert (obs["polygene_age_years"] <= obs["polygene_age_years_high"]).all()
    assert obs["polygene_age_years_low"].dtype == np.float32
    assert annotated.uns["polygene"]["annotate"]["years_level"] == 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda adata: adata.obsm.pop("polygene_age"), "run pg.tl.annotate"),
        (lambda adata: adata.obs.pop("development_stage"), "no column development_stage"),
        (lambda adata: adata.obs.pop("donor_id"), "no column donor_id"),
        (lambda adata: adata.obs.insert(0, "adult", "adult stage"), None),
    ],
    ids=["not annotated", "no age", "no donor", "no number"],
)
def test_what_is_missing_is_said(annotated: ad.AnnData, change: Callable, message: str | None) -> None:
    change(annotated)
    with pytest.raises(PhenotypeError, match=message or "can be read in obs\\['adult'\\]"):
        age_gap(annotated, **({} if message else {"age": "adult"}))
