import logging
import re

import pandas as pd
import pytest

from polygene.io.datasets import pbmc
from polygene.vocab.gene_names import human_genes
from polygene.vocab.mending import mended_symbols
from polygene.vocab.panel import GenePanel, merged_genes

MANGLED = {
    "HLA.DRA": "HLA-DRA", "HLA_DRA": "HLA-DRA", "hla.dra": "HLA-DRA", "MT.CO1": "MT-CO1", "NKX2.1": "NKX2-1",
    "CD74.1": "CD74", "CD74.12": "CD74", "HLA.DRA.1": "HLA-DRA", "cd3d": "CD3D", "hg19_CD4": "CD4",
    "GRCh38______HLA-DRA": "HLA-DRA", "hg19_HLA.DRA": "HLA-DRA", "X7SK": "7SK",
}  # fmt: skip


@pytest.mark.parametrize("mangled", MANGLED)
def test_a_symbol_that_software_changed_is_what_it_was(mangled):
    assert mended_symbols([mangled], [""]) == ([MANGLED[mangled]], {})


@pytest.mark.parametrize("symbol", ["HLA-DRA", "AL627309.1", "RP11-206L10.2", "Y_RNA", "GENE.7", "2-Sep", "", "CD74-1"])
def test_what_is_a_name_or_becomes_none_stays(symbol):
    assert mended_symbols([symbol], [""]) == ([symbol], {})


@pytest.mark.parametrize(
    ("symbols", "ids", "mended"),
    [
        (["CD74", "CD74.1"], ["", ""], ["CD74", "CD74.1"]),  # the file names the gene
        (["cd74", "CD74.1"], ["", ""], ["CD74", "CD74.1"]),
        (["CD74.1", "CD74.2"], ["", ""], ["CD74.1", "CD74.2"]),  # either may be it
        (["GRCh38_CD74", "GRCh38_CD74.1"], ["", ""], ["CD74", "GRCh38_CD74.1"]),  # as CD74 and CD74.1
        (["GRCh38_CD74.1", "GRCh38_CD74"], ["", ""], ["GRCh38_CD74.1", "CD74"]),
        (["CD74", "GRCh38_CD74"], ["", ""], ["CD74", "GRCh38_CD74"]),
        (["HLA.DRA", "HLA_DRA"], ["", ""], ["HLA.DRA", "HLA_DRA"]),
        (["HLA.DRA", "HLA.DRA"], ["", ""], ["HLA-DRA", "HLA-DRA"]),  # one name, which is summed
        (["HLA.DRA"], ["ENSG00000000001"], ["HLA.DRA"]),  # the id says what it is
    ],
)
def test_two_columns_never_become_one_gene(symbols, ids, mended):
    found, rivals = mended_symbols(symbols, ids)
    assert found == mended
    assert set(rivals) == ({"CD74"} if symbols[0] == "CD74.1" else {"HLA-DRA"} if symbols[-1] == "HLA_DRA" else set())


def test_names_of_the_panel_are_known_too():
    panel = GenePanel(symbols=("RP11-206L10.2", "CD74"), ensembl_ids=("", ""))
    match = panel.match(pd.DataFrame(index=["RP11.206L10.2", "CD74"]))
    assert match.columns_N.tolist() == [0, 1]


@pytest.mark.parametrize(
    "mangle",
    [
        lambda name: re.sub(r"[^A-Za-z0-9._]", ".", name),  # make.names
        lambda name: name.replace("-", "_"),
        lambda name: f"hg19_{name}",
        lambda name: f"GRCh38_{name}",
        str.lower,
    ],
    ids=["make.names", "underscores", "hg19", "GRCh38", "lower case"],
)
def test_a_real_file_finds_as_much_of_the_panel_whatever_changed_its_symbols(mangle):
    var = pbmc().var
    approved = set(human_genes().symbols.values())
    panel = _panel([name for name in var.index if name in approved])
    plain, changed = panel.match(var), panel.match(var.set_index(var.index.map(mangle)))
    assert plain.measured_G.all()
    assert changed.measured_G.sum() >= 0.999 * plain.measured_G.sum()
    same = [(g, n) for g, n in zip(plain.genes_N, plain.columns_N, strict=True) if changed.measured_G[g]]
    assert same == list(zip(changed.genes_N, changed.columns_N, strict=True))


def _panel(symbols):
    return GenePanel(symbols=tuple(symbols), ensembl_ids=("",) * len(symbols))


def test_the_search_tells_which_symbols_it_mended_and_which_it_could_not(caplog):
    caplog.set_level(logging.INFO, "polygene")
    match = _panel(["HLA-DRA", "CD74", "CD3D"]).match(pd.DataFrame(index=["HLA.DRA", "CD74.1", "CD74.2", "CD3D"]))
    assert match.found == {"symbol": 1, "mended symbol": 1}
    assert "genes: 1 by another name: HLA-DRA as HLA.DRA" in caplog.messages
    perhaps = "of these perhaps there, under a name that means other genes too: CD74 (CD74.1 or CD74.2)"
    assert f"genes: 1 {perhaps}" in caplog.messages


def test_a_corpus_names_its_genes_as_hgnc_does():
    genes, match = merged_genes(pd.DataFrame(index=["HLA.DRA", "MT.CO1", "CD74", "CD74.1"]))
    assert genes["symbol"].tolist() == ["HLA-DRA", "MT-CO1", "CD74", "CD74.1"]
    assert genes["ensembl_id"].tolist() == ["ENSG00000204287", "ENSG00000198804", "ENSG00000019582", ""]
    assert match.columns_N.tolist() == [0, 1, 2, 3]


def test_in_a_lower_case_file_a_symbol_is_no_alias_of_another_gene():
    names = ["cd74", "ski", "emb", "cd3d"]  # ski is an alias of HHAT, emb of XPO1
    assert mended_symbols(names, [""] * 4)[0] == ["CD74", "SKI", "EMB", "CD3D"]
    assert mended_symbols(["CD74", "ski", "CD3D"], [""] * 3)[0] == ["CD74", "ski", "CD3D"]
    assert _panel(["HHAT", "XPO1", "CD74"]).match(pd.DataFrame(index=names)).measured_G.tolist() == [False, False, True]
