"""The ontologies that ship, and answers that are no finer than they are sure."""

import gzip
from importlib.resources import files

import numpy as np
import pytest

from polygene.errors import DataError
from polygene.vocab.ontology import TABLES, LabelTree, at_or_below, ontology_of, reported_labels

LABELS = ("B cell", "Tregs of mine", "memory B cell", "monocyte", "naive B cell")
B, MINE, MEMORY, MONOCYTE, NAIVE = range(5)


def answer(*probabilities: float, level: float = 0.9) -> tuple[str, float]:
    """Back off the answer for one cell with LABELS; give the name of the term and its probability."""
    tree = LabelTree(LABELS)
    term_C, probability_C = tree.back_off(np.array([probabilities], dtype=np.float32), level)
    return (tree.names_N[term_C[0]] if term_C[0] >= 0 else "-"), float(probability_C[0])


TABLES_SAY = {
    "cell_types": ("Cell Ontology 2026-03-26", "CC BY 4.0", 60_000),
    "tissues": ("UBERON 2026-04-01", "CC BY 3.0", 150_000),
    "diseases": ("MONDO 2026-05-05", "CC BY 4.0", 220_000),
}


@pytest.mark.parametrize("name", TABLES_SAY)
def test_a_table_says_its_source_its_day_and_its_licence(name: str) -> None:
    source, licence, size = TABLES_SAY[name]
    path = files("polygene.vocab").joinpath(f"{name}.tsv.gz")
    head = gzip.decompress(path.read_bytes()).decode().splitlines()[:5]
    assert source in head[1]
    assert licence in head[2]
    assert len(path.read_bytes()) < size


def test_labels_of_tissues_and_diseases_are_found() -> None:
    assert ontology_of("tissue").find("lung") == "UBERON:0002048"
    assert ontology_of("disease").find("COVID-19") == "MONDO:0100096"
    assert ontology_of("disease").find("normal") == "PATO:0000461"


def test_a_tissue_is_below_what_it_is_and_what_it_is_part_of() -> None:
    compare = ontology_of("tissue").compare
    assert compare("cerebellum", "brain") == compare("retina", "eye") == compare("rectum", "intestine") == "finer"
    assert compare("lung", "pancreas") == "other"
    assert ontology_of("disease").compare("cancer", "lung adenocarcinoma") == "broader"


@pytest.mark.parametrize(
    ("phenotype", "labels"),
    [("tissue", ["lung", "cerebellum", "brain"]), ("disease", ["glioblastoma", "normal", "cancer"])],
)
def test_labels_of_tissues_and_diseases_form_trees(phenotype: str, labels: list[str]) -> None:
    table_VV = at_or_below(phenotype, labels)
    assert table_VV is not None
    assert table_VV.sum() == len(labels) + 1


def test_conventional_dendritic_cells_of_type_1_are_no_plasmacytoid_ones() -> None:
    cells = ontology_of("cell_type")
    assert cells.compare("CD141-positive myeloid dendritic cell", "plasmacytoid dendritic cell") == "other"
    assert cells.compare("CD141-positive myeloid dendritic cell", "conventional dendritic cell") == "finer"


@pytest.mark.parametrize(
    ("label", "term"),
    [
        ("T cell", "CL:0000084"),
        ("t cell", "CL:0000084"),
        ("Treg", "CL:0000815"),
        ("CL:0000236", "CL:0000236"),
        ("cluster 7", None),
    ],
)
def test_a_label_is_found_by_name_synonym_or_id(label: str, term: str | None) -> None:
    assert ontology_of("cell_type").find(label) == term


@pytest.mark.parametrize("phenotype", TABLES)
def test_what_stands_above_is_what_the_guide_says(phenotype: str) -> None:
    guide = pytest.importorskip(
        "cellxgene_ontology_guide.ontology_parser", reason="needs the extra bench: pip install '.[bench]'"
    )
    parser, terms = guide.OntologyParser(), ontology_of(phenotype)
    cut = "CL:0002394"  # below it an arrow of the Cell Ontology is left out, see recipes/vocab/ontologies.py
    for term in set(terms.names) - {"PATO:0000461"}:
        live = {one for one in parser.get_term_ancestors(term) if not parser.is_term_deprecated(one)}
        # UBERON's and MONDO's own terms only: some of what stands above them is of other ontologies.
        live = {one for one in live if one.startswith(TABLES[phenotype][0])}
        if cut in live | {term}:
            assert terms.above[term] < live | {term}
        else:
            assert terms.above[term] == live | {term}
        assert terms.names[term] == parser.get_term_label(term)


