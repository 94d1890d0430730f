import numpy as np
import pandas as pd
import pytest

from polygene.errors import GeneError
from polygene.vocab.gene_names import (
    NAME_COLUMNS,
    ensembl_of,
    gene_table,
    human_genes,
    name_columns,
    other_species,
    resolve,
    symbols_of,
    unmangled,
)
from recipes.vocab.gene_names import usable

CD74, MARCHF1, MTARC1 = "ENSG00000019582", "ENSG00000145416", "ENSG00000186205"
MOUSE = ["Actb", "Cd74", "Cd3d", "Ms4a1", "Nkg7", "Gm12345", "2610008E11Rik", "mt-Co1", "H2-Ab1", "Rpl13a"]
ZEBRAFISH = ["actb1", "cd74a", "si:dkey-1", "zgc:1234", "tp53", "gapdh", "mt-co1", "rpl13a", "hbaa1", "myhz1.1"]
HUMAN = [
    "ACTB",
    "CD74",
    "C1orf112",
    "HLA-DRA",
    "MT-CO1",
    "RP11-206L10.2",
    "AL627309.1",
    "Y_RNA",
    "hsa-mir-1",
    "CXorf38",
]


def test_the_table_of_names_says_where_it_is_from_and_every_name_means_one_gene():
    table = human_genes()
    assert len(table.symbols) > 42_000
    assert len(table.ids) > 90_000
    assert all(table.ids[symbol] == id_ for id_, symbol in table.symbols.items())
    assert set(table.ids.values()) == set(table.symbols)
    assert all(len(id_) == 15 and id_[4:].isdigit() for id_ in table.symbols)


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("TP53", "TP53"),
        ("p53", "TP53"),
        ("MARCH1", "MARCHF1"),
        ("SEPT2", "SEPTIN2"),  # also an alias of SEPTIN6, which it never was the symbol of
        ("WHSC1", "NSD2"),
        ("SEP2", None),  # an alias of SEPTIN6 and of SEPTIN8
        ("OCT1", None),  # of POU2F1 and of SLC22A1
        ("COX1", None),  # of MT-CO1 and of PTGS1
        ("RP11-284N8.3", None),  # HGNC's alias of KCNA3, and in annotations a gene beside it
        ("GENE7", None),
    ],
)
def test_a_name_means_the_gene_it_was_the_symbol_of_and_an_ambiguous_alias_none(name, symbol):
    table = human_genes()
    assert table.symbols.get(table.ids.get(name)) == symbol


def test_the_table_is_made_of_names_that_mean_one_gene():
    hgnc = [
        ("A", "ENSG00000000001", "WAS|B", "ALSO|BOTH|RP11-1A2.3"),  # B is approved for another, BOTH an alias of two
        ("B", "ENSG00000000002", "", "BOTH|WAS|PKBβ"),  # WAS was the symbol of A
        ("NOID", "", "", "ALSO2"),
        ("C", "ENSG00000000003", "", "NOID|ALSO3"),
        ("D", "ENSG00000000004", "TWICE", ""),
        ("E", "ENSG00000000005", "TWICE", ""),
        ("F", "ENSG00000000006", "", ""),  # an id that two share
        ("G", "ENSG00000000006", "", ""),
    ]
    table = pd.DataFrame(hgnc, columns=["symbol", "ensembl_gene_id", "prev_symbol", "alias_symbol"])
    assert usable(table) == ["1\tA\tWAS\tALSO", "2\tB\t\t", "3\tC\t\tALSO3", "4\tD\t\t", "5\tE\t\t"]


@pytest.mark.parametrize(
    ("date", "symbols"),
    [
        ("1-Mar", ["MARCH1", "MARC1"]),
        ("Mar-02", ["MARCH2", "MARC2"]),
        ("03-Mar", ["MARCH3"]),
        ("2-Sep", ["SEPT2"]),
        ("Sep-11", ["SEPT11"]),
        ("15-Sep", ["SEP15"]),
        ("1-Dec", ["DEC1"]),
        ("31-Mar", []),
        ("1-Jan", []),
        ("HLA-A", []),
    ],
)
def test_a_date_is_taken_back_to_the_symbols_it_was(date, symbols):
    assert unmangled(date) == symbols


def test_ids_lose_their_version_and_are_found_behind_a_symbol():
    names = [CD74, f"{CD74}.17", f"TBCE_{CD74}", f"_{CD74}.2", "ENSMUSG00000024610.3", f"{CD74}.3_PAR_Y", "CD74", ""]
    assert ensembl_of(names).tolist() == [CD74, CD74, CD74, CD74, "ENSMUSG00000024610", "", "", ""]
    assert symbols_of(names).tolist() == ["", "", "TBCE", "", "", f"{CD74}.3_PAR_Y", "CD74", ""]


@pytest.mark.parametrize("column", [*NAME_COLUMNS, "GeneSymbol"])
def test_the_column_with_human_names_is_asked_first_whatever_it_is_called(column):
    var = pd.DataFrame(
        {"chrom": ["5", "11", "11"], column: pd.Categorical(["CD74", "CD3D", "MS4A1"]), "n_cells": [1, 2, 3]},
        index=["a", "b", "c"],
    )
    assert [names.tolist() for names in name_columns(var)] == [["CD74", "CD3D", "MS4A1"], ["a", "b", "c"]]


def test_numbers_are_no_names_and_where_there_are_only_numbers_the_columns_are_named():
    numbered = pd.DataFrame({"Gene": ["CD74", "CD3D"]}, index=["0", "1"])
    assert gene_table(numbered)["symbol"].tolist() == ["CD74", "CD3D"]
    with pytest.raises(GeneError, match=r"numbers for names \(0, 1\).*adata.var has the columns chrom"):
        name_columns(pd.DataFrame({"chrom": ["5", "11"], "n_cells": [1, 2]}, index=["0", "1"]))


