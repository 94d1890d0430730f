"""How real generated cells are, beside what real training donors reach, genes drawn one by one, and scANVI.

    python -m benchmarks.control --data DIR --only generation

For every cell type with at least 500 cells in training and in test donors, cells are generated from the label alone and
stand against as many real cells of test donors. *Ceiling*: real cells of training donors. *Independent genes*: each
gene drawn by itself from the training cells of the type. Counts are binned as a file would be.

* auc: how well generated and real are told apart, the larger of logistic regression and gradient boosting, 5 folds, on
  bins; 0.5 is not at all;
* corr: Pearson correlation between the gene-gene correlations of the two, genes found in a tenth of the training cells;
* mean, variance, zeros: mean absolute difference over genes, of bins;
* mmd: maximum mean discrepancy (Gretton et al. 2012 JMLR 13:723), Gaussian kernel as wide as the median distance;
* agree: share that a logistic regression, fitted to real training cells of all types, takes for the type;
* memory: median distance to the nearest training cell of the type, over that of the real cells: below 1 is copying;
* donors: an attack on privacy. Donors are ranked by the mean distance of their cells of the type to the nearest
  generated one; AUROC for having trained, 0.5 is no sign of it. For the ceiling it shows what the attack can see.

"unseen" is a cell type of one sex that was taken out of training, so that the two labels were never seen together; its
ceiling and its distances are to cells that training missed.

Legend: C cells, G genes, K genes that enter correlations.
"""

import logging
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

from benchmarks.shared import effort, files, studies
from benchmarks.shared import scvi_baseline as scvi
from polygene.model.checkpoint import PolyGene
from polygene.nn.losses import LossConfig
from polygene.tl import generate
from polygene.vocab.binning import ExpressionBinner
from polygene.vocab.panel import GenePanel

log = logging.getLogger("benchmark")

STUDIES = ("onek1k", "velmeshev")
FEWEST, MOST = 500, 1_000
FRACTIONS = (0.6, 0.1, 0.3)
EPOCHS_UNSEEN = 15
UNSEEN = ("onek1k", "female", "memory B cell")
MODEL = "PolyGene"
CEILING, INDEPENDENT, SCANVI = "ceiling: training donors", "independent genes", "scANVI"
SAID = {"generate": MODEL, "ceiling": CEILING, "independent": INDEPENDENT, "scanvi": SCANVI}
SCORES = ("auc", "corr", "mean", "variance", "zeros", "mmd", "agree", "memory", "donors")


def binned(binner: ExpressionBinner, counts_CG: Any) -> np.ndarray:
    """Bins of counts, float32 (C, G): per-cell quantiles need no totals."""
    return binner.bins(sparse.csr_matrix(counts_CG, dtype=np.float32)).toarray().astype(np.float32)


def panel_counts(cells: ad.AnnData, panel: GenePanel) -> np.ndarray:
    """Counts of the genes of a panel, (C, G); 0 where a gene was not measured."""
    match = panel.match(cells.var)
    serves_NG = sparse.csr_matrix(
        (np.ones(len(match.genes_N)), (match.columns_N, match.genes_N)), (cells.n_vars, len(panel))
    )
    return (cells.X @ serves_NG).toarray()


