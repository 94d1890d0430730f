import logging
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from polygene.errors import GeneError
from polygene.vocab.gene_matching import COMFORT, FLOOR, KEPT, GeneMatch, expected_shares
from polygene.vocab.gene_names import NAME_COLUMNS
from polygene.vocab.panel import GenePanel, merged_genes

IDS = ("ENSG00000019582", "ENSG00000167286", "ENSG00000156738", "ENSG00000105374")
SYMBOLS = ("CD74", "CD3D", "MS4A1", "NKG7")
MARCHF1 = "ENSG00000145416"


@pytest.fixture
def panel():
    return GenePanel(symbols=SYMBOLS, ensembl_ids=IDS)


def symbols(*names):
    return GenePanel(symbols=names, ensembl_ids=("",) * len(names))


def columns(panel, var):
    """The columns of each gene of the panel, found another way than `slots_N` does."""
    match = panel.match(var)
    assert match.measured_G.tolist() == [g in match.genes_N for g in range(len(panel))]
    return [match.columns_N[match.genes_N == g].tolist() for g in range(len(panel))]


def test_genes_are_found_by_symbol_in_panel_order_and_absent_ones_have_no_column():
    rng = np.random.default_rng(0)
    names = [f"GENE{i}" for i in range(300)]
    panel = symbols(*rng.choice(names, 80, replace=False))
    measured = list(rng.choice(names, 200, replace=False))
    match = panel.match(pd.DataFrame(index=measured))
    there = [symbol for symbol in panel.symbols if symbol in measured]
    assert match.columns_N.tolist() == [measured.index(symbol) for symbol in there]
    assert match.measured_G.tolist() == [symbol in measured for symbol in panel.symbols]
    assert match.slots_N.tolist() == list(range(len(there)))
    assert match.missing == tuple(symbol for symbol in panel.symbols if symbol not in measured)


@pytest.mark.parametrize("column", [*NAME_COLUMNS, "Gene"])
@pytest.mark.parametrize(
    "names", [SYMBOLS, IDS, tuple(f"{name}.17" for name in IDS)], ids=["symbols", "ids", "versions"]
)
def test_genes_are_found_in_every_column_that_names_them(panel, column, names):
    var = pd.DataFrame({column: pd.Categorical(names[::-1])}, index=["a", "b", "c", "d"])
    assert columns(panel, var) == [[3], [2], [1], [0]]


def test_genes_are_found_where_some_names_are_ids_and_some_symbols(panel):
    var = pd.DataFrame(index=["MS4A1", "ENSG00000019582.14", "OTHER", f"X_{IDS[3]}"])
    assert columns(panel, var) == [[1], [], [0], [3]]


def test_a_gene_without_ensembl_id_is_not_found_by_an_empty_one():
    panel = GenePanel(symbols=("GENE1", "CD3D"), ensembl_ids=("", IDS[1]))
    assert columns(panel, pd.DataFrame({"feature_id": ["", IDS[1]]}, index=["VIM", "x"])) == [[], [1]]


def test_ids_are_found_by_symbols_and_symbols_by_ids(panel):
    assert columns(symbols(*SYMBOLS), pd.DataFrame(index=list(IDS))) == [[0], [1], [2], [3]]
    assert columns(panel, pd.DataFrame(index=list(SYMBOLS))) == [[0], [1], [2], [3]]


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ("MARCHF1", ["MARCH1"], [0]),  # a previous symbol
        ("MARCH1", ["MARCHF1"], [0]),
        ("RNF171", ["MARCH1"], [0]),  # an alias and a previous symbol
        ("SEPTIN2", ["SEPT2"], [0]),
        ("SEPTIN2", ["2-Sep"], [0]),
        ("SELENOF", ["15-Sep"], [0]),
        ("MARCHF3", ["Mar-03"], [0]),
        ("MARCHF1", ["1-Mar"], []),  # may be MTARC1
        ("MARCHF1", ["1-Mar", "MARC1"], [0]),  # is not, since that is there
        ("MTARC1", ["1-Mar", "MARCHF1"], [0]),
        ("POU2F1", ["OCT1"], []),  # an alias of two genes
        ("MARCHF1", ["MARCH1", "RNF171"], []),  # two names, neither approved
        ("MARCHF1", ["RNF171", "MARCHF1"], [1]),
        ("RNF171", ["MARCH1", "MARCHF1"], [1]),
    ],
)
def test_other_names_are_found_only_where_nothing_else_can_be_meant(ours, theirs, found):
    assert columns(symbols(ours, "CD74"), pd.DataFrame(index=[*theirs, "CD74"]))[0] == found


