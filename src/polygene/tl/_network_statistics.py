"""Network statistics: what a network is like, beside rewired ones. Legend: M genes, E edges, R rewired copies."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import sparse, stats

from polygene.errors import DataError, check_type
from polygene.runtime import extras
from polygene.runtime.ranks import one_process
from polygene.runtime.seeds import check_count, check_seed
from polygene.tl import _graph
from polygene.tl._network_result import GeneNetwork
from polygene.tl._powerlaw import fit_power_law, over_thresholds

DENSITIES = (0.01, 0.02, 0.05)


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkStatistics:
    """What networks are like; every table has a column `context`.

    Attributes
    ----------
    measures
        A row for each density: `nodes`, `edges`, and for each of clustering (closed triples), modularity (Leiden),
        assortativity (of degrees over edges) and heterogeneity (spread of degrees over their mean) the value, and the
        mean, lowest and highest of rewired networks of the same degrees (`_rewired`, `_low`, `_high`); heterogeneity
        is the degrees' own and has none. `degree_by_expression` is Spearman's correlation of degree and mean
        expression.
    genes
        A row for each node at the network's own density: `degree`, `module` (0 the largest), `mean_expression`, and
        `hub_percentile`, the rank of its degree among 50 genes of like mean expression (50 = as expected).
    power_law
        A row for each density: the fields of `PowerLaw`, and `verdict`.
    verdicts
        A row for each context: what all densities say together.
    overlap
        A row for each pair of contexts: Jaccard index of their edges among the genes that are nodes of both. Empty for
        one context.
    """

    measures: pd.DataFrame
    genes: pd.DataFrame
    power_law: pd.DataFrame
    verdicts: pd.DataFrame
    overlap: pd.DataFrame


def network_statistics(
    network: GeneNetwork,
    *,
    densities: Sequence[float] = DENSITIES,
    n_rewired: int = 10,
    n_bootstrap: int = 100,
    seed: int = 0,
) -> NetworkStatistics:
    """Describe gene networks, each beside rewired ones of the same degrees, and test whether they are scale-free.

    Parameters
    ----------
    network
        What `gene_network` returned.
    densities
        Shares of the pairs of genes that are edges, each at most the network's own. A finding that holds at one
        threshold only is a finding about the threshold.
    n_rewired
        Rewired copies of each network.
    n_bootstrap
        Samples on which the p of a power law rests.
    seed
        Decides modules, rewiring and samples.

    Returns
    -------
    A `NetworkStatistics`, five tables.

    Notes
    -----
    The power law follows Clauset, Shalizi and Newman 2009 (SIAM Review 51:661): exponent by maximum likelihood, start
    of the tail by Kolmogorov–Smirnov, p by bootstrap, ratios of likelihoods to a log-normal, an exponential and a
    truncated power law. It says "power law" only if p is 0.1 or more and a log-normal and an exponential fit worse, and
    "cannot be told" if a tail has fewer than 50 nodes or another distribution fits as well.

    512 genes take 3 s a context.

    Examples
    --------
    >>> import polygene as pg
    >>> network = pg.tl.gene_network(pg.datasets.pbmc(), groupby=None, n_cells=100)
    >>> found = pg.tl.network_statistics(network, n_rewired=2, n_bootstrap=10)
    >>> list(found.verdicts.columns)
    ['context', 'verdict']
    """
    one_process("network_statistics")
    check_type("network", network, GeneNetwork, what="what pg.tl.gene_network returned")
    check_seed(seed)
    check_count("n_rewired", n_rewired, 10_000)
    check_count("n_bootstrap", n_bootstrap, 100_000)
    densities = sorted(np.atleast_1d(densities).tolist())
    if not densities or not all(0 < density <= network.density for density in densities):
        msg = f"densities = {densities}: give shares above 0 and at most {network.density}, the density of the network."
        raise DataError(msg)
    extras.require("igraph", "powerlaw")
    measures, laws, genes = [], [], []
    for context in network.contexts:
        node_M, table = network.nodes(context), network.tables[context]
        kept, mean_M = network.weights[context][node_M][:, node_M], table["mean_expression"].to_numpy()[node_M]
        n = int(node_M.sum())
        for density in densities:
            pairs_E2 = _graph.edge_pairs(_graph.strongest(kept, max(1, round(density * n * (n - 1) / 2))))
            degrees_M = np.bincount(pairs_E2.ravel(), minlength=n)
            named = {"context": context, "density": density}
            measures.append({**named, **_measures(n, pairs_E2, degrees_M, mean_M, n_rewired, seed)})
            laws.append({**named, **asdict(fit_power_law(degrees_M, n_bootstrap=n_bootstrap, seed=seed))})
        genes.append(_genes(context, table[node_M], kept, mean_M, seed))
    power_law = pd.DataFrame(laws)
    together = power_law.groupby("context", sort=False)["verdict"].agg(lambda verdicts: over_thresholds(list(verdicts)))
    return NetworkStatistics(
        measures=pd.DataFrame(measures),
        genes=pd.concat(genes, ignore_index=True),
        power_law=power_law,
        verdicts=together.reset_index(),
        overlap=overlap(network),
    )


def _measures(
    n: int, pairs_E2: np.ndarray, degrees_M: np.ndarray, mean_M: np.ndarray, n_rewired: int, seed: int
) -> dict[str, float]:
    """Measure a network and its rewired copies."""
    found: dict[str, float] = {"nodes": n, "edges": len(pairs_E2)}
    copies = [_graph.measure(n, _graph.rewired(n, pairs_E2, seed=seed + copy), seed=seed) for copy in range(n_rewired)]
    for name, value in _graph.measure(n, pairs_E2, seed=seed).items():
        found[name] = value
        if name != "heterogeneity":
            null_R = [copy[name] for copy in copies]
            found |= {
                f"{name}_rewired": float(np.mean(null_R)),
                f"{name}_low": min(null_R),
                f"{name}_high": max(null_R),
            }
    varies = np.ptp(degrees_M) > 0 and np.ptp(mean_M) > 0
    found["degree_by_expression"] = float(stats.spearmanr(degrees_M, mean_M).statistic) if varies else float("nan")
    return found


def _genes(context: str, table: pd.DataFrame, kept: sparse.csr_matrix, mean_M: np.ndarray, seed: int) -> pd.DataFrame:
    """Tabulate degree, module and rank among genes of like expression, from the most connected gene down."""
    degrees_M = np.diff(kept.indptr)
    found = pd.DataFrame(
        {
            "context": context,
            "gene": table["gene"].to_numpy(),
            "degree": degrees_M,
            "module": _graph.modules(len(degrees_M), _graph.edge_pairs(kept), seed=seed),
            "mean_expression": mean_M,
            "hub_percentile": _graph.hub_percentile(degrees_M, mean_M),
        }
    )
    return found.sort_values("degree", ascending=False, kind="stable")


def overlap(network: GeneNetwork) -> pd.DataFrame:
    """Compare the edges of each pair of contexts among the genes that are nodes of both."""
    rows = []
    for a, b in combinations(network.contexts, 2):
        both_M = network.nodes(a) & network.nodes(b)
        x, y = (network.weights[context][both_M][:, both_M] for context in (a, b))
        rows.append({"context": a, "other": b, "shared_genes": int(both_M.sum()), "jaccard": _graph.jaccard(x, y)})
    return pd.DataFrame(rows, columns=["context", "other", "shared_genes", "jaccard"])
