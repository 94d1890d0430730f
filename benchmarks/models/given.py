"""What giving a phenotype is worth on studies that trained nothing.

    python -m benchmarks.models.given --data DIR [--corpora DIR] [--model NAME-OR-PATH] [--cells DIR]

Each phenotype of each study is predicted from expression alone, and with each other phenotype given that the study
states in words that the model knows: which it has, all cells of a study alike or not. --corpora is what
benchmarks.models.corpus made (its folder `external` is scored), else it is made; --cells is another folder of
harmonised files, such as `left_out` with a model that was trained without them. Cell types are scored by the ontology.

Beside it stands what giving a tissue can do at no cost: `prior` multiplies the probability of each cell type that no
source of the corpus has in this tissue, or in one above or below it, by `RARE`, with nothing given to the network; and
`wrong` gives the network another tissue, so that one sees whether it listens at all. Intervals are over 1,000
resamples of the cells. The last line is one JSON object.

Legend: C cells, V labels.
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

from benchmarks.models import external
from benchmarks.models.never_seen import SEX, TISSUE
from benchmarks.shared import command
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.vocab.ontology import ontology_of, reported_labels

RARE = (0.3, 0.1, 0.03)
MOST = 2_000
"""Cells of a study, evenly spread."""


def right(phenotype: str, label_C: np.ndarray, labels: Sequence[str], truth_C: np.ndarray) -> np.ndarray:
    """Which predictions are true, bool (C,): a cell type at or below the true one, a tissue above it too."""
    names = np.asarray(labels, dtype=object)[label_C]
    if phenotype not in ("cell_type", "tissue"):
        return np.asarray(names == truth_C)
    compare = ontology_of(phenotype).compare
    good = ("same", "finer") if phenotype == "cell_type" else ("same", "finer", "coarser")
    pairs = {pair: compare(*pair) in good for pair in set(zip(names, truth_C, strict=True))}
    return np.array([pairs[pair] for pair in zip(names, truth_C, strict=True)])


def tissue_types(corpora: Path, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Which cell types some source has in a tissue, bool (V,) by tissue."""
    found: dict[str, np.ndarray] = {}
    index = {label: v for v, label in enumerate(labels)}
    for path in [*(corpora / "split").glob("*.h5ad"), *(corpora / "train").glob("*.h5ad")]:
        obs = ad.read_h5ad(path, backed="r").obs
        if {"tissue", "cell_type"} <= set(obs):
            for tissue, label in obs[["tissue", "cell_type"]].dropna().drop_duplicates().astype(str).to_numpy():
                if label in index:
                    found.setdefault(tissue, np.zeros(len(labels), bool))[index[label]] = True
    return found


def possible(tissue: str, types: dict[str, np.ndarray], n_labels: int) -> np.ndarray:
    """Which cell types the corpus has in this tissue or in one above or below it; all where it has no such tissue."""
    compare = ontology_of("tissue").compare
    alike = [has_V for other, has_V in types.items() if compare(other, tissue) in ("same", "finer", "coarser")]
    return np.logical_or.reduce(alike) if alike else np.ones(n_labels, bool)


def of_study(name: str, cells: ad.AnnData, model: PolyGene, types: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Score each phenotype of a study by what is given."""
    cells = cells[np.unique(np.linspace(0, len(cells) - 1, MOST).astype(int))].copy()
    for column, known in (("sex", SEX), ("tissue", TISSUE)):
        if name in known:
            cells.obs[column] = known[name]
    schema = model.tokenizer.schema
    encoded = model.tokenizer.encode(cells, unknown="not given")
    truth = {
        one.name: cells.obs[one.column].astype("string").to_numpy(dtype=object, na_value="")
        for one in schema.phenotypes
        if one.column in cells.obs
    }
    stated = [one for p, one in enumerate(schema.names) if one in truth and (encoded.labels_CP[:, p] >= 0).mean() > 0.5]
    rows = []
    for predict in ("cell_type", "tissue", "sex", "disease"):
        if predict not in truth:
            continue
        labels = schema.labels[schema.index(predict)]
        known_C = truth[predict] != ""

        def hits(p_CV: np.ndarray) -> np.ndarray:
            label_C = reported_labels(p_CV[known_C], model.at_or_below(predict))  # noqa: B023 called in this turn
            return right(predict, label_C, labels, truth[predict][known_C])  # noqa: B023

        p_CV = label_probabilities(model, encoded, predict=[predict])[0]
        alone_C = hits(p_CV)
        ways = {
            one: label_probabilities(model, encoded, predict=[predict], given=[one])[0]
            for one in stated
            if one != predict
        }
        if predict == "cell_type" and "tissue" in stated:
            t = schema.index("tissue")
            has_CV = np.stack([possible(one, types, len(labels)) for one in truth["tissue"]])
            ways |= {f"prior, {rare}": p_CV * np.where(has_CV, 1, rare) for rare in RARE}
            encoded.labels_CP[:, t], kept = (
                (encoded.labels_CP[:, t] + 7) % len(schema.labels[t]),
                encoded.labels_CP[:, t].copy(),
            )
            ways["wrong tissue"] = label_probabilities(model, encoded, predict=[predict], given=["tissue"])[0]
            encoded.labels_CP[:, t] = kept
        rng = np.random.default_rng(0)
        for given, given_CV in ways.items():
            gain_C = hits(given_CV).astype(float) - alone_C
            means = gain_C[rng.integers(0, len(gain_C), (1_000, len(gain_C)))].mean(axis=1)
            low, high = np.quantile(means, (0.025, 0.975))
            changed = (given_CV[known_C].argmax(1) != p_CV[known_C].argmax(1)).mean()
            rows.append({"study": name, "predicted": predict, "given": given, "cells": len(gain_C)})
            rows[-1] |= {
                "accuracy": alone_C.mean(),
                "gain": gain_C.mean(),
                "low": low,
                "high": high,
                "changed": changed,
            }
            print(rows[-1], flush=True)
    return rows


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Score each study, print the table and the means over studies."""
    model, rows = PolyGene.from_pretrained(options.model, device="cpu"), []
    with external.made(options) as corpora:
        types = tissue_types(corpora, model.tokenizer.schema.labels[model.tokenizer.schema.index("cell_type")])
        for file in sorted((options.cells or corpora / "external").glob("*.h5ad")):
            rows += of_study(file.stem, ad.read_h5ad(file), model, types)
    table = Table("study", "predicted", "given", "accuracy alone", "gain", "other label", title="what giving is worth")
    for row in rows:
        gain = f"{row['gain']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        told = (row["study"], row["predicted"], row["given"], f"{row['accuracy']:.3f}", gain, f"{row['changed']:.2f}")
        table.add_row(*told)
    Console(width=140).print(table)
    means = (
        pd.DataFrame(rows).groupby(["predicted", "given"])["gain"].agg(["mean", "count"]) if rows else pd.DataFrame()
    )
    return {"model": options.model, "mean_gain": means.reset_index().to_dict("records"), "rows": rows}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpora", type=Path, help="folder that benchmarks.models.corpus made; else it is made")
    parser.add_argument("--cells", type=Path, help="folder of harmonised files to score in place of the external ones")
    parser.add_argument("--model", default="polygene-512")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("given", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