@pytest.mark.parametrize(
    "var",
    [
        pd.DataFrame({"feature_name": ["CD74", "ENSG00000999999"]}, index=[CD74, "ENSG00000999999"]),
        pd.DataFrame({"gene_ids": [CD74 + ".3", "ENSG00000999999"]}, index=["CD74", "ENSG00000999999"]),
    ],
    ids=["CELLxGENE", "10x"],
)
def test_the_gene_table_knows_symbol_and_id_however_the_file_names_them(var):
    table = gene_table(var)
    assert table["symbol"].tolist() == ["CD74", "ENSG00000999999"]
    assert table["ensembl_id"].tolist() == [CD74, "ENSG00000999999"]
    assert table.index.equals(var.index)


def test_a_missing_name_is_none():
    var = pd.DataFrame({"feature_name": [None, np.nan, "CD74"]}, index=["x", "", "z"])
    assert gene_table(var)["symbol"].tolist() == ["x", "", "CD74"]


@pytest.mark.parametrize(
    ("symbols", "ids", "keys", "unclear"),
    [
        (["CD74", "p53", "GENE7"], ["", "", ""], [CD74, "ENSG00000141510", ""], {}),
        (["X", "CD74"], [CD74, ""], [CD74, ""], {}),  # the one with the id is CD74, whatever it is called
        (["MARCHF1", "MARCH1"], ["", ""], [MARCHF1, ""], {}),  # the approved symbol is
        (["MARCH1", "RNF171"], ["", ""], ["", ""], {MARCHF1: ["MARCH1", "RNF171"]}),
        (["MARCH1", "MARCH1"], ["", ""], [MARCHF1, MARCHF1], {}),
        (["1-Mar"], [""], [""], {MARCHF1: ["1-Mar"], MTARC1: ["1-Mar"]}),
        (["1-Mar", "MARC1"], ["", ""], [MARCHF1, MTARC1], {}),
        (["1-Mar", "MARCHF1"], ["", ""], [MTARC1, MARCHF1], {}),
        (["CD74"], ["ENSG00000999999"], [CD74], {}),  # an id that HGNC does not have, as of an old annotation
    ],
)
def test_a_row_is_a_gene_where_nothing_else_can_be_meant(symbols, ids, keys, unclear):
    assert resolve(symbols, ids) == (keys, unclear)


@pytest.mark.parametrize(
    ("symbols", "ids", "species"),
    [
        (HUMAN, [""] * 10, ""),
        (["actb", "cd74", "hla-dra", "mt-co1", "rp11-206l10.2"], [""] * 5, ""),
        (MOUSE, [""] * 10, "mouse or rat"),
        (ZEBRAFISH, [""] * 10, "zebrafish or another species"),
        (HUMAN, ["ENSMMUG00000021653"] * 10, "macaque"),
        (MOUSE, ["ENSMUSG00000024610"] * 10, "mouse"),
        (HUMAN, ["ENSXXXG00000024610"] * 10, "another species (ENSXXXG…)"),
        (HUMAN, [CD74, *[""] * 9], ""),
        ([], [], ""),
    ],
)
def test_the_species_is_told_by_ids_or_by_how_symbols_are_written(symbols, ids, species):
    assert other_species(symbols, ids) == species


def with_ids(symbols: list[str], ids: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"gene_ids": ids}, index=symbols)


@pytest.mark.parametrize("mixed", [lambda ids: ids[1:] + ids[:1], sorted])
def test_ids_that_are_of_other_genes_than_the_symbols_are_refused(mixed) -> None:
    symbols = sorted(human_genes().symbols.values())[:200]
    ids = [human_genes().ids[symbol] for symbol in symbols]
    table = gene_table(with_ids(symbols, ids))
    assert table["ensembl_id"].tolist() == ids
    with pytest.raises(GeneError, match=r"of 200 genes that have both, (200|19\d) are two genes, such as .* with ENSG"):
        gene_table(with_ids(symbols, mixed(ids)))


def test_a_few_symbols_that_moved_to_another_gene_are_no_contradiction() -> None:
    symbols = sorted(human_genes().symbols.values())[:200]
    ids = [human_genes().ids[symbol] for symbol in symbols]
    ids[:20] = ids[1:20] + ids[:1]
    assert gene_table(with_ids(symbols, ids))["symbol"].tolist() == symbols


@pytest.mark.parametrize("prefix", ["GRCh38_", "hg19_", "GRCh38___", "GRCh38-"])
def test_the_prefix_of_a_genome_is_no_symbol_where_an_id_stands_behind_it(prefix: str) -> None:
    table = gene_table(with_ids([f"{prefix}CD74"], [f"{prefix}{CD74}"]))
    assert table.to_numpy().tolist() == [["CD74", CD74]]


@pytest.mark.parametrize("word", ["NA", "nan", "None", "-", ""])
def test_a_word_for_missing_is_no_name_of_a_gene(word: str) -> None:
    names = name_columns(pd.DataFrame({"symbol": [word, word]}, index=["CD74", "HLA.DRA"]))
    assert [column.tolist() for column in names] == [["CD74", "HLA.DRA"], ["", ""]]


@pytest.mark.parametrize("names", [["gene_0", "gene_1"], ["Gene0", "Gene1"], ["123_at", "4567_s_at"]])
def test_placeholders_name_no_species(names: list[str]) -> None:
    assert not other_species(names, ["", ""])
