import logging

import numpy as np
import pandas as pd
import pytest

from polygene.errors import CheckpointError, GeneError
from polygene.genes import NAME_COLUMNS, GenePanel, gene_table, unique_genes

IDS = ("ENSG00000019582", "ENSG00000167286", "ENSG00000156738", "ENSG00000105374")
SYMBOLS = ("CD74", "CD3D", "MS4A1", "NKG7")


@pytest.fixture
def panel():
    return GenePanel(symbols=SYMBOLS, ensembl_ids=IDS)


def test_genes_are_found_by_symbol_in_panel_order_and_absent_ones_are_minus_one():
    rng = np.random.default_rng(0)
    names = [f"GENE{i}" for i in range(300)]
    panel = GenePanel(symbols=tuple(rng.choice(names, 80, replace=False)), ensembl_ids=("",) * 80)
    measured = list(rng.choice(names, 200, replace=False))
    columns = panel.match(pd.DataFrame(index=measured))
    assert columns.dtype == np.int64
    assert columns.tolist() == [measured.index(symbol) if symbol in measured else -1 for symbol in panel.symbols]


@pytest.mark.parametrize("column", NAME_COLUMNS)
@pytest.mark.parametrize(
    "names", [SYMBOLS, IDS, tuple(f"{name}.17" for name in IDS)], ids=["symbols", "ids", "versions"]
)
def test_genes_are_found_in_every_naming_column(panel, column, names):
    var = pd.DataFrame({column: pd.Categorical(names[::-1])}, index=["a", "b", "c", "d"])
    assert panel.match(var).tolist() == [3, 2, 1, 0]


def test_genes_are_found_where_some_names_are_ids_and_some_symbols(panel):
    var = pd.DataFrame(index=["MS4A1", "ENSG00000019582.14", "OTHER"])
    assert panel.match(var).tolist() == [1, -1, 0, -1]


def test_a_missing_name_matches_nothing():
    panel = GenePanel(symbols=("nan", "CD74"), ensembl_ids=("", ""))
    var = pd.DataFrame({"feature_name": [None, np.nan, "CD74"]}, index=["x", "y", "z"])
    assert panel.match(var).tolist() == [-1, 2]


def test_a_gene_without_ensembl_id_is_not_found_by_an_empty_one():
    panel = GenePanel(symbols=("CD74", "CD3D"), ensembl_ids=("", IDS[1]))
    var = pd.DataFrame({"feature_id": ["", IDS[1]]}, index=["VIM", "x"])
    assert panel.match(var).tolist() == [-1, 1]


def test_symbols_in_other_case_match_where_unambiguous():
    panel = GenePanel(symbols=("C1orf112", "CD3D", "Tbp", "TBP"), ensembl_ids=("", "", "", ""))
    var = pd.DataFrame(index=["C1ORF112", "cd3d", "Cd3d", "tbp"])
    assert panel.match(var).tolist() == [0, -1, -1, -1]


def test_the_exact_symbol_goes_before_other_cases():
    panel = GenePanel(symbols=("CD3D",), ensembl_ids=("",))
    assert panel.match(pd.DataFrame(index=["Cd3d", "CD3D"])).tolist() == [1]


def test_the_ensembl_id_goes_before_the_symbol(panel):
    var = pd.DataFrame({"gene_ids": ["ENSG00000999999", IDS[0]]}, index=["CD74", "HLA-DG"])
    assert panel.match(var).tolist() == [1, -1, -1, -1]


def test_a_column_of_the_file_belongs_to_one_gene_of_the_panel():
    panel = GenePanel(symbols=("OLD", "NEW"), ensembl_ids=(IDS[0], ""))
    var = pd.DataFrame({"gene_ids": [IDS[0]]}, index=["NEW"])
    assert panel.match(var).tolist() == [0, -1]


def test_a_gene_of_the_panel_that_is_there_twice_is_named(panel):
    with pytest.raises(GeneError, match=r"1 gene names are there more than once: CD3D\. Sum or drop"):
        panel.match(pd.DataFrame(index=["CD3D", "CD74", "CD3D", "MS4A1", "X", "X"]))


def test_duplicates_outside_the_panel_do_no_harm(panel):
    assert panel.match(pd.DataFrame(index=["X", "NKG7", "X"])).tolist() == [-1, -1, -1, 1]


