"""Networks of age groups as functions of who is in them. Legend: U donors, G panel genes, M nodes, A groups, D width.

All that depends on the model is summed for each donor once; a bootstrap sample or a shuffle is then arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from polygene.errors import DataError
from polygene.model.checkpoint import PolyGene
from polygene.tl import _graph
from polygene.tl._ageing_design import Design
from polygene.tl._donor_tests import benjamini_hochberg
from polygene.tl._gene_network import FEWEST
from polygene.tl._gene_weights import correlations, cosines, state_sums
from polygene.tl._reader import panel_var
from polygene.vocab.cells import EncodedCells


class Computed(NamedTuple):
    """Measures of each group, (A, measures); changes of each gene from the first to the last group, (M,) by name.

    The changes are "turnover" and, where genes have states, "drift".
    """

    measures_AX: np.ndarray
    changes: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupNetworks:
    """What the networks of any grouping of the donors follow from.

    `sums_UMD` and `counts_UM` are sums of states and how many cells they are of (contextual); `x_CM` and `unit_C` the
    expression and donor of each cell (correlation).
    """

    genes_M: pd.Index
    mean_M: np.ndarray
    donors_AU: np.ndarray
    n_edges: int
    counts_UM: np.ndarray
    sums_UMD: np.ndarray | None = None
    x_CM: sparse.csr_matrix | None = None
    unit_C: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        model: PolyGene,
        cells: EncodedCells,
        plan: Design,
        *,
        by: str,
        n_groups: int,
        density: float,
        min_cells: int,
    ) -> "GroupNetworks":
        """Sum what the model computes for each donor; a node is a gene of `min_cells` cells a group on average."""
        n_genes, n_donors = len(model.tokenizer.panel), len(plan.age_U)
        counts_UG = np.zeros((n_donors, n_genes), dtype=np.int64)
        np.add.at(counts_UG, (plan.unit_C[cells.cells_N], cells.genes_N.astype(np.int64)), 1)
        node_G = counts_UG.sum(axis=0) >= min_cells * n_groups
        n_nodes = int(node_G.sum())
        if n_nodes < FEWEST:
            few = (
                f"{plan.context}: {min_cells} cells a group express {n_nodes} genes, and a network has {FEWEST} or more"
            )
            msg = f"{few}. Lower min_cells, or thin less (depth=…)."
            raise DataError(msg)
        x_CG = cells.as_csr(cells.values_N, n_genes)
        parts: dict[str, np.ndarray | sparse.csr_matrix] = {"x_CM": x_CG[:, node_G], "unit_C": plan.unit_C}
        if by == "contextual":
            parts = {"sums_UMD": state_sums(model, cells, plan.unit_C, n_donors)[0][:, node_G]}
        return cls(
            genes_M=panel_var(model.tokenizer.panel).index[node_G],
            mean_M=np.asarray(x_CG.mean(axis=0)).ravel()[node_G],
            donors_AU=np.arange(n_donors).reshape(n_groups, -1),
            n_edges=max(1, round(density * n_nodes * (n_nodes - 1) / 2)),
            counts_UM=counts_UG[:, node_G],
            **parts,
        )

    def means(self, donors_U: np.ndarray) -> np.ndarray:
        """Mean state of each gene over the cells of these donors, (M, D); NaN where none of them expresses it."""
        assert self.sums_UMD is not None
        times_U = np.bincount(donors_U, minlength=len(self.counts_UM)).astype(np.float32)
        sums_MD = np.tensordot(times_U, self.sums_UMD, axes=1)
        counts_M1 = (times_U @ self.counts_UM)[:, None]
        return np.divide(sums_MD, counts_M1, out=np.full_like(sums_MD, np.nan), where=counts_M1 > 0)

    def weights(self, donors_AU: np.ndarray) -> list[sparse.csr_matrix]:
        """Compute the network of each group; a donor may be in it more than once."""
        found = []
        for donors_U in donors_AU:
            if self.sums_UMD is not None:
                means_MD = self.means(donors_U)
                known_M = np.isfinite(means_MD).all(axis=1)
                weights_MM = cosines(np.nan_to_num(means_MD), known_M)
                weights_MM[~known_M] = weights_MM[:, ~known_M] = np.nan
            else:
                assert self.unit_C is not None
                times_C = np.bincount(donors_U, minlength=len(self.counts_UM))[self.unit_C].astype(float)
                weights_MM = correlations(self.x_CM, times_C)
            np.fill_diagonal(weights_MM, np.nan)
            found.append(_graph.top_edges(weights_MM, self.n_edges))
        return found

    def measures(self, networks: Sequence[sparse.csr_matrix], *, seed: int) -> np.ndarray:
        """Measure the network of each group, (A, measures)."""
        n = len(self.genes_M)
        return np.array([list(_graph.measure(n, _graph.edge_pairs(kept), seed=seed).values()) for kept in networks])

    def compute(self, donors_AU: np.ndarray, *, seed: int) -> Computed:
        """Measure a grouping, and compare its first group with its last."""
        networks = self.weights(donors_AU)
        changes = {"turnover": _graph.turnover(networks[0], networks[-1])}
        if self.sums_UMD is not None:
            changes["drift"] = np.linalg.norm(self.means(donors_AU[-1]) - self.means(donors_AU[0]), axis=1)
        return Computed(self.measures(networks, seed=seed), changes)


def measure_tables(
    networks: GroupNetworks, observed: Computed, samples: list[np.ndarray], shuffles: list[Computed], plan: Design
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tabulate the measures of the groups and their slopes over age."""
    age_AU = plan.age_U[networks.donors_AU]
    spread_AX = np.std(samples, axis=0, ddof=1) if len(samples) > 1 else np.full_like(observed.measures_AX, np.nan)
    rows = []
    for a, ages_U in enumerate(age_AU):
        for x, name in enumerate(_graph.MEASURES):
            value, half = observed.measures_AX[a, x], 1.96 * spread_AX[a, x]
            rows.append({
                "group": a, "ages": f"{ages_U.min():.0f}–{ages_U.max():.0f}", "mean_age": ages_U.mean(),
                "n_donors": len(ages_U), "n_cells": len(ages_U) * plan.cells_per_donor,
                "measure": name, "value": value, "low": value - half, "high": value + half,
            })  # fmt: skip
    slope_X = slopes(age_AU.mean(axis=1), observed.measures_AX)
    sampled_RX = np.array([slopes(age_AU.mean(axis=1), sample) for sample in samples])
    shuffled_RX = np.array([slopes(age_AU.mean(axis=1), one.measures_AX) for one in shuffles])
    half_X = 1.96 * sampled_RX.std(axis=0, ddof=1) if len(samples) > 1 else np.full_like(slope_X, np.nan)
    low_X, high_X = np.quantile(shuffled_RX, [0.025, 0.975], axis=0)
    flatter_X = (np.abs(shuffled_RX) < np.abs(slope_X)).sum(axis=0)  # never so of a slope that is not known
    p_X = (1 + len(shuffles) - flatter_X) / (1 + len(shuffles))
    table = pd.DataFrame({
        "measure": _graph.MEASURES, "slope": slope_X, "low": slope_X - half_X, "high": slope_X + half_X,
        "shuffled_low": low_X, "shuffled_high": high_X, "p": p_X,
    })  # fmt: skip
    return pd.DataFrame(rows), table


