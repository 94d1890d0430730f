"""Embeddings of studies never seen, beside principal components.

    python -m benchmarks.models.embedding --data DIR [--corpora DIR] [--folder left_out] [--model NAME-OR-PATH]

--corpora is what benchmarks.models.corpus made, else it is made; its folder `external`, or the one named, holds the
studies. Scored against the authors' cell types: a k-nearest-neighbour classifier (15 neighbours, five folds of the
cells: few of these files name donors), and Leiden clusters at three resolutions (ARI and NMI, means). At most 1,500
cells of a study, types of at least five cells.

joined         what `embed` writes: the state of the cell type and the logits of the regression, each of length one
cell type      the state that predicts the type
genes          the mean state of the cell's genes before the last layer
log p          30 principal components of the log probabilities of the types
PCA, panel     50 principal components of the file's log1p panel genes
PCA, variable  the same of its 2,000 most variable genes
with PCA       what `embed` writes and PCA of the panel, each scaled to one size

The last line is one JSON object.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

import polygene as pg
from benchmarks.models import external
from benchmarks.shared import command
from polygene.model import inference
from polygene.tl._embed import states_of_cells
from polygene.tl._reader import CellReader
from polygene.vocab.expression import log1p_values

MOST, FEWEST, VARIABLE = 1_500, 5, 2_000
RESOLUTIONS = (0.3, 0.6, 1.0)
SCORES = ("knn_accuracy", "knn_macro_f1", "ari", "nmi")


def some_cells(path: Path, seed: int) -> ad.AnnData:
    """Read the cells that are scored; none where fewer than two types have enough."""
    cells = ad.read_h5ad(path)
    if "cell_type" not in cells.obs:
        return cells[:0]
    known = np.flatnonzero(cells.obs["cell_type"].notna())
    chosen = np.random.default_rng(seed).permutation(known)[:MOST]
    cells = cells[np.sort(chosen)].copy()
    n = cells.obs["cell_type"].value_counts()
    cells = cells[cells.obs["cell_type"].isin(n[n >= FEWEST].index)].copy()
    return cells if cells.obs["cell_type"].nunique() > 1 else cells[:0]


def embeddings(cells: ad.AnnData, model: pg.PolyGene) -> dict[str, np.ndarray]:
    """Embed the cells in each way, x_CD."""
    parts = [some for _, some in CellReader(cells, model.tokenizer).chunks()]
    p_CV = np.concatenate([inference.label_probabilities(model, some, predict=["cell_type"])[0] for some in parts])
    states = ("joined", "cell_type", "genes")
    joined_CD, state_CD, genes_CD = (
        np.concatenate([states_of_cells(model, some, s) for some in parts]) for s in states
    )
    x_CG = log1p_values(cells).toarray()
    panel_CG = log1p_values(cells, model.tokenizer.panel.match(cells.var)).toarray()
    panel_CD = _components(panel_CG, 50)
    return {
        "joined": joined_CD,
        "cell type": state_CD,
        "genes": genes_CD,
        "log p": _components(np.log(p_CV + 1e-6), 30),
        "PCA, panel": panel_CD,
        "PCA, variable": _components(x_CG[:, np.argsort(-x_CG.var(axis=0))[:VARIABLE]], 50),
        "with PCA": np.hstack([x_CD / np.linalg.norm(x_CD - x_CD.mean(axis=0)) for x_CD in (joined_CD, panel_CD)]),
    }


def _components(x_CG: np.ndarray, n: int) -> np.ndarray:
    return PCA(min(n, *(length - 1 for length in x_CG.shape)), random_state=0).fit_transform(x_CG)


def scores(x_CD: np.ndarray, type_C: np.ndarray) -> dict[str, float]:
    """Score an embedding against the types."""
    predicted_C = cross_val_predict(KNeighborsClassifier(15), x_CD, type_C, cv=5)
    graph = ad.AnnData(np.zeros((len(x_CD), 1), np.float32), obsm={"X": x_CD.astype(np.float32)})
    sc.pp.neighbors(graph, use_rep="X", random_state=0)
    found = []
    for resolution in RESOLUTIONS:
        sc.tl.leiden(graph, resolution, flavor="igraph", n_iterations=2, random_state=0)
        cluster_C = graph.obs["leiden"]
        found.append([f(type_C, cluster_C) for f in (adjusted_rand_score, normalized_mutual_info_score)])
    of_neighbours = (predicted_C == type_C).mean(), f1_score(type_C, predicted_C, average="macro")
    return dict(zip(SCORES, map(float, (*of_neighbours, *np.mean(found, axis=0))), strict=True))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Score each embedding of each study; the means over studies come first."""
    model, rows = pg.PolyGene.from_pretrained(options.model), []
    with external.made(options) as corpora:
        for path in sorted((corpora / options.folder).glob("*.h5ad")):
            cells = some_cells(path, options.seed)
            if cells.n_obs:
                type_C = cells.obs["cell_type"].astype(str).to_numpy()
                for name, x_CD in embeddings(cells, model).items():
                    rows.append({"study": path.stem, "embedding": name, "cells": len(cells), **scores(x_CD, type_C)})
    mean = pd.DataFrame(rows).groupby("embedding", sort=False)[list(SCORES)].mean()
    table = Table("embedding", *SCORES, title=f"mean over {len({row['study'] for row in rows})} studies never seen")
    for name, row in mean.iterrows():
        table.add_row(str(name), *(f"{number:.3f}" for number in row))
    Console(width=120).print(table)
    return {"folder": options.folder, "mean": mean.to_dict("index"), "rows": rows}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpora", type=Path, help="folder that benchmarks.models.corpus made; else it is made")
    parser.add_argument("--folder", default="external", help="folder of --corpora with the studies")
    parser.add_argument("--model", default="polygene-512", help="the checkpoint")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("embedding", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