def test_a_gene_without_an_id_in_a_panel_that_has_ids_is_found_by_its_own_name_only():
    panel = GenePanel(symbols=("MARCH1", "CD74"), ensembl_ids=("", IDS[0]))
    assert columns(panel, pd.DataFrame(index=["MARCHF1", "CD74"])) == [[], [1]]
    assert columns(panel, pd.DataFrame(index=["MARCH1", "CD74"])) == [[0], [1]]


def test_symbols_in_other_case_match_where_unambiguous():
    panel = symbols("C1orf112", "GENEA", "Xyz", "XYZ")
    assert columns(panel, pd.DataFrame(index=["C1ORF112", "genea", "GENEa", "xyz"])) == [[0], [], [], [3]]
    assert columns(panel, pd.DataFrame(index=["C1ORF112", "genea", "xyz", "VIM"])) == [[0], [1], [], [2]]


def test_the_exact_symbol_goes_before_other_cases():
    assert columns(symbols("CD3D"), pd.DataFrame(index=["cd3d", "CD3D"])) == [[1]]


def test_the_ensembl_id_goes_before_the_symbol(panel):
    var = pd.DataFrame({"gene_ids": ["ENSG00000999999", IDS[0]]}, index=["CD74", "HLA-DG"])
    assert columns(panel, var) == [[1], [], [], []]


def test_a_symbol_with_the_id_of_another_gene_is_not_taken(panel):
    assert columns(panel, pd.DataFrame({"gene_ids": [MARCHF1, IDS[1]]}, index=["CD74", "x"])) == [[], [1], [], []]


def test_two_genes_of_one_symbol_are_told_apart_where_the_file_gives_the_id_of_one():
    panel = GenePanel(symbols=("7SK", "7SK"), ensembl_ids=("ENSG00000260682", ""))
    assert columns(panel, pd.DataFrame(index=["7SK", "7SK_ENSG00000260682"])) == [[1], [0]]
    with pytest.raises(GeneError, match="None of the 2 genes"):
        panel.match(pd.DataFrame(index=["7SK", "VIM"]))


def test_a_column_of_the_file_belongs_to_one_gene_of_the_panel():
    panel = GenePanel(symbols=("OLD", "NEW"), ensembl_ids=(IDS[0], ""))
    assert columns(panel, pd.DataFrame({"gene_ids": [IDS[0]]}, index=["NEW"])) == [[0], []]


def test_columns_of_the_same_gene_are_taken_together_and_named(panel, caplog):
    caplog.set_level(logging.INFO, "polygene")
    same_name = pd.DataFrame(index=["CD3D", "X", "X", "CD74", "CD3D"])
    assert columns(panel, same_name) == [[3], [0, 4], [], []]
    assert "genes: 1 in several columns, which are summed: CD3D" in caplog.messages
    same_id = pd.DataFrame({"gene_ids": [IDS[0], IDS[1], f"{IDS[0]}.2"]}, index=["CD74", "CD3D", "DHLAG"])
    assert columns(panel, same_id) == [[0, 2], [1], [], []]
    assert columns(symbols(*SYMBOLS), same_id) == [[0], [1], [], []]  # CD74 is asked by name, and DHLAG is none


