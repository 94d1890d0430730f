"""Features that are no genes: told by the file's types, else by names, and by no name of a human gene."""

import numpy as np
import pandas as pd
import pytest

from polygene.errors import DataError
from polygene.vocab.expression import log1p_values
from polygene.vocab.features import _KINDS, kinds_of_features
from polygene.vocab.gene_names import human_genes
from polygene.vocab.panel import GenePanel

ANTIBODIES = ["CD4_TotalSeqB", "CD19-TotalSeqA", "CD3_TotalSeqC0034", "CD14_ADT", "AB_CD8A", "prot_CD4", "adt_CD45RA",
              "CD45RA-ADT", "prot:CD3", "Hu.CD19", "Isotype_G0F"]  # fmt: skip
OTHERS = {
    "antibodies": ANTIBODIES,
    "hashtags": ["HTO-A", "HTO1", "Hashtag1", "Hashtag3_TotalSeqA", "CMO301"],
    "guides": ["sgCD4_1", "sgRNA-3", "STAT1_sgRNA2"],
    "peaks": ["chr1:10109-10357", "chrX_1500_2100", "1-10109-10357", "GL000194.1:55758-56597"],
    "spike-ins": ["ERCC-00002", "ERCC.00171", "gSpikein_ERCC-00002", "SIRV101"],
    "genes of mouse": ["mm10_Actb", "mm10___Cd4", "GRCm39_Cd4"],
}
GENES = [
    "CD4",
    "ERCC1",
    "ERCC6L2",
    "HLA-DRA",
    "ABCA1",
    "PROTEIN",
    "RP11-206L10.2",
    "MT-CO1",
    "14-3-3",
    "ENSG00000019582",
]


@pytest.mark.parametrize("kind", OTHERS)
def test_names_tell_what_a_feature_is_where_no_type_does(kind):
    found = kinds_of_features(pd.DataFrame(index=[*GENES, *OTHERS[kind]]))
    assert found.tolist() == [""] * len(GENES) + [kind] * len(OTHERS[kind])
    in_column = pd.DataFrame({"gene_ids": OTHERS[kind]}, index=["CD4"] * len(OTHERS[kind]))
    assert set(kinds_of_features(in_column)) == {kind}
    assert kind in _KINDS


@pytest.mark.parametrize("write", [str, str.lower, lambda name: name.replace("-", "."), lambda name: name + ".1"])
def test_no_human_gene_is_taken_for_another_feature(write):
    names = [write(name) for name in human_genes().ids]
    found = kinds_of_features(pd.DataFrame(index=names))
    assert [name for name, kind in zip(names, found, strict=True) if kind] == []


@pytest.mark.parametrize(
    ("column", "types", "kinds"),
    [
        ("feature_types", ["Gene Expression", "Antibody Capture", "Peaks"], ["", "Antibody Capture", "Peaks"]),
        ("feature_types", ["Gene Expression", "Custom", None], ["", "Custom", ""]),
        ("feature_types", ["gex", "ADT", "HTO"], ["", "ADT", "HTO"]),
        ("modality", ["rna", "prot", "atac"], ["", "prot", "atac"]),
        ("feature_biotype", ["gene", "gene", "spike-in"], ["", "", "spike-in"]),
        ("feature_type", ["protein_coding", "lncRNA", "synthetic"], ["", "", ""]),  # biotypes: names decide
        ("feature_types", ["Peaks", "Peaks", "Peaks"], ["Peaks"] * 3),
    ],
)
def test_a_column_of_types_is_believed_where_it_tells_genes_from_others(column, types, kinds):
    var = pd.DataFrame({column: pd.Categorical(types)}, index=["CD4", "CD8A", "CD19"])
    assert kinds_of_features(var).tolist() == kinds


def test_an_antibody_is_no_gene_of_the_panel_and_counts_in_no_total(make_adata, caplog):
    plain = make_adata(40, 20)
    panel = GenePanel(symbols=tuple(f"GENE{g}" for g in range(25)), ensembl_ids=("",) * 25)
    both = make_adata(40, 25)
    both.X = np.concatenate([plain.X.toarray(), np.full((40, 5), 90.0)], axis=1)
    both.var["feature_types"] = ["Gene Expression"] * 20 + ["Antibody Capture"] * 5
    match = panel.match(both.var)
    assert "20 genes are read; left out are features that are none: 5 Antibody Capture" in caplog.text
    assert match.measured_G.tolist() == [True] * 20 + [False] * 5
    expected = log1p_values(plain, panel.match(plain.var)).toarray()
    assert np.array_equal(log1p_values(both, match).toarray(), expected)
    both.var["feature_types"] = "Peaks"
    with pytest.raises(DataError, match="no features of the type 'Gene Expression', only 25 Peaks"):
        panel.match(both.var)
