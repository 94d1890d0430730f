"""What a verb computes about the cells of a source, chunk by chunk, and how it is added to an AnnData in memory.

Legend: C cells of a chunk, M columns of the file that a layer fills, G genes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from polygene.errors import DataError
from polygene.io.read import CellSource
from polygene.runtime.progress import progress

UNS_KEY = "polygene"
LASTING = ("labels", "order", "vote_weights", "votes")
"""Parts of the record of `annotate` that are of single phenotypes, or of votes on them."""
SUFFIXES = (".h5ad", ".csv", ".parquet")
MATRIX_SUFFIXES = (".h5ad",)
"""A matrix of genes does not go into a table."""


class ResultsChunk(NamedTuple):
    """Results for some cells: new columns of `obs` with the names of the cells as index, new `obsm`, new layers.

    A layer holds the columns that `Results.columns_M` names, (C, M). For a new AnnData the layer "X" holds all genes.
    """

    obs: pd.DataFrame
    obsm: Mapping[str, np.ndarray]
    layers: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """The results of a verb for the cells of one source; nothing is computed before the chunks are read.

    Attributes
    ----------
    chunks
        Computes the results for a range of rows, in order.
    uns
        How they were computed; goes to `uns["polygene"][verb]`.
    columns_M, var
        The columns of the file that layers fill, ascending, and new columns of `var`.
    new_var
        The `var` of a new AnnData, which gets the `obs` of the source and the "X" of the chunks.
    replaces
        Names in `obs`, `obsm` and `uns` of what an earlier run wrote, which goes first.
    """

    verb: str
    cells: CellSource
    chunks: Callable[[range], Iterable[ResultsChunk]]
    uns: Mapping[str, Any] = field(default_factory=dict)
    columns_M: np.ndarray | None = None
    var: Mapping[str, np.ndarray] = field(default_factory=dict)
    new_var: pd.DataFrame | None = None
    replaces: Collection[str] = ()

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of files that can hold them."""
        return SUFFIXES if self.columns_M is None and self.new_var is None else MATRIX_SUFFIXES

    def collect(self) -> ResultsChunk:
        """Compute the results of all cells, in memory."""
        chunks = list(self.chunks(range(self.cells.n_obs)))
        obsm = {name: np.concatenate([chunk.obsm[name] for chunk in chunks]) for name in chunks[0].obsm}
        layers = {name: np.concatenate([chunk.layers[name] for chunk in chunks]) for name in chunks[0].layers}
        return ResultsChunk(pd.concat([chunk.obs for chunk in chunks]), obsm, layers)

    def add_to(self, adata: ad.AnnData) -> None:
        """Write the results into an AnnData, in place of what has the same name."""
        obs, obsm, layers = self.collect()
        remove(self.replaces, adata.obs, adata.obsm, adata.uns)
        for name, column in obs.items():
            adata.obs[name] = used(column)
        for name, array in obsm.items():
            adata.obsm[name] = array
        for name, x_CM in layers.items():
            adata.layers[name] = self.spread(x_CM)
        for name, values in self.var.items():
            adata.var[name] = values
        record_in_uns(adata, self.verb, self.record(adata.uns.get(UNS_KEY, {}).get(self.verb)))

    def record(self, before: Any) -> dict[str, Any]:
        """Give what goes to `uns`; of phenotypes and votes that stay, what was recorded before stays."""
        facts = dict(self.uns)
        for key in LASTING if isinstance(before, Mapping) else ():
            old = {name: one for name, one in before.get(key, {}).items() if f"{UNS_KEY}_{name}" not in self.replaces}
            facts |= {key: old | dict(facts.get(key, {}))} if old else {}
        return facts

    def to_adata(self) -> ad.AnnData:
        """Make the new AnnData."""
        x_CG = self.collect().layers["X"]
        return ad.AnnData(x_CG, obs=self.cells.obs.copy(), var=self.new_var, uns={UNS_KEY: {self.verb: dict(self.uns)}})

    def spread(self, x_CM: np.ndarray) -> sparse.csr_matrix:
        """Place (C, M) values in the columns of the file; the other columns are empty."""
        n_cells, n_columns = x_CM.shape
        entries = (x_CM.reshape(-1), np.tile(np.asarray(self.columns_M), n_cells), np.arange(n_cells + 1) * n_columns)
        return sparse.csr_matrix(entries, shape=(n_cells, len(self.cells.features)))


def earlier(columns: Iterable[str], predict: Collection[str], names: Collection[str]) -> list[str]:
    """Name the columns of `obs` that hold phenotypes which are predicted anew, and the colours scanpy gave them."""

    def phenotype(column: str) -> str:
        return max((name for name in names if f"{column}_".startswith(f"{UNS_KEY}_{name}_")), key=len, default="")

    found = [column for column in columns if phenotype(column) in predict]
    return [*found, *(f"{column}_colors" for column in found)]


def remove(names: Iterable[str], *places: MutableMapping[str, Any]) -> None:
    """Delete what has one of these names."""
    for name, place in product(names, places):
        if name in place:
            del place[name]


def used(column: pd.Series) -> Any:
    """Leave out labels that no cell has: a legend, and a test of each group, are of those that occur."""
    return column.cat.remove_unused_categories().array if column.dtype == "category" else column.array


def check_writable(adata: Any) -> None:
    """Refuse, before the work, an AnnData that results cannot be written into; a file is another matter."""
    if isinstance(adata, ad.AnnData) and not isinstance(there := adata.uns.get(UNS_KEY, {}), Mapping):
        msg = f"adata.uns[{UNS_KEY!r}] is a {type(there).__name__}, where results are recorded by verb: rename it"
        raise DataError(msg)
    if isinstance(adata, ad.AnnData) and adata.isbacked and adata.is_view:
        msg = "adata is a view of a backed AnnData, which cannot be changed: pass adata.to_memory()"
        raise DataError(msg)


def record_in_uns(adata: ad.AnnData, verb: str, facts: Mapping[str, Any]) -> None:
    """Write to `uns` what a verb did; what other verbs wrote stays."""
    adata.uns[UNS_KEY] = {**adata.uns.get(UNS_KEY, {}), verb: dict(facts)}


def track(chunks: Iterable[ResultsChunk], n_cells: int, *, done: str, device: object) -> Iterator[ResultsChunk]:
    """Pass chunks on, and show how many of the cells are done."""
    with progress(n_cells, done=done, device=device) as advance:
        for chunk in chunks:
            yield chunk
            advance(len(chunk.obs), made=chunk)


def table_of(chunk: ResultsChunk) -> pd.DataFrame:
    """Return the columns of `obs`, or where there are none the arrays: a column for each of theirs."""
    if len(chunk.obs.columns):
        return chunk.obs
    columns = {f"{name}_{d}": array[:, d] for name, array in chunk.obsm.items() for d in range(array.shape[1])}
    return pd.DataFrame(columns, index=chunk.obs.index)
