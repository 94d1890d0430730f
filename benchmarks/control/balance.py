"""Whether generated cells help to learn rare labels: beside nothing, class weights and oversampling.

    python -m benchmarks.control --data DIR --only balance

In OneK1K one cell type is made rare: training donors keep 5 or 20 of its cells. A network learns the cells of these
donors and nothing else. Then a classifier learns the cell types from the rare file as it is, with class weights, with
the rare cells repeated, or with generated ones, until the type has 1,000 cells. Classifiers:
logistic regression on log1p values, and a head on the network's own states (that of `tl.finetune`). Scored is F1 of the
rare type in the cells of test donors.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.shared import effort, files, studies
from polygene.model.inference import cell_states
from polygene.model.recipe import TrainingConfig
from polygene.nn.losses import LossConfig
from polygene.tl import balance

STUDY = "onek1k"
RARE = ("memory B cell",)
SIZES = (5, 20)
EPOCHS = 5
CELLS = 1_000
"""Cells that the rare type has afterwards."""
TEST_SHARE = 0.3


def run(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Make every type rare in every size, score all ways, print the table and give gains over the file as it is."""
    rows = []
    for label in RARE:
        for size in effort.few(SIZES):
            rows += [{"rare": label, "cells": size, **row} for row in one_case(label, size, data, seed, folder)]
    frame = pd.DataFrame(rows)
    table = Table(title="F1 of the rare type, test donors", title_justify="left")
    for column in ("classifier", "rare", "cells", *frame["way"].unique()):
        table.add_column(str(column))
    for key, of_key in frame.groupby(["classifier", "rare", "cells"], sort=False):
        table.add_row(*map(str, key), *(f"{f1:.3f}" for f1 in of_key["f1"]))
    Console(width=150).print(table)
    means = frame.pivot_table(index=["classifier", "cells"], columns="way", values="f1")
    gains = means.sub(means["as it is"], axis=0).drop(columns="as it is").round(4)
    return {
        "balance_gain": {
            classifier: {int(size): gains.loc[(classifier, size)].to_dict() for size in effort.few(SIZES)}
            for classifier in gains.index.get_level_values(0).unique()
        }
    }


def one_case(label: str, size: int, data: Path | None, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Learn with one type made rare and score every way of balancing."""
    cells = ad.read_h5ad(files.locate(studies.STUDIES[STUDY].file, data))
    rng = np.random.default_rng(seed)
    donors = rng.permutation(np.unique(cells.obs["donor_id"].astype(str)))
    of_test = cells.obs["donor_id"].isin(donors[: round(TEST_SHARE * len(donors))]).to_numpy()
    is_rare = (cells.obs["cell_type"] == label).to_numpy()
    kept = rng.choice(np.flatnonzero(~of_test & is_rare), size, replace=False)
    learned = np.sort(np.concatenate([np.flatnonzero(~of_test & ~is_rare), kept]))
    model, _ = studies.trained(
        STUDY,
        folder,
        data=data,
        seed=seed,
        tag=f"rare-{size}-{label}".replace(" ", "-"),
        prepared={"fractions": (1.0, 0.0, 0.0), "seen": 0.0},  # nothing else is known of the study
        drop=set(cells.obs_names[np.setdiff1d(np.arange(cells.n_obs), learned)]),
        training=TrainingConfig(epochs=EPOCHS, evaluations=1, learning_rate=2e-3, precision="bfloat16", seed=seed),
        loss=LossConfig(phenotype_weight=0.3),
    )
    file = cells[learned].copy()
    tokenizer = model.tokenizer
    balanced = balance(file, model, key="cell_type", n_cells=effort.at_most(CELLS, 40), seed=seed)
    added = balanced[balanced.obs["polygene_generated"].to_numpy() & (balanced.obs["cell_type"] == label).to_numpy()]
    train, test = (tokenizer.encode(part, use_labels=False) for part in (file, cells[of_test].copy()))
    bins_CG = added.layers["polygene_bins"].toarray()
    unlabelled_CP = np.full((added.n_obs, len(tokenizer.schema.names)), -1, dtype=np.int16)
    made = replace(tokenizer.from_bins(bins_CG, unlabelled_CP, train.measured_G), values_N=added.X.data)
    types_C, truth_C = (cells.obs["cell_type"].to_numpy()[part] == label for part in (learned, of_test))
    n_genes = len(tokenizer.panel)
    features = {
        "logistic regression": lambda part: part.as_csr(part.values_N, n_genes),
        "head on PolyGene": lambda part: sparse.csr_matrix(cell_states(model, part)),
    }
    rows = []
    for classifier, of in features.items():
        x, x_test, x_made = of(train), of(test), of(made)
        again = np.random.default_rng(seed).choice(np.flatnonzero(types_C), added.n_obs)
        ways = {
            "as it is": (x, types_C, None),
            "class weights": (x, types_C, "balanced"),
            "oversampled": (sparse.vstack([x, x[again]]), np.r_[types_C, np.ones(len(again), bool)], None),
            "generated": (sparse.vstack([x, x_made]), np.r_[types_C, np.ones(added.n_obs, bool)], None),
        }
        for way, (features_C, is_type_C, weight) in ways.items():
            learner = make_pipeline(
                StandardScaler(with_mean=False), LogisticRegression(C=0.01, max_iter=2_000, class_weight=weight)
            )
            answer_C = learner.fit(features_C, is_type_C).predict(x_test)
            rows.append(
                {"classifier": classifier, "way": way, "f1": float(f1_score(truth_C, answer_C, zero_division=0))}
            )
    return rows
