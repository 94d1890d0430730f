"""Vote: what the groups decide, against the definition; where there is none; and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

from polygene.errors import ColumnError, DataError, MissingExtraError, PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.pl import dotplot
from polygene.runtime import extras
from polygene.tl import annotate, vote

MakeAnnData = Callable[..., ad.AnnData]
LABELS = ("B cell", "T cell", "monocyte")


def voters(p_CV: Any, groups: Any, *, name: str = "cell_type", labels: Any = LABELS, **uns: Any) -> ad.AnnData:
    """Cells as `annotate` leaves them."""
    p_CV = np.asarray(p_CV, dtype=np.float32)
    cells = [f"cell{c}" for c in range(len(p_CV))]
    adata = ad.AnnData(
        np.ones((len(p_CV), 1), np.float32),
        pd.DataFrame({"cluster": groups}, index=cells),
        obsm={f"polygene_{name}": p_CV},
    )
    adata.uns["polygene"] = {"annotate": {"labels": {name: np.array(labels)}, **uns}}
    return adata


def table_of(adata: ad.AnnData, key: str = "cell_type_cluster") -> pd.DataFrame:
    return adata.uns["polygene"]["annotate"]["votes"][key]["table"]


def test_a_vote_is_the_softmax_of_weighted_mean_logs() -> None:
    rng = np.random.default_rng(0)
    p_CV, groups = rng.dirichlet([2, 2, 2], 60), rng.integers(0, 4, 60)
    adata = voters(p_CV, groups, vote_weights={"cell_type": 5.0})
    vote(adata, "cluster")
    for group in range(4):
        of_C = groups == group
        expected_V = np.exp(log_softmax((1 + 4 * (1 - 1 / of_C.sum())) * np.log(p_CV[of_C]).mean(0)))
        row = table_of(adata).set_index("group").loc[str(group)]
        assert row.label == LABELS[expected_V.argmax()]
        assert row.probability == pytest.approx(expected_V.max(), rel=1e-4)
        assert row.agree == pytest.approx(np.mean(p_CV[of_C].argmax(1) == expected_V.argmax()))
        written = adata.obs[of_C]
        assert written["polygene_cell_type_cluster_probability"].unique() == pytest.approx([row.probability])
        assert set(written["polygene_cell_type_cluster"]) == {row.label if row.agree >= 0.5 else "heterogeneous"}


def test_noisy_cells_of_a_group_are_right_together() -> None:
    rng = np.random.default_rng(1)
    truth_C = np.repeat([0, 1, 2], 100)
    logits_CV = np.eye(3)[truth_C] + rng.normal(0, 1.5, (300, 3))
    p_CV = np.exp(logits_CV) / np.exp(logits_CV).sum(1, keepdims=True)
    adata = voters(p_CV, truth_C)
    vote(adata, "cluster", share=0)
    assert (p_CV.argmax(1) == truth_C).mean() < 0.7
    assert adata.obs["polygene_cell_type_cluster"].tolist() == [LABELS[v] for v in truth_C]


def test_a_group_of_one_cell_keeps_its_prediction(caplog: pytest.LogCaptureFixture) -> None:
    p_CV = [[0.7, 0.2, 0.1], [1e-6, 0.3, 0.7], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]]
    adata = voters(p_CV, ["a", "b", "c", "c"], vote_weights={"cell_type": 20.0})
    vote(adata, "cluster")
    assert adata.obs["polygene_cell_type_cluster"].tolist() == ["B cell", "monocyte", "T cell", "T cell"]
    np.testing.assert_allclose(adata.obs["polygene_cell_type_cluster_probability"][:2], [0.7, 0.7], rtol=1e-5)
    assert "cluster: 2 groups have one cell, whose prediction they keep" in caplog.messages


def test_cells_without_a_group_have_no_vote_and_change_none(caplog: pytest.LogCaptureFixture) -> None:
    p_CV = np.random.default_rng(0).dirichlet([1, 1, 1], 20)
    groups = np.array(["a", "b"] * 10, dtype=object)
    groups[[3, 7]] = [np.nan, "unknown"]
    some, all_cells = voters(np.delete(p_CV, [3, 7], 0), np.delete(groups, [3, 7])), voters(p_CV, groups)
    vote(some, "cluster")
    vote(all_cells, "cluster")
    pd.testing.assert_frame_equal(table_of(some), table_of(all_cells))
    column = all_cells.obs["polygene_cell_type_cluster"]
    assert column.isna().to_numpy().nonzero()[0].tolist() == [3, 7]
    assert all_cells.obs["polygene_cell_type_cluster_probability"].isna().sum() == 2
    assert "cluster: 2 cells have no value or no prediction, so no vote" in caplog.messages


def test_cells_without_predictions_have_no_vote_and_change_none() -> None:
    p_CV = np.random.default_rng(0).dirichlet([1, 1, 1], 20)
    groups = np.array(["a", "b"] * 10, dtype=object)
    some = voters(p_CV[2:], groups[2:])
    p_CV[:2] = np.nan  # as anndata.concat leaves them
    all_cells = voters(p_CV, groups)
    vote(some, "cluster")
    vote(all_cells, "cluster")
    pd.testing.assert_frame_equal(table_of(some), table_of(all_cells))
    column = all_cells.obs["polygene_cell_type_cluster"]
    assert column.isna().to_numpy().nonzero()[0].tolist() == [0, 1]
    all_cells.obsm["polygene_cell_type"][:] = np.nan
    with pytest.raises(DataError, match=r"obs\['cluster'\] has probabilities of cell_type: run annotate"):
        vote(all_cells, "cluster")
    del all_cells.uns["polygene"]
    with pytest.raises(DataError, match=r"uns does not say whose: anndata\.concat needs uns_merge='same'"):
        vote(all_cells, "cluster")


def test_a_group_that_does_not_agree_is_heterogeneous_and_names_its_runner_up() -> None:
    adata = voters([[0.9, 0.1, 0]] * 4 + [[0, 0.6, 0.4]] * 3 + [[0, 0.4, 0.6]] * 2, ["a"] * 9)
    vote(adata, "cluster")
    row = table_of(adata).iloc[0]
    assert (row.label, row.runner_up) == ("T cell", "B cell")
    assert (row.agree, row.runner_up_share) == pytest.approx((3 / 9, 4 / 9))
    assert row.heterogeneous
    assert set(adata.obs["polygene_cell_type_cluster"]) == {"heterogeneous"}
    vote(adata, "cluster", share=0.3)
    assert set(adata.obs["polygene_cell_type_cluster"]) == {"T cell"}


def test_a_finer_label_agrees_with_a_coarse_one() -> None:
    labels = ("T cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "B cell")
    p_CV = [[0.4, 0.6, 0, 0]] * 5 + [[0.4, 0, 0.6, 0]] * 5
    adata = voters(p_CV, ["a"] * 10, labels=labels, granularity=True)
    vote(adata, "cluster")
    assert table_of(adata).loc[0, ["label", "agree"]].tolist() == ["T cell", 1]
    assert table_of(adata).loc[0, "probability"] > 0.9


def test_cells_that_agree_on_a_broader_label_only_get_that_unless_it_says_nothing() -> None:
    fine = ["naive thymus-derived CD4-positive, alpha-beta T cell", "effector memory CD4-positive, alpha-beta T cell"]
    others = [f"cluster {v}" for v in range(20)]
    labels = (*fine, "CD4-positive, alpha-beta T cell", "memory B cell", *others)
    rng = np.random.default_rng(0)
    p_CV = 0.3 * rng.dirichlet(np.ones(len(labels)), 30)
    p_CV[np.arange(30), np.arange(30) % 2] += 0.7  # the two fine labels in turn
    adata = voters(p_CV, ["a"] * 30, labels=labels, granularity=True)
    vote(adata, "cluster", share=0.8)
    assert set(adata.obs["polygene_cell_type_cluster"]) == {"CD4-positive, alpha-beta T cell"}
    adata = voters(p_CV[:, :4], ["a"] * 30, labels=labels[:4], granularity=True)  # there it is most of what is known
    vote(adata, "cluster", share=0.8)
    assert set(adata.obs["polygene_cell_type_cluster"]) == {"heterogeneous"}


def test_a_cell_keeps_its_own_near_type_and_not_its_own_lineage() -> None:
    fine = ["naive thymus-derived CD4-positive, alpha-beta T cell", "effector memory CD4-positive, alpha-beta T cell"]
    labels = (*fine, "CD4-positive, alpha-beta T cell", "memory B cell", *(f"cluster {v}" for v in range(20)))
    p_CV = np.full((40, len(labels)), 1e-3)
    p_CV[np.arange(40), np.arange(40) % 2] = 0.9  # the two near types in turn
    p_CV[0, :4] = 0.05, 0.2, 0, 0.7  # a stray cell
    adata = voters(p_CV / p_CV.sum(axis=1, keepdims=True), ["a"] * 40, labels=labels, granularity=True)
    vote(adata, "cluster")
    assert table_of(adata).loc[0, "branch"] == "CD4-positive, alpha-beta T cell"
    assert adata.obs["polygene_cell_type_cluster_within"].tolist() == [fine[1], fine[1], *fine * 19]
    assert adata.obs["polygene_cell_type_cluster_within_probability"].iloc[0] == pytest.approx(0.2 / 0.25)
    assert dotplot(adata, "cluster", "polygene_cell_type_cluster_within").get_xlabel().endswith("within")


def test_ages_of_a_donor_give_years_and_are_never_heterogeneous() -> None:
    labels = ("20-year-old stage", "30-year-old stage", "60-year-old stage")
    adata = voters(np.random.default_rng(0).dirichlet([3, 3, 3], 40), ["x", "y"] * 20, name="age", labels=labels)
    vote(adata, "cluster", "age", share=1.0)
    assert set(adata.obs["polygene_age_cluster"]) <= set(labels)
    assert adata.obs["polygene_age_cluster_years"].between(20, 60).all()


def test_one_donor_votes_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    vote(voters([[0.9, 0.1, 0]] * 3, ["donor1"] * 3), "cluster")
    assert "cluster: all cells that vote are in one group, 'donor1'" in caplog.messages


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"groupby": "clusters_"}, ColumnError, r"no column 'clusters_'.*groups that vote.*Did you mean 'cluster'"),
        ({"groupby": "cluster", "phenotype": "sex"}, DataError, "no probabilities of sex: run annotate"),
        ({"groupby": "empty"}, DataError, r"no cell has a value in obs\['empty'\]"),
        ({"groupby": "set"}, PhenotypeError, r"obs\['polygene_cell_type_set'\] is what annotate writes"),
        ({"groupby": "cluster", "share": 50}, DataError, "0 to 1; got 50"),
    ],
)
def test_what_cannot_vote_is_refused_and_nothing_is_written(options: dict[str, Any], error: type, says: str) -> None:
    adata = voters([[0.9, 0.1, 0]] * 3, ["a"] * 3)
    adata.obs["empty"], adata.obs["set"] = np.nan, "a"
    before = list(adata.obs)
    with pytest.raises(error, match=says):
        vote(adata, **options)
    assert list(adata.obs) == before


def test_a_vote_before_annotate_is_refused(make_adata: MakeAnnData) -> None:
    with pytest.raises(DataError, match=r"adata has no probabilities of cell_type: run annotate"):
        vote(make_adata(20), "donor_id")


@pytest.mark.parametrize("suffix", [".h5ad", ".csv"])
def test_a_file_gets_the_votes_of_its_cells(
    suffix: str, make_adata: MakeAnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    adata, file, out = make_adata(60, 36), tmp_path / "cells.h5ad", tmp_path / f"out{suffix}"
    annotate(adata, tiny_model)
    adata.write_h5ad(file)
    vote(adata, "donor_id", "sex")
    vote(file, "donor_id", "sex", out=out)
    obs = ad.read_h5ad(out).obs if suffix == ".h5ad" else pd.read_csv(out, index_col=0)
    key = "polygene_sex_donor_id"
    assert obs[key].tolist() == adata.obs[key].tolist()
    np.testing.assert_allclose(obs[f"{key}_probability"], adata.obs[f"{key}_probability"], rtol=1e-5)
    if suffix == ".h5ad":
        pd.testing.assert_frame_equal(table_of(ad.read_h5ad(out), "sex_donor_id"), table_of(adata, "sex_donor_id"))


def test_a_file_is_closed_before_results_are_written_and_what_the_caller_opened_stays_open(
    make_adata: MakeAnnData, tiny_model: PolyGene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata, file = make_adata(20, 36), tmp_path / "cells.h5ad"
    annotate(adata, tiny_model)
    adata.write_h5ad(file)
    backed = ad.read_h5ad(file, backed="r")
    vote(backed, "donor_id")
    assert backed.file.is_open
    backed.file.close()

    monkeypatch.setattr("polygene.tl._vote.write_results", lambda *_, **__: h5py.File(file, "r+").close())
    vote(file, "donor_id", out=tmp_path / "out.h5ad")


def test_annotate_votes_as_vote_does_in_memory_and_in_files(
    make_adata: MakeAnnData, tiny_model: PolyGene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adata, file = make_adata(60, 36), tmp_path / "cells.h5ad"
    adata.write_h5ad(file)
    wanted = {"sex": "donor_id", "cell_type": "leiden"}
    with caplog.at_level("INFO", logger="polygene"):
        annotate(adata, tiny_model, vote=wanted)
    n = adata.obs["leiden"].nunique()
    assert n > 1
    n_mixed = table_of(adata, "cell_type_leiden")["heterogeneous"].sum()
    said = f"polygene_cell_type_leiden: {n} groups voted, of which {n_mixed} are heterogeneous"
    assert said in caplog.messages
    annotate(file, tiny_model, vote=wanted, out=tmp_path / "out.h5ad")
    from_file = ad.read_h5ad(tmp_path / "out.h5ad")
    again = adata.copy()
    for phenotype, groupby in wanted.items():
        vote(again, groupby, phenotype)
        key = f"polygene_{phenotype}_{groupby}"
        for other in (from_file, again):
            assert other.obs[key].tolist() == adata.obs[key].tolist()
            pd.testing.assert_frame_equal(
                table_of(other, f"{phenotype}_{groupby}"), table_of(adata, f"{phenotype}_{groupby}"), rtol=1e-4
            )


@pytest.mark.parametrize(
    ("wanted", "error", "says"),
    [
        ({"cell_type": "seurat_clusters"}, ColumnError, "Only 'leiden' is computed where it is missing"),
        ({"celltype": "leiden"}, DataError, "A vote on 'celltype' needs its predictions; predicted are sex, tissue"),
    ],
)
def test_a_vote_that_annotate_cannot_hold_is_refused_before_the_work(
    wanted: dict[str, str], error: type, says: str, make_adata: MakeAnnData, tiny_model: PolyGene
) -> None:
    adata = make_adata(20, 36)
    with pytest.raises(error, match=says):
        annotate(adata, tiny_model, vote=wanted)
    assert not adata.obsm


def test_leiden_without_its_package_names_the_extra(
    make_adata: MakeAnnData, tiny_model: PolyGene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda package: None if package == "igraph" else True)
    with pytest.raises(MissingExtraError, match=r"needs the package igraph.*polygene\[report\]"):
        annotate(make_adata(20, 36), tiny_model, vote={"cell_type": "leiden"})
