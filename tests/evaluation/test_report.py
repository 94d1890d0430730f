"""The report: one page that loads nothing, escapes what files hold, and prints the tables of the results.

The labels and the name of the source hold HTML, as labels of files may.
"""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.evaluation import report as report_module
from polygene.evaluation.assessment import assess
from polygene.evaluation.evaluate import evaluate
from polygene.evaluation.report import report, write_report
from polygene.evaluation.tables import interval, percent
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
EVIL = {"B cell": "<script>alert('B')</script>", "T cell": 'T & "NK" <cell>', "monocyte": "monocyte"}
OPTIONAL = {
    "confidence": ("calibration", "reliability", "sets", "hierarchy"),
    "ages": ("ages",),
    "classes": ("classes", "confusion"),
    "genes": ("genes",),
}
"""The parts of the page, and the tables that they need."""


class Page(HTMLParser):
    """What a browser would make of a page: its tags, the text of its table rows, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[str] = []
        self.text, self.style = "", ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" in self.open:
            self.style += data
            return
        self.text += data
        if "tr" in self.open:
            self.rows[-1] += " ".join(data.split()) + " " if data.strip() else ""

    def row(self, start: str) -> str:
        """Give the text of the first row that begins so."""
        return next(row for row in self.rows if row.startswith(start))


@pytest.fixture(scope="module")
def corpus(make_adata, tmp_path_factory):
    adata = make_adata(200, seed=1)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(EVIL)
    config = PrepareConfig(n_genes=24, fractions=(0.5, 0.2, 0.3))
    return prepare({"<img src=x onerror=alert(1)>": adata}, tmp_path_factory.mktemp("report") / "corpus", config=config)


@pytest.fixture(scope="module")
def model(corpus):
    return PolyGene.new(corpus.tokenizer, initializer_range=0.4, **SHAPE)


@pytest.fixture(scope="module")
def results(model, corpus):
    return evaluate(model, corpus)


@pytest.fixture(scope="module")
def text(results, model, corpus):
    return report(results, model, corpus, command="polygene evaluate 'a <b>' --report r.html")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture
def no_map(monkeypatch):
    """Leave the map out: it takes seconds and is drawn once above."""
    monkeypatch.setattr(report_module, "_maps", lambda *_: {})


# --- what it is ---


def test_the_page_loads_nothing_and_runs_nothing(page, text):
    assert not {"script", "link", "iframe", "object", "embed", "img"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:image/png;base64,")), value
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert re.findall(r"https?://", text) == []


def test_labels_of_files_are_escaped_and_can_be_read(page, text):
    assert "<script" not in text
    assert "<img" not in text
    for label in EVIL.values():
        assert label in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "polygene evaluate 'a <b>' --report r.html" in page.text


def test_the_page_is_small_and_the_same_every_time(text, results, model, corpus, tmp_path, no_map):
    assert len(text.encode()) < 2_000_000
    write_report(tmp_path / "a.html", results, model, corpus)
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == report(results, model, corpus)


def test_pictures_have_names_tables_have_captions_and_headings_go_down_one_by_one(page, text):
    tags = [tag for tag, _ in page.tags]
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) > 5
    assert all(picture["role"] == "img" and len(picture["aria-label"]) > 10 for picture in pictures)
    assert tags.count("caption") == tags.count("table") > 3
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert links <= set(ids)


def test_pictures_take_the_colour_and_font_of_the_page(page, text):
    assert "currentColor" in text
    assert "#010203" not in text
    assert "DejaVu" not in text
    assert "prefers-color-scheme: dark" in page.style
    assert "@media print" in page.style


# --- its numbers ---


def test_the_page_prints_every_cell_of_every_table(page, results):
    for table in results.tables():
        assert table.title in page.text
        for row in table.frame.itertuples(index=False):
            assert " ".join(" ".join(row).split()) in [" ".join(found.split()) for found in page.rows]


def test_scores_stand_in_the_table_with_their_intervals(page, results):
    scores = results.scores[results.scores.score == "macro_f1"]
    for row in scores.to_dict("records"):
        assert any(
            found.startswith(row["predictor"]) and " ".join(interval(row).split()) in found for found in page.rows
        ), row


def test_each_label_has_the_f1_of_scikit_learn(page, results, model, corpus):
    test, p = corpus.split("test"), corpus.tokenizer.schema.index("cell_type")
    (p_CV,) = label_probabilities(model, test.cells(slice(None)), predict=["cell_type"])
    truth_C, labels = test.labels_CP[:, p], corpus.tokenizer.schema.labels[p]
    for v, f1 in enumerate(f1_score(truth_C, p_CV.argmax(1), average=None, labels=range(len(labels)))):
        row = page.row(f"{labels[v]} {(truth_C == v).sum():,} ")
        assert f"{f1:.3f}" in row


def test_the_summary_has_the_cells_the_donors_and_the_accuracy(page, results, corpus):
    text = " ".join(page.text.split())
    assert f"predicted the labels of {len(corpus.split('test')):,} cells" in text
    assert f"{results.donors} donors it had never seen" in text
    accuracy = results.scores.set_index(["phenotype", "predictor", "score"]).value["cell_type", "PolyGene", "accuracy"]
    assert f"cell type {' '.join(percent(accuracy).split())} macro-F1" in page.row("cell type")


def test_the_map_shows_every_phenotype_that_varies_and_counts_its_cells(page, corpus):
    test, schema = corpus.split("test"), corpus.tokenizer.schema
    p = schema.index("cell_type")
    maps = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    maps = {title.rpartition("by ")[2] for title in maps if title.startswith("UMAP")}
    varies = {name for q, name in enumerate(schema.names) if len(set(test.labels_CP[:, q]) - {-1}) > 1}
    assert maps == {name.replace("_", " ") for name in varies} > {"cell type"}
    counted = f"monocyte ({(test.labels_CP[:, p] == schema.labels[p].index('monocyte')).sum()})"
    assert counted in page.text


def test_long_and_many_labels_leave_the_maps_as_large_as_others(make_adata, tmp_path):
    long = "effector memory CD8-positive, alpha-beta T cell, terminally differentiated"
    adata = make_adata(120, seed=1)
    adata.obs["cell_type"] = [f"{long} {i % 20}" for i in range(adata.n_obs)]
    config = PrepareConfig(n_genes=24, fractions=(0.5, 0.2, 0.3))
    corpus = prepare({"cells": adata}, tmp_path / "corpus", config=config)
    maps = report_module._maps(PolyGene.new(corpus.tokenizer, **SHAPE), corpus, np.arange(len(corpus.split("test"))))
    picture, colours = maps["cell_type"]
    assert len(colours) == len(set(colours.values())) > 10
    assert all(label.startswith(long) for label in colours)
    assert long not in picture
    assert re.search(r'viewBox="0 0 ([\d.]+)', picture)[1] == re.search(r'viewBox="0 0 ([\d.]+)', maps["sex"][0])[1]
    assert float(re.search(r'<rect [^>]*width="([\d.]+)"', picture)[1]) > 200  # points: the panel fills the picture


def test_the_page_says_how_to_get_it_again(page, corpus):
    assert corpus.tokenizer.fingerprint() in page.text
    assert re.search(r"corpus/corpus\.json\s*[0-9a-f]{64}", page.text)
    assert f"numpy {np.__version__}" in page.text


# --- what is missing ---


def without(results, *names):
    """Leave out parts of the results."""
    empty = {name: {} if name == "confusion" else pd.DataFrame() for name in names}
    return replace(results, **empty)


@pytest.mark.parametrize("part", OPTIONAL)
def test_a_part_that_was_not_computed_is_named(part, text, results, model, corpus, no_map):
    n_absent = text.count("not computed")
    assert report(without(results, *OPTIONAL[part]), model, corpus).count("not computed") == n_absent + 1


def test_nothing_scored_is_a_page_too(results, model, corpus, no_map):
    tables = ("scores", "novelty", *(name for names in OPTIONAL.values() for name in names))
    nothing = replace(without(results, *tables), not_scored=corpus.tokenizer.schema.names)
    text = Page(report(nothing, model, corpus)).text
    assert text.count("not tested") == 5
    assert "none could be scored" in text
    assert "not tested" in repr(nothing)


# --- assessments ---


@pytest.fixture
def assessed(results):
    """Assess made-up scores."""

    def assess_rows(split, rows):
        scores = pd.DataFrame(rows, columns=["phenotype", "predictor", "score", "value", "low", "high"])
        scores[["gain", "gain_low", "gain_high"]] = 0.0, -0.1, 0.1
        made = replace(without(results, "classes", "calibration", "sets"), split=split, not_scored=("disease",))
        return assess(replace(made, scores=scores))

    return assess_rows


@pytest.mark.parametrize(
    ("split", "low", "majority", "level"),
    [
        ("donor", 0.85, 0.3, "dependable"),
        ("study", 0.85, 0.3, "dependable"),
        ("random", 0.85, 0.3, "care"),
        ("donor", 0.79, 0.3, "care"),
        ("donor", 0.29, 0.3, "no"),
        ("donor", 0.85, 0.9, "no"),
    ],
)
def test_a_phenotype_is_assessed_by_the_lower_end_and_the_trivial_baselines(split, low, majority, level, assessed):
    rows = [
        ("sex", "PolyGene", "macro_f1", 0.95, low, 1.0),
        ("sex", "PolyGene", "accuracy", 0.95, low, 1.0),
        ("sex", "majority", "macro_f1", majority, majority, majority),
        ("sex", "k-nearest neighbours", "macro_f1", 0.99, 0.99, 0.99),
    ]
    assert assessed(split, rows) == {"sex": level, "disease": "untested"}


def test_a_phenotype_whose_probabilities_are_worth_nothing_is_not_to_be_used(results, model, corpus, no_map):
    void = replace(results, calibration=results.calibration.assign(informative=False))
    text = Page(report(void, model, corpus)).text
    assert text.count(", void") == len(void.calibration) > 0
    levels = assess(void)
    assert {levels[name] for name in void.calibration.phenotype if name in levels} == {"no"}


@pytest.mark.parametrize(("high", "level"), [(4.9, "dependable"), (8.0, "care"), (11.0, "no")])
def test_an_age_is_assessed_by_the_upper_end_of_its_error(high, level, assessed):
    rows = [
        ("age", "PolyGene", "macro_f1", 0.1, 0.1, 0.1),
        ("age in years", "PolyGene", "mae_years_by_donor", 4.0, 3.0, high),
        ("age in years", "training mean", "mae_years_by_donor", 10.0, 9.0, 12.0),
    ]
    assert assessed("donor", rows) == {"age in years": level, "disease": "untested"}
