"""What if: whether a changed token changes the genes that it should, and how far it agrees with pseudobulk.

    python -m benchmarks.control --data DIR --only counterfactual

Cells of held-out donors (test and validation) are changed by the model that ships; what their cells of the other label
look like is the truth: the difference of pseudobulks, means of log1p values by donor, over the cell types of the donor,
over the donors of a label. Beside the model stand two simple predictions from the training donors of the same study:
the same difference there, and the coefficients of a logistic regression between the two labels. Sex is a check and no
discovery: it was read off XIST and the Y genes. They are little expressed, so genes are ranked by the change of log1p
values, and again by that of the odds of "expressed".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.special import logit
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.shared import effort, shipped
from benchmarks.shared.studies import SEX_GENES, STUDIES
from polygene.tl import counterfactual

CELLS_OF_A_DONOR = 30
HELD_OUT = ("test", "validation")
CONTEXTS = {"PolyGene, tokens alone": "tokens", "PolyGene, tokens and half of the genes": "half"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A change, and the genes that are well known to rise and to fall with it."""

    study: str
    phenotype: str
    before: str
    after: str
    rising: tuple[str, ...] = ()
    falling: tuple[str, ...] = ()


CASES = (
    Case(
        study="velmeshev", phenotype="sex", before="female", after="male",
        rising=tuple(gene for gene in SEX_GENES if gene != "XIST"), falling=("XIST",),
    ),
    Case(
        study="velmeshev", phenotype="cell_type", before="microglial cell", after="fibrous astrocyte",
        rising=("AQP4", "GFAP", "SLC1A2", "SLC1A3", "ALDH1L1", "ADGRV1", "CLU", "GJA1", "ATP1A2", "CPE"),
        falling=("CSF1R", "P2RY12", "CX3CR1", "CD74", "C3", "DOCK8", "APBB1IP", "PTPRC", "C1QB", "FYB1"),
    ),
    Case(
        study="onek1k", phenotype="cell_type", before="CD4-positive, alpha-beta T cell",
        after="CD14-positive, CD16-negative classical monocyte",
        rising=("LYZ", "S100A8", "S100A9", "S100A12", "CD14", "FCN1", "VCAN", "CST3", "TYROBP", "CTSS"),
        falling=("CD3D", "CD3E", "CD3G", "IL7R", "LTB", "LEF1", "TCF7", "CCR7", "LDHB", "CD2"),
    ),
    Case(study="velmeshev", phenotype="disease", before="autism spectrum disorder", after="normal"),
)  # fmt: skip


def pseudobulk_change(study: shipped.Study, splits: Sequence[str], case: Case) -> np.ndarray:
    """Mean over donors of the new label minus that of the old one, each donor a mean over its cell types, (M,)."""
    means = []
    for label in (case.before, case.after):
        frames = []
        for split in splits:
            obs = study.cells[split].obs
            rows = (obs[case.phenotype] == label).to_numpy()
            of_cell = pd.DataFrame(study.values(split)[rows])
            donor_C, type_C = (obs[column].astype(str).to_numpy()[rows] for column in ("donor_id", "cell_type"))
            frames.append(of_cell.groupby([donor_C, type_C]).mean())
        means.append(pd.concat(frames).groupby(level=0).mean().mean().to_numpy())
    return means[1] - means[0]


def logistic_coefficients(study: shipped.Study, case: Case) -> np.ndarray:
    """Log odds of the new label against the old one, per standard deviation of each gene, (M,)."""
    label_C = study.cells["train"].obs[case.phenotype].astype(str).to_numpy()
    rows = np.isin(label_C, [case.before, case.after])
    x_CM = StandardScaler().fit_transform(study.values("train")[rows])
    return LogisticRegression(C=0.01, max_iter=1_000).fit(x_CM, label_C[rows] == case.after).coef_[0]


