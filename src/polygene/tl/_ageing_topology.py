"""Ageing topology: does the network of a cell type change with age? Legend: U donors, G panel genes, M nodes, A groups.

R bootstrap samples or shuffles.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd

from polygene.errors import DataError, check_choice, check_number
from polygene.io.read import Source
from polygene.io.results import record_in_uns
from polygene.model.checkpoint import PolyGene
from polygene.model.shipped import DEFAULT
from polygene.runtime import extras
from polygene.runtime.progress import progress
from polygene.runtime.seeds import check_count
from polygene.tl._ageing_design import Design, ages_of, design, read_thinned
from polygene.tl._ageing_groups import GroupNetworks, change_tables, measure_tables
from polygene.tl._gene_network import context_rows
from polygene.tl._reader import CellReader, made_by
from polygene.tl._states import Models, check_call, named_models, one_panel

logger = logging.getLogger("polygene")
EVERY = 2**31 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class AgeingTopology:
    """How networks differ between age groups; every table has columns `model` and `context`.

    Attributes
    ----------
    measures
        A row for each age group and measure (`clustering`, `modularity`, `assortativity`, `heterogeneity` of degrees):
        `ages`, `mean_age`, `n_donors`, `n_cells`, `value`, and `low` and `high`, 95 % by a bootstrap over the group's
        donors.
    slopes
        A row for each measure: `slope` of its values over the groups' mean ages, per ten years, with `low` and `high`
        by the bootstrap over donors; `shuffled_low` and `shuffled_high`, between which 95 % of the slopes lie after
        ages were shuffled among donors; `p`, how many of those are as steep.
    changes
        A row each for `turnover` and `drift` between the youngest and the oldest group, means over genes: `value`, and
        mean, 95 % range and `p` on shuffled ages.
    genes
        A row for each gene: `turnover`, the share of its neighbours in either group that only one has; `drift`, the
        distance between its mean states; for both the mean on shuffled ages, `p`, the share of shuffled values of any
        gene that lie as many standard deviations above their gene's mean, and `q` (Benjamini–Hochberg).
    design
        A row for each context: donors, cells a donor, counts a cell, genes, edges, and what was left out.
    """

    measures: pd.DataFrame
    slopes: pd.DataFrame
    changes: pd.DataFrame
    genes: pd.DataFrame
    design: pd.DataFrame

    @property
    def survives(self) -> pd.DataFrame:
        """A row for each context and measure: whether every model has a slope of one sign, and each with p < 0.05."""
        of_each = self.slopes.groupby(["context", "measure"], sort=False)
        return of_each.apply(_agree, include_groups=False).rename("survives").reset_index()


def _agree(slopes: pd.DataFrame) -> bool:
    return bool((slopes["p"] < 0.05).all() and slopes["slope"].gt(0).nunique() == 1)


def ageing_topology(
    adata: Source,
    model: Models = DEFAULT,
    *,
    groupby: str = "cell_type",
    contexts: Sequence[str] | None = None,
    age: str | None = None,
    donor: str = "donor_id",
    by: Literal["contextual", "correlation"] = "contextual",
    n_groups: int = 3,
    density: float = 0.05,
    cells_per_donor: int | None = None,
    depth: float | None = None,
    min_cells: int = 10,
    n_cells: int = 5_000,
    n_bootstrap: int = 100,
    n_shuffled: int = 100,
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
) -> AgeingTopology:
    """Compare the gene networks of age groups within a cell type, at equal donors, cells, depth and edges.

    Old donors differ from young ones in how many cells of a type they give and how deeply those were sequenced, and
    both change a network. So every group has as many donors, every donor as many cells, every cell as many counts
    (those with more are thinned, those with fewer left out) and every network as many edges among the same genes.
    Donors are the replicates, and all is done again on ages shuffled among them.

    Parameters
    ----------
    adata
        Cells with counts, an AnnData or a file.
    model
        A PolyGene, or the name or folder of one; or several, of which `survives` says on what all agree.
    groupby, contexts
        Column of `obs` with the cell types; those that are compared, None for all with donors and genes enough.
    age, donor
        Columns of `obs`. By default the age is read where the model's phenotype "age" is; a number is years.
    by
        The definition of an edge, as for `gene_network`.
    n_groups
        Age groups of equal numbers of donors.
    density
        Share of the pairs of genes that become edges. Genes are those that `min_cells` cells a group express on
        average.
    cells_per_donor
        None: the number with which most cells are compared. Donors with fewer are left out.
    depth
        Counts of a cell after thinning. None: the lowest quarter of the cells is left out for it.
    min_cells, n_cells
        As for `density`; cells of a context that are read at most.
    n_bootstrap, n_shuffled
        Samples of the donors; shuffles of their ages.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Decides which donors and cells are drawn, how counts are thinned, samples and shuffles.

    Returns
    -------
    An `AgeingTopology`, five tables.

    Notes
    -----
    An AnnData also gets the tables in `uns["polygene"]["ageing_topology"]`. Intervals are 1.96 standard deviations of
    the bootstrap about the value, as samples hold fewer different donors; of fewer than ten donors they are too narrow.

    512 genes take 40 s a context on one core; in memory are the sums of states, donors × genes × width.

    Raises
    ------
    DataError, ColumnError, PhenotypeError
        Values are no counts; a context has too few donors of known age; the model has no phenotype "age" and no column
        is named.
    """
    check_call("ageing_topology", adata, seed, n_cells=n_cells, n_bootstrap=n_bootstrap, n_shuffled=n_shuffled)
    _check(by, n_groups, density, min_cells)
    check_count("cells_per_donor", 1 if cells_per_donor is None else cells_per_donor, 100_000)
    check_number("depth", 1 if depth is None else depth, 1, 1e9, what="the counts of a cell, 1 at least")
    extras.require("igraph")
    models = named_models(model)
    one_panel(models)
    first = next(iter(models.values()))
    reader = CellReader(adata, first.tokenizer, layer=layer, totals=totals)
    if reader.scale != "counts":
        values = f"{reader.cells.label} holds {reader.scale} values"
        msg = f"{values}; depths are made equal by thinning, which needs counts."
        raise DataError(msg)
    age_C, column = ages_of(reader.cells, first.tokenizer, age)
    rows_of = context_rows(reader.cells, groupby, contexts, EVERY, None, seed)
    choose: dict[str, Any] = {"cells_per_donor": cells_per_donor, "most": n_cells, "depth": depth, "donor": donor}
    choose |= {"n_groups": n_groups, "seed": seed}
    must = contexts is not None or len(rows_of) == 1
    plans = _plans(reader, rows_of, age_C, must=must, **choose)
    summed: dict[str, Any] = {"by": by, "n_groups": n_groups, "density": density, "min_cells": min_cells}
    parts = _parts(reader, models, plans, summed, (n_bootstrap, n_shuffled, seed), must=must)
    found = AgeingTopology(**{key: pd.concat([part[key] for part in parts], ignore_index=True) for key in parts[0]})
    if isinstance(adata, ad.AnnData):
        facts = {**made_by(first), "models": list(models), "groupby": groupby, "age": column, "by": by, "seed": seed}
        record_in_uns(adata, "ageing_topology", {**facts, **vars(found)})
    return found


def _parts(
    reader: CellReader, models: dict[str, PolyGene], plans: list[Design], summed: dict[str, Any],
    draws: tuple[int, int, int], *, must: bool,
) -> list[dict[str, pd.DataFrame]]:  # fmt: skip
    """Compute the tables of each context and model."""
    parts: list[dict[str, pd.DataFrame]] = []
    device = next(iter(models.values())).network.device
    with progress(len(plans) * len(models), done="ageing topology", device=device) as advance:
        for plan, (name, one) in product(plans, models.items()):
            cells = read_thinned(reader, one.tokenizer, plan, seed=draws[-1])
            with _or_left_out(must=must):
                tables = _tables(GroupNetworks.of(one, cells, plan, **summed), plan, *draws)
                parts.append({key: _named(table, name, plan.context) for key, table in tables.items()})
            advance(1)
    if not parts:
        msg = f"No context of {reader.cells.label} has genes enough: lower min_cells, or thin less (depth=…)."
        raise DataError(msg)
    return parts


@contextmanager
def _or_left_out(*, must: bool) -> Iterator[None]:
    """Warn of a context that cannot be compared, unless it must be."""
    try:
        yield
    except DataError as error:
        if must:
            raise
        logger.warning("%s It is left out.", error)


def _plans(
    reader: CellReader, rows_of: dict[str, np.ndarray], age_C: np.ndarray, *, must: bool, **choose: Any
) -> list[Design]:
    """Choose the cells of each context; one with too few donors is left out, unless it must not be."""
    plans = []
    for context, rows in rows_of.items():
        with _or_left_out(must=must):
            plans.append(design(reader, context, rows, age_C, **choose))
    if not plans:
        msg = f"No context of {reader.cells.label} has donors enough for {choose['n_groups']} age groups."
        raise DataError(msg)
    return plans


def _named(table: pd.DataFrame, model: str, context: str) -> pd.DataFrame:
    table.insert(0, "context", context)
    table.insert(0, "model", model)
    return table


def _tables(
    networks: GroupNetworks, plan: Design, n_bootstrap: int, n_shuffled: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Compute the networks of the age groups, of samples of their donors and of shuffled ages, and tabulate them."""
    rng, donors_AU = np.random.default_rng(seed), networks.donors_AU
    observed = networks.compute(donors_AU, seed=seed)
    sampled = [np.stack([rng.choice(group, len(group)) for group in donors_AU]) for _ in range(n_bootstrap)]
    samples = [networks.measures(networks.weights(one), seed=seed) for one in sampled]
    shuffles = [
        networks.compute(rng.permutation(donors_AU.ravel()).reshape(donors_AU.shape), seed=seed)
        for _ in range(n_shuffled)
    ]
    measures, slopes = measure_tables(networks, observed, samples, shuffles, plan)
    changes, genes = change_tables(networks, observed, shuffles)
    design_of = pd.DataFrame([{
        "n_donors": donors_AU.size, "n_groups": len(donors_AU), "cells_per_donor": plan.cells_per_donor,
        "depth": plan.depth, "genes": len(networks.genes_M), "edges": networks.n_edges, **plan.left_out,
    }])  # fmt: skip
    return {"measures": measures, "slopes": slopes, "changes": changes, "genes": genes, "design": design_of}


def _check(by: str, n_groups: int, density: float, min_cells: int) -> None:
    check_count("n_groups", n_groups, 100)
    check_count("min_cells", min_cells, 100_000)
    if n_groups < 2:
        msg = "n_groups = 1: at least two age groups are compared."
        raise DataError(msg)
    check_choice("by", by, ("contextual", "correlation"))  # whose weights are sums over donors
    check_number("density", density, 1e-9, 1, what="a share of the pairs of genes, above 0 and at most 1")
