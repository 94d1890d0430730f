"""Ageing: what is made equal, each number against another way of computing it, and what is refused."""

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from scipy.spatial import distance

from polygene.corpus.source import thinned
from polygene.errors import ColumnError, DataError, PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.tl import _graph, ageing_topology
from polygene.tl._ageing_design import Design, ages_of, design, read_thinned
from polygene.tl._ageing_groups import GroupNetworks, gene_p, slopes
from polygene.tl._gene_weights import random_weights, state_sums
from polygene.tl._reader import CellReader
from polygene.vocab.phenotypes import PhenotypeSchema

N_GENES, N_DONORS, N_CELLS = 36, 12, 20
QUICK = {"n_bootstrap": 5, "n_shuffled": 19, "contexts": ["T cell"], "min_cells": 5}


def aged(*, planted: bool = False, seed: int = 0) -> ad.AnnData:
    """12 donors of 20 to 86 years with 16 to 27 cells; genes go together in sixes, in the old in others if planted."""
    rng = np.random.default_rng(seed)
    counts, donors = [], []
    for donor in range(N_DONORS):
        n = N_CELLS + rng.integers(-4, 8)
        old = planted and donor >= N_DONORS // 2
        module_G = np.arange(N_GENES) % 6 if old else np.arange(N_GENES) // 6
        activity_CK = rng.gamma(0.6, 2.0, (n, 6))
        depth_C1 = rng.lognormal(0.3, 0.3, (n, 1)) * (1.6 if donor % 2 else 1.0)
        counts.append(rng.poisson(depth_C1 * activity_CK[:, module_G]))
        donors += [donor] * n
    donors_C = np.array(donors)
    obs = pd.DataFrame(
        {
            "donor_id": pd.Categorical([f"donor{donor:02}" for donor in donors_C]),
            "cell_type": pd.Categorical(["T cell"] * len(donors_C), categories=["T cell", "B cell"]),
            "development_stage": [f"{20 + 6 * donor}-year-old stage" for donor in donors_C],
        },
        index=[f"cell{i}" for i in range(len(donors_C))],
    )
    x_CG = sparse.csr_matrix(np.concatenate(counts).astype(np.float32))
    return ad.AnnData(x_CG, obs=obs, var=pd.DataFrame(index=[f"GENE{g}" for g in range(N_GENES)]))


def plan_of(adata: ad.AnnData, model: PolyGene, **options) -> tuple[CellReader, Design]:
    reader = CellReader(adata, model.tokenizer)
    age_C, _ = ages_of(reader.cells, model.tokenizer, None)
    settings = {
        "donor": "donor_id",
        "n_groups": 3,
        "cells_per_donor": None,
        "most": 5_000,
        "depth": None,
    }
    return reader, design(reader, "T cell", np.arange(adata.n_obs), age_C, seed=0, **{**settings, **options})


def test_donors_cells_and_depths_are_equal(tiny_model: PolyGene) -> None:
    adata = aged()
    plan = plan_of(adata, tiny_model)[1]
    assert (np.diff(plan.age_U) >= 0).all()
    assert len(plan.age_U) % 3 == 0
    assert set(np.bincount(plan.unit_C)) == {plan.cells_per_donor}
    donors_C = adata.obs["donor_id"].cat.codes.to_numpy()[plan.rows_C]
    np.testing.assert_array_equal(20 + 6 * donors_C, plan.age_U[plan.unit_C])
    depth_C = np.asarray(adata.X.sum(axis=1)).ravel()
    assert plan.depth == pytest.approx(np.quantile(depth_C, 0.25))
    np.testing.assert_allclose(plan.share_C * depth_C[plan.rows_C], plan.depth)
    per_donor = pd.Series(donors_C).value_counts()
    assert per_donor.nunique() == 1
    left_out = plan.left_out
    assert len(plan.rows_C) + left_out["cells_too_shallow"] + left_out["cells_not_drawn"] == adata.n_obs
    assert len(plan.age_U) + left_out["donors_not_drawn"] == N_DONORS
    fewer = plan_of(adata, tiny_model, most=100)[1]
    assert len(fewer.rows_C) <= 100