def log_odds_change(means: pd.DataFrame, context: str) -> np.ndarray:
    """Change of the log odds of "expressed": an effect that does not favour genes that are much expressed, (G,)."""
    before_G = means[f"{context}_expressed"].to_numpy()
    return logit(before_G + means[f"{context}_expressed_change"].to_numpy()) - logit(before_G)


def held_out_cells(study: shipped.Study, seed: int) -> ad.AnnData:
    """Cells of the test and validation donors, at most `CELLS_OF_A_DONOR` of a donor and cell type."""
    adata = ad.concat([study.cells[split] for split in HELD_OUT], merge="same")
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    nth = adata.obs.iloc[order].groupby(["donor_id", "cell_type"], observed=True).cumcount()
    return adata[np.sort(order[(nth < CELLS_OF_A_DONOR).to_numpy()])].copy()


def score(change_G: np.ndarray, truth_G: np.ndarray, case: Case, symbols: list[str]) -> dict[str, float]:
    """Agreement with the truth over all genes, and where known genes stand among rises and falls."""
    rank_G = np.empty(len(symbols))  # 0 is the largest rise
    rank_G[np.argsort(-change_G, kind="stable")] = np.arange(len(symbols))
    rising, falling = (np.isin(symbols, genes) for genes in (case.rising, case.falling))
    top = [set(np.argsort(-np.abs(x_G))[:20]) for x_G in (change_G, truth_G)]
    found = {"spearman": float(spearmanr(change_G, truth_G).statistic), "top_20": len(top[0] & top[1]) / 20}
    if rising.any():
        others = ~(rising | falling)
        found["auc_rising"] = float((rank_G[rising][:, None] < rank_G[others]).mean())
        found["auc_falling"] = float((rank_G[falling][:, None] > rank_G[others]).mean())
        rest = np.abs(change_G[others])
        found["known_over_rest"] = float(np.abs(change_G[~others]).mean() / max(rest.mean(), 1e-12))
    if case.phenotype == "sex":
        found["xist_rank"] = int(len(symbols) - rank_G[symbols.index("XIST")])
        n_expressed = int((rising & (truth_G > 0.01)).sum())
        found["y_precision"] = float((rank_G[rising] < n_expressed).sum() / max(n_expressed, 1))
    return found


def run(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Score all cases, print the table, and return the scores."""
    rows, results = [], {}
    opened: dict[str, shipped.Study] = {}
    for case in effort.few(CASES, 2):
        study = opened.get(case.study) or shipped.study(STUDIES[case.study].file, folder, data=data)
        opened[case.study] = study
        changes = {case.phenotype: (case.before, case.after)}
        table = counterfactual(
            held_out_cells(study, seed), study.model, changes, groupby="cell_type", seed=seed, n_repeats=1
        )
        means = table.groupby("gene").mean(numeric_only=True).loc[study.symbols]  # over cell types, as the truth is
        answers = {name: means[f"{context}_expression_change"].to_numpy() for name, context in CONTEXTS.items()}
        answers |= {f"{name}, log odds": log_odds_change(means, context) for name, context in CONTEXTS.items()}
        answers |= {
            "training pseudobulk": pseudobulk_change(study, ["train"], case),
            "logistic regression": logistic_coefficients(study, case),
        }
        truth_G = pseudobulk_change(study, HELD_OUT, case)
        for name, change_G in answers.items():
            change = f"{case.study}: {case.phenotype}, {case.before} → {case.after}"
            rows.append({"change": change, "by": name, **score(change_G, truth_G, case, study.symbols)})
        if case.phenotype == "sex":
            suffixes = ("", "_half", "_log_odds", "_half_log_odds", "_training_pseudobulk", "_logistic")
            for row, suffix in zip(rows[-len(answers) :], suffixes, strict=True):
                results |= {f"counterfactual_{key}{suffix}": row[key] for key in ("xist_rank", "y_precision")}
    _print(rows)
    return {"model": shipped.NAME, **results, "counterfactual": rows}


def _print(rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title="changes against pseudobulk of held-out donors", title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console(width=170).print(table)