@pytest.mark.parametrize(("phenotype", "root"), [("cell_type", "CL:0000000"), ("disease", "MONDO:0000001")])
def test_a_term_says_more_than_what_stands_above_it_and_the_root_says_nothing(phenotype: str, root: str) -> None:
    terms = ontology_of(phenotype)
    assert terms.information[root] == 0
    for term, above in terms.above.items():
        assert all(terms.information[term] >= terms.information[one] for one in above)


def test_information_counts_the_terms_below() -> None:
    cells = ontology_of("cell_type")
    below = sum("CL:0000236" in above for above in cells.above.values())
    n_cells = sum("CL:0000000" in above for above in cells.above.values())
    assert cells.information["CL:0000236"] == pytest.approx(1 - np.log(below) / np.log(n_cells))


# --- backing off ---


def test_a_sure_label_stays() -> None:
    assert answer(0, 0, 0.95, 0.05, 0) == ("memory B cell", pytest.approx(0.95))


def test_labels_below_a_term_are_added_up() -> None:
    assert answer(0.2, 0, 0.5, 0.02, 0.28) == ("B cell", pytest.approx(0.98))


def test_a_lower_level_keeps_a_finer_answer() -> None:
    assert answer(0.2, 0, 0.55, 0, 0.25, level=0.55)[0] == "memory B cell"
    assert answer(0.2, 0, 0.55, 0, 0.25, level=0.56)[0] == "mature B cell"


def test_what_is_split_between_far_types_gets_what_they_have_in_common() -> None:
    name, probability = answer(0.25, 0, 0.25, 0.5, 0)
    cells = ontology_of("cell_type")
    b_cell, monocyte = (cells.above[cells.find(label)] for label in ("memory B cell", "monocyte"))
    assert cells.find(name) in b_cell & monocyte
    assert cells.information[cells.find(name)] == max(cells.information[one] for one in b_cell & monocyte)
    assert probability == pytest.approx(1)


def test_a_label_outside_the_ontology_stands_alone() -> None:
    assert answer(0, 0.95, 0.05, 0, 0) == ("Tregs of mine", pytest.approx(0.95))
    name, probability = answer(0, 0.5, 0.5, 0, 0)
    assert name == "-"
    assert np.isnan(probability)
    tree = LabelTree(LABELS)
    assert tree.unknown == ("Tregs of mine",)
    assert tree.ids_N[tree.of_label_V].tolist() == ["CL:0000236", "", "CL:0000787", "CL:0000576", "CL:0000788"]


def test_every_answer_is_sure_and_none_that_says_more_is() -> None:
    rng = np.random.default_rng(0)
    tree, cells = LabelTree([*LABELS[:1], *LABELS[2:], "natural killer cell", "T cell"]), ontology_of("cell_type")
    probabilities_CV = rng.dirichlet(np.full(6, 0.3), 200)
    terms = [cells.find(label) for label in (*LABELS[:1], *LABELS[2:], "natural killer cell", "T cell")]
    for p_V, n, said in zip(probabilities_CV, *tree.back_off(probabilities_CV), strict=True):
        share = {
            term: sum(p for p, label in zip(p_V, terms, strict=True) if term in cells.above[label])
            for one in terms
            for term in cells.above[one]
        }
        assert share[tree.ids_N[n]] == pytest.approx(said, rel=1e-5)
        sure = [cells.information[term] for term, p in share.items() if p >= 0.9]
        assert cells.information[tree.ids_N[n]] == max(sure)


@pytest.mark.parametrize("level", [0.5, 0.0, 1.01, float("nan")])
def test_a_level_at_which_two_answers_could_both_be_sure_is_refused(level: float) -> None:
    with pytest.raises(DataError, match=r"above 0\.5 and at most 1"):
        answer(1, 0, 0, 0, 0, level=level)


# --- scores ---


