"""What the shipped models are worth on donors held out and on studies never seen, beside baselines, with intervals.

    python -m benchmarks.models --data DIR                    # makes the corpora again; baselines take hours
    python -m benchmarks.models --corpora DIR                 # made by benchmarks.models.corpus; keeps baselines there
    python -m benchmarks.models --corpora DIR --write         # also metrics.json["marks"] of the checkpoints

Scored are the test donors of every source that was split, and whole studies that no cell trains, nothing but expression
being given. A phenotype is scored within each source in which it varies: between sources, naming the source would be
enough, and pooled numbers are no targets. Baselines learn from the very same cells and genes, unmeasured genes being 0,
and are tuned on training donors. Intervals are percentiles of 1,000 resamples of the test donors (cells, where there
are fewer than three donors: these are too narrow); gains are paired. An answer below the true label, such as a memory
T cell for a T cell, is wrong in macro-F1 and right in the columns "by ontology", for every row alike. The last line is
one JSON object.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.models import corpus as making
from benchmarks.models import scores as scoring
from benchmarks.models import speed
from benchmarks.models import tables as laid
from benchmarks.models.baselines import Asked, Baselines, asked_cells
from benchmarks.shared import command, effort, files
from polygene.corpus.corpus import Corpus
from polygene.errors import PolyGeneError
from polygene.evaluation.metrics import expected_years
from polygene.evaluation.reliability import score_reliability
from polygene.evaluation.test_cells import MODEL, class_weight, donor_names
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import predict_labels
from polygene.model.recipe import Recipe
from polygene.model.shipped import MODELS, NAMES

USUAL = "pbmc3k_10x"
"""The file that speed is measured on: a usual one, with nearly all genes."""


def answers_of(model: PolyGene, asked: Asked) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Answer all phenotypes of the asked cells, and flag cells as unknown (None if the model cannot)."""
    names, known = model.tokenizer.schema.names, model.novelty
    parts = [predict_labels(model, cells, predict=names) for cells in asked.parts]
    answers = {name: np.concatenate([of_part[0][p] for of_part in parts]) for p, name in enumerate(names)}
    if known is None:
        return answers, None
    states_CD = np.concatenate([states[names.index(known.query)] for _, states in parts])
    return answers, known.score(states_CD) > 1


def judge(model: PolyGene, corpus: Corpus, folder: Path, *, seed: int) -> dict[str, Any]:
    """Score a model and its baselines: `rows` of `scores`, `calibration`, and cells flagged as `unknown`."""
    corpus.check(model.tokenizer.fingerprint())
    schema, train, test = corpus.tokenizer.schema, corpus.split("train"), corpus.split("test")
    asked = asked_cells(corpus, folder)
    weights = dict.fromkeys(schema.names, class_weight(model))
    baselines = Baselines(corpus, asked, folder, weights, seed=seed)
    answers, flagged_C = answers_of(model, asked)
    of_test = [answers[name][: len(test)] for name in schema.names]  # they stand before those of studies never seen
    rows = []
    for p, name in enumerate(schema.names):
        learned = train.labels_CP[:, p], donor_names(train, slice(None))
        if scored := scoring.scored_labels(asked, name, schema.labels[p], *learned):
            both = {MODEL: answers[name]} | baselines.probabilities(name)
            rows += scoring.label_rows(asked, name, schema.labels[p], scored, both, seed=seed)
        if name in asked.years:
            years = {MODEL: expected_years(answers[name], schema.years(name))} | baselines.years(name)
            rows += scoring.years_rows(asked, name, years, seed=seed)
    return {
        "rows": rows,
        "calibration": score_reliability(model, train, test, of_test, seed=seed).calibration.to_dict("records"),
        "unknown": None if flagged_C is None else unknown(model, asked, flagged_C),
    }


def unknown(model: PolyGene, asked: Asked, flagged_C: np.ndarray) -> dict[str, Any]:
    """Give the share of cells that is flagged as unknown, by source, and what was `stated`."""
    shares = {source: flagged_C[asked.table.sources_C == s] for s, source in enumerate(asked.sources)}
    found = {source: float(of_source.mean()) for source, of_source in shares.items() if len(of_source)}
    never = asked.sources[asked.n_corpus :]
    return {
        "stated": model.novelty.false_alarms if model.novelty else None,
        "test donors": {source: share for source, share in found.items() if source not in never},
        "studies never seen": {source: share for source, share in found.items() if source in never},
    }