def test_ensembl_ids_tell_genes_with_the_same_symbol_apart(panel):
    var = pd.DataFrame({"gene_ids": [IDS[0], "ENSG00000999999"]}, index=["CD74", "CD74"])
    assert panel.match(var).tolist() == [0, -1, -1, -1]


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["0", "1", "2"], "the names are numbers"),
        (["ENSMUSG00000024610", "ENSMUSG00000032094"], "another species"),
        (["VIM", "ACTB"], "put gene symbols or Ensembl ids into adata.var_names"),
    ],
    ids=["numbers", "mouse", "other genes"],
)
def test_nothing_in_common_names_the_likely_cause(panel, names, cause):
    with pytest.raises(GeneError, match=f"None of the 4 genes of the panel.*{names[0]}.*{cause}"):
        panel.match(pd.DataFrame(index=names))


def test_ensembl_ids_for_a_panel_of_symbols_ask_for_feature_name():
    panel = GenePanel(symbols=SYMBOLS, ensembl_ids=("",) * 4)
    with pytest.raises(GeneError, match=r"the panel knows only symbols: add these as adata.var\['feature_name'\]"):
        panel.match(pd.DataFrame(index=list(IDS)))


def test_how_many_genes_matched_is_said(panel, caplog):
    with caplog.at_level(logging.INFO, "polygene"):
        panel.match(pd.DataFrame({"feature_id": [IDS[0], "", ""]}, index=["x", "CD3D", "nkg7"]))
    assert caplog.messages == [
        "genes: matched 3 of 4 of the panel (1 by Ensembl id, 1 by symbol, 1 by symbol in other case)"
    ]


def test_a_saved_panel_is_the_same_when_loaded_and_a_table_that_people_read(panel, tmp_path):
    panel.save(tmp_path / "genes.tsv")
    table = pd.read_csv(tmp_path / "genes.tsv", sep="\t")
    assert table.to_dict("list") == {"rank": [1, 2, 3, 4], "ensembl_id": list(IDS), "symbol": list(SYMBOLS)}
    assert GenePanel.load(tmp_path / "genes.tsv") == panel


@pytest.mark.parametrize(
    "text", ["", "gene\nCD74\n", "rank\tensembl_id\tsymbol\n2\t\tCD74\n", "rank\tensembl_id\tsymbol\n1\t\n"]
)
def test_a_broken_table_of_genes_is_refused_by_name(text, tmp_path):
    (tmp_path / "genes.tsv").write_text(text)
    with pytest.raises(CheckpointError, match=r"genes\.tsv is no gene panel"):
        GenePanel.load(tmp_path / "genes.tsv")


def test_a_missing_table_of_genes_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"genes\.tsv is missing"):
        GenePanel.load(tmp_path / "genes.tsv")


@pytest.mark.parametrize(
    ("symbols", "ids", "problem"),
    [((), (), "1 to 65,535 genes"), (("A", "A"), ("", ""), "more than once: A"), (("A",), (), "one Ensembl id")],
)
def test_an_impossible_panel_is_refused(symbols, ids, problem):
    with pytest.raises(GeneError, match=problem):
        GenePanel(symbols=symbols, ensembl_ids=ids)


@pytest.mark.parametrize(
    "var",
    [
        pd.DataFrame({"feature_name": ["CD74", "ENSG00000999999"]}, index=[IDS[0], "ENSG00000999999"]),
        pd.DataFrame({"gene_ids": [IDS[0] + ".3", "ENSG00000999999"]}, index=["CD74", "ENSG00000999999"]),
    ],
    ids=["CELLxGENE", "10x"],
)
def test_the_gene_table_knows_symbol_and_id_however_the_file_names_them(var):
    table = gene_table(var)
    assert table["symbol"].tolist() == ["CD74", "ENSG00000999999"]
    assert table["ensembl_id"].tolist() == [IDS[0], "ENSG00000999999"]
    assert table.index.equals(var.index)


def test_genes_that_are_there_twice_are_named_before_a_panel_is_made():
    with pytest.raises(GeneError, match="2 gene names are there more than once: A, B"):
        unique_genes(pd.DataFrame(index=["A", "B", "C", "A", "B", "A"]))


def test_the_same_symbol_with_two_ensembl_ids_is_two_genes():
    var = pd.DataFrame({"gene_ids": [IDS[0], IDS[1]]}, index=["TBCE", "TBCE"])
    assert unique_genes(var)["ensembl_id"].tolist() == [IDS[0], IDS[1]]
