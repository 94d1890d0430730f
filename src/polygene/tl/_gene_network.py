"""Gene network: which genes a model holds to be alike in each context, by four definitions and four nulls.

Legend: C cells, M panel genes that the file measures, E edges.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal, get_args

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from polygene.errors import DataError, check_choice, check_names, check_number
from polygene.io.read import CellSource, Source
from polygene.model.checkpoint import PolyGene
from polygene.model.shipped import DEFAULT
from polygene.runtime.progress import progress
from polygene.runtime.seeds import check_count
from polygene.tl._gene_weights import DEFINITIONS, By, gene_weights, random_weights, shuffled
from polygene.tl._graph import top_edges
from polygene.tl._network_result import GeneNetwork
from polygene.tl._reader import CellReader, donors_of, groups_of, made_by, panel_var
from polygene.tl._states import Models, check_call, named_models, one_panel
from polygene.vocab.cells import EncodedCells

logger = logging.getLogger("polygene")

Null = Literal["genes", "weights", "donors"]
ALL = "all cells"
FEWEST = 20
"""Nodes that a network has at least; with fewer there is nothing to describe."""


def gene_network(
    adata: Source,
    model: Models = DEFAULT,
    *,
    groupby: str | None = "cell_type",
    contexts: Sequence[str] | None = None,
    by: By = "contextual",
    null: Null | None = None,
    density: float = 0.05,
    n_cells: int = 500,
    min_cells: int = 10,
    donor: str = "donor_id",
    layer: str | None = None,
    totals: str | None = None,
    seed: int = 0,
    key_added: str | None = None,
) -> GeneNetwork:
    """Link the genes that are most alike in each context.

    An edge is an association: it neither says that one gene regulates the other, nor in which direction. Compare the
    four definitions, and each with its nulls, before an edge is believed.

    Parameters
    ----------
    adata
        Cells with counts or log1p values, an AnnData or a file.
    model
        A PolyGene, or the name or folder of one; or several, such as one recipe trained from several seeds. Weights of
        several are averaged, and `n_models` of an edge says how many of them have it alone.
    groupby, contexts
        Column of `obs` with the contexts, None for all cells together; which of its labels are wanted, None for all.
    by
        What makes two genes alike. "contextual": the cosine of their states, each the mean over the context's cells
        that express the gene, less the mean of all genes. "static": the same of the embeddings of genes outside any
        cell; contexts then differ in nodes alone. "attention": how much each attends to the other, 1 being as much as
        to any token. "correlation": Pearson correlation of log1p counts per 10,000, which needs no model.
    null
        What is destroyed first. "genes": every gene is shuffled among the cells of a context, so that its values stay
        and none goes with another. "weights": the model gets random weights. "donors": the cells of a donor in a
        context change contexts with those of other donors together. `network_statistics` adds rewired networks.
    density
        Share of the pairs of nodes that become edges, the strongest ones. A node is a gene that `min_cells` cells
        express.
    n_cells
        Cells of a context that are read at most, drawn at random: contexts of equal cells can be compared.
    min_cells
        As for `density`.
    donor
        Column of `obs` with the donor, which `null="donors"` needs.
    layer, totals
        Where the expression is, as for `annotate`.
    seed
        Decides which cells are read, and the nulls.
    key_added
        Begins the names in `varp`; by default "polygene_" and the definition.

    Returns
    -------
    A `GeneNetwork`: `edges` and `genes` as tables, `to_networkx()` and `write_graphml()`.

    Notes
    -----
    An AnnData gets `varp["polygene_contextual_<context>"]`, sparse and symmetric (genes × genes of the file), where "/"
    in a context is written "|"; and `uns["polygene"]["gene_network"]`. Networks of a null are only returned.

    512 genes take 2 s a context of 500 cells on one core; in memory are the states' sums (genes × width), the weights
    of one context (genes × genes) and its cells' tokens.

    Raises
    ------
    DataError, ColumnError
        A context has no cells, or too few to express 20 genes; donors are permuted where there is one only.

    Examples
    --------
    >>> import polygene as pg
    >>> adata = pg.datasets.pbmc()
    >>> network = pg.tl.gene_network(adata, groupby="author_label", contexts=["B cell"])
    >>> adata.varp["polygene_contextual_B cell"].shape == (adata.n_vars, adata.n_vars)
    True
    """
    check_call("gene_network", adata, seed)
    _check(by, null, density, n_cells, min_cells)
    models = named_models(model)
    one_panel(models)
    first = next(iter(models.values()))
    reader = CellReader(adata, first.tokenizer, layer=layer, totals=totals)
    if null == "weights":
        # weights of their own for each model: else all would agree on every edge
        models = {name: random_weights(one, seed=seed + i) for i, (name, one) in enumerate(models.items())}
    rows_of = context_rows(reader.cells, groupby, contexts, n_cells, donor if null == "donors" else None, seed)
    network = _empty(reader, first, by=by, null=null, density=density, models=tuple(models))
    with progress(sum(map(len, rows_of.values())), done=f"gene network ({by})", device=first.network.device) as advance:
        for number, (context, rows) in enumerate(rows_of.items()):
            cells = reader.read(rows)
            # a shuffle of its own for each context: else what goes together by chance does so in all
            cells = shuffled(cells, seed=seed + number) if null == "genes" else cells
            _add(network, context, models, cells, min_cells, named=contexts is not None)
            advance(len(rows))
    if not network.contexts:
        msg = f"No context has {FEWEST} genes that {min_cells} cells express: lower min_cells, or group less finely."
        raise DataError(msg)
    if isinstance(adata, ad.AnnData) and null is None and layer != "raw":
        facts = {**made_by(first), "models": list(models), "groupby": groupby or "", "seed": seed, "n_cells": n_cells}
        network.write_into(adata, key_added or f"polygene_{by}", facts)
    return network


def _empty(reader: CellReader, model: PolyGene, **made: Any) -> GeneNetwork:
    """Begin a network without contexts; a gene in several columns of the file has the first one."""
    measured_G, match = reader.match.measured_G, reader.match
    names = panel_var(model.tokenizer.panel).index[measured_G]
    first_M = np.unique(match.slots_N, return_index=True)[1]
    columns_M = reader.cells.columns_G[match.columns_N[first_M]]
    return GeneNetwork(symbols=tuple(names), columns_M=columns_M, **made)


def _add(
    network: GeneNetwork, context: str, models: dict[str, PolyGene], cells: EncodedCells, min_cells: int, *, named: bool
) -> None:
    """Compute one context: the edges by the mean weight, and how many models alone have each."""
    here_M = np.flatnonzero(cells.measured_G)
    counts_M = np.bincount(cells.genes_N, minlength=len(cells.measured_G))[here_M]
    n_nodes = int((counts_M >= min_cells).sum())
    if n_nodes < FEWEST:
        why = f"{context}: {len(cells)} cells express {n_nodes} genes often enough, and a network has {FEWEST} or more"
        if named:
            msg = f"{why}. Lower min_cells (now {min_cells}), or leave this context out."
            raise DataError(msg)
        logger.warning("%s: it is left out", why)
        return
    n_edges = max(1, round(network.density * n_nodes * (n_nodes - 1) / 2))
    weights = [
        gene_weights(one, cells, network.by, min_cells=min_cells)[np.ix_(here_M, here_M)] for one in models.values()
    ]
    kept = top_edges(np.mean(weights, axis=0), n_edges)
    alone = sum((top_edges(x, n_edges) != 0).astype(np.int8) for x in weights) if len(weights) > 1 else (kept != 0) * 1
    sums_M = np.bincount(cells.genes_N, weights=cells.values_N, minlength=len(cells.measured_G))[here_M]
    table = pd.DataFrame(
        {
            "context": context,
            "gene": network.symbols,
            "is_node": counts_M >= min_cells,
            "n_cells": counts_M,
            "detection": counts_M / len(cells),
            "mean_expression": sums_M / len(cells),
        }
    )
    network.weights[context], network.n_models[context] = kept, sparse.csr_matrix(alone)
    network.n_cells[context], network.tables[context] = len(cells), table


def context_rows(
    cells: CellSource, groupby: str | None, contexts: Sequence[str] | None, n_cells: int, donor: str | None, seed: int
) -> dict[str, np.ndarray]:
    """Rows of each context, ascending, at most `n_cells`; with `donor`, after contexts were permuted over donors."""
    if groupby is None:
        code_C, names = np.zeros(cells.n_obs, dtype=np.int64), [ALL]
    else:
        code_C, names = groups_of(cells, groupby, holds="the context of each cell")
    wanted = names if contexts is None else check_names("contexts", contexts)
    if contexts is not None and not wanted:
        msg = f"contexts is empty: name some of {', '.join(names)}, or leave it out for all."
        raise DataError(msg)
    if unknown := [one for one in wanted if one not in names]:
        lacking = ", ".join(map(repr, unknown))
        msg = f"{cells.label} has no cells of {lacking} in obs[{groupby!r}]; it has {', '.join(names)}."
        raise DataError(msg)
    if not names:
        msg = f"No cell of {cells.label} has a label in obs[{groupby!r}], so there is no context."
        raise DataError(msg)
    rng = np.random.default_rng(seed)
    if donor is not None:
        code_C = _permuted(code_C, donors_of(cells, donor)[0], rng, cells.label)
    rows_of = {name: np.flatnonzero(code_C == code) for code, name in enumerate(names) if name in wanted}
    return {name: np.sort(rng.permutation(rows)[:n_cells]) for name, rows in rows_of.items() if len(rows)}


def _permuted(code_C: np.ndarray, donor_C: np.ndarray, rng: np.random.Generator, label: str) -> np.ndarray:
    """Permute the contexts of whole (donor, context) units."""
    n_donors = len(np.unique(donor_C[donor_C >= 0]))
    if n_donors < 2:
        plural = "s" if n_donors != 1 else ""
        msg = f"{label} has {n_donors} donor{plural}; null='donors' permutes the cells of two at least."
        raise DataError(msg)
    known_C = (code_C >= 0) & (donor_C >= 0)
    units_U2, unit_C = np.unique(np.stack([donor_C[known_C], code_C[known_C]], axis=1), axis=0, return_inverse=True)
    permuted_C = np.full_like(code_C, -1)
    permuted_C[known_C] = rng.permutation(units_U2[:, 1])[unit_C.ravel()]
    return permuted_C


def _check(by: str, null: str | None, density: float, n_cells: int, min_cells: int) -> None:
    check_count("n_cells", n_cells, 100_000)
    check_count("min_cells", min_cells, 100_000)
    check_choice("by", by, DEFINITIONS)
    check_choice("null", null, (None, *get_args(Null)))
    if null == "weights" and by == "correlation":
        msg = "null='weights' changes the model, and by='correlation' reads none: choose null='genes'."
        raise DataError(msg)
    check_number("density", density, 1e-9, 1, what="a share of the pairs of genes, above 0 and at most 1")