def test_different_genes_of_one_name_leave_a_gene_unmeasured_and_named_unless_hgnc_knows_better(caplog):
    caplog.set_level(logging.INFO, "polygene")
    two = pd.DataFrame({"gene_ids": ["ENSG00000999999", "ENSG00000999998", ""]}, index=["GENE1", "GENE1", "CD74"])
    assert columns(symbols("GENE1", "CD74"), two) == [[], [2]]
    said = (
        "1 of these perhaps there, under a name that means other genes too: GENE1 (ENSG00000999998 or ENSG00000999999)"
    )
    assert f"genes: {said}" in caplog.messages
    known = pd.DataFrame({"gene_ids": ["ENSG00000999999", IDS[0]]}, index=["CD74", "CD74"])
    assert columns(symbols("CD74"), known) == [[1]]


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["OTHER1", "OTHER2"], "Only 0 of the 2 names in the file are names of human genes.*adata.var_names"),
        (["VIM", "ACTB"], r"The file holds 2 genes only: read the matrix with all genes.*layer='raw'"),
    ],
    ids=["unknown names", "few genes"],
)
def test_nothing_in_common_names_the_likely_cause(panel, names, cause):
    with pytest.raises(GeneError, match=f"None of the 4 genes of the panel.*{names[0]}.*{cause}"):
        panel.match(pd.DataFrame(index=names))


def test_numbers_for_names_are_refused(panel):
    with pytest.raises(GeneError, match=r"numbers for names \(0, 1, 2, 3\)"):
        panel.match(pd.DataFrame(index=list("0123")))


def test_ensembl_ids_that_hgnc_does_not_know_ask_for_symbols():
    with pytest.raises(GeneError, match=r"names Ensembl ids and the panel symbols.*adata.var\['feature_name'\]"):
        symbols("GENE1").match(pd.DataFrame(index=["ENSG00000999999", "ENSG00000999998"]))


MOUSE = ["Actb", "Cd74", "Cd3d", "Ms4a1", "Nkg7", "Gm12345", "2610008E11Rik", "mt-Co1", "H2-Ab1"]


@pytest.mark.parametrize(
    ("var", "species"),
    [
        (pd.DataFrame(index=MOUSE), "mouse or rat"),
        (pd.DataFrame(index=[f"ENSMUSG{i:011d}" for i in range(9)]), "mouse"),
        (pd.DataFrame({"gene_ids": [f"ENSMUSG{i:011d}" for i in range(9)]}, index=MOUSE), "mouse"),
        (pd.DataFrame(index=["cd74a", "cd3d", "ms4a1", "nkg7", "si:dkey-1", "zgc:1", "actb1"]), "zebrafish"),
    ],
    ids=["symbols", "ids", "both", "lower case"],
)
@pytest.mark.parametrize("ids", [IDS, ("",) * 4], ids=["panel with ids", "without"])
def test_another_species_is_refused_however_many_symbols_agree_in_another_case(var, species, ids):
    with pytest.raises(GeneError, match=f"file seems to be of {species}.*The model learned from human cells"):
        GenePanel(symbols=SYMBOLS, ensembl_ids=ids).match(var)


def test_a_mouse_panel_reads_mouse_and_refuses_human():
    panel = symbols(*MOUSE)
    assert columns(panel, pd.DataFrame(index=MOUSE)) == [[i] for i in range(9)]
    with pytest.raises(GeneError, match=r"file seems to be of human.*learned from mouse or rat cells"):
        panel.match(pd.DataFrame(index=[name.upper() for name in SYMBOLS]))


def test_what_was_found_is_said_by_the_way_it_was(caplog):
    panel = GenePanel(symbols=(*SYMBOLS, "MARCHF1", "GENE1", "GENE2"), ensembl_ids=(*IDS, MARCHF1, "", ""))
    var = pd.DataFrame({"feature_id": [IDS[0], *[""] * 5]}, index=["x", "CD3D", "MARCH1", "gene1", "MS4A1", "OTHER"])
    with caplog.at_level(logging.INFO, "polygene"):
        match = panel.match(var)
    assert match.found == {"Ensembl id": 1, "symbol": 2, "another name": 1, "symbol in other case": 1}
    assert caplog.messages == [
        "genes: matched 5 of 7 of the panel "
        "(1 by Ensembl id, 2 by symbol, 1 by symbol in other case, 1 by another name)",
        "genes: 1 by another name: MARCHF1 as MARCH1",
        "genes: 2 not measured: NKG7, GENE2",
    ]


