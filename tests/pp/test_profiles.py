"""Cells sampled from profiles, against formulas computed another way."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import polygene as pg
from polygene.errors import DataError, GeneError, PhenotypeError, ScaleError
from polygene.pp import cells_from_profiles

GENES = 60
EXACT = {"depth_sd": 0.0, "ambient": 0.0, "platform": 0.0}


def profiles(n=3, **columns):
    x = np.random.default_rng(7).gamma(0.6, 20, (n, GENES))
    x[:, -5:] = 0
    obs = pd.DataFrame(
        {"cell_type": [f"type {i}" for i in range(n)], **columns}, index=[f"profile{i}" for i in range(n)]
    )
    return ad.AnnData(sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(GENES)]))


def counts(cells):
    return np.asarray(cells.X.todense(), dtype=float)


@pytest.mark.parametrize("dispersion", [0.0, 0.3])
def test_mean_and_variance_are_those_of_the_negative_binomial(dispersion):
    source = profiles()
    x = counts(cells_from_profiles(source, n_per_profile=4000, depth=1000, dispersion=dispersion, **EXACT))
    for row in range(3):
        mu = 1000 * source.X.toarray()[row] / source.X.toarray()[row].sum()
        cells = x[row * 4000 : (row + 1) * 4000]
        error = np.sqrt((mu + dispersion * mu**2) / 4000)
        assert (np.abs(cells.mean(axis=0) - mu) <= 5 * error + 1e-12).all()
        clear = mu > 2
        assert np.allclose(cells.var(axis=0)[clear], (mu + dispersion * mu**2)[clear], rtol=0.2)


def test_depth_is_log_normal():
    x = counts(cells_from_profiles(profiles(1), n_per_profile=3000, depth=3000, depth_sd=0.5, dispersion=0, ambient=0))
    log_total = np.log(x.sum(axis=1))
    assert np.median(log_total) == pytest.approx(np.log(3000), abs=0.05)
    assert log_total.std() == pytest.approx(0.5, rel=0.06)


def test_ambient_rna_is_the_mean_of_the_study():
    source = profiles(2)
    x = source.X.toarray()
    x[0, :20], x[1, 20:] = 0, 0  # no gene in both
    source.X = sparse.csr_matrix(x)
    cells = counts(
        cells_from_profiles(source, n_per_profile=3000, depth=2000, dispersion=0, **EXACT | {"ambient": 0.2})
    )
    # The mean share is 0.1, and half of the ambient RNA is the other profile's.
    assert cells[:3000, :20].sum() / cells[:3000].sum() == pytest.approx(0.05, rel=0.05)


def test_platform_factors_differ_between_studies_and_not_within():
    cells = cells_from_profiles(
        profiles(1), n_per_profile=4000, n_studies=2, depth=5000, dispersion=0, **EXACT | {"platform": 0.5}
    )
    x = counts(cells)
    even, odd, early = x[0::2].mean(axis=0), x[1::2].mean(axis=0), x[:2000:2].mean(axis=0)
    seen = even > 20
    assert np.log(even[seen] / odd[seen]).std() > 0.3
    assert np.log(even[seen] / early[seen]).std() < 0.05
    assert cells.obs["virtual_study"].tolist()[:3] == ["0", "1", "0"]


def test_cells_are_marked_synthetic_and_keep_their_columns():
    cells = pg.pp.cells_from_profiles(profiles(2, tissue=["lung", "liver"]), n_per_profile=3, seed=5)
    assert cells.X.dtype == np.int32
    assert cells.obs["synthetic"].all()
    assert cells.obs["tissue"].tolist() == ["lung"] * 3 + ["liver"] * 3
    assert cells.obs["profile"].tolist() == ["profile0"] * 3 + ["profile1"] * 3
    assert cells.uns["synthetic"]["seed"] == 5
    assert cells.obs_names.is_unique


def test_only_measured_genes_are_in_var_and_an_unseen_one_is_zero():
    cells = cells_from_profiles(profiles(), measured=["GENE3", "GENE1", "NEVER"], n_per_profile=50)
    assert cells.var_names.tolist() == ["GENE3", "GENE1", "NEVER"]
    assert counts(cells)[:, :2].any(axis=0).all()
    assert not counts(cells)[:, 2].any()


def test_the_seed_decides():
    x = [counts(cells_from_profiles(profiles(), n_per_profile=20, seed=seed)) for seed in (1, 1, 2)]
    assert np.array_equal(x[0], x[1])
    assert not np.array_equal(x[0], x[2])


def test_more_cells_than_a_batch_are_sampled():
    assert cells_from_profiles(profiles(1), n_per_profile=600).n_obs == 600


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_values_that_are_no_expression_are_refused(value):
    source = profiles()
    source.X.data[0] = value
    with pytest.raises(ScaleError):
        cells_from_profiles(source)


def test_profiles_without_types_are_refused():
    with pytest.raises(PhenotypeError, match="no column 'cell_type' in obs; there are tissue"):
        cells_from_profiles(ad.AnnData(profiles().X, obs=pd.DataFrame({"tissue": ["a"] * 3}, index=list("abc"))))
    with pytest.raises(PhenotypeError, match="no column 'kind'"):
        cells_from_profiles(profiles(), cell_type="kind")


def test_counts_in_place_of_means_are_refused():
    source = profiles()
    source.X = sparse.csr_matrix(np.rint(source.X.toarray()))
    with pytest.raises(DataError, match="whole numbers: these are counts"):
        cells_from_profiles(source)


def test_sums_in_place_of_means_are_refused():
    source = profiles()
    source.X = sparse.csr_matrix(source.X.toarray() * np.array([[1], [30], [900]]))
    with pytest.raises(DataError, match="sums over cells"):
        cells_from_profiles(source)


def test_a_profile_without_expression_is_refused_by_name():
    source = profiles()
    source.X = sparse.csr_matrix(source.X.toarray() * np.array([[1], [0], [1]]))
    with pytest.raises(DataError, match="profile1"):
        cells_from_profiles(source)


def test_genes_of_another_naming_are_refused():
    with pytest.raises(GeneError, match="none of the 1 genes"):
        cells_from_profiles(profiles(), measured=["ENSG1"])


@pytest.mark.parametrize(
    "wrong", [{"n_per_profile": 0}, {"depth": -5}, {"ambient": 1.5}, {"platform": -1}, {"n_studies": 0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        cells_from_profiles(profiles(), **wrong)


def test_a_table_is_no_profiles():
    with pytest.raises(DataError, match="AnnData"):
        cells_from_profiles(pd.DataFrame())


def test_cells_of_women_express_no_gene_of_y_and_cells_of_men_no_xist_with_twice_the_mean_of_the_rest():
    x = np.full((2, 100), 0.5)
    x[1, 1] = 0  # no gene of Y: it says nothing about sex
    names = ["XIST", "RPS4Y1", *(f"GENE{i}" for i in range(98))]
    obs = pd.DataFrame({"cell_type": ["T cell", "B cell"]}, index=["t", "b"])
    mean = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=names))
    cells = cells_from_profiles(mean, n_per_profile=4_000, dispersion=0.0, **EXACT)
    known = cells.obs["cell_type"] == "T cell"
    assert cells.obs["sex"].isna().equals(~known)
    assert cells.obs["sex"].value_counts().to_dict() == {"female": 2_000, "male": 2_000}
    seen = {sex: counts(cells[cells.obs["sex"] == sex]).mean(axis=0)[:3] for sex in ("female", "male")}
    np.testing.assert_allclose(seen["female"], [44, 0, 22], atol=0.6)
    np.testing.assert_allclose(seen["male"], [0, 44, 22], atol=0.6)
    np.testing.assert_allclose(counts(cells[~known]).mean(axis=0)[:3], [2_200 / 99, 0, 2_200 / 99], atol=0.6)