def tables(name: str, results: Mapping[str, Any]) -> list[Table]:
    """Lay out the scores: a table a phenotype and source, then targets, calibration and unknown cells."""
    laid_out = []
    for row in results["rows"]:
        title = f"{name}: {row['phenotype']} in {row['source']}, {laid.support(row)}"
        head, *body = laid.score_table(row)
        laid_out.append(table(title, head, body))
    head, *body = laid.zero_shot_table(results["rows"])
    laid_out.append(table(f"{name}: studies never seen", head, body))
    head, *body = laid.target_table(results["targets"])
    laid_out.append(table(f"{name}: targets", head, body))
    head, *body = laid.calibration_table(results["calibration"])
    laid_out.append(table(f"{name}: calibration on test donors, the mean over sources", head, body))
    if results["unknown"]:
        head, *body = laid.unknown_table(results["unknown"])
        laid_out.append(table(f"{name}: cells flagged as unknown", head, body))
    return laid_out


def table(title: str, head: list[str], body: list[list[str]]) -> Table:
    laid_out = Table(*head, title=title, title_justify="left")
    for cells in body:
        laid_out.add_row(*cells)
    return laid_out


def plain(value: Any) -> Any:
    """Make numbers JSON's own, rounded, and NaN None."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 5) if np.isfinite(value) else None
    return value


def said(results: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten what was found to what the last line and metrics.json hold."""
    kept = ("ece", "log_loss", "marginal_log_loss", "informative")
    calibration = {one["phenotype"]: {name: one[name] for name in kept} for one in results["calibration"]}
    return plain(
        {
            "marks": results["marks"],
            "targets": results["targets"],
            "calibration": calibration,
            **{key: results[key] for key in ("unknown", "speed", "seed", "date", "machine")},
        }
    )


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """Write the marks into the metrics of the checkpoint, a file that is not hashed."""
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    judged = said(results)
    metrics |= {"marks": judged.pop("marks"), "judged": judged}
    path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpora", type=Path, metavar="DIR", help="made by benchmarks.models.corpus; else they are made again"
    )
    parser.add_argument("--model", action="append", metavar="PATH", help="a checkpoint folder; may be given again")
    parser.add_argument("--write", action="store_true", help="write the marks")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Score the models, print the tables, write marks where asked to, and return the short form of the scores."""
    scored: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        corpora = options.corpora or Path(scratch) / "corpora"
        try:
            for folder, model, corpus in models_of(options, corpora):
                name = f"polygene-{len(model.tokenizer.panel)}"
                scored[name] = results = results_of(name, folder, model, corpus, corpora, options.seed)
                for laid_out in tables(name, results):
                    Console(width=200).print(laid_out)
                print(f"{name}: {laid.speed_line(results['speed'])}\n", flush=True)
                if options.write:
                    write(folder, results)
        except (files.MissingDataError, making.MappingError, PolyGeneError) as error:
            sys.exit(str(error))
    return {name: said(results) for name, results in scored.items()}


def models_of(options: argparse.Namespace, corpora: Path) -> Iterator[tuple[Path, PolyGene, Corpus]]:
    """Folders, models and the corpora they are scored on; a smoke run trains a model of its own."""
    if options.smoke:
        corpus = making.make(options.data, corpora, [effort.GENES])[1][effort.GENES]
        folder = corpora / "model"
        yield folder, effort.train(Recipe(corpus=str(corpus.folder), out=str(folder))), corpus
        return
    folders = [Path(one) for one in options.model or (MODELS / name for name in NAMES)]
    models = {folder: PolyGene.from_pretrained(folder) for folder in folders}
    if not options.corpora:
        making.make(options.data, corpora, sorted({len(one.tokenizer.panel) for one in models.values()}))
    for folder, model in models.items():
        yield folder, model, Corpus(corpora / f"corpus-{len(model.tokenizer.panel)}")


def results_of(name: str, folder: Path, model: PolyGene, corpus: Corpus, corpora: Path, seed: int) -> dict[str, Any]:
    """All that is measured of a model: scores, marks, targets and speed, and when and on what they were measured."""
    results = judge(model, corpus, corpora, seed=seed)
    measured = speed.measure(str(folder), corpora / "external" / f"{USUAL}.h5ad")
    return results | {
        "marks": scoring.marks(results["rows"]),
        "targets": scoring.targets(results["rows"]),
        "speed": measured | {"verdict": speed.verdict(name, measured)},
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": command.processor(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    command.run("models", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