def auc(real_CG: np.ndarray, other_CG: np.ndarray, seed: int) -> float:
    """How well two sets of cells are told apart, by the better of two classifiers."""
    x_CG, y_C = np.concatenate([real_CG, other_CG]), np.repeat([0, 1], [len(real_CG), len(other_CG)])
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
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
    label: str, order: dict[str, str], n: int, model: PolyGene, scanvi: Any, train_CG: np.ndarray, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Give n cells of a label, in bins, from all that makes or finds them; `train_CG` are training cells of it."""
    rng = np.random.default_rng(seed)
    yield CEILING, train_CG[rng.choice(len(train_CG), n, replace=False)]
    yield INDEPENDENT, np.stack([rng.choice(of_gene_C, n) for of_gene_C in train_CG.T], axis=1)
    if scanvi is not None:
        yield SCANVI, binned(model.tokenizer.binner, scanvi.sample(label, n, seed=seed))
    yield MODEL, generate(model, order, n_cells=n, seed=seed).layers["polygene_bins"].toarray().astype(np.float32)


def study_rows(name: str, data: Path | None, seed: int, folder: Path, unseen: tuple[str, str] | None) -> list[dict]:
    """Generate and score every type of a study that has cells enough; or one pair of labels that training missed."""
    cells = ad.read_h5ad(files.locate(studies.STUDIES[name].file, data))
    cells.obs_names_make_unique()
    types_C = cells.obs["cell_type"].astype(str).to_numpy()
    donor_C = cells.obs["donor_id"].astype(str).to_numpy()
    missed = {"sex": unseen[0], "cell_type": unseen[1]} if unseen else {}
    asked_C = studies.having(cells.obs, missed) if unseen else np.ones(cells.n_obs, dtype=bool)
    if unseen:
        settings = {"prepared": {"fractions": FRACTIONS}, "loss": LossConfig(phenotype_weight=0.3)}
        model, corpus = studies.trained(
            name, folder, data=data, seed=seed, tag="unseen", epochs=EPOCHS_UNSEEN, without=missed, **settings
        )
    else:
        model, corpus = studies.learned_long(name, folder, data=data, seed=seed)
    donors = {split: set(corpus.split(split).donors_C) for split in ("train", "test")}
    in_train_C, in_test_C = (cells.obs["donor_id"].isin(donors[split]).to_numpy() for split in ("train", "test"))
    counts_CG = panel_counts(cells, model.tokenizer.panel)
    bins_CG = binned(model.tokenizer.binner, counts_CG)
    learned_C = in_train_C & ~asked_C if unseen else in_train_C
    scanvi = None
    if scvi.AVAILABLE and not unseen:
        scanvi = scvi.fit(counts_CG[learned_C], labels_C=types_C[learned_C], seed=seed)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1_000))
    judge.fit(bins_CG[in_train_C], types_C[in_train_C])
    rows = []
    for label in [unseen[1]] if unseen else sorted(set(types_C)):
        train_C, test_C = (np.flatnonzero(part_C & (types_C == label) & asked_C) for part_C in (in_train_C, in_test_C))
        n = min(len(train_C), len(test_C), MOST)
        if n < effort.at_most(FEWEST if not unseen else FEWEST // 2, 5):
            continue
        real_CG = bins_CG[np.random.default_rng(seed).choice(test_C, n, replace=False)]
        order = {"cell_type": label} | ({"sex": unseen[0]} if unseen else {})
        for who, other_CG in sources(label, order, n, model, scanvi, bins_CG[train_C], seed):
            agree = float((judge.predict(other_CG) == label).mean())
            found = scores(real_CG, other_CG, bins_CG[train_C], agree, seed)
            both_C = np.concatenate([train_C, test_C])
            found["donors"] = donors_seen(other_CG, bins_CG[both_C], donor_C[both_C], in_train_C[both_C])
            rows.append({"study": name, "label": ", ".join(order.values()), "cells": n, "source": who, **found})
            log.info(
                "%s", {key: value if isinstance(value, str) else round(value, 3) for key, value in rows[-1].items()}
            )
    return rows


def run(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Score all studies, print the table, and give the means over labels."""
    rows = [row for name in effort.few(STUDIES) for row in study_rows(name, data, seed, folder, None)]
    unseen = study_rows(UNSEEN[0], data, seed, folder, UNSEEN[1:])
    table = Table(title="generated cells against real cells of held-out donors", title_justify="left")
    for column in ("study", "label", "cells", "source", *SCORES):
        table.add_column(column)
    for row in [*rows, *({**row, "study": f"{row['study']}, unseen"} for row in unseen)]:
        table.add_row(*(str(row[c]) for c in ("study", "label", "cells", "source")), *(f"{row[s]:.3f}" for s in SCORES))
    Console(width=170).print(table)
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
    return {name: round(float(value), 4) for name, value in said.items()} | {"generation_rows": rows + unseen}
