"""Annotation with held-out donors: PolyGene trained from scratch beside its baselines, one experiment a file.

    python -m benchmarks.models.annotation --data DIR             # OneK1K and Velmeshev, one donor split each
    python -m benchmarks.models.annotation --only perez --splits 3

Each split prepares a corpus, trains on the training donors, keeps the state with the best loss on the validation donors
and scores the test donors once. Bins are linear, the published setting. Baselines see the same cells, genes and donors.
The tables join the splits; intervals are percentiles of 1,000 resamples of the test donors, those of the gain are
paired. The last line is one JSON object.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.shared import command, effort, files
from benchmarks.shared.splits import join_runs
from polygene.corpus.prepare import PrepareConfig
from polygene.evaluation.evaluate import predict_split, summarise
from polygene.evaluation.test_cells import MODEL
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One file: what its phenotypes are called, and how long to learn."""

    file: str
    columns: dict[str, str] = field(default_factory=dict)
    epochs: int
    note: str = ""


EXPERIMENTS = {
    "onek1k": Experiment(file="onek1k_scdesignpop_multicell", epochs=6),
    "velmeshev": Experiment(
        file="velmeshev_asd_pfc_glia",
        columns={"sex": "sex_inferred"},
        epochs=6,
        note="sex was read off XIST and the Y genes per donor, so it can be learned; autism with held-out donors is "
        "reported because baselines learn donors here and fall below chance",
    ),
    "perez": Experiment(file="perez_sle_healthy_tcells", epochs=6, note="seven donors: two test donors a split"),
}
USUAL = ("onek1k", "velmeshev")
NETWORK = NetworkConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)
SHOWN = ("macro_f1", "accuracy", "log_loss", "mae_years", "mae_years_by_donor")
HEADLINE = {"macro_f1", "mae_years_by_donor"}


def run(experiment: Experiment, path: Path, folder: Path, seeds: list[int]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Prepare, train and score once a seed; the joined scores, and the seconds that training and scoring took."""
    runs, seconds = [], {"train": 0.0, "score": 0.0}
    for seed in seeds:
        corpus = effort.prepare(
            path,
            folder / f"corpus-{seed}",
            config=PrepareConfig(binning="linear", phenotypes=experiment.columns, seed=seed),
            overwrite=True,
        )
        recipe = Recipe(
            corpus=str(corpus.folder),
            out=str(folder / f"run-{seed}"),
            network=NETWORK,
            training=TrainingConfig(
                epochs=experiment.epochs, evaluations=3, learning_rate=2e-3, precision="bfloat16", seed=seed
            ),
        )
        started = time.perf_counter()
        model = effort.train(recipe)
        trained = time.perf_counter()
        runs.append(predict_split(model, corpus, seed=seed).tallies)
        seconds["train"] += trained - started
        seconds["score"] += time.perf_counter() - trained
    return summarise(join_runs(runs)), seconds


def tables(name: str, experiment: Experiment, scores: pd.DataFrame, n_splits: int) -> list[Table]:
    """One table a phenotype: value, its interval, and the paired interval of the gain over the reference."""
    laid_out = []
    for phenotype, rows in scores.groupby("phenotype", sort=False):
        table = Table(
            title=f"{name}: {phenotype}, donors held out, {n_splits} splits",
            caption=experiment.note,
            title_justify="left",
        )
        table.add_column("predictor")
        shown = [score for score in SHOWN if score in set(rows.score)]
        for score in shown:
            table.add_column(score.replace("_", " "))
        headline = next(score for score in shown if score in HEADLINE)
        table.add_column(f"gain over reference ({headline})".replace("_", " "))
        for predictor, of_predictor in rows.groupby("predictor", sort=False):
            by_score = of_predictor.set_index("score")
            gain = by_score.loc[headline]
            table.add_row(
                str(predictor),
                *(f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in (by_score.loc[score] for score in shown)),
                f"{gain.gain:+.3f} [{gain.gain_low:+.3f}, {gain.gain_high:+.3f}]",
            )
        laid_out.append(table)
    return laid_out


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=EXPERIMENTS, action="append", help="this experiment; may be given again")
    parser.add_argument("--splits", type=int, default=1, help="donor splits, from --seed on")
    parser.add_argument("--out", type=Path, help="keep corpora, checkpoints and scores here")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the experiments, print their tables, and return the headline scores."""
    console = Console(width=200)
    seeds = effort.few(range(options.seed, options.seed + options.splits))
    results: dict[str, Any] = {"seeds": seeds, "network": vars(NETWORK)}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only or effort.few(USUAL):
            experiment = EXPERIMENTS[name]
            try:
                path = files.locate(experiment.file, options.data)
            except files.MissingDataError as reason:
                console.print(f"skipped {name}: {reason}")
                continue
            folder = (options.out or Path(scratch)) / name
            scores, seconds = run(experiment, path, folder, seeds)
            if options.out:
                scores.to_csv(folder / "scores.csv", index=False)
            for table in tables(name, experiment, scores, len(seeds)):
                console.print(table)
            console.print(f"{name}: trained {seconds['train']:.0f} s, scored {seconds['score']:.0f} s, all splits\n")
            results[name] = summary(scores) | {"train_s": round(seconds["train"]), "epochs": experiment.epochs}
    return results


def main(argv: Sequence[str] | None = None) -> None:
    command.run("annotation", __doc__, measure, add_options, argv=argv)


def summary(scores: pd.DataFrame) -> dict[str, dict[str, object]]:
    """The headline score of every predictor, and whether PolyGene is at or above the reference."""
    found: dict[str, dict[str, object]] = {}
    for phenotype, rows in scores[scores.score.isin(HEADLINE)].groupby("phenotype", sort=False):
        of_model = rows[rows.predictor == MODEL].iloc[0]
        found[str(phenotype)] = {
            "score": of_model.score,
            "at_or_above_reference": bool(of_model.at_or_above),
            **{str(row.predictor): round(float(row.value), 4) for row in rows.itertuples()},
        }
    return found


if __name__ == "__main__":
    main()
