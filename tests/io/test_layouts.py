"""Every layout of the table gives the predictions of the plain form, or one clear message."""

from pathlib import Path

import numpy as np
import pytest

from polygene.model.checkpoint import PolyGene
from tests.io.layouts import LAYOUTS, outcome, plain_cells, predictions

PAGE = Path(__file__).parents[2] / "docs/layouts.md"


@pytest.fixture(scope="module")
def model():
    return PolyGene.from_pretrained("polygene-512")


@pytest.fixture(scope="module")
def plain():
    return plain_cells()


@pytest.fixture(scope="module")
def expected(plain, model):
    return predictions(plain, model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: " | ".join(layout.words))
def test_a_layout_gives_equal_predictions_or_one_clear_message(layout, plain, expected, model, tmp_path):
    found, said = outcome(layout, plain, expected, model, tmp_path)
    assert found == ("refused" if layout.message else "equal"), said


def test_the_plain_form_is_no_trivial_one(plain, expected):
    p_CV, x_CG = expected
    assert len(set(p_CV.argmax(1))) > 5
    assert np.count_nonzero(x_CG) > 40 * 50
    assert sum("-" in name for name in plain.var_names) > 5


def test_the_page_lists_every_layout():
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| {' | '.join(layout.words)} |" in page for layout in LAYOUTS)
    assert "| wrong" not in page