def test_answers_count_as_what_they_are() -> None:
    """One cell a row: the truth, the answer at 0.9, and what it counts as."""
    rows = [
        (MEMORY, (0, 0, 1, 0, 0), "correct"),
        (MEMORY, (0.1, 0, 0.5, 0, 0.4), "correct"),  # B cell, of a memory B cell
        (B, (0, 0, 1, 0, 0), "finer"),  # memory B cell, of a B cell
        (NAIVE, (0, 0, 1, 0, 0), "wrong"),
        (MONOCYTE, (0.5, 0, 0, 0.5, 0), "correct"),  # what B cells and monocytes have in common
        (MINE, (0, 0.5, 0.5, 0, 0), "none"),
    ]
    tree = LabelTree(LABELS)
    for truth, probabilities, kind in rows:
        scores = tree.scores(np.array([probabilities]), np.array([truth]), None)["backed_off"]
        assert {name: scores[name] for name in ("correct", "finer", "wrong")} == {
            name: float(name == kind) for name in ("correct", "finer", "wrong")
        }, (truth, probabilities)


def test_scores_are_means_over_donors_and_cells_without_label_do_not_count() -> None:
    tree = LabelTree(LABELS)
    probabilities_CV = np.eye(5)[[MEMORY, MEMORY, MEMORY, NAIVE, B]]
    truth_C, donors_C = np.array([MEMORY, MEMORY, NAIVE, NAIVE, -1]), np.array(["a", "a", "a", "b", "c"])
    scores = tree.scores(probabilities_CV, truth_C, donors_C)
    assert scores["label"]["correct"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["label"] == scores["backed_off"]
    memory, naive = (ontology_of("cell_type").information[f"CL:0000{n}"] for n in (787, 788))
    assert scores["label"]["information"] == pytest.approx((memory + naive) / 2)
    assert scores["label"]["at_label"] == 1


def test_labels_at_or_below_a_label_are_those_the_ontology_places_there():
    labels = ["T cell", "CD4-positive, alpha-beta T cell", "B cell", "my cluster", "leukocyte"]
    table_VV = at_or_below("cell_type", labels)
    cells = ontology_of("cell_type")
    for v, coarse in enumerate(labels):
        for w, fine in enumerate(labels):
            known = {cells.find(coarse), cells.find(fine)}
            below = coarse == fine if None in known else cells.find(coarse) in cells.above[cells.find(fine)]
            assert table_VV[v, w] == below, (coarse, fine)
    assert table_VV.sum() == len(labels) + 1 + 3


@pytest.mark.parametrize(
    ("phenotype", "labels"), [("cell_type", ["B cell", "T cell"]), ("cell_type", []), ("sex", ["female", "male"])]
)
def test_labels_that_form_no_tree_have_no_table(phenotype, labels):
    assert at_or_below(phenotype, labels) is None


def test_a_label_outside_the_ontology_is_the_same_as_itself_and_nothing_else() -> None:
    compare = ontology_of("cell_type").compare
    assert compare("cluster 7", "cluster 7") == "same"
    assert compare("cluster 7", "B cell") == compare("B cell", "cluster 7") == compare("cluster 7", "") == "other"
    assert compare("CL:0000236", "B cell") == "same"


# --- which label is reported ---

LYMPHOCYTES = ("T cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "natural killer cell")


@pytest.mark.parametrize(
    ("probabilities", "reported"),
    [
        ((0.0, 0.3, 0.3, 0.4), 1),  # the T cells together are more probable than the natural killer cells
        ((0.1, 0.2, 0.3, 0.4), 2),
        ((0.5, 0.1, 0.2, 0.2), 0),  # no finer label has as much as "T cell" has for itself
        ((0.1, 0.1, 0.2, 0.6), 3),
    ],
)
def test_the_branch_with_the_most_probability_is_followed_as_long_as_a_finer_label_has_more(probabilities, reported):
    table_VV = at_or_below("cell_type", LYMPHOCYTES)
    p_CV = np.array([probabilities, probabilities[::-1]], dtype=np.float32)
    assert reported_labels(p_CV, table_VV)[0] == reported
    assert (reported_labels(p_CV, None) == p_CV.argmax(1)).all()


def test_labels_between_two_are_gone_through_and_two_names_of_one_term_are_one():
    labels = ("leukocyte", "T cell", "CD4-positive, alpha-beta T cell", "B cell", "T-cell")
    table_VV = at_or_below("cell_type", labels)
    p_CV = np.array([[0.0, 0.1, 0.5, 0.4, 0.0], [0.1, 0.2, 0.0, 0.4, 0.3]], dtype=np.float32)
    reported = [labels[v] for v in reported_labels(p_CV, table_VV)]
    assert reported[0] == "CD4-positive, alpha-beta T cell"
    assert reported[1] in {"T cell", "T-cell"}