def test_thinned_cells_hold_the_expected_counts(tiny_model: PolyGene) -> None:
    adata = aged()
    reader, plan = plan_of(adata, tiny_model, depth=10.0)
    (chunk,) = reader.raw(plan.rows_C)
    after = thinned(sparse.csr_matrix(chunk.X), plan.share_C, np.random.default_rng(0))
    totals_C = np.asarray(after.sum(axis=1)).ravel()
    assert totals_C.mean() == pytest.approx(10, abs=4 * np.sqrt(10 / len(totals_C)))
    assert (after.toarray() <= chunk.X.toarray()).all()
    assert abs(stats.spearmanr(totals_C, chunk.X.sum(axis=1)).statistic) < 0.25


def test_a_group_has_the_correlations_of_its_cells(tiny_model: PolyGene) -> None:
    reader, plan = plan_of(aged(), tiny_model)
    cells = read_thinned(reader, tiny_model.tokenizer, plan, seed=0)
    networks = GroupNetworks.of(tiny_model, cells, plan, by="correlation", n_groups=3, density=0.1, min_cells=5)
    nodes = [tiny_model.tokenizer.panel.index(gene) for gene in networks.genes_M]
    computed = networks.compute(networks.donors_AU, seed=0)
    for a in range(3):
        some = cells.rows(np.isin(plan.unit_C, networks.donors_AU[a]))
        weights = np.corrcoef(some.as_csr(some.values_N, 40).toarray()[:, nodes].T)
        np.fill_diagonal(weights, np.nan)
        pairs = _graph.edge_pairs(_graph.top_edges(weights, networks.n_edges))
        np.testing.assert_allclose(computed.measures_AX[a], list(_graph.measure(len(nodes), pairs).values()), atol=1e-9)


def test_a_group_has_the_mean_states_of_its_cells_and_a_donor_may_count_twice(tiny_model: PolyGene) -> None:
    reader, plan = plan_of(aged(), tiny_model)
    cells = read_thinned(reader, tiny_model.tokenizer, plan, seed=0)
    networks = GroupNetworks.of(tiny_model, cells, plan, by="contextual", n_groups=3, density=0.1, min_cells=5)
    nodes = [tiny_model.tokenizer.panel.index(gene) for gene in networks.genes_M]
    donors_U = np.array([0, 2, 2, 5])
    some = cells.rows(np.concatenate([np.flatnonzero(plan.unit_C == u) for u in donors_U]))
    sums_1GD, counts_1G = state_sums(tiny_model, some, np.zeros(len(some), dtype=int), 1)
    expected_MD = sums_1GD[0, nodes] / counts_1G[0, nodes, None]
    np.testing.assert_allclose(networks.means(donors_U), expected_MD, atol=1e-4)
    (kept,) = networks.weights(donors_U[None])
    x_MD = expected_MD - expected_MD.mean(axis=0)
    cosines_MM = 1 - distance.squareform(distance.pdist(x_MD, "cosine"))
    np.fill_diagonal(cosines_MM, np.nan)
    assert _graph.jaccard(kept, _graph.top_edges(cosines_MM, networks.n_edges)) > 0.95


def test_turnover_and_drift_are_between_the_youngest_and_the_oldest(tiny_model: PolyGene) -> None:
    reader, plan = plan_of(aged(), tiny_model)
    cells = read_thinned(reader, tiny_model.tokenizer, plan, seed=0)
    networks = GroupNetworks.of(tiny_model, cells, plan, by="contextual", n_groups=3, density=0.1, min_cells=5)
    computed = networks.compute(networks.donors_AU, seed=0)
    same = networks.compute(networks.donors_AU[[0, 1, 0]], seed=0)
    assert (same.changes["turnover"][np.isfinite(same.changes["turnover"])] == 0).all()
    np.testing.assert_allclose(same.changes["drift"], 0, atol=1e-6)
    a, b = networks.weights(networks.donors_AU)[0], networks.weights(networks.donors_AU)[2]
    gene = int(np.flatnonzero(computed.changes["turnover"] > 0)[0])
    of_a, of_b = (set(kept[gene].indices.tolist()) for kept in (a, b))
    assert computed.changes["turnover"][gene] == pytest.approx(1 - len(of_a & of_b) / len(of_a | of_b))


