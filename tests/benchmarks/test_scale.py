"""What benchmarks.scale derives from what it measured: parts added up, exponents joined, the size of the recipes."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from benchmarks.scale import atlas, budget
from benchmarks.shared.command import RESULTS
from polygene.model.recipe import Recipe


def took(seconds: float, start: float, peak: float) -> dict[str, float]:
    return {"cpu_s": seconds, "start_s": start, "wall_s": 2 * seconds, "peak_mb": peak, "bytes": 500.0}


def test_parts_of_an_atlas_stand_for_the_whole() -> None:
    one = atlas.row(1_000, {"1/10": took(5, 1, 70), "4/10": took(7, 1, 80)})
    assert one["measured_share"] == 0.2
    assert one["seconds"] == pytest.approx(50)  # ten seconds for two of ten parts
    assert one["cells_per_s"] == 20
    assert one["clock_s"] == pytest.approx(120)
    assert one["peak_mb"] == 80
    assert one["bytes_a_cell"] == 5


def test_ten_times_the_cost_lowers_the_loss_by_the_joint_exponent() -> None:
    a, b = 0.12, 0.2
    of = {"weights": {"exponent": -a, "standard_error": 0.02}, "cells": {"exponent": -b, "standard_error": 0.05}}

    def least(cost: float) -> float:
        return minimize_scalar(
            lambda log_n: np.exp(-a * log_n) + 3 * np.exp(-b * (np.log(cost) - log_n)), (0, 30), tol=1e-12
        ).fun

    (halved, _), (tenfold, error) = budget.trade(of).values()
    assert tenfold == pytest.approx(least(1e8) / least(1e7), rel=1e-6)
    assert halved == pytest.approx(0.5**-a * 2**-b)
    rng = np.random.default_rng(0)
    drawn = [rng.normal(-of[name]["exponent"], of[name]["standard_error"] / 10, 20_000) for name in of]
    assert error / 10 == pytest.approx(np.std(10 ** -(drawn[0] * drawn[1] / (drawn[0] + drawn[1]))), rel=0.03)


@pytest.mark.parametrize("n_genes", budget.PANELS)
def test_the_recipes_of_the_census_are_what_the_budget_allows(n_genes: int) -> None:
    found = json.loads((RESULTS / "budget.json").read_text(encoding="utf-8"))["budget"]
    recipe = Recipe.load(budget.RECIPES / f"census-{n_genes}.toml")
    shape, training = recipe.network, recipe.training
    layers = budget.chosen(found, training.epochs)
    assert (shape.num_hidden_layers, shape.num_attention_heads) == (layers, layers)
    assert (shape.hidden_size, shape.intermediate_size) == (64 * layers, 4 * 64 * layers)
    assert 8 * training.batch_size * training.accumulation == 2_048
    hours = budget.gpu_seconds(found["512"]["operations_a_cell"], training.epochs) / 3600
    assert 0.5 * budget.HOURS < hours * (layers / found["512"]["layers"]) ** 3 <= budget.HOURS
