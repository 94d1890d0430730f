"""How real generated cells are, beside what real training donors reach, genes drawn one by one, and scANVI.

    python -m benchmarks.control --data DIR --only generation

The model that ships generates cells from tissue, cell type and the genes that the study measures (`like`), for every
type of OneK1K and Velmeshev with at least 150 cells in training and in test donors of its corpus (at most 200 are
drawn). They stand against as many real cells of test donors, on the panel genes that the study measures. *Whole panel*:
the same without `like`. *Ceiling*: real cells of training donors. *Independent genes*: each gene drawn by itself from
the training cells of the type. Bins are ranks, as in the tokenizer.

* auc: how well generated and real are told apart, the larger of logistic regression and gradient boosting, 3 folds, on
  bins; 0.5 is not at all;
* corr: Pearson correlation between the gene-gene correlations of the two, genes found in a tenth of the training cells;
* mean, variance, zeros: mean absolute difference over genes, of bins;
* mmd: maximum mean discrepancy (Gretton et al. 2012 JMLR 13:723), Gaussian kernel as wide as the median distance;
* agree: share that a logistic regression, fitted to real training cells of all types, takes for the type;
* memory: median distance to the nearest training cell of the type, over that of the real cells: below 1 is copying;
* donors: an attack on privacy. Donors are ranked by the mean distance of their cells of the type to the nearest
  generated one; AUROC for having trained, 0.5 is no sign of it. For the ceiling it shows what the attack can see.

`--only unseen` asks for a cell type of one sex that was taken out of training, so that the two labels were never seen
together. A small network of OneK1K alone learns it; ceiling and distances are to cells that training missed.

Legend: C cells, G genes, K genes that enter correlations.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.shared import effort, files, shipped, studies
from benchmarks.shared import scvi_baseline as scvi
from polygene.nn.losses import LossConfig
from polygene.tl import generate
from polygene.vocab.binning import ExpressionBinner

STUDIES = ("onek1k", "velmeshev")
FEWEST, MOST = 150, 200
FRACTIONS = (0.6, 0.1, 0.3)
EPOCHS_UNSEEN = 8
UNSEEN = ("onek1k", "female", "memory B cell")
MODEL, WHOLE = "PolyGene", "PolyGene, whole panel"
CEILING, INDEPENDENT, SCANVI = "ceiling: training donors", "independent genes", "scANVI"
SAID = {"generate": MODEL, "whole_panel": WHOLE, "ceiling": CEILING, "independent": INDEPENDENT, "scanvi": SCANVI}
SCORES = ("auc", "corr", "mean", "variance", "zeros", "mmd", "agree", "memory", "donors")


def binned(binner: ExpressionBinner, values_CG: Any) -> np.ndarray:
    """Bins of counts, or of bins of which some genes are left, float32 (C, G): ranks need no totals."""
    return binner.bins(sparse.csr_matrix(values_CG, dtype=np.float32)).toarray().astype(np.float32)


def auc(real_CG: np.ndarray, other_CG: np.ndarray, seed: int) -> float:
    """How well two sets of cells are told apart, by the better of two classifiers."""
    x_CG, y_C = np.concatenate([real_CG, other_CG]), np.repeat([0, 1], [len(real_CG), len(other_CG)])
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    classifiers = (
        make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1_000)),
        HistGradientBoostingClassifier(max_iter=60, random_state=seed),
    )
    answers = (cross_val_predict(each, x_CG, y_C, cv=folds, method="predict_proba")[:, 1] for each in classifiers)
    return max(roc_auc_score(y_C, answer_C) for answer_C in answers)


def correlations(x_CG: np.ndarray, genes_K: np.ndarray) -> np.ndarray:
    """Pearson correlations of all pairs of genes; 0 where a gene is the same in all cells."""
    with np.errstate(invalid="ignore", divide="ignore"):
        r_KK = np.corrcoef(x_CG[:, genes_K].astype(np.float64), rowvar=False)
    return np.nan_to_num(r_KK[np.triu_indices(len(genes_K), 1)])


def mmd(a_CG: np.ndarray, b_CG: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy."""
    x = np.concatenate([a_CG, b_CG]).astype(np.float64)
    squared = np.sum(x**2, axis=1)
    distances = np.maximum(squared[:, None] + squared[None] - 2 * x @ x.T, 0)
    k = np.exp(-distances / np.median(distances[np.triu_indices(len(x), 1)]))
    n, m = len(a_CG), len(b_CG)
    return float((k[:n, :n].sum() - n) / (n * (n - 1)) + (k[n:, n:].sum() - m) / (m * (m - 1)) - 2 * k[:n, n:].mean())


