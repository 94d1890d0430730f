"""Pictures of ages: a point and an interval for each donor."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from polygene.errors import DataError
from polygene.pl import age

TABLE = pd.DataFrame(
    {
        "donor": ["a", "b", "c"],
        "actual": [20.0, 50.0, 80.0],
        "predicted": [40.0, 50.0, 55.0],
        "low": [30.0, 35.0, 30.0],
        "high": [50.0, 70.0, 70.0],
        "gap_corrected": [-1.0, 2.0, -1.0],
    }
)


def test_every_donor_is_a_point_with_its_interval() -> None:
    ax = age(TABLE)
    points, _, (bars,) = ax.containers[0]
    np.testing.assert_array_equal(points.get_xydata(), TABLE[["actual", "predicted"]])
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], TABLE[["low", "high"]])


def test_the_dashed_line_is_drawn_where_corrected_gaps_are_measured_from_it() -> None:
    assert [line.get_linestyle() for line in age(TABLE).lines].count("--") == 1
    assert [line.get_linestyle() for line in age(TABLE.assign(gap_corrected=np.nan)).lines].count("--") == 0


def test_given_axes_are_drawn_on_and_the_file_is_written(tmp_path: Path) -> None:
    ax = Figure().subplots()
    assert age(TABLE, ax=ax, save=tmp_path / "age.png") is ax
    assert (tmp_path / "age.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("table", "message"), [(TABLE.drop(columns="low"), "no column low"), (TABLE.iloc[:0], "no donor")]
)
def test_another_table_is_refused(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        age(table)
