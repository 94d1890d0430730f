"""Lay out the tables of studies never seen from the kept results; `recipes.pages` puts them into docs/tables.md."""

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.shared.markdown import markdown

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
    "vote_gain": "vote: more right",
    "vote_broader": "true but broader",
    "vote_wrong_less": "fewer wrong",
    "within_gain": "cells within the vote: more right",
    "majority_gain": "majority: more right",
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


def calibration(results: Mapping[str, Any]) -> str:
    """Lay out calibration error and sets of small networks, by study and phenotype."""
    ece = {**results["ece"], **results["ece_void"]}
    rows = [
        [
            key,
            ece[key],
            "no" if key in results["ece_void"] else "yes",
            results["coverage"].get(key),
            results["set_size"].get(key),
        ]
        for key in ece
    ]
    head = ["study: phenotype", "calibration error", "beats the frequencies", "sets at 0.9 hold", "labels in a set"]
    return "\n".join(table(head, rows))


def leakage(results: Mapping[str, Any]) -> str:
    """Lay out what cells of training donors would flatter."""
    rows = []
    for study, gaps in results["leakage_gap"].items():
        for key, (seen, held_out, gap, low, high) in gaps.items():
            who, _, score = key.partition(": ")[2].rpartition(", ")
            if who in WHO and score in ("macro_f1", "mae_years_by_donor"):
                what = key.partition(":")[0] + (" in years" if "years" in score else "")
                rows.append([study, what, who, seen, held_out, f"{gap:+.2f} [{low:+.2f}, {high:+.2f}]"])
    return "\n".join(table(["study", "predicted", "by", "cells of training donors", "of test donors", "gap"], rows))


WHO = ("PolyGene", "logistic regression", "ridge regression")


def conditions(results: Mapping[str, Any]) -> str:
    """Lay out what each given phenotype adds."""
    rows = [
        [
            row["phenotype"],
            row["given"],
            row["value"],
            f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]",
        ]
        for row in results["conditions"]
        if row["score"] == "accuracy" and row["given"] != "nothing"
    ]
    return "\n".join(table(["predicted", "given", "accuracy", "gain"], rows))


def ages(results: Mapping[str, Any]) -> str:
    """Lay out the error of ages in years."""
    rows = [
        [
            who,
            one["value"],
            f"{one['low']:.2f} to {one['high']:.2f}",
            f"{one['gain']:+.2f} [{one['gain_low']:+.2f}, {one['gain_high']:+.2f}]",
        ]
        for who, one in results["age_mae_years"].items()
    ]
    return "\n".join(table(["by", "years off", "95 %", "gain over ridge regression"], rows))


def hierarchy(results: Mapping[str, Any]) -> str:
    """Lay out what backing off gains, and what it costs."""
    columns = {"correct": "correct", "at_label": "at the label", "wrong": "wrong", "information": "information"}
    rows = [
        [study, who, kind, *(f"{values[column]:.3f}" for column in columns)]
        for study, of in results["hierarchy"].items()
        for who, kinds in of["scores"].items()
        for kind, values in kinds.items()
    ]
    return "\n".join(table(["study", "predictor", "answer", *columns.values()], rows))


def novelty(results: Mapping[str, Any]) -> str:
    """Lay out the AUROC of every score, a column a kind of cells that training lacked, the best scores first."""
    found = results["ood_auroc"]
    scores = list(next(iter(found.values())))
    mean = {score: sum(of[score] for of in found.values()) / len(found) for score in scores}
    shares = [score for score in scores if "flagged" in score]
    order = sorted((score for score in scores if score not in shares), key=lambda score: -mean[score])
    rows = [[_named(score), *(of[score] for of in found.values()), mean[score]] for score in (*order, *shares)]
    return "\n".join(table(["score", *found, "mean"], rows))


def _named(score: str) -> str:
    """Name a score by the words of the pages."""
    return score.replace("question state", "state of the query").replace("hidden genes", "masked genes")


SECTIONS = {one.__name__: one for one in (calibration, leakage, conditions, ages, hierarchy, novelty)}


def _where(results: Mapping[str, Any]) -> str:
    return f"{results['date']}, seed {results['seed']}, {results['hardware']['processor']}"