def covering(share, n=200):
    found = {g: [g] for g in range(round(share * n))}
    missing = tuple(f"GENE{g}" for g in range(len(found), n))
    return GeneMatch.of(found, n, found={"symbol": len(found)}, missing=missing, why="Do this.")


@pytest.mark.parametrize("share", [1.0, COMFORT])
def test_most_of_a_panel_is_reported_without_a_warning(share, caplog):
    with caplog.at_level(logging.INFO, "polygene"):
        report = covering(share).report(0.25)
    assert caplog.messages == ["genes: those of the panel hold 25 % of the counts in the file"]
    n = round(200 * share)
    assert list(report.pop("missing")) == [f"GENE{g}" for g in range(n, 200)]
    assert report == {
        "panel": 200, "measured": n, "coverage": share, "counts_share": 0.25, "found": {"symbol": n},
        "expected_share_of_macro_f1": KEPT[share][0], "lowest_share_of_macro_f1": KEPT[share][1],
    }  # fmt: skip


def test_a_part_of_the_panel_is_answered_with_the_accuracy_to_expect(caplog):
    with caplog.at_level(logging.WARNING, "polygene"):
        report = covering(0.3).report(0.25)
    kept, lowest = KEPT[0.3]
    assert caplog.messages == [
        f"genes: 60 of the 200 genes of the panel are measured (30.0%): expect about {100 * kept:.0f} % of the "
        f"macro-F1 that all of them give, or {100 * lowest:.0f} % if the most variable are missing (docs/coverage.md). "
        "Do this."
    ]
    assert (report["expected_share_of_macro_f1"], report["lowest_share_of_macro_f1"]) == (kept, lowest)


def test_too_little_of_the_panel_is_refused():
    covering(FLOOR).report(0.25)
    with pytest.raises(
        GeneError, match=r"Only 19 of the 200 genes .* \(9.5%\), too few .* 10% down.*GENE19, .*Do this"
    ):
        covering(0.095).report(0.25)


def test_what_to_expect_lies_between_what_was_measured_and_never_rises_as_genes_go():
    assert all(expected_shares(share) == KEPT[share] for share in KEPT)
    between = np.array([expected_shares(share) for share in np.linspace(0, 1, 101)])
    assert (np.diff(between, axis=0) >= 0).all()
    assert (between[:, 0] >= between[:, 1]).all()
    assert expected_shares(0.25) == pytest.approx([(KEPT[0.2][i] + KEPT[0.3][i]) / 2 for i in (0, 1)])


@pytest.mark.data
def test_every_file_of_the_data_is_human_and_finds_its_own_genes_and_those_of_others_by_any_name():
    var = {path.stem: ad.read_h5ad(path, backed="r").var for path in Path(os.environ["POLYGENE_DATA"]).glob("*.h5ad")}
    panels = {}
    for name, genes in ((name, merged_genes(one)[0]) for name, one in var.items()):
        panels[name] = GenePanel(symbols=tuple(genes["symbol"]), ensembl_ids=tuple(genes["ensembl_id"]))
        match = panels[name].match(var[name])
        assert match.measured_G.all(), name
        assert set(match.found) <= {"Ensembl id", "symbol", "mended symbol"}, name  # PSMA2.1 of pbmc3k is PSMA2
    old, new = panels["pbmc3k_10x"], panels["pbmc1k_citeseq_10x"]
    match = new.match(var["pbmc3k_10x"])
    assert match.found["another name"] > 500
    assert "IGJ" in old.symbols
    assert match.measured_G[new.symbols.index("JCHAIN")]
