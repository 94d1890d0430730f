"""Does a degree distribution follow a power law? After Clauset, Shalizi and Newman 2009, SIAM Review 51:661.

Legend: N values, U distinct values that a tail may begin with, V all distinct values, A exponents of a grid.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import minimize
from scipy.special import zeta
from scipy.stats import chi2

from polygene.runtime import extras

FEWEST = 50
"""Nodes of a tail, below which there is neither exponent nor verdict: an exponent of 50 values has an error of 0.2."""
REFUSED, DECIDED = 0.1, 0.1
"""A power law is refused where so small a share of true power laws fits worse, and a ratio of likelihoods decides
where its p is below this; both as in the source."""
ALTERNATIVES = {
    "lognormal": "a log-normal",
    "exponential": "an exponential",
    "truncated_power_law": "a truncated power law",
}
TRUNCATED = "truncated_power_law"
SUMMED = 20_000
"""Degrees over which a truncated power law is normalised; what lies beyond is taken from the integral."""
CANNOT, NO, YES = "cannot be told", "no power law", "power law"
EXPONENTS_A = np.arange(1.01, 8.0, 0.01)
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """Test of one degree distribution.

    Attributes
    ----------
    n_nodes, n_tail
        Nodes with an edge; those of them in the tail, whose degree is `x_min` or more.
    x_min, exponent, exponent_error
        Where the tail begins, by the smallest Kolmogorov–Smirnov distance; its exponent by maximum likelihood. NaN
        where the tail has fewer than 50 nodes.
    distance, p
        The distance between the tail and the power law; the share of samples of that power law that lie farther from
        theirs.
    lognormal, exponential, truncated_power_law, *_p
        Log ratio of likelihoods, normalised, above 0 where the power law fits better; how often chance alone gives such
        a ratio.
    verdict
        "power law", "no power law" or "cannot be told", with the reason behind a colon.
    """

    n_nodes: int
    n_tail: int
    x_min: float = NAN
    exponent: float = NAN
    exponent_error: float = NAN
    distance: float = NAN
    p: float = NAN
    lognormal: float = NAN
    lognormal_p: float = NAN
    exponential: float = NAN
    exponential_p: float = NAN
    truncated_power_law: float = NAN
    truncated_power_law_p: float = NAN
    verdict: str


def fit_power_law(degrees_N: np.ndarray, *, n_bootstrap: int = 100, seed: int = 0) -> PowerLaw:
    """Fit a power law to the tail of degrees and compare it with the alternatives; degrees of 0 are left out.

    Parameters
    ----------
    degrees_N
        Degrees of the nodes, whole numbers.
    n_bootstrap
        How many samples of the power law `p` rests on.
    seed
        Decides the samples.
    """
    degrees_N = np.sort(degrees_N[degrees_N > 0]).astype(np.int64)
    if len(np.unique(degrees_N)) < 3:
        why = f"{CANNOT}: the degrees have fewer than three values"
        return PowerLaw(n_nodes=len(degrees_N), n_tail=0, verdict=why)
    powerlaw = extras.load("powerlaw")
    with warnings.catch_warnings():  # of optimisers at the edge of their range
        warnings.simplefilter("ignore")
        ranges = {"alpha": [float(EXPONENTS_A[0]), float(EXPONENTS_A[-1])]}  # by default none above 3
        options = {"discrete": True, "estimate_discrete": False, "verbose": False}
        fit = powerlaw.Fit(degrees_N, parameter_ranges=ranges, **options)
        n_tail = int((degrees_N >= fit.xmin).sum())
        if n_tail < FEWEST:
            why = f"{CANNOT}: the tail has {n_tail} nodes, fewer than {FEWEST}"
            return PowerLaw(n_nodes=len(degrees_N), n_tail=n_tail, verdict=why)
        others = ("lognormal", "exponential")
        ratios = {name: fit.distribution_compare("power_law", name, normalized_ratio=True) for name in others}
    ratios[TRUNCATED] = truncated_ratio(degrees_N[degrees_N >= fit.xmin], int(fit.xmin), float(fit.alpha))
    p = bootstrap_p(degrees_N, int(fit.xmin), float(fit.alpha), n_bootstrap, seed)
    ratios = {name: (float(ratio), float(chance)) for name, (ratio, chance) in ratios.items()}
    return PowerLaw(
        n_nodes=len(degrees_N),
        n_tail=n_tail,
        x_min=float(fit.xmin),
        exponent=float(fit.alpha),
        exponent_error=float((fit.alpha - 1) / np.sqrt(n_tail)),
        distance=float(fit.D),
        p=p,
        **{name: ratio for name, (ratio, _) in ratios.items()},
        **{f"{name}_p": chance for name, (_, chance) in ratios.items()},
        verdict=verdict(p, ratios),
    )


def verdict(p: float, ratios: dict[str, tuple[float, float]]) -> str:
    """Put into words what follows from the fit and the ratios (log ratio, p) to the alternatives."""
    if p < REFUSED:
        return f"{NO}: a true one fits as badly in {100 * p:.0f} % of samples"
    better = [name for name, (ratio, chance) in ratios.items() if ratio < 0 and chance < DECIDED]
    if better:
        return f"{NO}: {ALTERNATIVES[better[0]]} fits better"
    level = [
        ALTERNATIVES[name]
        for name, (ratio, chance) in ratios.items()
        if name != TRUNCATED and not (ratio > 0 and chance < DECIDED)  # a truncated one holds the power law itself
    ]
    return f"{CANNOT}: {' and '.join(level)} fit{'s' if len(level) == 1 else ''} as well" if level else YES


def over_thresholds(verdicts: Sequence[str]) -> str:
    """Put the verdicts over a range of thresholds into one: "power law" takes all of them, and no other finding."""
    heads = [one.partition(":")[0] for one in verdicts]
    if len(set(heads)) == 1:
        return heads[0]
    if NO in heads and YES not in heads:
        return f"{NO}: at {heads.count(NO)} of {len(heads)} thresholds, and it cannot be told at the others"
    if NO in heads:
        return f"{CANNOT}: it depends on the threshold"
    return f"{CANNOT} at {heads.count(CANNOT)} of {len(heads)} thresholds"


def truncated_ratio(tail_N: np.ndarray, x_min: int, exponent: float) -> tuple[float, float]:
    """Compare the power law with x^-a e^-bx, which holds it (b = 0): (log ratio, normalised; p of a nested test).

    `powerlaw` computes the same through mpmath, in seconds where this takes hundredths.
    """
    x_X = np.arange(x_min, x_min + SUMMED, dtype=float)
    log_X = np.log(x_X)

    def log_norm(a: float, b: float) -> float:
        beyond = zeta(a, x_X[-1] + 1) * np.exp(-b * x_X[-1]) if a > 1 else 0.0
        return float(np.log(np.exp(-a * log_X - b * x_X).sum() + beyond))

    def loss(parameters: np.ndarray) -> float:
        a, b = float(parameters[0]), float(np.exp(parameters[1]))
        return a * np.log(tail_N).sum() + b * tail_N.sum() + len(tail_N) * log_norm(a, b)

    starts = [(exponent, -8.0), (1.0, -np.log(tail_N.mean()))]
    box = [(-5.0, 10.0), (-15.0, 3.0)]
    a, b = min((minimize(loss, start, method="Nelder-Mead", bounds=box) for start in starts), key=lambda one: one.fun).x
    log_b_N = -a * np.log(tail_N) - np.exp(b) * tail_N - log_norm(float(a), float(np.exp(b)))
    log_p_N = -exponent * np.log(tail_N) - np.log(zeta(exponent, x_min))
    difference_N = log_p_N - log_b_N
    ratio = min(float(difference_N.sum()), 0.0)  # the larger family is never the worse one
    spread = float(difference_N.std() * np.sqrt(len(tail_N)))
    return (ratio / spread if spread else 0.0), float(chi2.sf(-2 * ratio, 1))


def bootstrap_p(degrees_N: np.ndarray, x_min: int, exponent: float, n_bootstrap: int, seed: int) -> float:
    """Share of samples, from the degrees below `x_min` and the power law above it, that lie farther from their fit."""
    rng = np.random.default_rng(seed)
    observed = tail_fit(degrees_N)[2]
    body = degrees_N[degrees_N < x_min]
    farther = 0
    for _ in range(n_bootstrap):
        n_body = rng.binomial(len(degrees_N), len(body) / len(degrees_N))
        tail = sample_power_law(rng, len(degrees_N) - n_body, x_min, exponent)
        low = rng.choice(body, n_body) if n_body else body[:0]
        farther += tail_fit(np.concatenate([low, tail]))[2] >= observed
    return farther / n_bootstrap


def sample_power_law(rng: np.random.Generator, n: int, x_min: int, exponent: float) -> np.ndarray:
    """Draw whole numbers of a power law from `x_min` on, by bisection of its upper tail; none above 2³¹."""
    u_N, norm = 1 - rng.random(n), zeta(exponent, x_min)
    low_N, high_N = np.full(n, x_min), np.full(n, 1 << 31)
    while (high_N - low_N > 1).any():
        middle_N = (low_N + high_N) // 2
        above_N = zeta(exponent, middle_N) / norm >= u_N
        low_N, high_N = np.where(above_N, middle_N, low_N), np.where(above_N, high_N, middle_N)
    return low_N


def tail_fit(degrees_N: np.ndarray) -> tuple[int, float, float]:
    """Find (x_min, exponent, distance) as `powerlaw.Fit` does, all candidates at once: a bootstrap takes hundreds."""
    values_V, counts_V = np.unique(degrees_N, return_counts=True)
    if len(values_V) < 2:
        return int(values_V[0]), float(EXPONENTS_A[-1]), 1.0
    from_U = values_V[:-1]
    n_from_V = counts_V[::-1].cumsum()[::-1]
    logs_V = (counts_V * np.log(values_V))[::-1].cumsum()[::-1]
    likelihood_UA = (
        -n_from_V[:-1, None] * np.stack([_log_zeta(int(u)) for u in from_U]) - logs_V[:-1, None] * EXPONENTS_A
    )
    exponent_U = EXPONENTS_A[likelihood_UA.argmax(axis=1)]
    norm_U1 = zeta(exponent_U, from_U)[:, None]
    here_UV = values_V >= from_U[:, None]
    expected_UV = 1 - zeta(exponent_U[:, None], values_V + 1) / norm_U1
    n_U1 = n_from_V[:-1, None]
    observed_UV = 1 - (n_from_V - counts_V) / n_U1
    distance_U = np.where(here_UV, np.abs(observed_UV - expected_UV), 0).max(axis=1)
    best = int(distance_U.argmin())
    return int(from_U[best]), float(exponent_U[best]), float(distance_U[best])


@lru_cache(maxsize=4_096)
def _log_zeta(x_min: int) -> np.ndarray:
    return np.log(zeta(EXPONENTS_A, x_min))
