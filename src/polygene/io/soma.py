"""Cells of a SOMA experiment, such as the CELLxGENE Census, by a filter of its own; read in chunks, never whole.

A place is soma:// and the path or URL of an experiment, or of a Census, whose human cells are read. Where `obs` names
data sets, each is a source of its own, with the genes that it measured: in the Census the others read as zeros.

Legend: C cells, G genes of a source, N stored values.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse

from polygene.errors import DataError, PolyGeneError
from polygene.runtime import extras
from polygene.vocab.columns import some
from polygene.vocab.gene_names import other_species
from polygene.vocab.ontology import TABLES, ontology_of

logger = logging.getLogger("polygene")

SCHEME = "soma://"
COUNTS = "raw"  # the layer of the Census with counts
MEASUREMENT, SPECIES = "RNA", "homo_sapiens"
BUFFER = 32_000_000  # bytes a column that TileDB reads at once; its own gigabyte would be most of the memory of a run
NUMBER, NAME, DATASET = "soma_joinid", "obs_id", "dataset_id"
SPARSE = 50  # of rows further apart than this on average, the rows between are not read


def is_soma(place: object) -> bool:
    """Whether a place is one of a SOMA experiment."""
    return isinstance(place, str) and place.startswith(SCHEME)


def open_soma(
    place: str, layer: str | None, where: str | None = None, *, apart: bool = False
) -> "dict[str, SomaCells]":
    """Open the cells that a filter selects, by name; `apart` gives each data set of a Census by itself.

    Raises
    ------
    DataError
        There is no experiment, it is of another species or lacks counts or `feature_id`, or the filter selects nothing.
    """
    experiment = _Experiment(place)
    layer = layer or COUNTS
    with _named(place):
        experiment.check(layer)
        number_C, code_C, names = experiment.select(where, apart=apart)
        if not len(number_C):
            msg = f"{place}: no cell is selected by {where!r}" if where else f"{place} is empty"
            raise DataError(msg)
        measured = experiment.measured(names) if apart else {}
        if not names:
            return {Path(place.rstrip("/")).stem: SomaCells(experiment, layer, number_C)}
        return {
            names[code]: SomaCells(experiment, layer, number_C[code_C == code], measured.get(names[code]))
            for code in pd.unique(code_C)
        }


class _Experiment:
    """An experiment, opened when it is first read, in each process."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __getstate__(self) -> dict[str, str]:
        return {"place": self.place}

    @cached_property
    def _opened(self) -> tuple[Any, Any, Any]:
        """The experiment, the table of data sets of a Census, and what closes them when nothing refers to it."""
        tiledbsoma = extras.load("tiledbsoma")
        context = tiledbsoma.SOMATileDBContext(tiledb_config={"soma.init_buffer_bytes": BUFFER})
        try:
            opened = tiledbsoma.open(self.place.removeprefix(SCHEME), context=context)
        except tiledbsoma.DoesNotExistError as error:
            msg = f"there is no SOMA experiment at {self.place.removeprefix(SCHEME)!r}; look at the path once more"
            raise DataError(msg) from error
        if "census_data" not in opened:
            return opened, None, opened
        species = opened["census_data"]
        if SPECIES not in species:
            msg = f"{self.place} holds no human cells: it has {', '.join(species)}"
            raise DataError(msg)
        return species[SPECIES], opened["census_info"]["datasets"], opened

    def check(self, layer: str) -> None:
        """Refuse what holds no counts of named human genes."""
        experiment = self._opened[0]
        if not hasattr(experiment, "ms") or MEASUREMENT not in experiment.ms:
            msg = f"{self.place} is no SOMA experiment with a measurement {MEASUREMENT!r}: give the path of one"
            raise DataError(msg)
        layers = list(experiment.ms[MEASUREMENT].X)
        if layer not in layers:
            msg = (
                f"{self.place} has no counts: there is no X[{layer!r}] in its measurement {MEASUREMENT!r}, which has "
                f"{', '.join(layers)}. Pass the layer that holds counts: layer='…' (--layer)"
            )
            raise DataError(msg)
        if "feature_id" not in self.var:
            msg = f"{self.place} has no feature_id, the Ensembl id of each gene, in var; it has {', '.join(self.var)}"
            raise DataError(msg)
        if species := other_species([], (one for one in self.var["feature_id"].astype(str) if one.startswith("ENS"))):
            msg = f"{self.place} holds cells of {species}, and PolyGene reads human cells only"
            raise DataError(msg)

    @cached_property
    def var(self) -> pd.DataFrame:
        """The genes by `soma_joinid`."""
        return self._opened[0].ms[MEASUREMENT].var.read().concat().to_pandas().set_index(NUMBER).sort_index()

    @property
    def obs(self) -> Any:
        return self._opened[0].obs

    def matrix(self, layer: str) -> Any:
        return self._opened[0].ms[MEASUREMENT].X[layer]

    @property
    def columns(self) -> list[str]:
        return [name for name in self.obs.keys() if name not in (NUMBER, NAME)]  # noqa: SIM118 no mapping

    def select(self, where: str | None, *, apart: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Give the numbers of the cells, ascending, the code of each one's data set, and the names of the data sets."""
        datasets = [DATASET] if apart and DATASET in self.columns else []
        try:
            table = self.obs.read(column_names=[NUMBER, *datasets], value_filter=where).concat()
        except extras.load("tiledbsoma").SOMAError as error:
            why = str(error).split("\n")[0].removeprefix("SOMAError: ").strip("'")
            msg = (
                f"{self.place}: the filter {where!r} cannot be read ({why}). It compares columns of obs, as in "
                f"\"tissue_general == 'lung' and is_primary_data == True\"; there are {some(self.columns, 40)}"
            )
            raise DataError(msg) from error
        number_C = table[NUMBER].to_numpy()
        order_C = np.argsort(number_C, kind="stable")
        if not datasets:
            return number_C[order_C], np.zeros(len(number_C), np.int32), []
        column = table[DATASET].to_pandas().astype("category").cat
        return number_C[order_C], column.codes.to_numpy()[order_C], list(map(str, column.categories))

    def measured(self, datasets: list[str]) -> Mapping[str, np.ndarray]:
        """Give the `soma_joinid` of the genes that each data set measured, as far as a Census says it."""
        name = "feature_dataset_presence_matrix"
        table, measurement = self._opened[1], self._opened[0].ms[MEASUREMENT]
        if table is None or name not in measurement:
            if datasets:
                logger.warning(
                    "%s does not say which genes each of its %d data sets measured: all are taken as measured",
                    self.place, len(datasets),
                )  # fmt: skip
            return {}
        known = table.read(column_names=[NUMBER, DATASET]).concat().to_pandas().set_index(DATASET)[NUMBER]
        numbers = known.reindex(datasets).dropna().astype(np.int64)
        found = (
            measurement[name].read(coords=(pa.array(numbers.sort_values()), slice(None))).tables().concat().to_pandas()
        )
        found = found[found["soma_data"] != 0].sort_values("soma_dim_1").groupby("soma_dim_0")["soma_dim_1"]
        genes = {number: some_genes.to_numpy() for number, some_genes in found}
        return {dataset: genes[number] for dataset, number in numbers.items() if number in genes}


@dataclass(frozen=True, eq=False)
class SomaCells:
    """Some cells of an experiment, as a format of `polygene.io.formats`."""

    experiment: _Experiment
    layer: str
    number_C: np.ndarray  # soma_joinid
    number_G: np.ndarray | None = None  # of the genes that were measured; None: all
    path: Path | None = field(default=None, init=False)

    @contextmanager
    def open(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield obs, var and the matrix."""
        var = self.experiment.var
        var = var if self.number_G is None else var.loc[self.number_G]
        number_G = var.index.to_numpy()
        var = var.set_index("var_id") if "var_id" in var else var.set_index("feature_id", drop=False)
        with _named(self.experiment.place):
            yield SomaObs(self), var.rename_axis(None), _Matrix(self, number_G)

    def table(self, rows: slice, columns: list[str]) -> pd.DataFrame:
        """Read columns of obs."""
        number_C = self.number_C[rows]
        near = len(number_C) and number_C[-1] - number_C[0] < SPARSE * len(number_C)
        coordinates = slice(int(number_C[0]), int(number_C[-1])) if near else pa.array(number_C)
        parts = []
        for part in self.experiment.obs.read(coords=(coordinates,), column_names=[NUMBER, *columns]):
            found = part[NUMBER].to_numpy()
            place = np.minimum(np.searchsorted(number_C, found), len(number_C) - 1)
            parts.append(part.filter(pa.array(number_C[place] == found)))
        return pa.concat_tables(parts).unify_dictionaries().to_pandas().sort_values(NUMBER, ignore_index=True)


class SomaObs:
    """The table of cells, of which a column is read at a time; laid out as one of an open .h5ad."""

    def __init__(self, cells: SomaCells) -> None:
        self._cells, self._columns = cells, cells.experiment.columns
        self._index = NAME if NAME in cells.experiment.obs.keys() else NUMBER  # noqa: SIM118 no mapping
        self.attrs = {"encoding-version": "0.2.0", "column-order": self._columns, "_index": self._index}

    def __getitem__(self, name: str) -> "_Column":
        return _Column(self._cells, name)

    def to_frame(self) -> pd.DataFrame:
        """Read the whole."""
        index = pd.Index(self[self._index][:].astype(str), dtype=object)
        return pd.DataFrame({name: self[name][:] for name in self._columns}, index=index)


class _Column:
    """A column of obs; the labels of an ontology are those of their ids, whatever the experiment calls them."""

    def __init__(self, cells: SomaCells, name: str) -> None:
        self._cells, self._name = cells, name
        self.shape, self.attrs = (len(cells.number_C),), {"encoding-type": "array"}

    def __getitem__(self, rows: slice) -> Any:
        name, of_ids = self._name, f"{self._name}_ontology_term_id"
        if name not in TABLES or of_ids not in self._cells.experiment.columns:
            return self._cells.table(rows, [name] if name != NUMBER else [])[name].array
        table, terms = self._cells.table(rows, [name, of_ids]), ontology_of(name).names
        ids, labels = table[of_ids].astype(object).map(terms, na_action="ignore"), table[name].astype(object)
        return ids.where(ids.notna(), labels).astype("category").array


class _Matrix:
    """The counts of the cells, of which the rows that are sliced are read."""

    def __init__(self, cells: SomaCells, number_G: np.ndarray) -> None:
        self._cells, self.shape = cells, (len(cells.number_C), len(number_G))
        self._place = np.full(int(number_G.max(initial=-1)) + 1, -1, dtype=np.int64)
        self._place[number_G] = np.arange(len(number_G))

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        number_C = self._cells.number_C[rows]
        together = len(number_C) and number_C[-1] - number_C[0] == len(number_C) - 1
        coordinates = slice(int(number_C[0]), int(number_C[-1])) if together else pa.array(number_C)
        matrix = self._cells.experiment.matrix(self._cells.layer)
        table = matrix.read(coords=(coordinates, slice(None)), result_order="row-major").tables().concat()
        gene_N = table["soma_dim_1"].to_numpy()
        column_N = np.where(gene_N < len(self._place), self._place[np.minimum(gene_N, len(self._place) - 1)], -1)
        kept_N = column_N >= 0
        row_N = np.searchsorted(number_C, table["soma_dim_0"].to_numpy()[kept_N])
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row_N, minlength=len(number_C)))])
        entries = table["soma_data"].to_numpy()[kept_N], column_N[kept_N], indptr
        return sparse.csr_matrix(entries, shape=(len(number_C), self.shape[1]))


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Name the experiment in what TileDB says."""
    try:
        yield
    except (PolyGeneError, MemoryError):
        raise
    except Exception as error:
        if not type(error).__module__.startswith("tiledb"):
            raise
        msg = f"{place} cannot be read ({' '.join(str(error).split())[:300]})"
        raise DataError(msg) from error
