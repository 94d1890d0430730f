"""Lay out the tables of studies never seen from the kept results; `recipes.pages` puts them into docs/tables.md."""

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.models.tables import markdown

COLUMNS = {
    "cells": "cells",
    "accuracy": "right",
    "coverage_external": "sets hold",
    "set_size": "labels in a set",
    "auroc_wrong": "AUROC of wrong labels: error",
    "auroc_wrong_1_minus_probability": "1 − probability",
    "auroc_wrong_set_size": "set size",
    "auroc_wrong_distance_to_profiles": "distance to profiles",
    "auroc_wrong_novelty": "novelty",
    "ece_external": "ECE: error",
    "ece_probability": "probability",
    "flagged": "unknown",
    "vote_gain": "vote adds",
    "majority_gain": "majority adds",
}


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """Lay out a Markdown table, line by line."""
    return markdown([list(head), *([_text(value) for value in row] for row in rows)]).splitlines()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 50 else f"{value:.2f}"
    return "" if value is None else str(value)


def of_calibration(results: Mapping[str, Any]) -> list[str]:
    """Lay out what was learned from left-out studies, each group by the others."""
    lines = [f"Left-out studies, each group by the others (`benchmarks.models.calibrate`, {_where(results)}):", ""]
    for what, (one, other) in (("sets", ("coverage", "size")), ("errors", ("auroc", "ece"))):
        scores = results[what]
        groups = list(next(iter(scores.values()))["by_group"])
        rows = [
            [name, row[one], row[other], *(_text(row["by_group"][group][one]) for group in groups)]
            for name, row in scores.items()
        ]
        lines += [*table([f"{what} by", one, other, *groups], rows), ""]
    return lines


def of_studies(results: Mapping[str, Any]) -> list[str]:
    """Lay out the external studies and the donors of each model."""
    lines = [f"External studies (`benchmarks.trust --only studies`, {_where(results)}):", ""]
    for name, scores in {results["model"]: results, **results["other_models"]}.items():
        columns = {key: title for key, title in COLUMNS.items() if key == "cells" or scores.get(key) is not None}
        rows = [
            [study, *(int(row[key]) if key == "cells" else row.get(key) for key in columns)]
            for study, row in scores["by_study"].items()
        ]
        rows.append(["mean", *(None if key == "cells" else scores[key] for key in columns)])
        lines += [*table([name, *columns.values()], rows), ""]
        told = {what: one for what, one in scores["novel_tissue_by"].items() if one is not None}
        if told:
            aurocs = ", ".join(f"{what} {one:.2f}" for what, one in told.items())
            lines += [f"AUROC of telling cell lines, which no model learned, from these studies: {aurocs}.", ""]
        if donors := scores["donor_scores"]:
            who = [key for key in next(iter(donors.values())) if key not in ("donors", "score")]
            rows = [[p, row["donors"], row["score"], *(row.get(one) for one in who)] for p, row in donors.items()]
            lines += [*table(["test donors", "donors", "score", *who], rows), ""]
    return lines


def _where(results: Mapping[str, Any]) -> str:
    return f"{results['date']}, seed {results['seed']}, {results['hardware']['processor']}"
