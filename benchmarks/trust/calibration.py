"""Calibration and sets: how right predictions are beside how sure, and how often sets of labels hold the true one.

    python -m benchmarks.trust --data DIR --only calibration

A network a file, with as many validation donors as sets at 0.9 need: temperatures and sets are learned from them at
the end of training, and scored on test donors. Intervals are donor bootstraps. One split says little of a coverage
(five to ten test donors); `--seed` gives others.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.shared import effort
from benchmarks.shared.studies import WIDE, held_out_widely
from polygene.evaluation.reliability import ALL_LABELS, Reliability, score_reliability
from polygene.evaluation.tables import interval, number
from polygene.evaluation.test_cells import CellBlocks, model_predictions


def run(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Train and score a network of every file, and print the tables."""
    results: dict[str, list[Reliability]] = {}
    for name in effort.few(WIDE):
        model, corpus = held_out_widely(name, folder, data=data, seed=seed)
        test = corpus.split("test")
        predictions, _ = model_predictions(model, CellBlocks(corpus, test))
        results[name] = [score_reliability(model, corpus.split("train"), test, predictions, seed=seed)]
        Console(width=220).print(table(name, results[name]))
    return summary(results)


def joined(splits: list[Reliability]) -> pd.DataFrame:
    """A row a phenotype and split: calibration, and the sets of all labels."""
    parts = []
    for seed, split in enumerate(splits):
        sets = split.sets[split.sets.label == ALL_LABELS].drop(columns=["calibration_donors", "cells", "donors"])
        parts.append(split.calibration.merge(sets, on="phenotype", how="left").assign(split=seed))
    return pd.concat(parts, ignore_index=True)


def summary(results: dict[str, list[Reliability]]) -> dict[str, Any]:
    """The last line: means over splits; a phenotype is void if it does not beat the marginal in every split."""
    line: dict[str, Any] = {"ece": {}, "ece_void": {}, "coverage": {}, "set_size": {}}
    for name, splits in results.items():
        for phenotype, rows in joined(splits).groupby("phenotype", sort=False):
            key = f"{name}: {phenotype}"
            line["ece" if rows.informative.all() else "ece_void"][key] = round(float(rows.ece.mean()), 3)
            if rows.coverage.notna().any():
                line["coverage"][key] = round(float(rows.coverage.mean()), 3)
                line["set_size"][key] = round(float(rows["size"].mean()), 2)
    return line


def table(name: str, splits: list[Reliability]) -> Table:
    """Lay out calibration beside the marginal, and sets."""
    laid_out = Table(title=f"{name}, donors held out, sets at 0.9", title_justify="left")
    for column in (
        "phenotype", "split", "calibration donors", "temperature", "ECE", "log loss", "of the marginal", "Brier",
        "of the marginal", "informative", "coverage by donor", "set size", "abstained", "off, and why",
    ):  # fmt: skip
        laid_out.add_column(column)
    for row in joined(splits).to_dict("records"):
        laid_out.add_row(
            row["phenotype"],
            str(row["split"]),
            str(row["calibration_donors"]),
            number(row["temperature"], ".2f"),
            interval(row, "ece"),
            interval(row, "log_loss"),
            number(row["marginal_log_loss"]),
            number(row["brier"]),
            number(row["marginal_brier"]),
            "yes" if row["informative"] else "void",
            interval(row, "coverage"),
            number(row["size"], ".2f"),
            number(row["abstained"]),
            f"{row['off']:+.3f}: {row['why']}" if isinstance(row["why"], str) else "",
        )
    return laid_out