def test_slopes_are_those_of_polyfit() -> None:
    rng = np.random.default_rng(0)
    age_A, values_AX = np.array([23.0, 40, 71]), rng.normal(size=(3, 4))
    expected = [np.polyfit(age_A / 10, column, 1)[0] for column in values_AX.T]
    np.testing.assert_allclose(slopes(age_A, values_AX), expected)


def test_a_planted_change_is_found_and_none_is_found_where_none_is(tiny_model: PolyGene) -> None:
    settings = {**QUICK, "by": "correlation", "n_groups": 2, "density": 0.14, "n_shuffled": 39, "n_bootstrap": 2}
    changed = ageing_topology(aged(planted=True), tiny_model, **settings)
    still = ageing_topology(aged(), tiny_model, **settings)
    (turnover,), (none,) = changed.changes.itertuples(), still.changes.itertuples()
    assert turnover.change == none.change == "turnover"
    assert turnover.p <= 0.05
    assert turnover.value > turnover.shuffled_high
    assert none.value < none.shuffled_high
    assert changed.genes["turnover"].mean() == pytest.approx(turnover.value)
    assert "drift" not in changed.genes
    assert changed.genes["turnover_p"].min() < 1 / 40  # which shuffles counted gene by gene could not give
    assert none.p > 0.05
    assert still.genes["turnover_q"].min() > 0.05


def test_p_of_genes_without_any_change_is_uniform() -> None:
    rng = np.random.default_rng(0)
    scale_M = rng.uniform(1, 9, 3_000)
    p_M = gene_p(rng.normal(size=3_000) * scale_M, rng.normal(size=(40, 3_000)) * scale_M)
    assert stats.kstest(p_M, "uniform").pvalue > 0.01
    assert np.isnan(gene_p(np.array([np.nan, 1.0]), rng.normal(size=(9, 2)))).tolist() == [True, False]


