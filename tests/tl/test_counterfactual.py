"""Counterfactual: what is predicted, what the changes are, what they depend on, and what is refused."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from polygene.errors import ColumnError, DataError, PhenotypeError
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import bin_probabilities
from polygene.runtime.hashing import uniform
from polygene.tl import counterfactual
from polygene.vocab.binning import ExpressionBinner
from polygene.vocab.cells import EncodedCells
from polygene.vocab.phenotypes import PhenotypeSchema

MakeAnnData = Callable[..., ad.AnnData]
GIVEN = ("tissue", "cell_type", "disease")


@pytest.fixture
def adata(make_adata: MakeAnnData) -> ad.AnnData:
    """60 cells of eight donors, four of them female, that measure 36 of the model's 40 genes; it knows other ages."""
    return make_adata(60, 36)


def answers(model: PolyGene, cell: EncodedCells, gene: int, visible_N: np.ndarray, shown: float) -> np.ndarray:
    """Ask one gene of one cell as it is and as a male: both quantities, then their changes."""
    found = []
    for sex in (cell.labels_CP[0, 0], 1):
        told = replace(cell, labels_CP=np.r_[sex, cell.labels_CP[0, 1:]][None].astype(np.int16))
        one, given = np.array([0]), ("sex", *GIVEN)
        p_B = bin_probabilities(model, told, one, np.array([gene]), visible_N, given=given, visible_share=shown)[0]
        found.append([float(p_B @ model.tokenizer.inverse.mean_GB[gene]), float(p_B[1:].sum())])
    return np.concatenate([found[0], np.subtract(found[1], found[0])])


def expected_row(per_cell: np.ndarray, donors: pd.Series) -> dict[str, float]:
    """Mean over donors of the means over their cells, and Student's interval."""
    by_donor = pd.DataFrame(per_cell).groupby(donors.to_numpy()).mean()
    row = {}
    for x, quantity in enumerate(("expression", "expressed")):
        change = by_donor[x + 2]
        low, high = stats.t.interval(0.95, len(change) - 1, change.mean(), change.std(ddof=1) / np.sqrt(len(change)))
        row |= {quantity: by_donor[x].mean(), f"{quantity}_change": change.mean()}
        row |= {f"{quantity}_low": low, f"{quantity}_high": high}
    return row


@pytest.mark.parametrize("context", ["tokens", "half"])
def test_changes_are_those_of_single_predictions(context: str, adata: ad.AnnData, tiny_model: PolyGene) -> None:
    table = counterfactual(adata, tiny_model, {"sex": "male"}, given=GIVEN, n_repeats=2, seed=3).set_index("gene")
    females = adata[adata.obs["sex"] == "female"].copy()
    ids_C = pd.util.hash_array(females.obs_names.to_numpy(dtype=object))
    cells = tiny_model.tokenizer.encode(females, use_labels=("sex", *GIVEN))
    for gene in (0, 39):  # the last one was not measured
        per_cell = []
        for i in range(len(females)):
            cell, repeats = cells.rows(np.array([i])), []
            for repeat in range(2):
                random_G = uniform(3, np.array([repeat]), ids_C[[i]], np.arange(40))[0]
                visible_G = (random_G < 0.5) != (random_G[gene] < 0.5)  # the half that the gene is not in
                visible_N = visible_G[cell.genes_N] & (context == "half")
                repeats.append(answers(tiny_model, cell, gene, visible_N, 0.5 if context == "half" else 0.0))
            per_cell.append(np.mean(repeats, axis=0))
        assert np.abs(np.array(per_cell)[:, 2]).max() > 1e-3
        for name, value in expected_row(np.array(per_cell), females.obs["donor_id"]).items():
            assert table.loc[f"GENE{gene}", f"{context}_{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_a_gene_is_predicted_only_while_it_is_masked_and_equally_often(
    adata: ad.AnnData, tiny_model: PolyGene, monkeypatch: pytest.MonkeyPatch
) -> None:
    females = adata[adata.obs["sex"] == "female"].copy()
    asked_CG, shown_shares = np.zeros((len(females), 40)), []

    def watch(model: PolyGene, cells: EncodedCells, cells_Q: Any, genes_Q: Any, visible_N: Any, **options: Any) -> Any:
        if options["visible_share"]:
            cells_N = np.repeat(np.arange(len(cells)), np.diff(cells.offsets_C1))
            visible = set(zip(cells_N[visible_N], cells.genes_N[visible_N], strict=True))
            assert not visible & set(zip(cells_Q, genes_Q, strict=True))
            shown_shares.append(len(visible) / len(cells_N))
            np.add.at(asked_CG, (cells_Q, genes_Q), 1)
        return bin_probabilities(model, cells, cells_Q, genes_Q, visible_N, **options)

    monkeypatch.setattr(sys.modules[counterfactual.__module__], "bin_probabilities", watch)
    counterfactual(females, tiny_model, {"sex": "male"}, n_repeats=3)
    np.testing.assert_array_equal(asked_CG, 2 * 3)  # as it is and changed, in each repeat
    assert 0.4 < np.mean(shown_shares) < 0.6
    assert len(set(shown_shares)) > 4  # the halves differ


