"""Which cells of the corpus contradict their own label: a screen of every source by a cross-validated model.

    python -m benchmarks.models.screen --data DIR --corpora DIR      # made by benchmarks.models.corpus

Two models predict the labels of cells they did not learn from. *Within* each source of real cells, logistic regression
on 50 principal components of the authors' labels (donors held out where there are five, else cells): it finds cells
that look like another label of their own source. *Across* sources, the regression of benchmarks.models.external, each
fold of left_out.toml left out in turn: it finds labels of a source that other studies contradict, which no model of the
source alone can see. By confident learning (Northcutt et al. 2021, Journal of Artificial Intelligence Research 70:1373)
a cell is suspect within its source where another label is at least as probable as it is on average for the cells that
bear it, here at least 0.7 and at most 0.9; across sources, where one has 0.9. No type of the Cell Ontology is at or
below both labels. Suspects are listed for a person. Nothing is dropped: a rule that follows is written into
recipes/corpus/sources.toml with its reason.

Legend: C cells, V labels of a source, K components.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from benchmarks.models.corpus import Source, read_groups, read_table, sources_of
from benchmarks.models.external import Regression, Training, made
from benchmarks.shared import command
from polygene.corpus.corpus import Corpus
from polygene.vocab.expression import log1p_values
from polygene.vocab.ontology import at_or_below, ontology_of

SURE = (0.7, 0.9)  # limits of the threshold
FOLDS = 5
FEWEST = 10  # cells of a label: with fewer, a fold may hold none to learn from
MOST_CELLS = 6_000
LISTED = 10  # cells named of each pair of labels
NAMED = {
    ("zheng_pbmc_facs", "CD34-positive hematopoietic progenitor"): "CL:0008001",
    ("zheng_pbmc_facs", "CD8-positive cytotoxic T cell"): "CL:0000794",
    ("zheng_pbmc_facs", "regulatory T cell"): "CL:0000815",
    ("perez_sle_healthy_tcells", "progenitor cell"): "CL:0008001",
}
"""What labels say by their name where recipes/corpus no longer takes them at their word."""


def suspects(p_CV: np.ndarray, label_C: np.ndarray, apart_VV: np.ndarray) -> np.ndarray:
    """Give the label that each cell contradicts its own with, -1 where it does not.

    Parameters
    ----------
    p_CV
        Probabilities of cells that the model did not learn from.
    apart_VV
        bool, whether two labels exclude each other.
    """
    # The threshold of a label: how probable it is on average for cells that bear it.
    usual_V = np.array([p_CV[label_C == v, v].mean() for v in range(p_CV.shape[1])])
    possible_CV = (p_CV >= np.clip(usual_V, *SURE)) & apart_VV[label_C]
    best_C = np.where(possible_CV, p_CV, -1).argmax(axis=1)
    return np.where(possible_CV.any(axis=1), best_C, -1)


def apart(a: str, b: str) -> bool:
    """Say whether two labels exclude each other: neither is above the other, and no type is both of them.

    A mature B cell is a B cell and a professional antigen-presenting cell: these two do not contradict.
    """
    terms = ontology_of("cell_type")
    both = {terms.find(a), terms.find(b)}
    if None in both:
        return a != b
    return not any(both <= above for above in terms.above.values())


def held_out(cells: ad.AnnData, label_C: np.ndarray, seed: int) -> np.ndarray:
    """Predict each cell by a model that learned from others, p_CV."""
    x_CG = log1p_values(cells)
    n_components = min(50, min(x_CG.shape) - 1)
    # Components keep their scale: set to one, those of noise would weigh as much as those of types.
    model = make_pipeline(TruncatedSVD(n_components, random_state=seed), LogisticRegression(C=0.01, max_iter=300))
    donor_C = cells.obs["author_donor_id"].astype(str).to_numpy()
    if len(set(donor_C)) >= FOLDS and all(len(set(donor_C[label_C == v])) >= FOLDS for v in set(label_C)):
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(x_CG, label_C, donor_C)
    else:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x_CG, label_C)
    p_CV: np.ndarray = cross_val_predict(model, x_CG, label_C, cv=list(folds), method="predict_proba")
    return p_CV


def within(cells: ad.AnnData, terms: pd.Series, seed: int) -> dict[str, Any]:
    """Screen a source by itself, over the labels of at least `FEWEST` cells.

    Parameters
    ----------
    terms
        What the author's label of each cell means, an ontology id or the label; missing where it has none.
    """
    given = cells.obs["author_cell_type"].astype(object)
    counts = given.value_counts()
    kept = given.isin(counts.index[counts >= FEWEST]).to_numpy()
    if given[kept].nunique() < 2:
        return {"cells": 0, "labels": int(given[kept].nunique()), "suspects": 0, "pairs": []}
    cells, given = cells[kept], given[kept]
    label_C, names = pd.factorize(given, sort=True)
    term_V = [terms[kept][label_C == v].iloc[0] for v in range(len(names))]
    apart_VV = np.array([[apart(a, b) for b in term_V] for a in term_V])
    suspect_C = suspects(held_out(cells, label_C, seed), label_C, apart_VV)
    found = pd.Series(np.append(names, None)[suspect_C], cells.obs_names, dtype=object)
    return summary(cells, given, found)


def across(cells: ad.AnnData, terms: pd.Series, model: Regression) -> dict[str, Any]:
    """Screen a source by a model of other sources."""
    known = terms.notna().to_numpy()
    cells, terms = cells[known], terms[known]
    table_VV = at_or_below("cell_type", model.labels)
    below_VV = np.eye(len(model.labels), dtype=bool) if table_VV is None else table_VV
    sure_CV = model(cells) @ below_VV.T.astype(np.float32) >= SURE[1]
    apart_V = {term: np.array([apart(label, term) for label in model.labels]) for term in set(terms)}
    sure_CV &= np.array([apart_V[term] for term in terms])
    # Of the labels that are sure the finest: the one with fewest labels at and below it.
    finest_C = np.where(sure_CV, -below_VV.sum(axis=1), -np.inf).argmax(axis=1)
    found = pd.Series(np.array(model.labels, dtype=object)[finest_C], cells.obs_names)
    found[~sure_CV.any(axis=1)] = None
    return summary(cells, cells.obs["author_cell_type"].astype(object), found)


def summary(cells: ad.AnnData, given: pd.Series, found: pd.Series) -> dict[str, Any]:
    """Count suspects by their own and the other label."""
    total_C = np.asarray(cells.X.sum(axis=1)).ravel()
    pairs = []
    for (own, other), rows in pd.Series(range(len(found))).groupby([given.to_numpy(), found.to_numpy()]):
        of_label = (given == own).to_numpy()
        pairs.append(
            {
                "label": str(own),
                "predicted": str(other),
                "cells": len(rows),
                "share_of_label": round(len(rows) / int(of_label.sum()), 4),
                "median_total": float(np.median(total_C[rows])),
                "median_total_of_label": float(np.median(total_C[of_label])),
                "names": cells.obs_names[rows[:LISTED]].tolist(),
            }
        )
    pairs.sort(key=lambda pair: -pair["cells"])
    suspects_of = int(found.notna().sum())
    return {"cells": len(given), "labels": int(given.nunique()), "suspects": suspects_of, "pairs": pairs}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Screen every source of real cells that has types."""
    labels, results = read_table("labels.tsv"), dict[str, dict[str, Any]]()
    sources, folds = sources_of(options.data), defaultdict[str, list[str]](list)
    for group in read_groups():
        folds[group["fold"]] += [name for name in group["sources"] if name in sources]
    with made(options) as corpora:
        for left in folds.values():
            training = Training(corpora, Corpus(corpora / "corpus-512"), options.seed, without=left)
            model = Regression(training, training.panel, options.seed)
            paths = {name: corpora / sources[name].role / f"{name}.h5ad" for name in left}
            for name, path in paths.items():
                results |= screened(ad.read_h5ad(path), sources[name], labels, model, options.seed)
    show(results)
    return {"sure": SURE, "sources": results}