def test_a_context_of_too_few_genes_is_left_out_and_the_others_stay(
    tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    adata = aged()
    blank = aged(seed=1)
    blank.X = blank.X @ sparse.diags((np.arange(N_GENES) < 5).astype(np.float32))
    blank.obs["cell_type"] = "B cell"
    both = ad.concat([adata, blank], index_unique="-")
    settings = {**QUICK, "contexts": None, "min_cells": 2}
    found = ageing_topology(both, tiny_model, by="correlation", **settings)
    assert set(found.slopes["context"]) == {"T cell"}
    assert "B cell: 2 cells a group express" in caplog.text


def test_tables_fit_together_and_go_into_uns(tiny_model: PolyGene, tmp_path: Path) -> None:
    adata = aged()
    found = ageing_topology(adata, tiny_model, **QUICK)
    facts, measures = found.design.iloc[0], found.measures
    assert list(found.slopes["measure"]) == ["clustering", "modularity", "assortativity", "heterogeneity"]
    assert len(measures) == 3 * 4
    assert (measures["n_cells"] == facts["cells_per_donor"] * facts["n_donors"] / 3).all()
    assert ((measures["low"] <= measures["value"]) & (measures["value"] <= measures["high"])).all()
    row = found.slopes.iloc[0]
    by_age = measures.query("measure == 'clustering'")
    assert row["slope"] == pytest.approx(np.polyfit(by_age["mean_age"] / 10, by_age["value"], 1)[0])
    assert found.slopes["p"].between(1 / 20, 1).all()
    assert {"turnover", "drift", "drift_q"} < set(found.genes)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    kept = ad.read_h5ad(tmp_path / "cells.h5ad").uns["polygene"]["ageing_topology"]
    pd.testing.assert_frame_equal(kept["slopes"], found.slopes, check_dtype=False)


def test_the_same_seed_gives_the_same_tables(tiny_model: PolyGene) -> None:
    one, again, other = (ageing_topology(aged(), tiny_model, seed=seed, **QUICK) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(one.slopes, again.slopes)
    pd.testing.assert_frame_equal(one.genes, again.genes)
    assert not one.slopes.equals(other.slopes)


def test_a_finding_survives_where_every_model_has_it(tiny_model: PolyGene) -> None:
    models = [tiny_model, random_weights(tiny_model)]
    found = ageing_topology(aged(), models, **QUICK)
    assert list(found.slopes["model"].unique()) == ["not saved", "not saved (2)"]
    slopes = found.slopes.assign(p=0.01, slope=[1.0, 1, 1, 1, 1, 1, -1, 1])
    slopes.loc[7, "p"] = 0.4
    survives = type(found)(**{**vars(found), "slopes": slopes}).survives
    assert survives["survives"].to_list() == [True, True, False, False]


def test_donors_of_one_age_have_no_slope_and_nothing_survives(tiny_model: PolyGene) -> None:
    adata = aged()
    adata.obs["development_stage"] = "30-year-old stage"
    found = ageing_topology(adata, tiny_model, by="correlation", **QUICK)
    assert found.slopes["slope"].isna().all()
    assert (found.slopes["p"] == 1).all()
    assert not found.survives["survives"].any()


def test_one_donor_cannot_age(tiny_model: PolyGene) -> None:
    adata = aged()
    adata.obs["donor_id"] = "donor00"
    with pytest.raises(DataError, match=r"T cell at .* 1 donor\(s\) of known age .* 3 age groups need 3 donors each"):
        ageing_topology(adata, tiny_model, **QUICK)


def test_contexts_without_cells_or_ages_are_refused(tiny_model: PolyGene) -> None:
    adata = aged()
    with pytest.raises(DataError, match="has no cells of 'B cell'"):
        ageing_topology(adata, tiny_model, contexts=["B cell"])
    adata.obs["development_stage"] = "adult stage"
    with pytest.raises(DataError, match="T cell: no cell has both an age and a donor"):
        ageing_topology(adata, tiny_model, **QUICK)
    with pytest.raises(ColumnError, match="no column 'years' in obs, which should hold the age of each donor"):
        ageing_topology(adata, tiny_model, age="years", **QUICK)


def test_a_model_without_ages_needs_the_column(tiny_model: PolyGene) -> None:
    schema = tiny_model.tokenizer.schema
    without = PhenotypeSchema(phenotypes=schema.phenotypes[:3], labels=schema.labels[:3])
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = PolyGene.new(replace(tiny_model.tokenizer, schema=without), **shape)
    with pytest.raises(PhenotypeError, match=r"no phenotype 'age' \(it has sex, tissue, cell_type\): name a column"):
        ageing_topology(aged(), model, **QUICK)
    assert len(ageing_topology(aged(), model, age="development_stage", **QUICK).slopes) == 4


def test_values_that_are_no_counts_cannot_be_thinned(tiny_model: PolyGene) -> None:
    adata = aged()
    adata.X = adata.X.multiply(1e4 / adata.X.sum(axis=1)).log1p().tocsr()
    with pytest.raises(DataError, match="holds log1p values; depths are made equal by thinning, which needs counts"):
        ageing_topology(adata, tiny_model, **QUICK)


def test_what_cannot_be_is_refused_before_any_cell_is_read(tiny_model: PolyGene) -> None:
    for wrong, said in (
        ({"by": "attention"}, "by is one of contextual, correlation; got 'attention'"),
        ({"n_groups": 1}, "at least two age groups"),
        ({"density": 2}, "density is a share of the pairs of genes, above 0 and at most 1; got 2"),
        ({"min_cells": 200}, "express 0 genes, and a network has 20 or more"),
    ):
        with pytest.raises(DataError, match=said):
            ageing_topology(aged(), tiny_model, **{**QUICK, **wrong})
