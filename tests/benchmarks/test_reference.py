"""Edges of a reference: how they are read, and what scores of pairs are worth."""

import io
import zipfile

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from benchmarks.analyses.reference import IN_WHEEL, other_regulators, precision, read_edges, scored, truth

EDGES = pd.DataFrame({"source": ["A", "A", "B", "C", "A", "Z"], "target": ["B", "C", "C", "C", "B", "A"]})
GENES = ["C", "A", "B", "D"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".whl"])
def test_transcriptional_edges_are_read_once_from_tables_and_the_wheel(tmp_path, suffix):
    path = tmp_path / f"edges{suffix}"
    table = EDGES.assign(type=["transcriptional"] * 5 + ["post_translational"])
    if suffix == ".whl":
        stream = io.BytesIO()
        table.to_parquet(stream)
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(IN_WHEEL, stream.getvalue())
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    assert read_edges(path).to_numpy().tolist() == [["A", "B"], ["A", "C"], ["B", "C"], ["C", "C"]]


def test_edges_are_laid_out_by_source_and_loops_are_left_out():
    sources_S, is_edge_ST = truth(EDGES, GENES)
    assert [GENES[g] for g in sources_S] == ["A", "B"]
    np.testing.assert_array_equal(is_edge_ST, [[True, False, True, False], [True, False, False, False]])
    np.testing.assert_array_equal(other_regulators(is_edge_ST), [[1, 0, 0, 0], [1, 0, 1, 0]])


def test_scores_are_those_of_all_pairs_and_of_pairs_of_like_targets():
    rng = np.random.default_rng(0)
    n_sources, n_targets = 30, 200
    sources_S, level_T = np.arange(n_sources), rng.normal(size=n_targets)
    is_edge_ST = rng.random((n_sources, n_targets)) < 1 / (1 + np.exp(3 - 2 * level_T))
    is_edge_ST[sources_S, sources_S] = False
    known_ST = ~np.eye(n_sources, n_targets, dtype=bool)
    noise_ST = rng.normal(size=is_edge_ST.shape)
    found = {
        name: scored(score_ST, is_edge_ST, sources_S, level_T, seed=0, n=30)
        for name, score_ST in {
            "truth": is_edge_ST.astype(float), "level": np.tile(level_T, (n_sources, 1)), "noise": noise_ST,
        }.items()
    }  # fmt: skip
    assert found["truth"]["auprc"] == found["truth"]["within_deciles"] == 1
    assert found["noise"]["auprc"] == pytest.approx(average_precision_score(is_edge_ST[known_ST], noise_ST[known_ST]))
    assert found["noise"]["low"] < found["noise"]["auprc"] < found["noise"]["high"]
    assert found["noise"]["auprc"] == pytest.approx(found["noise"]["base"], abs=0.04)
    assert found["noise"]["base"] == pytest.approx(is_edge_ST.sum() / (known_ST.sum()))
    assert found["level"]["auprc"] > 2 * found["level"]["base"]  # a gene-level score finds edges that expression places
    gain = {name: one["within_deciles"] / one["base_within_deciles"] for name, one in found.items()}
    assert gain["level"] < 1.5  # and hardly any among genes of like expression


def test_precision_is_that_of_scikit_learn_with_pairs_repeated():
    rng = np.random.default_rng(1)
    score_N, truth_N, times_N = np.sort(rng.integers(0, 9, 300))[::-1], rng.random(300) < 0.2, rng.integers(0, 4, 300)
    again = average_precision_score(np.repeat(truth_N, times_N), np.repeat(score_N, times_N))
    assert precision(truth_N, score_N, times_N.astype(float)) == pytest.approx(again)


def test_pairs_without_a_score_come_last():
    sources_S, is_edge_ST = np.array([0]), np.array([[False] + [True] * 10 + [False] * 10])
    score_ST = np.array([[0.0] + [1.0] * 10 + [np.nan] * 10])
    assert scored(score_ST, is_edge_ST, sources_S, np.arange(21.0), seed=0, n=2)["auprc"] == 1
