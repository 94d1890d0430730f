"""What the models that ship make of new donors of studies that trained them, beside logistic regression.

    python -m benchmarks.models.known --data DIR --corpora DIR

--corpora is what benchmarks.models.corpus made (corpus-512, split, train), else it is made. Predicted are cell types of
the test donors of every source that was split, at most 1,000 cells of each, by the models and by the logistic
regression of `benchmarks.models.external` on the panel's genes of the same training donors, by the same loss. Scored by
the ontology: a predicted label is right where it is the true one or below it. `accuracy` is the mean over donors, and
`gain` that of the first model over regression, with a 95 % t interval over donors where there are three. The
last line is one JSON object.

Legend: C cells, V labels of the corpus, D donors.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from benchmarks.models.external import Model, Regression, Training, by_ontology, made
from benchmarks.shared import command, effort
from polygene.corpus.corpus import Corpus
from polygene.model.shipped import NAMES
from polygene.runtime.subsample import spread
from polygene.vocab.ontology import at_or_below, ontology_of, reported_labels

MOST, FEWEST_DONORS = 1_000, 3
REGRESSION = "logistic regression, panel"


def test_cells(corpora: Path, corpus: Corpus, labels: Sequence[str]) -> dict[str, ad.AnnData]:
    """Give cells of the test donors of each source that was split, of types that the corpus knows, by source."""
    test, found = corpus.split("test"), {}
    for path in sorted((corpora / "split").glob("*.h5ad")):
        cells = ad.read_h5ad(path)
        donors = set(test.donors_C[test.sources_C == corpus.sources.index(path.stem)])
        if "cell_type" in cells.obs:
            asked_C = cells.obs["donor_id"].astype(str).isin(donors) & cells.obs["cell_type"].isin(labels)
            rows = np.flatnonzero(asked_C.to_numpy())
            if len(rows):
                found[path.stem] = cells[rows[spread(len(rows), effort.at_most(MOST, 40))]].copy()
    return found


def reported(p_CV: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Make the label that `annotate` reports the only one, (C, V)."""
    sure_CV: np.ndarray = np.eye(len(labels))[reported_labels(p_CV, at_or_below("cell_type", labels))]
    return sure_CV


def right(p_CV: np.ndarray, labels: Sequence[str], truth: Sequence[str]) -> np.ndarray:
    """Which cells get the true label or a finer one, bool (C,)."""
    compare, answer_C = ontology_of("cell_type").compare, p_CV.argmax(axis=1)
    pairs = {(v, one): compare(labels[v], one) in ("same", "finer") for v, one in {*zip(answer_C, truth, strict=True)}}
    return np.array([pairs[pair] for pair in zip(answer_C, truth, strict=True)])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Score the models and regression on each source, and the gain of the first model."""
    with made(options) as corpora:
        corpus = Corpus(corpora / "corpus-512")
        training = Training(corpora, corpus, options.seed)
        asked = test_cells(corpora, corpus, training.labels)
    first, *others = effort.few(NAMES)
    methods = {first: Model(first), REGRESSION: Regression(training, training.panel, options.seed)}
    methods |= {name: Model(name) for name in others}
    rows = []
    for source, cells in asked.items():
        truth, donor_C = cells.obs["cell_type"].astype(str).tolist(), cells.obs["donor_id"].astype(str).to_numpy()
        by_donor = {}
        for name, method in methods.items():
            p_CV = method(cells) if name == REGRESSION else reported(method(cells), method.labels)
            right_C = pd.Series(right(p_CV, method.labels, truth))
            by_donor[name] = right_C.groupby(donor_C).mean()
            scores = {
                "accuracy": float(by_donor[name].mean()),
                "macro_f1": by_ontology(p_CV, method.labels, truth)["macro_f1"],
            }
            rows.append(
                {"source": source, "method": name, "cells": len(truth), "donors": len(by_donor[name]), **scores}
            )
        gain_D = by_donor[first] - by_donor[REGRESSION]
        half = np.nan
        if len(gain_D) >= FEWEST_DONORS:
            half = float(student.ppf(0.975, len(gain_D) - 1) * gain_D.std() / np.sqrt(len(gain_D)))
        rows[-len(methods)] |= {"gain": float(gain_D.mean()), "half": half}
        print(source, {row["method"]: round(row["accuracy"], 3) for row in rows[-len(methods) :]}, flush=True)
    table = Table("source", "method", "cells", "donors", "accuracy", "macro-F1", title="test donors of known studies")
    for row in rows:
        scores = (f"{row[score]:.3f}" for score in ("accuracy", "macro_f1"))
        table.add_row(row["source"], row["method"], str(row["cells"]), str(row["donors"]), *scores)
    Console(width=150).print(table)
    return {"rows": rows}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpora", type=Path, help="folder that benchmarks.models.corpus made; else it is made")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("known", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
