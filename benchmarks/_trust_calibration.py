"""Calibration and sets: how right answers are beside how sure, and how often sets of labels hold the true one.

    python benchmarks/_trust_calibration.py --data DIR

A network a file and donor split, with as many validation donors as sets at 0.9 need: temperatures and sets are learned
from them at the end of training, and scored on test donors. Intervals are donor bootstraps within a split. One split
says little of a coverage (five to ten test donors), so splits are averaged.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import _data
from _train import NETWORK, STUDIES
from polygene.checkpoint import PolyGene
from polygene.corpus import Corpus
from polygene.prepare import PrepareConfig, prepare
from polygene.recipe import Recipe, TrainingConfig
from polygene.reliability import reliability
from polygene.training import train

FRACTIONS = {"onek1k": (0.5, 0.25, 0.25), "velmeshev": (0.39, 0.39, 0.22)}
"""Of 40 donors ten calibrate, of 23 nine: so many need sets at 0.9 (a tenth, the default, gives four and two)."""
N_SPLITS = 3


def trained(name: str, folder: Path, *, data: Path | None, seed: int) -> tuple[PolyGene, Corpus]:
    """Give the model of a split and its corpus; what is in the folder already is loaded."""
    study, corpus = STUDIES[name], folder / f"{name}-{seed}-calibration-corpus"
    if not corpus.exists():
        config = PrepareConfig(seed=seed, fractions=FRACTIONS[name], **study.prepared)
        prepare(_data.locate(study.file, data), corpus, config=config)
    training = TrainingConfig(epochs=study.epochs, evaluations=4, seed=seed)
    recipe = Recipe(
        corpus=str(corpus), out=str(folder / f"{name}-{seed}-calibration"), network=NETWORK, training=training
    )
    return train(recipe), Corpus(corpus)


def run(data: Path | None, seed: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Train and score every split of every file: what `reliability` returns, by file."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in FRACTIONS:
        for split in range(seed, seed + N_SPLITS):
            model, corpus = trained(name, folder, data=data, seed=split)
            scored = reliability(model, corpus.split("train"), corpus.split("test"), seed=seed)
            found.setdefault(name, []).append(scored)
    return found


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _data.add_data_option(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep corpora and models here")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = run(arguments.data, arguments.seed, arguments.out or Path(scratch))
    for name, splits in found.items():
        Console(width=220).print(table(name, splits))
    print(json.dumps(summary(found)))


if __name__ == "__main__":
    main()
