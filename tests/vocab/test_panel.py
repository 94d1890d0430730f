import logging

import numpy as np
import pandas as pd
import pytest

from polygene.errors import CheckpointError, GeneError
from polygene.vocab.panel import GenePanel, merged_genes

IDS = ("ENSG00000019582", "ENSG00000167286", "ENSG00000156738", "ENSG00000105374")
SYMBOLS = ("CD74", "CD3D", "MS4A1", "NKG7")
MARCHF1 = "ENSG00000145416"


@pytest.fixture
def panel():
    return GenePanel(symbols=SYMBOLS, ensembl_ids=IDS)


def test_a_saved_panel_is_the_same_when_loaded_and_a_table_that_people_read(panel, tmp_path):
    panel.save(tmp_path / "genes.tsv")
    table = pd.read_csv(tmp_path / "genes.tsv", sep="\t")
    assert table.to_dict("list") == {"rank": [1, 2, 3, 4], "ensembl_id": list(IDS), "symbol": list(SYMBOLS)}
    assert GenePanel.load(tmp_path / "genes.tsv") == panel


def test_a_gene_is_found_by_symbol_id_or_former_name(panel):
    for g, names in enumerate(zip(SYMBOLS, IDS, strict=True)):
        assert [panel.index(name) for name in names] == [g, g]
    assert panel.index("CD20") == 2  # what MS4A1 was called
    with pytest.raises(GeneError, match=r"'MS4A' is not among the 4 genes .* Did you mean 'MS4A1'\?"):
        panel.index("MS4A")


@pytest.mark.parametrize("name", ["cd79a", "Cd79a"])
def test_the_gene_in_another_case_is_the_first_that_is_suggested(name):
    panel = GenePanel(symbols=("CD79B", "CD9", "CD79A"), ensembl_ids=("", "", ""))
    with pytest.raises(GeneError, match=r"Did you mean 'CD79A' or 'CD79B'"):
        panel.index(name)


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


def test_genes_that_are_there_twice_become_one_and_are_named(caplog):
    var = pd.DataFrame(index=["A", "B", "C", "A", "B", "A"])
    with caplog.at_level(logging.INFO, "polygene"):
        genes, match = merged_genes(var)
    assert genes["symbol"].tolist() == ["A", "B", "C"]
    assert [match.columns_N[match.genes_N == g].tolist() for g in range(3)] == [[0, 3, 5], [1, 4], [2]]
    assert match.measured_G.all()
    assert caplog.messages == ["genes: 2 in several columns, which are summed: A, B"]


def test_the_same_symbol_with_two_ensembl_ids_is_two_genes_and_one_id_with_two_symbols_is_one():
    two = pd.DataFrame({"gene_ids": [IDS[0], IDS[1]]}, index=["TBCE", "TBCE"])
    assert merged_genes(two)[0]["ensembl_id"].tolist() == [IDS[0], IDS[1]]
    one = pd.DataFrame({"gene_ids": [IDS[0], IDS[0]]}, index=["CD74", "DHLAG"])
    assert merged_genes(one)[0]["symbol"].tolist() == ["CD74"]


def test_a_gene_without_an_id_gets_the_one_of_its_name_where_that_means_one_gene():
    names = ["CD74", "MARCH1", "GENE1", "OCT1", "CD3D", "CD3D"]
    var = pd.DataFrame({"gene_ids": ["", "", "", "", IDS[1], ""]}, index=names)
    genes, _ = merged_genes(var)
    assert dict(zip(genes.index, genes["ensembl_id"], strict=True)) | {"CD3D": ""} == {
        "CD74": IDS[0], "MARCH1": MARCHF1, "GENE1": "", "OCT1": "", "CD3D": "",
    }  # fmt: skip
    assert genes.loc["CD3D", "ensembl_id"].tolist() == [IDS[1], ""]


def test_a_date_that_may_mean_two_genes_is_left_out_and_named(caplog):
    with caplog.at_level(logging.INFO, "polygene"):
        genes, match = merged_genes(pd.DataFrame(index=["1-Mar", "CD74", "1-Mar", "2-Sep"]))
    assert genes["symbol"].tolist() == ["CD74", "2-Sep"]
    assert match.columns_N.tolist() == [1, 3]
    assert np.array_equal(match.slots_N, [0, 1])
    assert caplog.messages == ["genes: 1 that mean several genes, left out: 1-Mar"]
