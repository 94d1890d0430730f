"""Reliability and risk-coverage pictures: the points are the numbers of the results."""

import pytest
from matplotlib.figure import Figure

from polygene.errors import DataError
from polygene.evaluation._risk_coverage import risk_coverage
from polygene.pl import reliability

ROW = {"predictor": "PolyGene", "score": "ece", "value": 0.031, "low": 0.02, "high": 0.05}
BINS = [{"confidence": c, "accuracy": c - 0.1, "low": c - 0.2, "high": c, "cells": 9} for c in (0.5, 0.7, 0.9)]
CURVE = {"share": [0.5, 1.0], "risk": [0.1, 0.3], "aurc": 0.2, "low": 0.1, "high": 0.3}
RESULTS = {
    "calibration": [{"phenotype": "sex", "counts": False, "scores": [ROW], "bins": BINS}],
    "sets": [
        {"phenotype": "sex", "asked": 0.9, "abstained": 0.4, "single_accuracy": 0.8, "risk_coverage": CURVE},
        {"phenotype": "cell_type", "asked": 0.9, "why": "the model was not calibrated", "risk_coverage": CURVE},
    ],
}


def test_each_bin_is_a_point_and_a_void_calibration_says_so() -> None:
    axes = reliability(RESULTS, "sex")
    assert axes.lines[1].get_xdata().tolist() == [0.5, 0.7, 0.9]
    assert axes.lines[1].get_ydata().tolist() == pytest.approx([0.4, 0.6, 0.8])
    assert "ECE 0.031 [0.020, 0.050]" in axes.get_title()
    assert "void" in axes.get_title()


def test_the_curve_and_the_sets_of_one_label_are_drawn_on_given_axes(tmp_path) -> None:
    given = Figure().subplots()
    axes = risk_coverage(RESULTS, "sex", ax=given, save=tmp_path / "risk.svg")
    assert axes is given
    assert list(axes.lines[1].get_ydata()) == [0.1, 0.3]
    assert axes.lines[2].get_xydata()[0].tolist() == pytest.approx([0.6, 0.2])
    assert (tmp_path / "risk.svg").stat().st_size > 1000
    assert len(risk_coverage(RESULTS, "cell_type").lines) == 2


@pytest.mark.parametrize("draw", [reliability, risk_coverage])
def test_a_phenotype_that_was_not_scored_is_refused(draw) -> None:
    with pytest.raises(DataError, match="of 'age'; they hold sex"):
        draw(RESULTS, "age")
