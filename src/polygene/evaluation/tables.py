"""What `evaluate` returned, laid out as tables for the eye; needs no torch."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rich.table import Table

HELD_OUT = {
    "donor": "split by donor, donors held out",
    "study": "split by study, studies held out",
    "random": "random split, cells, not donors, held out",
}
SHOWN = ("macro_f1", "accuracy", "balanced_accuracy", "log_loss", "mae_years", "mae_years_by_donor")
MOST_ROWS = 40
"""Labels of a table of sets; the rest is counted, metrics.json has all."""


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Lay out what `evaluate` returned, part by part, each with the word that says how the cells were held out."""
    held_out = HELD_OUT[results["split"]]
    resampled = f"over {results['donors']} resampled donors" if results["donors"] else "over resampled cells, no donors"
    laid_out = []
    for phenotype, of_phenotype in nested(results["scores"], "phenotype", "predictor", "score").items():
        shown = [score for score in SHOWN if score in next(iter(of_phenotype.values()))]
        table = _table(f"{phenotype}: {held_out}; 95 % intervals {resampled}", "predictor", *map(_words, shown))
        for predictor, by_score in of_phenotype.items():
            table.add_row(predictor, *(interval(by_score[score]) for score in shown))
        laid_out.append(table)
    if results["calibration"]:
        laid_out.append(calibration_table(results, held_out))
    if any("coverage" in one for one in results["sets"]):
        laid_out.append(sets_table(results, held_out))
    if results["hierarchy"]:
        laid_out.append(hierarchy_table(results["hierarchy"], held_out))
    laid_out += [ages_table(name, ages, held_out) for name, ages in results["ages"].items()]
    laid_out.append(genes_table(results["genes"], held_out))
    if results["unknown"]:
        laid_out.append(unknown_table(results["unknown"], held_out))
    return laid_out


def calibration_table(results: Mapping[str, Any], held_out: str) -> Table:
    """Lay out how right answers are beside how sure, see `reliability.reliability`."""
    table = _table(
        f"how sure answers are; calibration (ECE) is void unless log loss beats both answers that look at no cell, the "
        f"marginal and equal shares; AURC: mean share of errors, most sure cells first: {held_out}",
        "phenotype", "ECE", "log loss", "marginal", "equal shares", "Brier score", "marginal", "AURC", "temperature",
    )  # fmt: skip
    for one, sets in zip(results["calibration"], results["sets"], strict=True):
        scores = nested(one["scores"], "predictor", "score")
        ours, marginal, uniform = scores["PolyGene"], scores["marginal"], scores["uniform"]
        table.add_row(
            one["phenotype"],
            interval(ours["ece"]) + ("" if one["counts"] else ", void"),
            interval(ours["log_loss"]),
            *(number(constant["log_loss"]["value"]) for constant in (marginal, uniform)),
            interval(ours["brier"]),
            number(marginal["brier"]["value"]),
            number(sets["risk_coverage"]["aurc"]),
            f"{one['temperature']:.2f}, {one['calibration_donors']} {one['unit']}s" if one["temperature"] else "–",
        )
    return table


def sets_table(results: Mapping[str, Any], held_out: str) -> Table:
    """Lay out how often sets of labels hold the true one, see `reliability.reliability`."""
    (asked,) = {one["asked"] for one in results["sets"]}
    columns = ("share that holds it", "labels in it", "abstained", "right if one", "threshold from", "off, and why")
    table = _table(f"sets of labels at coverage {asked:g}, averaged by donor: {held_out}", "label", *columns)
    for one, unit in zip(results["sets"], (one["unit"] for one in results["calibration"]), strict=True):
        if "coverage" not in one:
            continue
        whole = number(one["size"], ".2f"), number(one["abstained"]), number(one["single_accuracy"])
        table.add_row(f"{one['phenotype']}, all", interval(one, "coverage"), *whole, "", _off(one))
        for row in one["by_label"][:MOST_ROWS]:
            basis = f"{row['basis']}, {row['calibration_donors']} {unit}s"
            size = number(row["size"], ".2f")
            table.add_row(f"  {row['label']}", interval(row, "coverage"), size, "", "", basis, _off(row))
        if (more := len(one["by_label"]) - MOST_ROWS) > 0:
            table.add_row(f"  {more:,} more are in the file of the scores")
    return table


