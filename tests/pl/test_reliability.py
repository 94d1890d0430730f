"""The reliability picture: the points are the numbers of the results."""

from collections.abc import Callable
from types import SimpleNamespace

import pandas as pd
import pytest

from polygene.errors import DataError
from polygene.pl import (
    ageing,
    biomarkers,
    counterfactual,
    degree_distribution,
    dotplot,
    forest,
    manifold,
    network,
    perturbation,
    reliability,
    umap,
    vote,
)

SCORES = {"ece": 0.031, "ece_low": 0.02, "ece_high": 0.05}
RESULTS = SimpleNamespace(
    calibration=pd.DataFrame([{"phenotype": name, "informative": False, **SCORES} for name in ("sex", "cell_type")]),
    reliability=pd.DataFrame(
        [
            {"phenotype": "sex", "confidence": c, "accuracy": c - 0.1, "low": c - 0.2, "high": c, "cells": 9}
            for c in (0.5, 0.7, 0.9)
        ]
    ),
)


def test_each_bin_is_a_point_and_a_void_calibration_is_named() -> None:
    axes = reliability(RESULTS, "sex")
    assert axes.lines[1].get_xdata().tolist() == [0.5, 0.7, 0.9]
    assert axes.lines[1].get_ydata().tolist() == pytest.approx([0.4, 0.6, 0.8])
    assert "ECE 0.031 [0.020, 0.050]" in axes.get_title()
    assert "void" in axes.get_title()


def test_a_phenotype_that_was_not_scored_is_refused() -> None:
    with pytest.raises(DataError, match="'age' was not scored; scored are sex, cell_type"):
        reliability(RESULTS, "age")


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (
            lambda wrong: reliability(wrong, "sex"),
            "has no calibration, reliability to draw here: pass what pg.evaluate",
        ),
        (lambda wrong: forest(wrong, label="score"), "has no value, low, high to draw here"),
        (vote, "has no uns to draw here: pass the AnnData after pg.tl.vote"),
        (lambda wrong: dotplot(wrong, "leiden"), "has no obs, uns to draw here: pass the AnnData after pg.tl.annotate"),
        (manifold, "pass what pg.tl.manifold_scores returned"),
        (lambda wrong: perturbation(wrong, target="B cell"), "pass what pg.tl.perturb returned"),
        (counterfactual, "pass what pg.tl.counterfactual returned"),
        (lambda wrong: umap(wrong, color="a"), "has no obs, obsm to draw here: pass an AnnData"),
        (network, "pass what pg.tl.gene_network returned"),
        (degree_distribution, "pass what pg.tl.network_statistics returned"),
        (ageing, "pass what pg.tl.ageing_topology returned"),
        (biomarkers, "has no model to draw here: pass what the verb"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_what_to_pass(draw: Callable[[object], object], says: str) -> None:
    with pytest.raises(DataError, match=f"This DataFrame {says}" if says.startswith("has") else says):
        draw(pd.DataFrame({"label": ["sex"]}))
