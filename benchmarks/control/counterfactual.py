"""What if: whether a changed token changes the genes that it should, and how far it agrees with pseudobulk.

    python -m benchmarks.control --data DIR --only counterfactual

Cells of held-out donors (test and validation) are changed; what their cells of the other label look like is the truth:
the difference of pseudobulks, means of log1p values by donor, over the cell types of the donor, over the donors of a
label. Beside the model stand two simple predictions from its training cells: the same difference there, and the
coefficients of a logistic regression between the two labels. Sex is a check and no discovery: it was read off XIST and
the Y genes. They are little expressed, so genes are ranked by the change of log1p values, and again by that of the odds
of "expressed".
"""

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

from benchmarks.shared import effort, files
from benchmarks.shared.studies import SEX_GENES, STUDIES, learned_long
from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.tl import counterfactual

LONG = ("velmeshev",)
"""What is trained longer and faster than elsewhere, and less on labels: that XIST and the Y genes go with a label is
learned long after the label itself, and after the diagnosis, which cannot be learned, grew overconfident."""
CELLS_OF_A_DONOR = 100
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
        study="onek1k", phenotype="cell_type", before="naive/central memory CD4-positive T cell",
        after="classical monocyte",
        rising=("LYZ", "S100A8", "S100A9", "S100A12", "CD14", "FCN1", "VCAN", "CST3", "TYROBP", "CTSS"),
        falling=("CD3D", "CD3E", "CD3G", "IL7R", "LTB", "LEF1", "TCF7", "CCR7", "LDHB", "CD2"),
    ),
    Case(study="velmeshev", phenotype="disease", before="autism spectrum disorder", after="normal"),
)  # fmt: skip


def pseudobulk_change(splits: list[CorpusSplit], corpus: Corpus, case: Case) -> np.ndarray:
    """Mean over donors of the new label minus that of the old one, each donor a mean over its cell types, (G,)."""
    schema = corpus.tokenizer.schema
    p, other = schema.index(case.phenotype), schema.index("cell_type")
    means = []
    for label in (case.before, case.after):
        frames = []
        for split in splits:
            rows = np.flatnonzero(split.labels_CP[:, p] == schema.labels[p].index(label))
            of_cell = pd.DataFrame(split.values(rows).toarray())
            frames.append(of_cell.groupby([split.donors_C[rows], split.labels_CP[rows, other]]).mean())
        means.append(pd.concat(frames).groupby(level=0).mean().mean().to_numpy())
    return means[1] - means[0]


def logistic_coefficients(split: CorpusSplit, corpus: Corpus, case: Case) -> np.ndarray:
    """Log odds of the new label against the old one, per standard deviation of each gene, (G,)."""
    schema = corpus.tokenizer.schema
    p = schema.index(case.phenotype)
    places = [schema.labels[p].index(label) for label in (case.before, case.after)]
    rows = np.flatnonzero(np.isin(split.labels_CP[:, p], places))
    x_CG = StandardScaler(with_mean=False).fit_transform(split.values(rows))
    return LogisticRegression(C=0.01, max_iter=1_000).fit(x_CG, split.labels_CP[rows, p] == places[1]).coef_[0]


def log_odds_change(means: pd.DataFrame, context: str) -> np.ndarray:
    """Change of the log odds of "expressed": an effect that does not favour genes that are much expressed, (G,)."""
    before_G = means[f"{context}_expressed"].to_numpy()
    return logit(before_G + means[f"{context}_expressed_change"].to_numpy()) - logit(before_G)


def held_out_cells(path: Path, corpus: Corpus, seed: int) -> ad.AnnData:
    """Cells of the test and validation donors, at most 100 of a donor and cell type."""
    adata = ad.read_h5ad(path)
    donors = {*corpus.split("test").donors_C, *corpus.split("validation").donors_C}
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    obs = adata.obs.iloc[order]
    nth = obs.groupby(["donor_id", "cell_type"], observed=True).cumcount()
    return adata[np.sort(order[(obs["donor_id"].isin(donors) & (nth < CELLS_OF_A_DONOR)).to_numpy()])].copy()


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
    for case in effort.few(CASES, 2):
        try:
            path = files.locate(STUDIES[case.study].file, data)
        except files.MissingDataError as reason:
            print(f"skipped: {reason}")
            continue
        model, corpus = learned_long(case.study, folder, data=data, seed=seed)
        symbols = list(corpus.tokenizer.panel.symbols)
        cells = held_out_cells(path, corpus, seed)
        changes = {case.phenotype: (case.before, case.after)}
        table = counterfactual(cells, model, changes, groupby="cell_type", seed=seed, n_repeats=1)
        means = table.groupby("gene").mean(numeric_only=True).loc[symbols]  # over cell types, as the truth is
        train = corpus.split("train")
        answers = {name: means[f"{context}_expression_change"].to_numpy() for name, context in CONTEXTS.items()}
        answers |= {f"{name}, log odds": log_odds_change(means, context) for name, context in CONTEXTS.items()}
        answers |= {
            "training pseudobulk": pseudobulk_change([train], corpus, case),
            "logistic regression": logistic_coefficients(train, corpus, case),
        }
        truth_G = pseudobulk_change([corpus.split("test"), corpus.split("validation")], corpus, case)
        for name, change_G in answers.items():
            change = f"{case.study}: {case.phenotype}, {case.before} → {case.after}"
            rows.append({"change": change, "by": name, **score(change_G, truth_G, case, symbols)})
        if case.phenotype == "sex":
            suffixes = ("", "_half", "_log_odds", "_half_log_odds", "_training_pseudobulk", "_logistic")
            for row, suffix in zip(rows[-len(answers) :], suffixes, strict=True):
                results |= {f"counterfactual_{key}{suffix}": row[key] for key in ("xist_rank", "y_precision")}
    _print(rows)
    return {**results, "counterfactual": rows}


def _print(rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title="changes against pseudobulk of held-out donors", title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console(width=170).print(table)
