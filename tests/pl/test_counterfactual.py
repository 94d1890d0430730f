"""Bars of a counterfactual: which genes are drawn, how long their bars and whiskers are, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from polygene.errors import DataError
from polygene.model.checkpoint import PolyGene
from polygene.pl import counterfactual
from polygene.tl import counterfactual as ask


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData], tiny_model: PolyGene) -> ad.AnnData:
    adata = make_adata(40, 36)
    ask(adata, tiny_model, {"sex": "male"}, n_repeats=1)
    return adata


def test_bars_are_the_largest_rises_and_falls_in_both_contexts(adata: ad.AnnData) -> None:
    ax = counterfactual(adata, n_genes=3)
    table = adata.uns["polygene_counterfactual"]
    genes = [*table["gene"][:3], *table["gene"][-3:]]
    assert [label.get_text() for label in ax.get_yticklabels()] == genes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tokens alone", "tokens and half of the genes"]
    assert ax.get_title() == f"sex: male\n{table['cells'][0]} cells of 4 donors"
    rows = table.set_index("gene").loc[genes]
    for context, bars, whiskers in zip(("tokens", "half"), ax.containers, ax.collections, strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in bars], rows[f"{context}_expression_change"])
        ends = np.array([segment[:, 0] for segment in whiskers.get_segments()])
        np.testing.assert_allclose(ends, rows[[f"{context}_expression_low", f"{context}_expression_high"]])


def test_a_table_a_quantity_and_a_group_can_be_chosen(adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path) -> None:
    table = ask(adata, tiny_model, {"sex": "male"}, n_repeats=1, groupby="cell_type")
    ax = Figure().subplots()
    drawn = counterfactual(table, quantity="expressed", group="T cell", n_genes=2, ax=ax, save=tmp_path / "bars.png")
    assert drawn is ax
    assert (tmp_path / "bars.png").stat().st_size > 1_000
    rows = table[table["cell_type"] == "T cell"].sort_values("tokens_expressed_change", ascending=False)
    change = rows["tokens_expressed_change"]
    expected = [*rows["gene"][change > 0][:2], *rows["gene"][change < 0][-2:]]
    assert [label.get_text() for label in ax.get_yticklabels()] == expected
    assert ax.get_title().endswith("T cell")


@pytest.mark.parametrize("n_genes", [2, 10])
def test_the_legend_lies_below_bars_and_label(n_genes: int, adata: ad.AnnData) -> None:
    ax = counterfactual(adata, n_genes=n_genes)
    figure = ax.get_figure(root=True)
    figure.draw_without_rendering()
    legend, label = ax.get_legend().get_window_extent(), ax.xaxis.label.get_window_extent()
    assert legend.y1 < label.y0
    assert legend.y0 >= 0


def test_a_single_donor_has_no_whiskers(adata: ad.AnnData) -> None:
    table = adata.uns["polygene_counterfactual"].copy()
    table[[name for name in table if name.endswith(("_low", "_high"))]] = np.nan
    assert [len(lines.get_segments()) for lines in counterfactual(table).collections] == [0, 0]


def test_what_is_missing_is_named(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    table = adata.uns["polygene_counterfactual"]
    with pytest.raises(DataError, match=r"no group 'T cell'; it has none"):
        counterfactual(table, group="T cell")
    binary = table.drop(columns=[name for name in table if "_expression" in name])
    with pytest.raises(DataError, match=r"no 'expression': a model of binary bins knows no values; draw quantity="):
        counterfactual(binary)
    with pytest.raises(DataError, match=r"no 'values': there are expression, expressed"):
        counterfactual(table, quantity="values")
    grouped = pd.concat([table.assign(cells=1)] * 2)
    grouped.insert(1, "cell_type", np.repeat(["B cell", "T cell"], len(table)))
    with pytest.raises(DataError, match=r"several groups: pass one as group=, such as B cell, T cell"):
        counterfactual(grouped)
    with pytest.raises(DataError, match=r"run pg\.tl\.counterfactual"):
        counterfactual(ad.AnnData(np.ones((2, 2))))
