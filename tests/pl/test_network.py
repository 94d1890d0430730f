"""Pictures of networks, degrees and ageing: what is drawn is what the tables hold."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from polygene.errors import DataError
from polygene.model.checkpoint import PolyGene
from polygene.pl import ageing, degree_distribution, network
from polygene.tl import gene_network, network_statistics
from polygene.tl._ageing_topology import AgeingTopology
from polygene.tl._network_result import GeneNetwork


@pytest.fixture
def linked(make_adata: Callable[..., ad.AnnData], tiny_model: PolyGene) -> GeneNetwork:
    return gene_network(make_adata(80, 36), tiny_model, min_cells=3, density=0.2)


def test_the_most_connected_genes_and_their_edges_are_drawn(linked: GeneNetwork, tmp_path: Path) -> None:
    statistics = network_statistics(linked, densities=[0.2], n_rewired=1, n_bootstrap=2)
    ax = network(linked, statistics, context="T cell", n_genes=12, save=tmp_path / "network.png")
    genes = statistics.genes.query("context == 'T cell'")
    names = {text.get_text() for text in ax.texts}
    assert len(names) == 12
    assert genes[genes["gene"].isin(names)]["degree"].min() >= genes[~genes["gene"].isin(names)]["degree"].max()
    edges = linked.edges.query("context == 'T cell' and gene_a in @names and gene_b in @names")
    assert len(ax.lines) == len(edges)
    assert (tmp_path / "network.png").stat().st_size > 10_000
    assert len(network(linked, n_genes=5).texts) == 5


def test_no_gene_lies_on_another(linked: GeneNetwork) -> None:
    ax = network(linked, n_genes=30)
    places = np.array([text.xy for text in ax.texts])
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(len(places), 1)]
    assert apart.min() > 0.02 * np.ptp(places, axis=0).max()


def test_degrees_are_drawn_as_shares_with_the_verdict(linked: GeneNetwork) -> None:
    statistics = network_statistics(linked, densities=[0.2], n_rewired=1, n_bootstrap=2)
    ax = degree_distribution(statistics, contexts=["T cell"])
    x, y = ax.lines[0].get_data()
    degrees = statistics.genes.query("context == 'T cell' and degree > 0")["degree"]
    np.testing.assert_allclose(y, [(degrees >= value).mean() for value in x])
    assert ax.get_legend().get_texts()[0].get_text() == "T cell: cannot be told"
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_a_context_that_is_not_there_is_refused(linked: GeneNetwork) -> None:
    statistics = network_statistics(linked, densities=[0.2], n_rewired=1, n_bootstrap=2)
    with pytest.raises(DataError, match="there is no 'platelet': name up to 6 of B cell, T cell, monocyte"):
        degree_distribution(statistics, contexts=["platelet"])
    with pytest.raises(DataError, match="no network of 'platelet'"):
        network(linked, context="platelet")


@pytest.fixture
def aged() -> AgeingTopology:
    slopes = pd.DataFrame({
        "model": "one", "context": ["B cell"] * 2 + ["T cell"] * 2, "measure": ["clustering", "modularity"] * 2,
        "slope": [0.1, 0.5, -0.1, 0.0], "low": [0.0, 0.4, -0.3, -0.2], "high": [0.2, 0.6, 0.1, 0.2],
        "shuffled_low": -0.2, "shuffled_high": 0.2, "p": [0.4, 0.01, 0.5, 1.0],
    })  # fmt: skip
    measures = pd.DataFrame({
        "model": "one", "context": "B cell", "measure": "modularity", "mean_age": [30.0, 50.0, 75.0],
        "value": [0.5, 0.6, 0.7], "low": [0.45, 0.5, 0.68], "high": [0.55, 0.7, 0.72],
    })  # fmt: skip
    empty = pd.DataFrame()
    return AgeingTopology(measures=measures, slopes=slopes, changes=empty, genes=empty, design=empty)


def test_slopes_are_drawn_in_units_of_shuffled_ages(aged: AgeingTopology, tmp_path: Path) -> None:
    ax = ageing(aged, save=tmp_path / "ageing.png")
    inside, outside = (line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(inside.get_xdata(), [0.5, -0.5, 0])
    np.testing.assert_allclose(outside.get_xdata(), [2.5])
    assert to_hex(outside.get_markerfacecolor()) != to_hex(inside.get_markerfacecolor())
    assert [text.get_text() for text in ax.texts] == ["B cell", "T cell"]


def test_one_measure_is_drawn_by_age_group_with_its_intervals(aged: AgeingTopology) -> None:
    ax = ageing(aged, "modularity")
    np.testing.assert_allclose(np.array(ax.lines[0].get_data(), dtype=float), [[30, 50, 75], [0.5, 0.6, 0.7]])
    whiskers = np.array([segment[:, 1] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(whiskers, [[0.45, 0.55], [0.5, 0.7], [0.68, 0.72]])
    assert ax.get_legend().get_texts()[0].get_text() == "B cell (p = 0.01)"
    names = [f"type {i}" for i in range(9)]
    many = {
        key: pd.concat([getattr(aged, key).assign(context=name) for name in names]) for key in ("slopes", "measures")
    }
    lines = ageing(replace(aged, **many), "modularity").lines
    looks = {
        (to_hex(line.get_color()), line.get_marker()) for line in lines if line.get_marker() not in ("_", "|", "None")
    }
    assert len(looks) == 9


def test_what_was_not_measured_cannot_be_drawn(aged: AgeingTopology) -> None:
    with pytest.raises(DataError, match="no measure 'degree'; there are clustering, modularity"):
        ageing(aged, "degree")
    with pytest.raises(DataError, match="no model 'two'; there are one"):
        ageing(aged, model="two")