def screened(
    cells: ad.AnnData, source: Source, labels: pd.DataFrame, model: Regression, seed: int
) -> dict[str, dict[str, Any]]:
    """Screen a source both ways, {name: results}; nothing where it has no types."""
    if "author_cell_type" not in cells.obs:
        return {}
    if cells.n_obs > MOST_CELLS:
        chosen = np.random.default_rng(seed).choice(cells.n_obs, MOST_CELLS, replace=False)
        cells = cells[np.sort(chosen)].copy()
    rows = labels[(labels["source"] == source.of_file) & (labels["column"] == "cell_type")]
    of_label = rows.drop_duplicates("label").set_index("label")
    # A label that names two types is screened as their ancestor, one that is not given as what its name says.
    terms = of_label["means"].where(~of_label["means"].str.contains("|", regex=False), of_label["id"])
    terms = pd.Series({label: NAMED.get((source.name, label), term) for label, term in terms.items()})
    given = cells.obs["author_cell_type"].astype(object)
    terms = given.map(terms).where(lambda one: one != "", given)
    return {source.name: {"within": within(cells, terms, seed), "across": across(cells, terms, model)}}


def show(results: dict[str, dict[str, Any]]) -> None:
    """Print the pairs of labels of at least five suspects."""
    for how in ("within", "across"):
        table = Table("source", "label", "predicted", "cells", "share", "median counts", "of the label", title=how)
        for name, result in results.items():
            for pair in result[how]["pairs"]:
                if pair["cells"] >= 5:
                    table.add_row(
                        name, pair["label"], pair["predicted"], str(pair["cells"]), f"{pair['share_of_label']:.1%}",
                        f"{pair['median_total']:,.0f}", f"{pair['median_total_of_label']:,.0f}",
                    )  # fmt: skip
        Console(width=160).print(table)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpora", type=Path, help="folder that benchmarks.models.corpus made; else it is made")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("screen", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
