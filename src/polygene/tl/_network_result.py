"""What `gene_network` returns. Legend: M panel genes that the file measures, F genes of the file."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from polygene.errors import DataError, GeneError
from polygene.io.results import UNS_KEY, record_in_uns
from polygene.runtime import extras
from polygene.runtime.atomic import atomic_file

if TYPE_CHECKING:
    import networkx as nx

VERB = "gene_network"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GeneNetwork:
    """Networks of one definition, a network for each context.

    Attributes
    ----------
    by, null, density, models
        How it was made, as for `gene_network`.
    symbols
        The panel genes that the file measures, (M,): rows and columns of the matrices.
    weights, n_models
        By context: weights of the edges, symmetric, sparse (M, M); how many models alone have each edge.
    n_cells, tables
        By context: how many cells it rests on, and its rows of `genes`.
    columns_M
        The genes' columns in the file.
    """

    by: str
    null: str | None
    density: float
    models: tuple[str, ...]
    symbols: tuple[str, ...]
    columns_M: np.ndarray
    weights: dict[str, sparse.csr_matrix] = field(default_factory=dict)
    n_models: dict[str, sparse.csr_matrix] = field(default_factory=dict)
    n_cells: dict[str, int] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def __repr__(self) -> str:
        lines = [
            f"  {context}: {self.nodes(context).sum()} genes, {kept.nnz // 2:,} edges, {self.n_cells[context]:,} cells"
            for context, kept in self.weights.items()
        ]
        null = f", null: {self.null}" if self.null else ""
        return "\n".join([f"GeneNetwork ({self.by}{null}), {len(self.models)} model(s)", *lines])

    @property
    def contexts(self) -> tuple[str, ...]:
        """The contexts, in the order of their names."""
        return tuple(self.weights)

    @property
    def genes(self) -> pd.DataFrame:
        """A row for each context and gene: is_node, n_cells that express it, their share detection, mean_expression."""
        return pd.concat(self.tables.values(), ignore_index=True)

    @property
    def edges(self) -> pd.DataFrame:
        """A row for each context and edge, strongest first: gene_a, gene_b, weight, n_models."""
        parts, symbols = [], np.array(self.symbols)
        for context, kept in self.weights.items():
            half = sparse.triu(kept, k=1).tocoo()
            n_E = np.asarray(self.n_models[context][half.row, half.col]).ravel()
            names = {"gene_a": symbols[half.row], "gene_b": symbols[half.col]}
            part = pd.DataFrame({"context": context, **names, "weight": half.data, "n_models": n_E})
            parts.append(part.sort_values("weight", ascending=False, kind="stable"))
        return pd.concat(parts, ignore_index=True)

    def nodes(self, context: str) -> np.ndarray:
        """Which genes are nodes of a context, bool (M,)."""
        self.check(context)
        return np.asarray(self.tables[context]["is_node"].to_numpy(dtype=bool))

    def neighbours(self, gene: str) -> pd.DataFrame:
        """List the neighbours of a gene, strongest first: context, neighbour, weight, n_models.

        Raises
        ------
        GeneError
            The file or the panel lacks the gene, or in no context enough cells express it.
        """
        if gene not in self.symbols:
            near = difflib.get_close_matches(gene, self.symbols, n=3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            msg = f"{gene!r} is not among the {len(self.symbols):,} genes of the panel that the file measures.{hint}"
            raise GeneError(msg)
        genes, edges = self.genes, self.edges
        own = genes[genes["gene"] == gene]
        if not own["is_node"].any():
            most = f"{own['n_cells'].max():,} cells of a context at most"
            msg = (
                f"{gene} is expressed in {most}, too few to be in a network: lower min_cells, or choose other contexts."
            )
            raise GeneError(msg)
        swapped = edges.rename(columns={"gene_a": "gene_b", "gene_b": "gene_a"})
        there = pd.concat([edges, swapped]).query("gene_a == @gene").rename(columns={"gene_b": "neighbour"})
        columns = ["context", "neighbour", "weight", "n_models"]
        return there.sort_values(["context", "weight"], ascending=[True, False])[columns].reset_index(drop=True)

    def check(self, context: str) -> None:
        """Refuse a context that is not there."""
        if context not in self.weights:
            msg = f"There is no network of {context!r}; there are {', '.join(self.contexts)}."
            raise DataError(msg)

    def to_networkx(self, context: str) -> "nx.Graph":
        """Give the network of a context as a graph of networkx; nodes and edges bear the columns of both tables."""
        self.check(context)
        nx = extras.load("networkx")
        graph = nx.Graph(context=context, by=self.by, null=self.null or "")
        genes, edges = self.tables[context], self.edges
        for row in genes[genes["is_node"]].itertuples():
            counted = {"n_cells": int(row.n_cells), "detection": float(row.detection)}
            graph.add_node(row.gene, **counted, mean_expression=float(row.mean_expression))
        for row in edges[edges["context"] == context].itertuples():
            graph.add_edge(row.gene_a, row.gene_b, weight=float(row.weight), n_models=int(row.n_models))
        return graph

    def write_graphml(self, path: str | Path, context: str) -> None:
        """Write the network of a context for Cytoscape, Gephi or igraph (.graphml)."""
        nx, graph = extras.load("networkx"), self.to_networkx(context)
        with atomic_file(path, (".graphml",)) as part:
            nx.write_graphml(graph, part)

    def write_into(self, adata: ad.AnnData, key: str, facts: Mapping[str, Any]) -> None:
        """Write weights into `varp` and the rest into `uns`."""
        keys = [f"{key}_{context}".replace("/", "|") for context in self.contexts]
        for name, kept in zip(keys, self.weights.values(), strict=True):
            both = kept.tocoo()
            places = (self.columns_M[both.row], self.columns_M[both.col])
            adata.varp[name] = sparse.coo_matrix((both.data, places), (adata.n_vars, adata.n_vars)).tocsr()
        made = {"by": self.by, "density": self.density, "contexts": list(self.contexts), "varp": keys}
        others = adata.uns.get(UNS_KEY, {}).get(VERB, {})
        record_in_uns(adata, VERB, {**others, key: {**facts, **made, "genes": self.genes}})
