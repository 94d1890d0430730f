"""The README: its example runs and prints what it shows, its links lead somewhere, and it stays short."""

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from recipes import readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 130


def test_its_links_and_pictures_are_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)", TEXT)
    assert len(targets) > 10
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


def test_its_pictures_are_small() -> None:
    sizes = {name: (ROOT / "docs" / name).stat().st_size for name in ("demo.png", "scores.png")}
    assert max(sizes.values()) < 300_000, sizes


@pytest.mark.slow
def test_its_example_prints_the_table_that_it_shows() -> None:
    found = readme.example(TEXT)
    assert readme.printed(found["code"]) == found["printed"], "run `python -m recipes.readme`"


def test_the_picture_of_scores_has_a_row_for_each_study_that_was_scored() -> None:
    marks = {
        "new": {"cell_type": {"macro_f1": 0.5, "logistic regression": 0.4, "majority": 0.1}},
        "known": {"cell_type": {"macro_f1": 0.9, "CellTypist": 0.8}},
        "no types": {"sex": {"macro_f1": 0.9}},
    }
    figure = readme.scores_picture(marks, {"new": "New", "known": "Known", "no types": "No types", "unscored": "None"})
    assert isinstance(figure, Figure)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["New", "Known"]
    drawn = {one.get_label(): one.get_offsets().tolist() for one in axis.collections}
    assert drawn["PolyGene"] == [[0.5, 1.0], [0.9, 0.0]]
    assert drawn["CellTypist"] == [[0.8, 0.0]]
    assert "majority" not in drawn


def test_the_picture_of_new_studies_draws_the_first_number_of_each_cell() -> None:
    page = """| study never seen | old | new |
| --- | --- | --- |
| PBMC 3k | 0.553 / 0.511 (more: 0.7) | 0.886 / 0.908 |
| heart | 0.574 | 0.947 |

| other | table | here |
"""
    (axis,) = readme.new_studies_picture(page).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["PBMC 3k", "heart"]
    drawn = {one.get_label(): one.get_offsets().tolist() for one in axis.collections}
    assert drawn["polygene-512 of old"] == [[0.553, 1.0], [0.574, 0.0]]
    assert drawn["polygene-512 of new"] == [[0.886, 1.0], [0.947, 0.0]]
