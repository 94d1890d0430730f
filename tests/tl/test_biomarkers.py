"""Biomarkers: planted markers are recovered, and what is found rests on the weights."""

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest
import torch

from polygene.errors import ColumnError, DataError, PhenotypeError
from polygene.model.attribution import integrated_gradients
from polygene.model.checkpoint import PolyGene
from polygene.pl import biomarkers as draw
from polygene.tl import biomarkers

MARKERS = [2, 11, 23]


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    """Draw cells of twelve donors and two tissues, in which B cells express three genes more than the others."""
    adata = make_adata(360, 36, n_donors=12)
    rng = np.random.default_rng(1)
    adata.obs["tissue"] = np.where(np.arange(360) % 2, "blood", "lung")
    x_CG = rng.poisson(0.7, (360, 36)).astype(np.float32)
    is_b_C = (adata.obs["cell_type"] == "B cell").to_numpy()
    x_CG[np.ix_(is_b_C, MARKERS)] += rng.poisson(2, (is_b_C.sum(), 3))
    adata.X = x_CG
    return adata


@pytest.fixture
def model(tiny_model: PolyGene) -> PolyGene:
    """Make a network that knows the markers: its branch leads from them to "B cell", and little else does."""
    network = tiny_model.network
    with torch.no_grad():
        weight_VD, _ = network.label_rows(2)
        weight_VD *= 0.05
        direction_D = torch.nn.functional.normalize(torch.randn(32, generator=torch.manual_seed(0)), dim=0)
        weight_VD[0] += direction_D
        network.linear_branch.genes.weight[MARKERS] = direction_D
    return tiny_model


def test_planted_markers_are_found_in_both_tissues_and_nothing_else(adata: ad.AnnData, model: PolyGene) -> None:
    table = biomarkers(adata, model, label="B cell", n_steps=4, n_removed=5)
    planted = [f"GENE{g}" for g in MARKERS]
    assert set(table["context"]) == {"blood", "lung"}
    for _, part in table.groupby("context"):
        assert set(part.nlargest(3, "attribution")["gene"]) == set(planted)
        assert set(part["gene"][part["attribution_replicates"]]) == set(planted)
        assert (part.set_index("gene").loc[planted, "removal"] > 0.5).all()
    of_markers = table[table["gene"].isin(planted)]
    assert of_markers["consistent"].all()
    assert not table[~table["gene"].isin(planted)]["consistent"].any()
    assert of_markers["found_by"].str.startswith("attribution").all()
    assert (of_markers["found_by"] == "attribution, pseudobulk, wilcoxon").any()
    assert table["paired"].all()
    assert adata.uns["polygene"]["biomarkers"]["table"].shape == table.shape
    assert [text.get_text() for text in draw(adata, n_genes=3).get_yticklabels()] == sorted(
        planted, key=lambda gene: -table.loc[table["gene"] == gene, "attribution"].mean()
    )


def test_attributions_change_when_weights_are_randomised(adata: ad.AnnData, model: PolyGene) -> None:
    cells = model.tokenizer.encode(adata, use_labels=False)
    random = PolyGene.new(
        model.tokenizer, seed=9, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    by_gene = []
    for one in (model, random):
        of_N = integrated_gradients(one, cells, "cell_type", "B cell", n_steps=4)
        by_gene.append(np.bincount(cells.genes_N, of_N, minlength=36) / np.bincount(cells.genes_N, minlength=36))
    assert abs(np.corrcoef(by_gene)[0, 1]) < 0.5
    assert np.abs(by_gene[0]).max() > 5 * np.abs(by_gene[1]).max()


def test_the_same_seed_gives_the_same_table_and_several_models_say_what_survives(
    adata: ad.AnnData, model: PolyGene
) -> None:
    first, again = (biomarkers(adata, model, label="B cell", max_cells=120, n_steps=2, n_removed=1) for _ in range(2))
    assert first.equals(again)
    random = PolyGene.new(
        model.tokenizer, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    both = biomarkers(adata, [model, random], label="B cell", max_cells=120, n_steps=2, n_removed=1)
    assert both["model"].nunique() == 2
    found = both["attribution_replicates"].fillna(False).groupby([both["context"], both["gene"]]).all()
    assert not found.any()
    assert not both["survives"].any()


def test_one_donor_gives_attributions_and_claims_nothing(
    adata: ad.AnnData, model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    adata.obs["donor_id"] = "one"
    table = biomarkers(adata, model, label="B cell", max_cells=60, n_steps=2, n_removed=0)
    assert table["attribution"].notna().all()
    assert table["attribution_p"].isna().all()
    assert table["attribution_replicates"].isna().all()
    assert not table["survives"].any()
    assert draw(table, n_genes=3).get_ylim()[0] > 2  # missing claims can be drawn
    with pytest.raises(DataError, match="There is no model 'other'"):
        draw(table, model="other")
    del adata.obs["donor_id"]
    table = biomarkers(adata, model, label="B cell", max_cells=60, n_steps=2, n_removed=0)
    assert table["wilcoxon_p"].isna().all()
    assert "nothing is tested" in caplog.text


def test_a_label_of_donors_compares_donors(adata: ad.AnnData, model: PolyGene) -> None:
    table = biomarkers(adata, model, phenotype="sex", label="male", max_cells=120, n_steps=1, n_removed=0)
    assert not table["paired"].any()
    assert (table["n_donors"] >= 6).all()


def test_donors_that_lack_a_side_are_not_counted_among_pairs(adata: ad.AnnData, model: PolyGene) -> None:
    adata.obs["tissue"] = "blood"
    first = adata.obs["donor_id"] == adata.obs["donor_id"].iloc[0]
    adata.obs.loc[first, "cell_type"] = "B cell"
    table = biomarkers(adata, model, label="B cell", max_cells=60, n_steps=1, n_removed=0)
    assert table["paired"].all()
    assert set(table["n_donors"]) == {adata.obs["donor_id"].nunique() - 1}


def test_a_context_without_one_side_is_left_out_and_none_at_all_is_an_error(
    adata: ad.AnnData, model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    adata.obs.loc[adata.obs["tissue"] == "lung", "cell_type"] = "T cell"
    table = biomarkers(adata, model, label="B cell", max_cells=60, n_steps=1, n_removed=0)
    assert set(table["context"]) == {"blood"}
    assert "lung: left out" in caplog.text
    with pytest.raises(DataError, match=r"No context of obs\['tissue'\].*'B cell'"):
        biomarkers(adata[adata.obs["cell_type"] != "B cell"].copy(), model, label="B cell")


def test_what_the_model_or_the_file_lacks_is_named(adata: ad.AnnData, model: PolyGene) -> None:
    with pytest.raises(PhenotypeError, match="smoking"):
        biomarkers(adata, model, label="yes", phenotype="smoking")
    with pytest.raises(DataError, match="no label 'hepatocyte'"):
        biomarkers(adata, model, label="hepatocyte")
    with pytest.raises(ColumnError, match="'organ'"):
        biomarkers(adata, model, label="B cell", groupby="organ")
    with pytest.raises(DataError, match=r"n_removed is -1; give a whole number from 0 to"):
        biomarkers(adata, model, label="B cell", n_removed=-1)


def test_a_binary_model_is_attributed_too(adata: ad.AnnData, make_tokenizer: Callable) -> None:
    from polygene.vocab.binning import ExpressionBinner

    model = PolyGene.new(
        make_tokenizer(36, ExpressionBinner.binary()), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    table = biomarkers(adata, model, label="B cell", max_cells=60, n_steps=1, n_removed=0)
    assert np.isfinite(table["attribution"]).all()
