"""Count matrices as 10x Cell Ranger writes them: .h5 files, and folders with matrix.mtx, features.tsv, barcodes.tsv.

`var` is named as scanpy names it: symbols in `var_names`, Ensembl ids in `gene_ids`, and what each feature is in
`feature_types`.

Legend: C cells, G genes, N entries of a block.
"""

import csv
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from polygene.errors import DataError
from polygene.io.backed import BackedCSR
from polygene.io.transpose import Entries

PARTS = ("matrix.mtx", "features.tsv", "genes.tsv", "barcodes.tsv")
LINES = 500_000  # entries of matrix.mtx read at once


class TenXFile:
    """A filtered_feature_bc_matrix.h5 (Cell Ranger 3 and later), or one of Cell Ranger 2 with one genome."""

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        with h5py.File(path) as file:
            genomes = [name for name in file if "barcodes" in file[name]]
            if len(genomes) != 1:
                msg = f"{label} holds the genomes {', '.join(genomes)}; PolyGene reads one: export the human cells"
                raise DataError(msg)
            self._group = genomes[0]
            group = file[self._group]
            self._shape = tuple(group["shape"][:][::-1])  # 10x counts genes first
            if "features" in group:
                names = {"gene_ids": "id", "feature_types": "feature_type", "genome": "genome"}
                var = {to: _text(group["features"][name]) for to, name in names.items() if name in group["features"]}
                symbols = _text(group["features/name"])
            else:
                var, symbols = {"gene_ids": _text(group["genes"])}, _text(group["gene_names"])
            self._obs = pd.DataFrame(index=_text(group["barcodes"]))
        self._var = pd.DataFrame(var, index=symbols)

    @contextmanager
    def open(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield obs, var and the matrix, which is by cells (CSR)."""
        with h5py.File(self.path) as file:
            yield self._obs, self._var, BackedCSR(file[self._group], self._shape)


class MatrixMarket:
    """A folder with matrix.mtx, features.tsv or genes.tsv, and barcodes.tsv, packed with gzip or not.

    The names may have something before them, as at GEO; of several such sets the path of one matrix.mtx names one.
    """

    order = "as text (Matrix Market)"
    dtype = np.dtype(np.float32)

    def __init__(self, path: Path, label: str) -> None:
        self.path, self._label = path, label
        found = [path] if path.is_file() else sorted([*path.glob("*matrix.mtx"), *path.glob("*matrix.mtx.gz")])
        if len(found) != 1:
            names = ", ".join(one.name for one in found) or "no matrix.mtx"
            deeper = sorted({*path.glob("*/*matrix.mtx*"), *path.glob("*/*/*matrix.mtx*")})  # as Cell Ranger's outs
            do = "PolyGene reads a folder with one matrix.mtx.gz, or the path of one of several"
            do = f"give {', '.join(str(one.parent) for one in deeper)}" if deeper else do
            msg = f"{label} holds {names}; {do}"
            raise DataError(msg)
        self._matrix = found[0]
        before, is_named, _ = self._matrix.name.partition("matrix.mtx")
        prefix = before if is_named else ""
        features = self._table(prefix, "features.tsv", "genes.tsv")
        self._obs = pd.DataFrame(index=self._table(prefix, "barcodes.tsv")[0].to_numpy())
        self._var = pd.DataFrame(
            {"gene_ids": features[0].to_numpy()}, index=features[min(1, features.shape[1] - 1)].to_numpy()
        )
        if features.shape[1] > 2:
            self._var["feature_types"] = features[2].to_numpy()
        with self._lines() as (_, _, (n_genes, n_cells, self.n_entries)):
            named = len(self._var), len(self._obs)
            if (n_genes, n_cells) != named:
                why = "The three files are not of one sample, or one has a header line."
                if (n_cells, n_genes) == named:
                    why = "Its rows are cells, and those of 10x are genes: write its transpose."
                msg = (
                    f"{label}: {self._matrix.name} holds {n_genes:,} genes × {n_cells:,} cells, but there are names of "
                    f"{named[0]:,} genes and {named[1]:,} cells. {why}"
                )
                raise DataError(msg)
            if not self.n_entries:
                msg = f"{label}: {self._matrix.name} holds no counts, only the numbers of genes and cells"
                raise DataError(msg)
        self.shape = n_cells, len(self._var)

    @contextmanager
    def open(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield obs, var and the matrix, of which only `blocks` can be read."""
        yield self._obs, self._var, self

    def blocks(self) -> Iterator[Entries]:
        """Read (rows_N, columns_N, values_N), one block after the other."""
        with self._lines() as (lines, has_values, (n_genes, n_cells, n_entries)):
            types: dict[int, Any] = {0: np.int32, 1: np.int32, 2: self.dtype}
            names, n_read = range(3 if has_values else 2), 0
            for block in pd.read_csv(lines, sep=r"\s+", header=None, names=names, dtype=types, chunksize=LINES):
                genes_N, cells_N = block[0].to_numpy() - 1, block[1].to_numpy() - 1
                if not (block[[0, 1]].min() >= 1).all() or genes_N.max() >= n_genes or cells_N.max() >= n_cells:
                    msg = f"{self._matrix.name} names genes or cells beyond the last"
                    raise OSError(msg)
                values_N = block[2].to_numpy() if has_values else np.ones(len(block), self.dtype)
                yield cells_N, genes_N, values_N
                n_read += len(block)
            if n_read != n_entries:
                msg = f"{self._matrix.name} ends after {n_read:,} of {n_entries:,} entries"
                raise OSError(msg)

    def _table(self, prefix: str, *names: str) -> pd.DataFrame:
        """Read the first of these tables that is there, as text."""
        for name in (f"{prefix}{name}{packed}" for name in names for packed in ("", ".gz")):
            path = self._matrix.with_name(name)
            if path.is_file():
                return pd.read_csv(
                    path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
                )
        msg = f"{self._label} has no {prefix}{names[0]} or {prefix}{names[0]}.gz beside {self._matrix.name}"
        raise DataError(msg)

    @contextmanager
    def _lines(self) -> Iterator[tuple[Any, bool, list[int]]]:
        """Open the matrix where its entries begin: (file, whether they have values, [genes, cells, entries])."""
        with (gzip.open if self._matrix.suffix == ".gz" else open)(self._matrix, "rb") as lines:
            header = lines.readline().decode(errors="replace").split()
            if header[:3] != ["%%MatrixMarket", "matrix", "coordinate"] or header[4:] != ["general"]:
                msg = f"{self._label}: {self._matrix.name} is no Matrix Market file of a sparse matrix: {header[:5]}"
                raise DataError(msg)
            line = lines.readline()
            while line.startswith(b"%"):
                line = lines.readline()
            sizes = line.split()
            if len(sizes) != 3:
                msg = f"{self._matrix.name} does not name its genes, cells and entries"
                raise OSError(msg)
            yield lines, header[3] != "pattern", [int(number) for number in sizes]


def _text(dataset: h5py.Dataset) -> np.ndarray:
    return dataset.asstr()[:].astype(object)
