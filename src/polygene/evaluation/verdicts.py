"""What a model can be trusted for, judged by fixed rules and said in words."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from polygene.evaluation.evaluate import POOLED, YEARS
from polygene.evaluation.metrics import LOWER_IS_BETTER
from polygene.evaluation.tables import nested
from polygene.evaluation.tables import number as shown_as
from polygene.evaluation.test_cells import MODEL, REFERENCE, YEARS_REFERENCE

TRIVIAL = ("majority", "source majority", "measured genes + library size", "training mean")
"""Baselines that look at no gene's expression: what they reach is no merit."""
DEPENDABLE, DEPENDABLE_YEARS = 0.8, 5.0
"""A phenotype can be relied on if macro-F1 is surely (lower end of its interval) at least this, the error of an age
surely at most so many years. A convention; the page says it."""

CALIBRATED = 0.05
"""Probabilities are called calibrated if they are off by at most so much on average (expected calibration error)."""
NAMES = {"macro_f1": "macro-F1", "mae_years": "years off, by cell", "mae_years_by_donor": "years off, by donor"}


def verdicts(results: Mapping[str, Any], scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Judge each phenotype by fixed rules, which the page states.

    Returns
    -------
    For each: `phenotype`; `level`, "yes" (surely above 0.8, donors held out), "care" (surely above what needs no
    expression, and its probabilities beat the frequencies in training), "no" or "untested"; and `says`, sentences.
    """
    found = []
    names = list(dict.fromkeys(scores.phenotype))
    for name in names:
        if name.endswith(POOLED) or f"{name}{YEARS}" in names:
            continue
        of_name = scores[scores.phenotype == name].set_index(["score", "predictor"])
        main = "mae_years_by_donor" if name.endswith(YEARS) else "macro_f1"
        ours, theirs = of_name.loc[(main, MODEL)], of_name.loc[main].drop(MODEL)
        sign = -1 if main in LOWER_IS_BETTER else 1
        trivial = theirs[theirs.index.isin(TRIVIAL)].value * sign
        surely = ours.low if sign > 0 else -ours.high
        sound = surely >= (DEPENDABLE if sign > 0 else -DEPENDABLE_YEARS) and results["split"] != "random"
        void = any(one["phenotype"] == name and not one["counts"] for one in results.get("calibration", ()))
        level = "no" if void or pd.isna(surely) or surely <= trivial.max() else "yes" if sound else "care"
        says = _years_say(of_name, trivial) if sign < 0 else _labels_say(name, of_name, trivial, results)
        says += [] if sign < 0 else _sureness_says(name, results)
        found.append({"phenotype": name, "level": level, "says": says})
    found.sort(key=lambda verdict: ("yes", "care", "no").index(verdict["level"]))
    untested = [name for name in results["not_scored"] if f"{name}{YEARS}" not in names]
    why = "Every test cell of a source has the same label, or too few donors have another: nothing can be said."
    return [*found, *({"phenotype": name, "level": "untested", "says": [why]} for name in untested)]


def _labels_say(name: str, of_name: pd.DataFrame, trivial: pd.Series, results: Mapping[str, Any]) -> list[str]:
    accuracy, f1 = of_name.loc[("accuracy", MODEL)], of_name.loc[("macro_f1", MODEL)]
    says = [
        f"Right for {percent(accuracy.value)} of the test cells ({percent(accuracy.low)} to "
        f"{percent(accuracy.high)}); with rare labels counting as much as common ones, macro-F1 is "
        f"{number(f1.value)} ({number(f1.low)} to {number(f1.high)}). Without looking at any gene's expression, "
        f"“{trivial.idxmax()}” reaches {number(trivial.max())}.",
        _beside(f1, REFERENCE, "macro-F1"),
    ]
    classes = results.get("classes", {}).get(name, {}).get(MODEL, ())
    weak = sorted((row for row in classes if row["f1"] < DEPENDABLE), key=lambda row: row["f1"])
    if weak:
        named = ", ".join(f"{row['label']} ({number(row['f1'])})" for row in weak[:5])
        more = f" and {len(weak) - 5:,} more" if len(weak) > 5 else ""
        says.append(f"Labels with F1 below {DEPENDABLE}: {named}{more}.")
    elif classes:
        says.append(f"Each of its {len(classes):,} labels has F1 of {DEPENDABLE} or more.")
    if alone := [row["label"] for row in classes if row["donors"] == 1]:
        says.append(f"A single test donor has {', '.join(alone[:5])}: of that nothing general can be said.")
    return says


def _sureness_says(name: str, results: Mapping[str, Any]) -> list[str]:
    """Say what its probabilities and its sets of labels are worth."""
    says = []
    if one := nested(results.get("calibration", ()), "phenotype").get(name):
        ece = nested(one["scores"], "predictor", "score")[MODEL]["ece"]
        off = f"{percent(ece['value'])} off on average ({percent(ece['low'])} to {percent(ece['high'])})"
        word = "taken at their word" if ece["value"] <= CALIBRATED else "misleading"
        worthless = f"Its probabilities are worth no more than an answer that looks at no cell: {off}."
        says.append(f"Its probabilities can be {word}: {off}." if one["counts"] else worthless)
    if "coverage" in (one := nested(results.get("sets", ()), "phenotype").get(name, {})):
        held = f"{percent(one['coverage'])} ({percent(one['low'])} to {percent(one['high'])})"
        asked = f"Sets meant to hold the true label of {percent(one['asked'])} of cells"
        says.append(f"{asked} hold that of {held}, with {one['size']:.2f} labels a set.")
    return says


def _years_say(of_name: pd.DataFrame, trivial: pd.Series) -> list[str]:
    ours = of_name.loc[("mae_years_by_donor", MODEL)]
    return [
        f"Off by {ours.value:.1f} years a donor on average ({ours.low:.1f} to {ours.high:.1f}). "
        f"Giving everybody the mean age of training is off by {-trivial.max():.1f} years.",
        _beside(ours, YEARS_REFERENCE, "years"),
    ]


def _beside(ours: pd.Series, reference: str, unit: str) -> str:
    """Say whether the model can be told from its reference."""
    if pd.isna(ours.gain_low):
        return f"It cannot be compared with {reference} on these cells."
    word = "Better than" if ours.gain_low > 0 else "Worse than" if ours.gain_high < 0 else "Level with"
    say = "+.1f" if unit == "years" else "+.3f"
    gain, low, high = (shown_as(value, say) for value in (ours.gain, ours.gain_low, ours.gain_high))
    return f"{word} {reference} on the same cells: {gain} {unit} in PolyGene's favour ({low} to {high})."


def number(value: float | None) -> str:
    """Three decimals, or a dash for what could not be computed."""
    return shown_as(value)


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    return shown_as(value, "+z.3f")


def percent(value: float | None) -> str:
    """A share in percent."""
    return "–" if value is None or pd.isna(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def points(value: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{shown_as(100 * value, '+z.1f')} points"


def years(value: float | None) -> str:
    """Years."""
    return shown_as(value, "z.1f")


def signed_years(value: float | None) -> str:
    """A difference of years, with its sign."""
    return shown_as(value, "+z.1f")


def words(name: str) -> str:
    """A name of the results as a reader says it: "macro_f1" is macro-F1."""
    return NAMES.get(name, name.replace("_", " "))
