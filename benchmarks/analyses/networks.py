"""Gene networks: planted modules, difference between contexts, edges of a reference, each definition beside its nulls.

Legend: C cells, G panel genes, S sources, T targets, U donors.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import anndata as ad
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from benchmarks.analyses.planted import learned, planted
from benchmarks.analyses.reference import other_regulators, read_edges, scored, truth
from benchmarks.analyses.scene import Scene
from benchmarks.shared import effort, files
from polygene.model.checkpoint import PolyGene
from polygene.tl import _graph, gene_network
from polygene.tl._gene_network import context_rows
from polygene.tl._gene_weights import (
    DEFINITIONS,
    attention,
    correlations,
    cosines,
    gene_weights,
    random_weights,
    shuffled,
    state_sums,
)
from polygene.tl._reader import CellReader, donors_of, load_model
from polygene.vocab.cells import EncodedCells

REFERENCE_MODEL = "polygene-2432"
"""Its panel holds 172 sources of OmniPath, that of polygene-512 39."""
REFERENCE_FILES = ("pbmc3k_10x", "pancreas_baron_h1", "velmeshev_asd_pfc_glia")
CONTEXT_FILES = ("onek1k_scdesignpop_multicell", "velmeshev_asd_pfc_glia")
MIN_CELLS, DENSITY, CONTEXT_CELLS, REFERENCE_CELLS, SPLITS, SAMPLES = 10, 0.05, 500, 600, 20, 100
console = Console(width=150)


def available(scene: Scene, names: tuple[str, ...]) -> Iterator[tuple[str, ad.AnnData]]:
    """Read the files that are there."""
    for name in effort.few(names):
        try:
            yield name, scene.cells(name)
        except (files.MissingDataError, KeyError) as reason:
            console.print(f"skipped: {reason}")


def networks(scene: Scene) -> dict[str, Any]:
    """Compare contexts, and score edges."""
    return {
        "contexts": context_dependence(scene),
        "edges_shared": edges_shared(scene),
        "network_auprc": edges_of_reference(scene),
    }


def edges_shared(scene: Scene) -> list[dict[str, Any]]:
    """Compare the edges of a definition with those that stay when genes are shuffled, and with other definitions."""
    rows = []
    for file, adata in available(scene, CONTEXT_FILES):
        for name, model in scene.load().items():
            settings = {"n_cells": effort.at_most(CONTEXT_CELLS, 60), "density": DENSITY, "seed": scene.seed}
            kept = {by: gene_network(adata, model, by=by, **settings) for by in DEFINITIONS}
            kept["random weights"] = gene_network(adata, model, null="weights", **settings)
            for by in ("contextual", "attention", "correlation"):
                others = {**kept, "itself, genes shuffled": gene_network(adata, model, by=by, null="genes", **settings)}
                row = {"file": file, "model": name, "edges": by}
                for other, network in others.items():
                    both = [
                        (kept[by].weights[c], network.weights[c]) for c in kept[by].contexts if c in network.weights
                    ]
                    row[other] = float(np.mean([_graph.jaccard(*pair) for pair in both]))
                rows.append(row)
    _print("edges shared with other networks of the same cells: Jaccard, mean over contexts", rows)
    return rows


def modules(scene: Scene) -> dict[str, Any]:
    """Score how well weights tell pairs of a planted module from others, and how many edges two seeds share."""
    adata, module_G = planted(seed=scene.seed)
    model, other = learned(adata, scene.folder, seeds=(scene.seed, scene.seed + 1))
    cells = model.tokenizer.encode(adata, use_labels=False)
    planted_G = module_G[[adata.var_names.get_loc(symbol) for symbol in model.tokenizer.panel.symbols]]
    upper = np.triu_indices(len(planted_G), 1)
    same_E = (planted_G[:, None] == planted_G)[upper]
    weights = {by: gene_weights(model, cells, by, min_cells=MIN_CELLS) for by in DEFINITIONS}
    weights["random network"] = gene_weights(random_weights(model), cells, "contextual", min_cells=MIN_CELLS)
    weights["genes shuffled"] = gene_weights(model, shuffled(cells, seed=scene.seed), "contextual", min_cells=MIN_CELLS)
    mean_G = np.asarray(cells.as_csr(cells.values_N, len(planted_G)).mean(axis=0)).ravel()
    weights["mean expression of both"] = mean_G[:, None] + mean_G
    found = {}
    for name, weights_GG in weights.items():
        known_E = np.isfinite(weights_GG[upper])
        found[name] = float(roc_auc_score(same_E[known_E], weights_GG[upper][known_E]))
    _print("planted modules: AUROC of pairs", [{"weights": name, "AUROC": value} for name, value in found.items()])
    shared, n_edges = {}, int(same_E.sum())
    for by in DEFINITIONS[:3]:
        both = [
            _graph.top_edges(x, n_edges) for x in (weights[by], gene_weights(other, cells, by, min_cells=MIN_CELLS))
        ]
        shared[by] = _graph.jaccard(*both)
    chance = n_edges / len(same_E)
    return {"module_recovery_auc": found, "edges_shared_by_seeds": {**shared, "by chance": chance / (2 - chance)}}


def context_dependence(scene: Scene) -> list[dict[str, Any]]:
    """Compare the edges of two halves of the donors within a context and between contexts, over random halves.

    Were networks the same in all contexts, both would share as many edges.
    """
    rows = []
    for file, adata in available(scene, CONTEXT_FILES):
        for name, model in scene.load().items():
            reader = CellReader(adata, model.tokenizer)
            rows_of = context_rows(reader.cells, "cell_type", None, effort.at_most(CONTEXT_CELLS, 60), None, scene.seed)
            donor_C = donors_of(reader.cells, "donor_id")[0]
            read = {key: reader.read(rows) for key, rows in rows_of.items()}
            units = {key: donor_C[rows] for key, rows in rows_of.items()}
            cases = {"contextual": model, "contextual, random weights": random_weights(model), "correlation": None}
            for case, one in cases.items():
                within, between = _overlaps(one, read, units, scene.seed)
                difference = np.array(within) - np.array(between)
                low, high = np.quantile(difference, [0.025, 0.975])
                facts = {"within": float(np.mean(within)), "between": float(np.mean(between))}
                facts |= {"difference": float(difference.mean()), "low": float(low), "high": float(high)}
                rows.append({"file": file, "model": name, "weights": case, "contexts": len(read), **facts})
    _print("shared edges of halves of the donors: Jaccard within and between contexts", rows)
    return rows


def _overlaps(
    model: PolyGene | None, read: dict[str, EncodedCells], units: dict[str, np.ndarray], seed: int
) -> tuple[list[float], list[float]]:
    """Mean Jaccard index within and between contexts for each split of the donors."""
    n_donors = 1 + max(int(unit_C.max()) for unit_C in units.values())
    n_genes = len(next(iter(read.values())).measured_G)
    node_G = np.ones(n_genes, dtype=bool)
    for cells in read.values():
        node_G &= np.bincount(cells.genes_N, minlength=n_genes) >= 2 * MIN_CELLS
    n_edges = max(1, round(DENSITY * node_G.sum() * (node_G.sum() - 1) / 2))
    sums = {key: state_sums(model, cells, units[key], n_donors) for key, cells in read.items()} if model else {}
    within, between = [], []
    for split in range(effort.at_most(SPLITS, 2)):
        first_U = np.random.default_rng([seed, split]).permutation(n_donors) < n_donors // 2
        kept: dict[str, list[Any]] = {}
        for key, cells in read.items():
            for half_U in (first_U, ~first_U):
                if model:
                    sums_UGD, counts_UG = sums[key]
                    means_GD = sums_UGD[half_U].sum(axis=0) / np.maximum(counts_UG[half_U].sum(axis=0), 1)[:, None]
                    weights_GG = cosines(means_GD, node_G)
                else:
                    x_CG = cells.as_csr(cells.values_N, n_genes)
                    weights_GG = correlations(x_CG, half_U[units[key]].astype(float))
                kept.setdefault(key, []).append(_graph.top_edges(weights_GG[node_G][:, node_G], n_edges))
        within.append(np.mean([_graph.jaccard(*halves) for halves in kept.values()]))
        pairs = [_graph.jaccard(kept[a][i], kept[b][1 - i]) for a, b in combinations(kept, 2) for i in (0, 1)]
        between.append(np.mean(pairs))
    return within, between


def edges_of_reference(scene: Scene) -> list[dict[str, Any]]:
    """Score the edges of every definition, of its nulls, and gene-level scores, against the reference."""
    if scene.reference is None:
        console.print("edges of a reference: skipped, give --reference")
        return []
    edges, model, rows = read_edges(scene.reference), load_model(REFERENCE_MODEL), []
    for file, adata in available(scene, REFERENCE_FILES):
        reader = CellReader(adata, model.tokenizer)
        chosen = context_rows(reader.cells, None, None, effort.at_most(REFERENCE_CELLS, 60), None, scene.seed)
        cells = reader.read(next(iter(chosen.values())))
        n_genes = len(cells.measured_G)
        node_G = np.bincount(cells.genes_N, minlength=n_genes) >= MIN_CELLS
        genes = np.flatnonzero(node_G)
        sources_S, is_edge_ST = truth(edges, [model.tokenizer.panel.symbols[g] for g in genes])
        mean_T = np.asarray(cells.as_csr(cells.values_N, n_genes).mean(axis=0)).ravel()[genes]
        for name, score_TT in _scores(model, cells, scene.seed).items():
            score_ST = score_TT[np.ix_(genes[sources_S], genes)]
            rows.append({"file": file, "score": name, **_scored(score_ST, is_edge_ST, sources_S, mean_T, scene)})
        gene_level = {
            "target's mean expression": np.broadcast_to(mean_T, is_edge_ST.shape),
            "mean expression of both": mean_T[sources_S][:, None] + mean_T,
            "target's other regulators (reads the reference)": other_regulators(is_edge_ST).astype(float),
        }
        for name, score_ST in gene_level.items():
            rows.append({"file": file, "score": name, **_scored(score_ST, is_edge_ST, sources_S, mean_T, scene)})
        rows[-1] |= {"sources": len(sources_S), "genes": len(genes), "edges": int(is_edge_ST.sum())}
    _print("edges of the reference", rows)
    return rows


def _scored(
    score_ST: np.ndarray, is_edge_ST: np.ndarray, sources_S: np.ndarray, mean_T: np.ndarray, scene: Scene
) -> dict:
    return scored(score_ST, is_edge_ST, sources_S, mean_T, seed=scene.seed, n=effort.at_most(SAMPLES, 3))


def _scores(model: PolyGene, cells: EncodedCells, seed: int) -> dict[str, np.ndarray]:
    """Weights of all pairs (source, target) by definition; attention is that of the target to the source."""
    found = {by: gene_weights(model, cells, by, min_cells=MIN_CELLS) for by in ("contextual", "static", "correlation")}
    found["attention"] = attention(model, cells).T
    found["contextual, random weights"] = gene_weights(random_weights(model), cells, "contextual", min_cells=MIN_CELLS)
    found["correlation, genes shuffled"] = gene_weights(
        model, shuffled(cells, seed=seed), "correlation", min_cells=MIN_CELLS
    )
    return found


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for column in rows[0] if rows else ():
        table.add_column(column)
    for row in rows:
        table.add_row(
            *(f"{x:.3f}" if isinstance(x, float) else str(x) for x in list(row.values())[: len(table.columns)])
        )
    console.print(table)