def slopes(age_A: np.ndarray, values_AX: np.ndarray) -> np.ndarray:
    """Least squares of each column over age, per ten years."""
    centred_A = (age_A - age_A.mean()) / 10
    size = float(centred_A @ centred_A)
    return centred_A @ values_AX / size if size > 0 else np.full(values_AX.shape[1], np.nan)


def gene_p(own_M: np.ndarray, null_RM: np.ndarray) -> np.ndarray:
    """Compute p of each gene, (M,): how many shuffled values, of any gene, are as high among those of their gene.

    Counted gene by gene, 100 shuffles give no p below 0.01, which nothing survives over hundreds of genes. So values
    are standardised by gene; the observed one is among those that mean and deviation are of, as it is exchangeable.
    """
    known_M, p_M = np.isfinite(own_M), np.full(len(own_M), np.nan)
    x_RM = np.vstack([own_M, null_RM])[:, known_M]
    spread_M = np.nanstd(x_RM, axis=0)
    z_RM = np.divide(x_RM - np.nanmean(x_RM, axis=0), spread_M, out=np.zeros_like(x_RM), where=spread_M > 1e-12)
    null = np.sort(z_RM[1:][np.isfinite(z_RM[1:])])
    p_M[known_M] = (1 + len(null) - np.searchsorted(null, z_RM[0] - 1e-9)) / (1 + len(null))
    return p_M


def change_tables(
    networks: GroupNetworks, observed: Computed, shuffles: list[Computed]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tabulate turnover and drift, over all genes and gene by gene, beside those on shuffled ages."""
    rows = []
    genes: dict[str, np.ndarray | pd.Index] = {"gene": networks.genes_M, "mean_expression": networks.mean_M}
    for name, own_M in observed.changes.items():
        null_RM = np.array([one.changes[name] for one in shuffles])
        null_R = np.nanmean(null_RM, axis=1)
        value, (low, high) = float(np.nanmean(own_M)), np.quantile(null_R, [0.025, 0.975])
        p = (1 + int((null_R >= value).sum())) / (1 + len(null_R))
        facts = {"value": value, "shuffled": float(null_R.mean()), "shuffled_low": low, "shuffled_high": high, "p": p}
        rows.append({"change": name, **facts})
        p_M, known_RM, mean_M = gene_p(own_M, null_RM), np.isfinite(null_RM), np.full(len(own_M), np.nan)
        n_M = known_RM.sum(axis=0)
        np.divide(np.where(known_RM, null_RM, 0).sum(axis=0), n_M, where=n_M > 0, out=mean_M)
        genes |= {name: own_M, f"{name}_shuffled": mean_M, f"{name}_p": p_M, f"{name}_q": benjamini_hochberg(p_M)}
    table = pd.DataFrame(genes)
    table["excess"] = table["turnover"] - table["turnover_shuffled"]
    table = table.sort_values(["turnover_p", "excess"], ascending=[True, False], kind="stable", ignore_index=True)
    return pd.DataFrame(rows), table.drop(columns="excess")
