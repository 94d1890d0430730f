"""Reliability and risk-coverage pictures: the points are the numbers of the results."""

from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.figure import Figure

from polygene.errors import DataError
from polygene.evaluation._risk_coverage import risk_coverage
from polygene.pl import reliability

SCORES = {"ece": 0.031, "ece_low": 0.02, "ece_high": 0.05, "aurc": 0.2, "aurc_low": 0.1, "aurc_high": 0.3}
RESULTS = SimpleNamespace(
    calibration=pd.DataFrame([{"phenotype": name, "informative": False, **SCORES} for name in ("sex", "cell_type")]),
    reliability=pd.DataFrame(
        [
            {"phenotype": "sex", "confidence": c, "accuracy": c - 0.1, "low": c - 0.2, "high": c, "cells": 9}
            for c in (0.5, 0.7, 0.9)
        ]
    ),
    sets=pd.DataFrame(
        [{"phenotype": "sex", "label": "", "level": 0.9, "abstained": 0.4, "single_accuracy": 0.8}],
    ),
    risk_coverage=pd.DataFrame(
        [
            {"phenotype": name, "share": share, "risk": risk}
            for name in ("sex", "cell_type")
            for share, risk in ((0.5, 0.1), (1.0, 0.3))
        ]
    ),
)


def test_each_bin_is_a_point_and_a_void_calibration_is_named() -> None:
    axes = reliability(RESULTS, "sex")
    assert axes.lines[1].get_xdata().tolist() == [0.5, 0.7, 0.9]
    assert axes.lines[1].get_ydata().tolist() == pytest.approx([0.4, 0.6, 0.8])
    assert "ECE 0.031 [0.020, 0.050]" in axes.get_title()
    assert "void" in axes.get_title()


def test_the_curve_and_the_sets_of_one_label_are_drawn_on_given_axes() -> None:
    given = Figure().subplots()
    axes = risk_coverage(RESULTS, "sex", ax=given)
    assert axes is given
    assert list(axes.lines[1].get_ydata()) == [0.1, 0.3]
    assert axes.lines[2].get_xydata()[0].tolist() == pytest.approx([0.6, 0.2])
    assert len(risk_coverage(RESULTS, "cell_type", ax=Figure().subplots()).lines) == 2


def test_a_phenotype_that_was_not_scored_is_refused() -> None:
    with pytest.raises(DataError, match="'age' was not scored; scored are sex, cell_type"):
        reliability(RESULTS, "age")