def nearest(train_CG: np.ndarray, cells_CG: np.ndarray) -> float:
    """Median distance of cells to the nearest training cell."""
    found = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(train_CG)
    return float(np.median(found.kneighbors(cells_CG)[0]))


def donors_seen(other_CG: np.ndarray, cells_CG: np.ndarray, donor_C: np.ndarray, trained_C: np.ndarray) -> float:
    """AUROC of telling donors that trained from others, by how near their cells are to generated ones."""
    distance_C1 = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(other_CG).kneighbors(cells_CG)[0]
    of_cells = pd.DataFrame({"donor": donor_C, "trained": trained_C, "near": -distance_C1[:, 0]})
    of_donors = of_cells.groupby("donor", observed=True).mean()
    return float(roc_auc_score(of_donors["trained"] > 0, of_donors["near"]))


def scores(
    real_CG: np.ndarray, other_CG: np.ndarray, train_CG: np.ndarray, agree: float, seed: int
) -> dict[str, float]:
    """Compare generated cells with the real ones of test donors; `train_CG` are the training cells of the label."""
    genes_K = np.flatnonzero((train_CG > 0).mean(0) >= 0.1)
    return {
        "auc": auc(real_CG, other_CG, seed),
        "corr": float(np.corrcoef(correlations(real_CG, genes_K), correlations(other_CG, genes_K))[0, 1]),
        "mean": float(np.abs(real_CG.mean(0) - other_CG.mean(0)).mean()),
        "variance": float(np.abs(real_CG.var(0) - other_CG.var(0)).mean()),
        "zeros": float(np.abs((real_CG == 0).mean(0) - (other_CG == 0).mean(0)).mean()),
        "mmd": mmd(real_CG, other_CG),
        "agree": agree,
        "memory": nearest(train_CG, other_CG) / nearest(train_CG, real_CG),
    }