def test_cells_of_equal_labels_share_one_prediction_from_tokens(
    adata: ad.AnnData, tiny_model: PolyGene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def watch(*arguments: Any, **options: Any) -> Any:
        if not options["visible_share"]:
            asked.append(len(arguments[1]))
        return bin_probabilities(*arguments, **options)

    monkeypatch.setattr(sys.modules[counterfactual.__module__], "bin_probabilities", watch)
    counterfactual(adata, tiny_model, {"sex": "male"}, given="cell_type", n_repeats=1)
    assert asked == [3, 3]  # females of three cell types, as they are and changed


def test_a_cells_prediction_depends_on_nothing_but_the_cell(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata.obs["own"] = adata.obs_names
    whole = counterfactual(adata, tiny_model, {"sex": "male"}, groupby="own").set_index(["own", "gene"])
    some = adata[np.random.default_rng(0).permutation(60)[:25]].copy()
    part = counterfactual(some, tiny_model, {"sex": "male"}, groupby="own").set_index(["own", "gene"])
    assert 0 < len(part) < len(whole)
    pd.testing.assert_frame_equal(part, whole.loc[part.index], rtol=0, atol=1e-6)


def test_a_file_in_pieces_gives_the_table_of_the_cells_in_memory(
    make_adata: MakeAnnData, tiny_model: PolyGene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adata = make_adata(1_200, 36)
    adata = adata[np.argsort(adata.obs["sex"].to_numpy() == "male", kind="stable")].copy()
    adata.obs["sex"] = np.where(np.arange(1_200) % 300 < 8, "female", "male")  # some in each piece of 1,000
    adata.write_h5ad(tmp_path / "cells.h5ad")
    caplog.set_level("INFO", logger="polygene")
    of_file = counterfactual(tmp_path / "cells.h5ad", tiny_model, {"sex": "male"})
    assert "32 of 1,200 cells are used: 1,168 have the new label already" in caplog.messages
    assert any(message.startswith("counterfactual (sex) 32 cells on cpu") for message in caplog.messages)
    assert any("association in the training data, not the effect of an intervention" in m for m in caplog.messages)
    of_few = counterfactual(adata[adata.obs["sex"] == "female"].copy(), tiny_model, {"sex": "male"})
    pd.testing.assert_frame_equal(of_file, of_few, rtol=0, atol=1e-6)


def test_rows_are_ranked_from_rise_to_fall_within_each_group(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    table = counterfactual(adata, tiny_model, {"sex": "male"}, groupby="cell_type", n_repeats=1)
    assert table["cell_type"].unique().tolist() == ["B cell", "T cell", "monocyte"]
    for group, rows in table.groupby("cell_type"):
        assert sorted(rows["gene"]) == sorted(tiny_model.tokenizer.panel.symbols)
        assert rows["tokens_expression_change"].is_monotonic_decreasing
        alone = adata[adata.obs["cell_type"] == group].copy()
        of_group = counterfactual(alone, tiny_model, {"sex": "male"}, n_repeats=1)
        assert rows["cells"].unique().tolist() == [int((alone.obs["sex"] == "female").sum())]
        pd.testing.assert_frame_equal(
            rows.drop(columns="cell_type").reset_index(drop=True), of_group, rtol=0, atol=1e-6
        )


def test_the_label_changed_from_chooses_cells(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="polygene")
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories("unknown")
    adata.obs.iloc[:4, adata.obs.columns.get_loc("cell_type")] = "unknown"
    adata.obs["donor_id"] = adata.obs["donor_id"].astype(object).where(np.arange(60) > 6)
    types = adata.obs["cell_type"]
    table = counterfactual(adata, tiny_model, {"cell_type": ("T cell", "monocyte")}, n_repeats=1)
    n_left = int((types[7:] == "T cell").sum())
    assert table["cells"].unique().tolist() == [n_left]
    n_there, n_other = (types == "monocyte").sum(), (types == "B cell").sum()
    n_lost = (types[4:7] == "T cell").sum()
    said = (
        f"{n_left} of 60 cells are used: 4 have no label to change, {n_there} have the new label already, {n_other} "
        f"have another label than the one changed from"
    ) + (f", {n_lost} have no donor or no group" if n_lost else "")
    assert said in caplog.messages


@pytest.mark.parametrize("column", ["gene", "cells", "donors", "tokens_expression"])
def test_a_group_named_like_a_column_of_the_table_loses_none(
    column: str, adata: ad.AnnData, tiny_model: PolyGene
) -> None:
    adata.obs[column] = adata.obs["cell_type"].astype(str)
    options = {"n_repeats": 1, "given": "tissue"}
    by_type = counterfactual(adata, tiny_model, {"sex": "male"}, groupby="cell_type", **options)
    table = counterfactual(adata, tiny_model, {"sex": "male"}, groupby=column, **options)
    pd.testing.assert_frame_equal(table, by_type.rename(columns={"cell_type": f"{column}_group"}))


def test_two_phenotypes_change_together(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata = adata[(adata.obs["sex"] == "female") & (adata.obs["cell_type"] == "B cell")].copy()
    changes = {"sex": "male", "cell_type": "T cell"}
    both = counterfactual(adata, tiny_model, changes, given=(), n_repeats=1).set_index("gene").sort_index()
    adata.obs["sex"] = "male"
    one = counterfactual(adata, tiny_model, {"cell_type": "T cell"}, given="sex", n_repeats=1)
    one = one.set_index("gene").sort_index()
    changed = [table["tokens_expression"] + table["tokens_expression_change"] for table in (both, one)]
    np.testing.assert_allclose(*changed, atol=1e-6)
    assert np.abs(both["tokens_expression"] - one["tokens_expression"]).max() > 1e-3


def test_given_labels_are_control_tokens_and_by_default_all_are(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    def changes(**options: Any) -> np.ndarray:
        table = counterfactual(adata, tiny_model, {"sex": "male"}, n_repeats=1, **options).set_index("gene")
        return table.sort_index()[["tokens_expression_change", "half_expression_change"]].to_numpy()

    caplog.set_level("INFO", logger="polygene")
    by_default = changes()
    assert any("age: 60 of 60 cells not given (60 outside the vocabulary" in message for message in caplog.messages)
    np.testing.assert_array_equal(by_default, changes(given=GIVEN))
    assert list(adata.uns["polygene"]["counterfactual"]["given"]) == list(GIVEN)
    assert (np.abs(by_default - changes(given=())).max(axis=0) > 1e-4).all()


def test_the_table_and_its_meaning_are_kept_in_the_file(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    table = counterfactual(adata, tiny_model, {"sex": ("female", "male")}, n_repeats=1, groupby="cell_type")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad").uns
    np.testing.assert_array_equal(again["polygene_counterfactual"].to_numpy(), table.to_numpy())
    assert again["polygene_counterfactual"].columns.equals(table.columns)
    how = again["polygene"]["counterfactual"]
    assert how["changes"] == {"sex": "female → male"}
    assert how["meaning"] == "association in the training data, not the effect of an intervention"
    assert how["genes"]["measured"] == 36


def test_one_donor_has_no_interval_and_missing_donors_are_a_warning(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    del adata.obs["donor_id"]
    table = counterfactual(adata, tiny_model, {"sex": "male"}, n_repeats=1)
    assert table["donors"].unique().tolist() == [1]
    assert table.filter(regex="_(low|high)$").isna().all(axis=None)
    assert table.filter(regex="_change$").notna().all(axis=None)
    assert any("no column 'donor_id': its cells count as one donor" in message for message in caplog.messages)


def test_a_binary_model_predicts_expressed_alone(
    adata: ad.AnnData, make_tokenizer: Callable[..., Any], tiny_model: PolyGene
) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "initializer_range": 0.2}
    model = PolyGene.new(make_tokenizer(40, ExpressionBinner.binary()), **sizes)
    table = counterfactual(adata, model, {"sex": "male"}, n_repeats=1)
    expected = counterfactual(adata, tiny_model, {"sex": "male"}, n_repeats=1).columns
    assert list(table.columns) == [name for name in expected if "_expression" not in name]
    assert table["tokens_expressed_change"].is_monotonic_decreasing
    assert table["tokens_expressed_change"].abs().max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "options", "error", "says"),
    [
        ({"sexx": "male"}, {}, PhenotypeError, "no phenotype 'sexx'.*Did you mean 'sex'"),
        ({"sex": "mal"}, {}, PhenotypeError, "sex: the model does not know the label 'mal'; the nearest is 'male'"),
        ({"cell_type": ("Tcell", "B cell")}, {}, PhenotypeError, "label 'Tcell'; the nearest is 'T cell'"),
        ({"sex": "xyz"}, {}, PhenotypeError, "the label 'xyz'; it knows 'female', 'male'"),
        ({"sex": ("male", "male")}, {}, PhenotypeError, "sex: changed from 'male' to itself"),
        ({"sex": ("male", "female", "male")}, {}, PhenotypeError, "give the new label, or the labels changed"),
        ({}, {}, PhenotypeError, "changes name the new label"),
        ("male", {}, PhenotypeError, "changes name the new label"),
        ({"sex": "male"}, {"given": ["tissue", "sex"]}, PhenotypeError, "sex: given and changed at once"),
        ({"sex": "male"}, {"given": ["colour"]}, PhenotypeError, "no phenotype 'colour'"),
        ({"sex": "male"}, {"given": ["disease"]}, PhenotypeError, "disease: the model does not know the label 'gout'"),
        ({"sex": "male"}, {"donor": "patient"}, ColumnError, "no column 'patient' in obs, which should hold the donor"),
        ({"sex": "male"}, {"groupby": "cluster"}, ColumnError, "no column 'cluster' in obs"),
        ({"sex": "male"}, {"n_repeats": 0}, DataError, "from 1 to 10,000"),
        ({"sex": "male"}, {"seed": -1}, DataError, "the seed is -1"),
        ({"tissue": "blood"}, {}, DataError, "No cell of adata is left: of 60, 60 have the new label already"),
        ({"tissue": ("lung", "blood")}, {}, DataError, "60 have the new label already"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_and_nothing_is_written(
    changes: Any, options: dict[str, Any], error: type, says: str, adata: ad.AnnData, tiny_model: PolyGene
) -> None:
    if "disease" in options.get("given", ()):
        adata.obs["disease"] = "gout"
    with pytest.raises(error, match=says):
        counterfactual(adata, tiny_model, changes, **options)
    assert not adata.uns


def test_a_missing_column_and_missing_cells_are_named(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    with pytest.raises(DataError, match="empty"):
        counterfactual(adata[:0].copy(), tiny_model, {"sex": "male"})
    adata.obs = adata.obs.rename(columns={"sex": "sexes"})
    says = r"no column 'sex' .* should hold the present sex of each cell\. Did you mean 'sexes'\? .*polygene_sex"
    with pytest.raises(ColumnError, match=says):
        counterfactual(adata, tiny_model, {"sex": "male"})
    with pytest.raises(DataError, match="model is a PolyGene"):
        counterfactual(adata, 3, {"sex": "male"})


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ((), "never saw a label of sex, so none can be given; it knows labels of tissue, cell_type"),
        (("male",), "sex: the model knows one label only, 'male'"),
    ],
)
def test_what_the_model_never_learned_cannot_change(
    labels: tuple[str, ...], says: str, adata: ad.AnnData, tiny_model: PolyGene
) -> None:
    tokenizer = tiny_model.tokenizer
    schema = PhenotypeSchema(phenotypes=tokenizer.schema.phenotypes, labels=(labels, *tokenizer.schema.labels[1:]))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with pytest.raises(PhenotypeError, match=says):
        counterfactual(adata, PolyGene.new(replace(tokenizer, schema=schema), **sizes), {"sex": "male"})


def test_sums_of_too_many_donors_are_refused(adata: ad.AnnData, tiny_model: PolyGene, monkeypatch) -> None:
    monkeypatch.setattr("polygene.errors.MOST_SUMS", 64 * 40 * 3)
    adata.obs["cell"] = adata.obs_names
    with pytest.raises(DataError, match=rf"sums of {adata.n_obs} donors.* names cells, give another one"):
        counterfactual(adata, tiny_model, {"sex": "male"}, donor="cell")
