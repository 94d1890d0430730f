"""Manifold scores, distances of labels, similarity of models: against scikit-learn, and on planted spaces."""

from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier

from polygene.errors import ColumnError, DataError, PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.pl import manifold as draw
from polygene.tl import embed, manifold_scores, phenotype_distances, similarity
from polygene.tl._separation import ari, counts_of, nmi, purity
from polygene.tl._similarity import cka, shared_neighbors


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    return make_adata(120, 36)


def test_indices_of_weighted_tables_are_those_of_repeated_cells() -> None:
    rng = np.random.default_rng(0)
    donors_C, codes_C = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    clusters_C = np.where(rng.random(200) < 0.6, codes_C, rng.integers(0, 5, 200))
    weights_D = np.array([2, 0, 1, 3])
    table_KV = np.tensordot(weights_D.astype(float), counts_of(clusters_C, codes_C, donors_C, 4), 1)
    again = np.repeat(np.arange(200), weights_D[donors_C])
    assert ari(table_KV) == pytest.approx(adjusted_rand_score(codes_C[again], clusters_C[again]))
    assert nmi(table_KV) == pytest.approx(normalized_mutual_info_score(codes_C[again], clusters_C[again]))


def test_purity_is_the_probability_of_nearest_neighbours_among_other_donors() -> None:
    rng = np.random.default_rng(1)
    x_CD, codes_C, donors_C = rng.normal(size=(90, 3)), rng.integers(0, 3, 90), np.arange(90) % 3
    x_CD[:, 0] += 2 * codes_C
    found_C = purity(x_CD, codes_C, donors_C, 7)
    for donor in range(3):
        neighbours = KNeighborsClassifier(7).fit(x_CD[donors_C != donor], codes_C[donors_C != donor])
        p_CV = neighbours.predict_proba(x_CD[donors_C == donor])
        np.testing.assert_allclose(found_C[donors_C == donor], p_CV[np.arange(30), codes_C[donors_C == donor]])


def test_a_space_that_holds_the_labels_beats_components_and_noise_does_not(
    adata: ad.AnnData, tiny_model: PolyGene
) -> None:
    types = np.array(adata.obs["cell_type"].cat.codes)
    rng = np.random.default_rng(2)
    adata.X = rng.poisson(1, (120, 36)).astype(np.float32)  # components know nothing
    adata.obsm["labels"] = np.eye(3)[types] + 0.01 * rng.normal(size=(120, 3))
    adata.obsm["noise"] = rng.normal(size=(120, 3))
    scores = manifold_scores(
        adata, tiny_model, states="cls", beside=["pca", "labels", "noise", "random weights"], n_resamples=50
    )
    of = scores.set_index(["space", "score"])
    assert of.loc[("labels", "purity"), "value"] > 0.98
    assert of.loc[("labels", "ari"), "value"] > 0.95
    assert bool(of.loc[("labels", "purity"), "survives"])
    assert of.loc[("noise", "purity"), "value"] < 0.5
    assert of.loc[("noise", "purity"), "gain"] < of.loc[("labels", "purity"), "gain_low"]
    assert (of.loc["pca", "gain"] == 0).all()
    assert (scores["low"] <= scores["value"] + 0.05).all()
    assert (scores["n_donors"] == 8).all()
    again = manifold_scores(
        adata, tiny_model, states="cls", beside=["pca", "labels", "noise", "random weights"], n_resamples=50
    )
    assert scores.equals(again)
    assert [text.get_text() for text in draw(scores).get_yticklabels()] == [
        "pca", "labels", "noise", "random weights", "cls",
    ]  # fmt: skip


