"""Polyfunctionality: how far the states of a gene differ between contexts, beside genes like it.

Legend: C cells, N expressed genes of cells, H halves of the donors, G panel genes, K contexts, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy import stats

from polygene.errors import DataError, GeneError, check_names
from polygene.io.read import Source
from polygene.io.results import record_in_uns
from polygene.model.checkpoint import PolyGene
from polygene.model.shipped import DEFAULT
from polygene.runtime.progress import progress
from polygene.tl._contexts import ContextSums, add_rows, clusters_of
from polygene.tl._donor_tests import benjamini_hochberg
from polygene.tl._reader import CellReader, donors_of, groups_of, made_by, panel_var
from polygene.tl._states import Models, balanced, check_call, named_models, states_of

logger = logging.getLogger("polygene")

N_LIKE, N_NEAREST = 50, 5
TOP = 95.0
"""Percentile among like genes from which on a gene counts as polyfunctional."""
FEWEST = 10
"""Genes that a null, and what is expected of a gene, are learned from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Polyfunctionality:
    """What `tl.polyfunctionality` found: a row for each gene, and a row for each named gene in each context."""

    genes: pd.DataFrame
    contexts: pd.DataFrame


def polyfunctionality(
    adata: Source,
    model: Models = DEFAULT,
    *,
    genes: str | Sequence[str] = (),
    context: str = "cell_type",
    donor: str = "donor_id",
    max_cells: int = 5_000,
    min_cells: int = 10,
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> Polyfunctionality:
    """Measure how far the states of a gene differ between contexts, beside genes of like expression.

    A state in context always carries the cell type, so what all genes of a cell share (the mean of how far each is from
    its own mean) and what the gene's own bin explains are taken off first. Spread between contexts is the product of
    the means of two halves of the donors, so that noise and donors add nothing to it.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file.
    model
        A PolyGene, or the name or folder of one; several, such as seeds, say which findings survive.
    genes
        Genes to look at in each context. All genes of the panel are measured in any case.
    context, donor
        Columns of `obs`. Without donors the halves are of cells, and nothing is claimed.
    max_cells
        How many cells are read, as many of each context and donor as can be.
    min_cells
        Cells of a context in each half that must express the gene.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Of what is drawn.

    Returns
    -------
    `genes`, a row for each model and gene:

    `model`, `gene`, `reason`
        Why the gene is not measured, empty where it is.
    `n_cells`, `n_contexts`, `expression`, `detection`
        Cells that express it, contexts with enough of them, mean bin where expressed, share of cells that express it.
    `spread_raw`, `spread`, `spread_shuffled`
        Share of the states' variance that lies between contexts: of the states as they are; with cell and bin taken
        off; the same with the contexts of each donor shuffled, near 0.
    `p_value`, `q_value`
        How often shuffled contexts spread as far, by the normal distribution with mean and standard deviation of
        `spread_shuffled` over all genes, so too small for genes of few cells; Benjamini–Hochberg over genes. A shuffle
        of two contexts in two donors may leave them as they were, and then nothing is found.
    `expected`, `percentile`
        The spread of a gene of its expression and detection (quadratic regression), and the percentile of what is left
        among the 50 genes nearest in both.
    `replicates`, `polyfunctional`, `survives`
        Whether the percentile is 95 or above in both halves of the donors (missing without donors); whether also q is
        at most 0.05 and the percentile 95 or above; whether that holds in each model that measures the gene.
    `stability`
        Of named genes: adjusted Rand index of the contexts' clusters in the two halves.

    `contexts`, a row for each model, named gene and context: `n_cells`, `cluster`, and the `nearest` genes by the
    cosine of their states there, each less its mean over all cells and what the genes of a cell share. An AnnData gets
    both in `uns["polygene"]["polyfunctionality"]`.

    Raises
    ------
    DataError, ColumnError, GeneError
        There is one context, a column is missing, or no named gene can be measured.

    Notes
    -----
    Memory is 3 float32 numbers for each half, gene, context and dimension: 16 MB for 512 genes, 10 contexts and a width
    of 128.

    Examples
    --------
    >>> import polygene as pg
    >>> adata = pg.datasets.pbmc()
    >>> found = pg.tl.polyfunctionality(adata, genes="LYZ", context="cell_type", max_cells=300)
    >>> found.genes.loc[found.genes["gene"] == "LYZ", "reason"].item()
    ''
    """
    check_call("polyfunctionality", adata, seed, max_cells=max_cells, min_cells=min_cells)
    wanted = check_names("genes", genes)
    models = named_models(model)
    tables, contexts = [], []
    for name, one in models.items():
        reader = CellReader(adata, one.tokenizer, layer=layer, totals=totals)
        sums = context_sums(reader, one, context, donor, max_cells=max_cells, seed=seed)
        table, of_contexts = _of_model(sums, one, reader, wanted, min_cells, name)
        if table["spread"].isna().all():
            msg = f"No gene is expressed by {min_cells:,} cells of each half in two contexts: lower min_cells."
            raise DataError(msg)
        tables.append(table)
        contexts.append(of_contexts)
    table = pd.concat(tables, ignore_index=True)
    measured = table[table["spread"].notna()]
    table["survives"] = table["gene"].map(measured.groupby("gene")["polyfunctional"].all()).eq(True)
    found = Polyfunctionality(genes=table, contexts=pd.concat(contexts, ignore_index=True))
    if isinstance(adata, ad.AnnData):
        made = {**made_by(next(iter(models.values()))), "models": list(models), "context": context, "donor": donor}
        plain = table.astype({"replicates": "float64"})
        record_in_uns(adata, "polyfunctionality", {**made, "table": plain, "contexts": found.contexts})
    return found


def context_sums(
    reader: CellReader, model: PolyGene, context: str, donor: str, *, max_cells: int, seed: int
) -> ContextSums:
    """Read cells of all contexts and donors, and sum the states of their genes by context and half of the donors."""
    contexts_C, names = groups_of(reader.cells, context, holds="the context of each cell")
    if len(names) < 2:
        msg = f"obs[{context!r}] of {reader.cells.label} has {len(names)} label: contexts are compared, so give two."
        raise DataError(msg)
    donors_C = donors_of(reader.cells, donor)[0]
    by_donor = len(set(donors_C[(donors_C >= 0) & (contexts_C >= 0)])) > 1
    if not by_donor:
        logger.warning("fewer than two donors: halves are of cells, which are no replicates, so nothing is claimed")
        donors_C = np.arange(reader.cells.n_obs, dtype=np.int64)
    chosen = balanced([contexts_C, donors_C] if by_donor else [contexts_C], max_cells, seed=seed)
    rng = np.random.default_rng(seed)
    donors_C, contexts_C = np.unique(donors_C[chosen], return_inverse=True)[1], contexts_C[chosen]
    halves_C = (rng.permutation(donors_C.max() + 1) % 2)[donors_C]
    shuffled_C = _shuffled(contexts_C, donors_C if by_donor else np.zeros_like(donors_C), rng, by_donor=by_donor)
    config = model.network.config
    means_GD, n_G = np.zeros((config.n_genes, config.hidden_size + 1)), np.zeros(config.n_genes)
    with progress(2 * len(chosen), done="cells read in context", device=model.network.device) as advance:
        for where, states in states_of(reader, model, chosen):
            add_rows(means_GD, states.genes_N, np.column_stack([states.genes_ND, states.bins_N]))
            n_G += np.bincount(states.genes_N, minlength=len(n_G))
            advance(where.stop - where.start)
        means_GD /= np.maximum(n_G, 1)[:, None]
        cells_K = np.bincount(contexts_C, minlength=len(names))
        sums = ContextSums(names, cells_K, means_GD.astype(np.float32), by_donor=by_donor)
        for where, states in states_of(reader, model, chosen):
            sums.add(states, halves_C[where], contexts_C[where], shuffled_C[where])
            advance(where.stop - where.start)
    return sums


def _shuffled(codes_C: np.ndarray, donors_C: np.ndarray, rng: np.random.Generator, *, by_donor: bool) -> np.ndarray:
    """Exchange the contexts of each donor, all cells of one together; without donors the contexts of cells."""
    if not by_donor:
        return rng.permutation(codes_C)
    shuffled_C = codes_C.copy()
    for d in range(donors_C.max() + 1):
        there, of_C = np.unique(codes_C[donors_C == d], return_inverse=True)
        shuffled_C[donors_C == d] = rng.permutation(there)[of_C]
    return shuffled_C


def _of_model(
    sums: ContextSums, model: PolyGene, reader: CellReader, wanted: Sequence[str], min_cells: int, name: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    panel, names = model.tokenizer.panel, panel_var(model.tokenizer.panel).index.tolist()
    table = _table(sums, names, min_cells)
    rows, lacking = {}, {}
    for gene in wanted:
        try:
            rows[gene] = panel.index(gene)
        except GeneError:
            lacking[gene] = f"{gene} is not in the panel of {name}, so the model has no state for it."
    few = f"is expressed by fewer than {min_cells} cells of each half in all contexts but one"
    for g in np.flatnonzero(table["spread"].isna()):
        why = few if reader.match.measured_G[g] else f"is not measured in {reader.cells.label}"
        table.loc[g, "reason"] = f"{names[g]} {why}."
    reasons = [*lacking.values(), *(table["reason"][g] for g in rows.values() if table["reason"][g])]
    if wanted and len(reasons) == len(wanted):
        raise GeneError(" ".join(reasons))
    for reason in reasons:
        logger.warning("%s", reason)
    of_contexts = [_contexts_of(sums, table, g, names, min_cells) for g in rows.values() if not table["reason"][g]]
    extra = pd.DataFrame({"gene": list(lacking), "reason": list(lacking.values())})
    table = pd.concat([table, extra], ignore_index=True) if lacking else table
    table["polyfunctional"] = table["polyfunctional"].eq(True)
    columns = ["gene", "context", "n_cells", "cluster", "nearest"]
    contexts = pd.concat(of_contexts, ignore_index=True) if of_contexts else pd.DataFrame(columns=columns)
    for one in (table, contexts):
        one.insert(0, "model", name)
    return table, contexts


def _table(sums: ContextSums, symbols: list[str], min_cells: int) -> pd.DataFrame:
    spread, raw, shuffled = (sums.spread(kind, min_cells) for kind in ("relative", "raw", "shuffled"))
    n_G = sums.n_HGK.sum(axis=(0, 2))
    table = pd.DataFrame({
        "gene": symbols, "reason": "", "n_cells": n_G, "n_contexts": sums.enough(min_cells).sum(axis=1),
        "expression": sums.bins_HGK.sum(axis=(0, 2)) / np.maximum(n_G, 1), "detection": n_G / sums.cells_K.sum(),
        "spread_raw": raw.all_G, "spread": spread.all_G, "spread_shuffled": shuffled.all_G,
        "p_value": np.nan, "q_value": np.nan,
    })  # fmt: skip
    known_G = np.isfinite(spread.all_G)
    null = shuffled.all_G[np.isfinite(shuffled.all_G)]
    if len(null) >= FEWEST:
        # as normal: counting cannot go below one in the number of genes, where one gene alone stands out
        table.loc[known_G, "p_value"] = stats.norm.sf(spread.all_G[known_G], null.mean(), null.std(ddof=1))
        table["q_value"] = benjamini_hochberg(table["p_value"].to_numpy())
    level_G2 = table[["expression", "detection"]].to_numpy()
    table["expected"], table["percentile"] = among_like(spread.all_G, level_G2)
    halves = [among_like(half_G, level_G2)[1] for half_G in spread.halves_HG]
    lower_G = np.minimum(*halves) if sums.by_donor else np.full(len(table), np.nan)
    table["replicates"] = pd.array(np.where(np.isnan(lower_G), np.nan, lower_G >= TOP), dtype="boolean")
    found = (table["q_value"] <= 0.05) & (table["percentile"] >= TOP) & table["replicates"].fillna(False)
    table["polyfunctional"], table["stability"] = found.astype(bool), np.nan
    return table


def among_like(spread_G: np.ndarray, level_G2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regress spread on expression and detection; the expected spread, and the percentile of the rest among like genes.

    Like genes are the `N_LIKE` nearest in the ranks of both; with fewer than `FEWEST` measured nothing is expected.
    """
    known = np.flatnonzero(np.isfinite(spread_G))
    expected_G, percentile_G = np.full((2, len(spread_G)), np.nan)
    if len(known) < FEWEST:
        return expected_G, percentile_G
    level_M2 = stats.rankdata(level_G2[known], axis=0) / len(known)
    terms = np.column_stack([np.ones(len(known)), level_M2, level_M2**2, level_M2.prod(axis=1)])
    expected_M = terms @ np.linalg.lstsq(terms, spread_G[known], rcond=None)[0]
    left_M = spread_G[known] - expected_M
    for i, at in enumerate(level_M2):
        like = np.argsort(np.square(level_M2 - at).sum(axis=1), kind="stable")
        like = like[like != i][:N_LIKE]
        percentile_G[known[i]] = 100 * ((left_M[like] < left_M[i]).mean() + (left_M[like] == left_M[i]).mean() / 2)
    expected_G[known] = expected_M
    return expected_G, percentile_G


def _contexts_of(sums: ContextSums, table: pd.DataFrame, g: int, symbols: list[str], min_cells: int) -> pd.DataFrame:
    """Cluster the contexts of a gene, and name the genes that are nearest in each."""
    enough_GK = sums.enough(min_cells)
    contexts = np.flatnonzero(enough_GK[g])
    clusters_K, table.loc[g, "stability"] = clusters_of(sums.halves("relative", g)[:, contexts])
    means_GKD, nearest = sums.means(), []
    for k in contexts:
        others = np.flatnonzero(enough_GK[:, k] & (np.arange(len(symbols)) != g))
        x_GD = means_GKD[others, k] / np.linalg.norm(means_GKD[others, k], axis=1, keepdims=True)
        closest = others[np.argsort(-(x_GD @ means_GKD[g, k]), kind="stable")[:N_NEAREST]]
        nearest.append(", ".join(symbols[i] for i in closest))
    return pd.DataFrame({
        "gene": symbols[g], "context": [sums.contexts[k] for k in contexts],
        "n_cells": sums.n_HGK[:, g, contexts].sum(axis=0), "cluster": clusters_K, "nearest": nearest,
    })  # fmt: skip