def hierarchy_table(hierarchy: Mapping[str, Any], held_out: str) -> Table:
    """Lay out what backing off in the Cell Ontology does, see `evaluation.score_hierarchy`."""
    shares = ("at_label", "correct", "finer", "wrong", "information")
    found, labels = hierarchy["terms"]
    title = (
        f"cell types, backed off to the nearest term that is {hierarchy['level']:.0%} sure, {found} of {labels} labels"
    )
    table = _table(f"{title} in the Cell Ontology: {held_out}", "answer", *map(_words, shares))
    for key, name in (("backed_off", "backed off"), ("label", "most probable label")):
        table.add_row(name, *(number(hierarchy[key][share]) for share in shares))
    return table


def ages_table(name: str, ages: Mapping[str, Any], held_out: str) -> Table:
    """Lay out what the intervals of ages hold, see `ages.interval_scores`."""
    table = _table(f"{name} in years, {ages['level']:.0%} intervals: {held_out}", "", "cells covered", "years wide")
    table.add_row("by donor", interval(ages["coverage"]), interval(ages["years_wide"], shown=".1f"))
    return table


def genes_table(genes: Mapping[str, Mapping[str, Any]], held_out: str) -> Table:
    """Lay out how hidden genes are restored, see `evaluation.score_genes`."""
    names = list(next(iter(genes.values())))
    title = f"hidden genes (15 %), cells of all donors together, without intervals: {held_out}"
    table = _table(title, "predictor", *map(_words, names))
    for predictor, scores in genes.items():
        table.add_row(predictor, *(number(scores[name]) for name in names))
    return table


def unknown_table(unknown: Mapping[str, Any], held_out: str) -> Table:
    """Lay out what `unknown_cells.score_novelty` returned."""
    title = f"known cells flagged as unknown, every donor counting the same: {held_out}"
    table = _table(title, "stated", "found", "donors", "cells")
    found = interval(unknown, "false_alarms")
    table.add_row(number(unknown["stated"]), found, str(unknown["donors"] or "–"), f"{unknown['cells']:,}")
    return table


def nested(rows: Iterable[Mapping[str, Any]], *keys: str) -> dict[str, Any]:
    """Find rows by their keys, one within the other: phenotype → predictor → score → row."""
    found: dict[str, Any] = {}
    for row in rows:
        at = found
        for key in keys[:-1]:
            at = at.setdefault(row[key], {})
        at[row[keys[-1]]] = row
    return found


def interval(row: Mapping[str, Any], name: str = "value", shown: str = "z.3f") -> str:
    """Write a value and its interval."""
    return "{} [{}, {}]".format(*(number(each, shown) for each in ends(row, name)))


def ends(row: Mapping[str, Any], name: str = "value") -> tuple[Any, Any, Any]:
    """Find a value and its interval: `<name>_low` and `<name>_high`, or `low` and `high` where a row has but one."""
    low, high = (f"{name}_low", f"{name}_high") if f"{name}_low" in row else ("low", "high")
    return row[name], row[low], row[high]


def number(value: float | None, shown: str = "z.3f") -> str:
    """A number in this format, with a true minus, or a dash for what could not be computed."""
    return "–" if value is None or np.isnan(value) else f"{value:{shown}}".replace("-", "−")


def _off(row: Mapping[str, Any]) -> str:
    return f"{number(row['off'], '+z.3f')}: {row['why']}" if row["why"] else "as asked"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _words(name: str) -> str:
    return name.replace("_", " ")
