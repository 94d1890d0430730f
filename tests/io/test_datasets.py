"""The example in the wheel: real counts, small, with its licence, and drawn so that rare types stay."""

import anndata as ad
import h5py
import numpy as np
import pytest

import polygene as pg
from polygene.io.datasets import PBMC
from polygene.vocab.ontology import ontology_of


@pytest.fixture(scope="module")
def pbmc() -> ad.AnnData:
    return pg.datasets.pbmc()


def test_pbmc_holds_counts_of_all_genes(pbmc: ad.AnnData) -> None:
    assert pbmc.shape == (700, 13_656)
    assert pbmc.X.min() >= 0
    np.testing.assert_array_equal(pbmc.X.data, np.round(pbmc.X.data))
    assert pbmc.obs_names.is_unique
    assert pbmc.var_names.is_unique


def test_rare_types_stay_in_pbmc(pbmc: ad.AnnData) -> None:
    n_of = pbmc.obs["author_label"].value_counts()
    assert len(n_of) == 9
    assert n_of["platelet"] == 14  # all that PBMC 3k has
    assert n_of.drop("platelet").min() == 30


def test_cell_types_of_pbmc_are_terms_of_the_cell_ontology(pbmc: ad.AnnData) -> None:
    names = ontology_of("cell_type").names
    ids = pbmc.obs["cell_type_ontology_term_id"].astype(str)
    assert list(ids.map(names)) == list(pbmc.obs["cell_type"])


def test_pbmc_shows_the_markers_of_its_labels(pbmc: ad.AnnData) -> None:
    shares = {
        gene: pbmc.to_df()[gene].gt(0).groupby(pbmc.obs["author_label"], observed=True).mean()
        for gene in ("MS4A1", "PPBP", "FCGR3A")
    }
    assert shares["MS4A1"].idxmax() == "B cell"
    assert shares["PPBP"].idxmax() == "platelet"
    assert shares["FCGR3A"].idxmax() == "FCGR3A+ monocyte"


def test_pbmc_carries_its_licence_and_is_small() -> None:
    with h5py.File(PBMC) as file:  # plain h5py, no plugin for its compression
        source = {name: item[()].decode() for name, item in file["uns/source"].items()}
    assert "CC BY 4.0" in source["licence"]
    assert "10x Genomics" in source["study"]
    assert "do not train" in source["use"]
    assert PBMC.stat().st_size < 1_500_000
