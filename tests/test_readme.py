"""The README: its example runs and prints what it shows, its links lead somewhere, and it stays short."""

import json
import re
from pathlib import Path

import pytest

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


def test_the_picture_of_scores_has_a_row_for_each_study_and_a_point_for_each_method() -> None:
    table = readme.scores("polygene-512")
    (axis,) = readme.scores_picture(table).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(readme.STUDIES.values())
    drawn = {one.get_label(): one.get_offsets().tolist() for one in axis.collections}
    assert set(drawn) == {"PolyGene", "logistic regression", "nearest profile"}
    kept = json.loads((ROOT / "benchmarks/results/external.json").read_text())["rows"]
    heart = [r["accuracy"] for r in kept if (r["method"], r["study"]) == ("nearest profile", "heart_san_kanemaru")]
    assert drawn["nearest profile"][1] == [*heart, 4.0]