def test_scores_of_the_state_are_those_of_what_embed_writes(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    embed(adata, tiny_model)
    scores = manifold_scores(adata, tiny_model, states="cell_type", beside="X_polygene", n_resamples=5)
    mine, theirs = (scores[scores["space"] == space]["value"].to_numpy() for space in ("cell_type", "X_polygene"))
    np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_mixing_of_donors_is_that_of_scib_metrics(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    scib_metrics = pytest.importorskip("scib_metrics")
    rng = np.random.default_rng(3)
    donors_C = np.array(adata.obs["donor_id"].cat.codes)
    adata.obsm["mixed"] = rng.normal(size=(120, 4))
    adata.obsm["apart"] = adata.obsm["mixed"] + 20 * np.eye(8)[donors_C][:, :4] * (1 + donors_C[:, None])
    scores = manifold_scores(
        adata, tiny_model, states=[], beside=["mixed", "apart"], mixing=True, n_resamples=2, n_neighbors=5
    )
    of = scores.set_index(["space", "score"])["value"]
    assert of["mixed", "ilisi"] > of["apart", "ilisi"] + 0.2
    bras = scib_metrics.bras(adata.obsm["mixed"], np.array(adata.obs["cell_type"].cat.codes), donors_C)
    assert of["mixed", "bras"] == pytest.approx(float(bras), abs=1e-5)


def test_one_donor_gives_scores_without_intervals(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata.obs["donor_id"] = "one"
    scores = manifold_scores(adata, tiny_model, states="genes", n_resamples=5)
    assert scores["value"].notna().all()
    assert scores[["low", "high", "gain_low"]].isna().all(axis=None)
    assert not scores["survives"].any()
    found = phenotype_distances(adata, tiny_model)
    assert np.isnan(found.halves_agree)
    assert np.isfinite(found.distances).all(axis=None)


def test_donors_without_labels_and_tables_of_coordinates_are_scored_too(
    adata: ad.AnnData, tiny_model: PolyGene
) -> None:
    adata.obs["label"] = adata.obs["cell_type"].astype(object)
    last = sorted(set(adata.obs["donor_id"]))[-1]
    adata.obs.loc[adata.obs["donor_id"] == last, "label"] = None
    adata.obsm["table"] = pd.DataFrame(np.eye(adata.n_obs)[:, :5], index=adata.obs_names)
    scores = manifold_scores(adata, tiny_model, states="genes", phenotypes="label", beside=("pca", "table"))
    assert set(scores["n_cells"]) == {int(adata.obs["label"].notna().sum())}
    assert ((scores["low"] <= scores["value"]) & (scores["value"] <= scores["high"])).all()


def test_what_cannot_be_scored_is_named(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    with pytest.raises(DataError, match=r"obs\['tissue'\] of adata has one label"):
        manifold_scores(adata, tiny_model, phenotypes="tissue")
    with pytest.raises(DataError, match="has one label among the 1 cells that are read"):
        manifold_scores(adata, tiny_model, max_cells=1)
    with pytest.raises(DataError, match="n_neighbors is 0; give a whole number"):
        manifold_scores(adata, tiny_model, n_neighbors=0)
    with pytest.raises(DataError, match="got 'X_scVI'"):
        manifold_scores(adata, tiny_model, beside="X_scVI")
    with pytest.raises(ColumnError, match="'organ'"):
        manifold_scores(adata, tiny_model, phenotypes="organ")
    with pytest.raises(DataError, match="no score 'asw'; it has purity"):
        draw(manifold_scores(adata, tiny_model, states="genes", n_resamples=2), score="asw")
    with pytest.raises(DataError, match=r"states is one of joined, cell_type, cls, .*; got 'Cell_type'"):
        manifold_scores(adata, tiny_model, states=["cls", "Cell_type"])
    with pytest.raises(DataError, match=r"8 cells .* are scored, and a cell has 15 neighbours: lower n_neighbors"):
        manifold_scores(adata, tiny_model, max_cells=8)


def test_no_interval_leaves_what_a_score_can_be(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    scores = manifold_scores(adata, tiny_model, states="cls", max_cells=30, n_neighbors=5, n_resamples=50)
    assert scores["high"].max() <= 1
    assert scores.loc[scores["score"] != "ari", "low"].min() >= 0


def test_distances_are_one_less_the_cosine_of_the_means_over_donors(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    found = phenotype_distances(adata, tiny_model)
    embed(adata, tiny_model)
    frame = adata.obs.groupby(["cell_type", "donor_id"], observed=True).indices
    means = {
        label: np.mean(
            [adata.obsm["X_polygene"][rows].mean(axis=0) for (one, _), rows in frame.items() if one == label], 0
        )
        for label in found.distances.index
    }
    x_LD = np.array(list(means.values())) - np.mean(list(means.values()), axis=0)
    unit_LD = x_LD / np.linalg.norm(x_LD, axis=1, keepdims=True)
    np.testing.assert_allclose(found.distances, 1 - unit_LD @ unit_LD.T, atol=1e-5)
    assert -1 <= found.expression_agrees <= 1
    assert adata.uns["polygene"]["phenotype_distances"]["groupby"] == "cell_type"


def test_the_dendrogram_is_drawn_by_scanpy(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    import matplotlib as mpl
    import scanpy as sc

    mpl.use("Agg")
    phenotype_distances(adata, tiny_model)
    axes = sc.pl.dendrogram(adata, "cell_type", show=False)
    shown = [text.get_text() for text in axes.get_xticklabels()]
    assert sorted(shown) == sorted(adata.obs["cell_type"].cat.categories)


def test_distances_need_three_labels_and_a_phenotype_of_the_model(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    with pytest.raises(DataError, match=r"obs\['sex'\] of adata has 2 labels among the .* distances need three"):
        phenotype_distances(adata, tiny_model, phenotype="sex")
    with pytest.raises(PhenotypeError, match="smoking"):
        phenotype_distances(adata, tiny_model, phenotype="smoking")


def test_alignment_ignores_rotation_and_scale_and_sees_difference() -> None:
    rng = np.random.default_rng(4)
    x_ND = rng.normal(size=(300, 3))
    turned_ND = 5 * x_ND @ Rotation.random(random_state=0).as_matrix() + 7
    assert cka(x_ND, turned_ND) == pytest.approx(1)
    assert shared_neighbors(x_ND, turned_ND, 10).mean() == 1
    assert cka(x_ND, rng.normal(size=(300, 3))) < 0.1
    assert shared_neighbors(x_ND, rng.normal(size=(300, 3)), 10).mean() == pytest.approx(10 / 299, abs=0.02)
    centred_NN = [(x_ND - x_ND.mean(axis=0)) @ (x_ND - x_ND.mean(axis=0)).T, np.eye(300) - 1 / 300]
    y_ND = np.hstack([x_ND[:, :1], rng.normal(size=(300, 2))])
    other_NN = (y_ND - y_ND.mean(axis=0)) @ (y_ND - y_ND.mean(axis=0)).T
    by_kernel = (centred_NN[0] * other_NN).sum() / np.sqrt((centred_NN[0] ** 2).sum() * (other_NN**2).sum())
    assert cka(x_ND, y_ND) == pytest.approx(by_kernel)
    repeated = np.repeat(np.arange(300), np.arange(300) % 3)
    assert cka(x_ND, y_ND, np.arange(300) % 3) == pytest.approx(cka(x_ND[repeated], y_ND[repeated]))


def test_a_model_is_alike_to_itself_and_less_to_another(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    other = PolyGene.new(
        tiny_model.tokenizer, seed=5, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    table = similarity(adata, [tiny_model, tiny_model, other], n_resamples=20)
    assert len(table) == 9
    same = table[(table["first"] == "not saved") & (table["second"] == "not saved (2)")]
    np.testing.assert_allclose(same[["cka", "neighbors"]], 1, atol=1e-6)
    rest = table.drop(same.index)
    assert (rest["cka"] < 0.999).all()
    cells = rest[rest["what"] == "cells"]
    assert (cells["cka_low"] <= cells["cka_high"]).all()
    assert rest[rest["what"] == "genes, static"]["cka_low"].isna().all()
    assert (table["neighbors_chance"] > 0).all()
    with pytest.raises(DataError, match="pass two or more, got 1"):
        similarity(adata, [tiny_model])
