"""Confusion matrices: which share stands in which field."""

import numpy as np
import pandas as pd
import pytest

from polygene.errors import DataError, OutputError
from polygene.pl import confusion

COUNTS = [[90, 10, 0], [50, 150, 0], [0, 0, 0]]
LABELS = ["B cell", "naive/central memory CD4-positive T cell of the thymus", "monocyte"]


def test_a_field_holds_the_percent_of_the_cells_of_its_row():
    ax = confusion(LABELS, COUNTS)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {(0.5, 0.5): "90", (1.5, 0.5): "10", (0.5, 1.5): "25", (1.5, 1.5): "75"}
    np.testing.assert_allclose(ax.collections[0].get_array(), [[90, 10, 0], [25, 75, 0], [0, 0, 0]])


def test_rows_bear_names_and_numbers_columns_the_numbers():
    ax = confusion(LABELS, COUNTS)
    rows = [" ".join(label.get_text().split()) for label in ax.get_yticklabels()]
    assert rows[0] == "B cell 1"
    assert rows[1].startswith("naive/central memory")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "3"]
    assert ax.yaxis_inverted()


@pytest.mark.parametrize(("n", "n_written"), [(15, 15), (16, 0)])
def test_many_labels_are_colours_only(n, n_written):
    ax = confusion([f"type {v}" for v in range(n)], np.eye(n, dtype=int))
    assert len(ax.texts) == n_written


def test_the_name_of_the_rows_is_inside_the_picture():
    ax = confusion(["memory CD4 T cell", *(f"type {v}" for v in range(8))], np.eye(9, dtype=int))
    ax.get_figure().draw_without_rendering()
    assert ax.yaxis.label.get_window_extent().x0 >= 0


def test_the_picture_is_written(tmp_path):
    confusion(LABELS, COUNTS, save=tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_two_columns_of_labels_are_no_counts_and_what_makes_them_is_said():
    labels = pd.Series(["B cell", "monocyte"])
    for counts in (labels, [1, 2]):
        with pytest.raises(DataError, match=r"2 × 2 numbers .* got \(2,\) of .*confusion_matrix\(true, predicted"):
            confusion(labels, counts)


def test_a_picture_into_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(OutputError, match="could not be written"):
        confusion(LABELS, COUNTS, save=tmp_path / "absent" / "confusion.png")
