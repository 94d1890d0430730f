"""Power laws: the fit against the package and a search by hand, and the verdicts on distributions that are known."""

import warnings

import numpy as np
import powerlaw
import pytest
from scipy.special import zeta

from polygene.tl import _powerlaw
from polygene.tl._powerlaw import fit_power_law, over_thresholds, sample_power_law, tail_fit, truncated_ratio, verdict


def drawn(name: str, n: int = 600, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    draw = {
        "power law": lambda: sample_power_law(rng, n, 3, 2.5),
        "geometric": lambda: rng.geometric(0.1, n),
        "poisson": lambda: rng.poisson(12, n),
    }
    return np.sort(draw[name]())


@pytest.mark.parametrize("name", ["power law", "geometric"])
def test_the_quick_fit_is_that_of_the_package(name: str) -> None:
    degrees_N = drawn(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = powerlaw.Fit(
            degrees_N, discrete=True, estimate_discrete=False, verbose=False, parameter_ranges={"alpha": [1.01, 8]}
        )
    x_min, exponent, distance = tail_fit(degrees_N)
    assert x_min == fit.xmin
    assert exponent == pytest.approx(fit.alpha, abs=0.01)
    assert distance == pytest.approx(fit.D, abs=0.002)


def test_samples_of_a_power_law_have_its_probabilities() -> None:
    x_N = sample_power_law(np.random.default_rng(1), 40_000, 2, 2.2)
    for value in (2, 3, 5, 20):
        assert (x_N >= value).mean() == pytest.approx(zeta(2.2, value) / zeta(2.2, 2), abs=0.01)


def test_the_truncated_power_law_is_the_best_of_a_grid() -> None:
    tail_N = drawn("geometric")
    tail_N = tail_N[tail_N >= 10]
    x_X = np.arange(10.0, 3_000)
    best = max(
        -(a * np.log(tail_N) + b * tail_N).sum() - len(tail_N) * np.log(np.exp(-a * np.log(x_X) - b * x_X).sum())
        for a in np.arange(-1, 2, 0.05)
        for b in np.exp(np.arange(-5, 0, 0.05))
    )
    exponent = tail_fit(tail_N)[1]
    plain = -exponent * np.log(tail_N).sum() - len(tail_N) * np.log(zeta(exponent, 10))
    ratio, p = truncated_ratio(tail_N, 10, exponent)
    assert ratio < 0
    assert _powerlaw.chi2.isf(p, 1) / 2 == pytest.approx(best - plain, abs=0.05)


def test_power_laws_are_seldom_truncated() -> None:
    x_A = _powerlaw.EXPONENTS_A
    chances = []
    for seed in range(8):
        tail_N = drawn("power law", seed=seed)
        likelihood_A = -x_A * np.log(tail_N).sum() - len(tail_N) * np.log(zeta(x_A, 3))
        ratio, p = truncated_ratio(tail_N, 3, float(x_A[likelihood_A.argmax()]))
        assert ratio <= 0
        chances.append(p)
    assert np.mean(np.array(chances) < 0.05) <= 2 / 8


def test_a_long_power_law_is_called_one_and_its_exponent_is_right() -> None:
    found = fit_power_law(drawn("power law", 2_500), n_bootstrap=20)
    assert found.exponent == pytest.approx(2.5, abs=3 * found.exponent_error)
    assert found.p >= 0.1
    assert found.verdict == "power law" or found.verdict == "cannot be told: a log-normal fits as well"
    assert found.exponential > 0


def test_poisson_and_geometric_degrees_are_no_power_law() -> None:
    for name in ("poisson", "geometric"):
        assert fit_power_law(drawn(name, 3_000), n_bootstrap=20).verdict.startswith("no power law")


def test_fewer_than_50_tail_nodes_give_no_exponent_and_no_verdict() -> None:
    found = fit_power_law(drawn("power law", 45))
    assert found.verdict.startswith("cannot be told: the tail has")
    assert found.n_tail < 50
    assert np.isnan([found.exponent, found.p, found.lognormal, found.x_min]).all()
    assert fit_power_law(np.array([2, 2, 3])).verdict == "cannot be told: the degrees have fewer than three values"


def test_the_verdict_follows_from_p_and_the_ratios() -> None:
    wins = {"lognormal": (3.0, 0.01), "exponential": (4.0, 0.001), "truncated_power_law": (-0.5, 0.4)}
    assert verdict(0.5, wins) == "power law"
    assert verdict(0.02, wins) == "no power law: a true one fits as badly in 2 % of samples"
    assert (
        verdict(0.5, {**wins, "truncated_power_law": (-3.0, 0.01)}) == "no power law: a truncated power law fits better"
    )
    assert verdict(0.5, {**wins, "lognormal": (-0.2, 0.8)}) == "cannot be told: a log-normal fits as well"
    level = {**wins, "lognormal": (0.2, 0.8), "exponential": (1.0, 0.3)}
    assert verdict(0.5, level) == "cannot be told: a log-normal and an exponential fit as well"


def test_thresholds_must_agree() -> None:
    assert over_thresholds(["power law", "power law"]) == "power law"
    assert over_thresholds(["no power law: x", "no power law: y"]) == "no power law"
    assert over_thresholds(["power law", "no power law: y"]) == "cannot be told: it depends on the threshold"
    some = "no power law: at 1 of 2 thresholds, and it cannot be told at the others"
    assert over_thresholds(["cannot be told: x", "no power law: y"]) == some
    assert over_thresholds(["cannot be told: x", "power law"]) == "cannot be told at 1 of 2 thresholds"
