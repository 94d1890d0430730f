"""Forests: a point and an interval for each predictor."""

import pandas as pd

from polygene.pl import forest


def test_each_predictor_is_a_point_on_its_interval_the_first_on_top():
    table = pd.DataFrame({"value": [0.9, 0.5], "low": [0.8, 0.4], "high": [1.0, 0.6]}, index=["PolyGene", "majority"])
    ax = forest(table, label="macro-F1")
    drawn = [tuple(line.get_xdata()) for line in ax.lines]
    assert drawn[:4] == [(0.8, 1.0), (0.9,), (0.4, 0.6), (0.5,)]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["PolyGene", "majority"]
    assert ax.yaxis_inverted()
    assert ax.get_xlabel() == "macro-F1"
    assert ax.lines[0].get_color() != ax.lines[2].get_color()
