"""Calibration and sets: how right answers are beside how sure, and how often sets of labels hold the true one.

    python -m benchmarks.trust --data DIR --only calibration

A network a file and donor split, with as many validation donors as sets at 0.9 need: temperatures and sets are learned
from them at the end of training, and scored on test donors. Intervals are donor bootstraps within a split. One split
says little of a coverage (five to ten test donors), so splits are averaged.
"""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.shared.studies import trained
from polygene.evaluation.reliability import reliability
from polygene.evaluation.test_cells import AskedCells, of_model

FRACTIONS = {"onek1k": (0.5, 0.25, 0.25), "velmeshev": (0.39, 0.39, 0.22)}
"""Of 40 donors ten calibrate, of 23 nine: so many need sets at 0.9 (a tenth, the default, gives four and two)."""
N_SPLITS = 2


def run(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Train and score every split of every file, and print the tables."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in FRACTIONS:
        for split in range(seed, seed + N_SPLITS):
            prepared = {"fractions": FRACTIONS[name]}
            model, corpus = trained(name, folder, data=data, seed=split, tag="calibration", prepared=prepared)
            test = corpus.split("test")
            answers, _ = of_model(model, AskedCells(corpus, test))
            scored = reliability(model, corpus.split("train"), test, answers, seed=seed)
            found.setdefault(name, []).append(scored)
        Console(width=220).print(table(name, found[name]))
    return summary(found)


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The last line: means over splits; a phenotype is void if it does not beat the marginal in every split."""
    line: dict[str, Any] = {"ece": {}, "ece_void": {}, "coverage": {}, "set_size": {}}
    for name, splits in found.items():
        for phenotype in dict.fromkeys(row["phenotype"] for split in splits for row in split["calibration"]):
            rows = [row for split in splits for row in split["calibration"] if row["phenotype"] == phenotype]
            sets = [row for split in splits for row in split["sets"] if row["phenotype"] == phenotype]
            key = f"{name}: {phenotype}"
            where = "ece" if all(row["counts"] for row in rows) else "ece_void"
            line[where][key] = round(float(np.mean([score(row, "PolyGene", "ece")["value"] for row in rows])), 3)
            if held := [row for row in sets if "coverage" in row]:
                line["coverage"][key] = round(float(np.mean([row["coverage"] for row in held])), 3)
                line["set_size"][key] = round(float(np.mean([row["size"] for row in held])), 2)
    return line


def score(row: dict[str, Any], predictor: str, name: str) -> dict[str, float]:
    """One score of a row of `calibration`."""
    return next(one for one in row["scores"] if one["predictor"] == predictor and one["score"] == name)


def table(name: str, splits: list[dict[str, Any]]) -> Table:
    """A row a phenotype and split: calibration beside the marginal, and sets."""
    laid_out = Table(title=f"{name}, donors held out, sets at 0.9", title_justify="left")
    for column in (
        "phenotype", "split", "calibration donors", "temperature", "ECE", "log loss", "of the marginal", "Brier",
        "of the marginal", "counts", "coverage by donor", "set size", "abstained", "off, and why",
    ):  # fmt: skip
        laid_out.add_column(column)
    for number, split in enumerate(splits):
        for row, held in zip(split["calibration"], split["sets"], strict=True):
            shown = [score(row, *which) for which in (("PolyGene", "ece"), ("PolyGene", "log_loss"))]
            others = [
                score(row, *which)["value"]
                for which in (("marginal", "log_loss"), ("PolyGene", "brier"), ("marginal", "brier"))
            ]
            temperature = "–" if row["temperature"] is None else f"{row['temperature']:.2f}"
            cells = [row["phenotype"], str(number), str(row["calibration_donors"]), temperature]
            cells += [f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in shown]
            cells += [*(f"{value:.3f}" for value in others), "yes" if row["counts"] else "void"]
            if "coverage" in held:
                cells += [f"{held['coverage']:.3f} [{held['low']:.3f}, {held['high']:.3f}]", f"{held['size']:.2f}"]
                cells += [f"{held['abstained']:.3f}", f"{held['off']:+.3f}: {held['why']}" if held["why"] else ""]
            laid_out.add_row(*cells)
    return laid_out