def sources(
    order: dict[str, str], n: int, study: shipped.Study, scanvi: Any, train_CG: np.ndarray, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Give n cells of a label, in bins, from all that makes or finds them; `train_CG` are training cells of it."""
    rng, binner = np.random.default_rng(seed), study.model.tokenizer.binner
    yield CEILING, train_CG[rng.choice(len(train_CG), n, replace=False)]
    yield INDEPENDENT, np.stack([rng.choice(of_gene_C, n) for of_gene_C in train_CG.T], axis=1)
    if scanvi is not None:
        yield SCANVI, binned(binner, scanvi.sample(order["cell_type"], n, seed=seed))
    made = generate(study.model, order, n_cells=n, seed=seed).layers["polygene_bins"]
    yield WHOLE, binned(binner, made[:, study.genes_M])
    made = generate(study.model, order, n_cells=n, seed=seed, like=study.cells["train"]).layers["polygene_bins"]
    yield MODEL, binned(binner, made)


def study_rows(name: str, study: shipped.Study, seed: int, missed: dict[str, str] | None = None) -> list[dict]:
    """Generate and score every type of a study that has cells enough; or a pair of labels that training missed."""
    missed = missed or {}
    parts = [study.cells[split] for split in ("train", "test")]
    obs = pd.concat([part.obs for part in parts], ignore_index=True)
    counts_CG = np.concatenate([study.counts(split) for split in ("train", "test")])
    bins_CG = binned(study.model.tokenizer.binner, counts_CG)
    types_C, donor_C = (obs[column].astype(str).to_numpy() for column in ("cell_type", "donor_id"))
    in_train_C = np.arange(len(obs)) < parts[0].n_obs
    asked_C = studies.having(obs, missed) if missed else np.ones(len(obs), dtype=bool)
    scanvi = None
    if scvi.AVAILABLE and not missed:
        known_C = in_train_C & obs["cell_type"].notna().to_numpy()
        scanvi = scvi.fit(counts_CG[known_C], labels_C=types_C[known_C], seed=seed)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1_000))
    judge.fit(bins_CG[in_train_C], types_C[in_train_C])
    rows = []
    for label in [missed["cell_type"]] if missed else sorted(obs["cell_type"].dropna().astype(str).unique()):
        train_C, test_C = (
            np.flatnonzero(part_C & (types_C == label) & asked_C) for part_C in (in_train_C, ~in_train_C)
        )
        n = min(len(train_C), len(test_C), MOST)
        if n < effort.at_most(FEWEST, 5):
            continue
        real_CG = bins_CG[np.random.default_rng(seed).choice(test_C, n, replace=False)]
        order = missed or {"tissue": str(obs["tissue"].iloc[train_C[0]]), "cell_type": label}
        both_C = np.concatenate([train_C, test_C])
        for who, other_CG in sources(order, n, study, scanvi, bins_CG[train_C], seed):
            agree = float((judge.predict(other_CG) == label).mean())
            found = scores(real_CG, other_CG, bins_CG[train_C], agree, seed)
            found["donors"] = donors_seen(other_CG, bins_CG[both_C], donor_C[both_C], in_train_C[both_C])
            rows.append({"study": name, "label": ", ".join(order.values()), "cells": n, "source": who, **found})
            print({key: one if isinstance(one, str) else round(one, 3) for key, one in rows[-1].items()}, flush=True)
    return rows


def unseen_study(data: Path | None, seed: int, folder: Path) -> shipped.Study:
    """Give a small network of OneK1K that never saw the two labels together, and the cells of its donors."""
    name, sex, label = UNSEEN
    model, corpus = studies.trained(
        name, folder, data=data, seed=seed, tag="unseen", epochs=EPOCHS_UNSEEN,
        without={"sex": sex, "cell_type": label}, prepared={"fractions": FRACTIONS},
        loss=LossConfig(phenotype_weight=0.3),
    )  # fmt: skip
    cells = ad.read_h5ad(files.locate(studies.STUDIES[name].file, data))
    cells.obs_names_make_unique()
    donors = {split: set(corpus.split(split).donors_C) for split in ("train", "test")}
    return shipped.Study(
        model=model, cells={split: cells[cells.obs["donor_id"].isin(some)].copy() for split, some in donors.items()}
    )


def show(title: str, rows: list[dict]) -> None:
    """Print the table of the rows."""
    table = Table(title=title, title_justify="left")
    for column in ("study", "label", "cells", "source", *SCORES):
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(row[c]) for c in ("study", "label", "cells", "source")), *(f"{row[s]:.3f}" for s in SCORES))
    Console(width=170).print(table)


def run_unseen(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Score a pair of labels that was never seen together."""
    _, sex, label = UNSEEN
    rows = study_rows(UNSEEN[0], unseen_study(data, seed, folder), seed, {"sex": sex, "cell_type": label})
    show("labels that training never saw together", rows)
    return {"unseen_rows": rows}


def run(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Score all studies, print the table, and give the means over labels."""
    rows: list[dict] = []
    for name in effort.few(STUDIES):
        rows += study_rows(name, shipped.study(studies.STUDIES[name].file, folder, data=data), seed)
    show("generated cells against real cells of held-out donors", rows)
    if not scvi.AVAILABLE:
        print(scvi.MISSING)
    means = pd.DataFrame(rows).groupby("source")[list(SCORES)].mean()
    said: dict[str, Any] = {}
    for key, source in SAID.items():
        if source in means.index:
            said |= {
                f"{key}_auc": means.loc[source, "auc"],
                f"{key}_corr": means.loc[source, "corr"],
                f"{key}_memorisation_ratio": means.loc[source, "memory"],
                f"{key}_donor_auc": means.loc[source, "donors"],
            }
    said["memorisation_ratio"] = said.pop("generate_memorisation_ratio")
    rounded = {name: round(float(value), 4) for name, value in said.items()}
    return {"model": shipped.NAME, **rounded, "generation_rows": rows}
