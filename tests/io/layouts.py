"""The layouts of files that PolyGene is tried on: one small real dataset in each, compared with the plain form.

A new layout is one line of `LAYOUTS`. Each gives equal predictions and values, or one message that its `message` finds.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

from polygene.errors import PolyGeneError
from polygene.io.datasets import pbmc
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.tl._reader import CellReader
from polygene.vocab.gene_names import human_genes
from tests.io.hands import as_anndata_06, as_mudata, as_nullable_strings, stored_as, write_as

Source = str | Path | ad.AnnData
N_CELLS, N_OTHERS = 40, 300


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to lay the same cells out; `message` is a pattern where it is refused."""

    form: str = "h5ad"
    matrix: str = "csr"
    dtype: str = "<f4"
    genes: str = "symbols"
    values: str = "counts"
    others: str = "none"
    message: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """What a reader of the table sees."""
        numbers = np.dtype(self.dtype)
        order = ", big-endian" if numbers.byteorder == ">" else ""
        return self.form, self.matrix, f"{numbers.name}{order}", self.genes, self.values, self.others


LAYOUTS = (
    # formats and kinds of matrix
    Layout(),
    Layout(matrix="csc"),
    Layout(matrix="dense"),
    Layout(form="zarr 3"),
    Layout(form="zarr 3", matrix="csc"),
    Layout(form="zarr 3", matrix="dense"),
    Layout(form="zarr 2"),
    Layout(form="zarr 2", matrix="dense"),
    Layout(form="zarr, zipped"),
    Layout(form="10x .h5"),
    Layout(form="10x .h5 of Cell Ranger 2"),
    Layout(form="folder of Matrix Market"),
    Layout(form="folder of Matrix Market, Cell Ranger 2"),
    Layout(form="AnnData"),
    Layout(form="AnnData", matrix="csc"),
    Layout(form="AnnData", matrix="dense"),
    Layout(form="AnnData, a view"),
    Layout(form="AnnData, backed"),
    Layout(form="AnnData, backed", matrix="dense"),
    # types of numbers
    *(Layout(dtype=dtype) for dtype in ("<f8", "<f2", ">f4", ">f8", "<i4", ">i4", "<i8", "<u2", "|u1")),
    *(Layout(matrix="csc", dtype=dtype) for dtype in ("<f2", ">f4", "<i8")),
    *(Layout(matrix="dense", dtype=dtype) for dtype in ("<f8", "<f2", ">f4", ">i4", "|u1")),
    *(Layout(form="zarr 3", dtype=dtype) for dtype in ("<f2", ">f4", "<i8")),
    *(Layout(form="zarr 2", dtype=dtype) for dtype in ("<f2", ">f4", "|u1")),
    *(Layout(form="AnnData", dtype=dtype) for dtype in ("<f2", ">f4", "<i8", "|u1")),
    Layout(form="AnnData", matrix="dense", dtype="<f2"),
    # encodings of other versions
    Layout(form="h5ad, texts of pandas 3"),
    Layout(form="zarr 3, texts of pandas 3"),
    Layout(form="zarr 2, texts of pandas 3"),
    Layout(form="h5ad of anndata 0.6"),
    Layout(form="h5ad of anndata 0.6", values="raw"),
    Layout(form="h5mu"),
    Layout(form="MuData in zarr"),
    # where the genes are
    Layout(genes="Ensembl ids"),
    Layout(genes="Ensembl ids with versions"),
    Layout(genes="ids, symbols in feature_name"),
    Layout(genes="ids in gene_ids"),
    Layout(genes="numbers, symbols in feature_name"),
    Layout(genes="symbols in a column of their own"),
    Layout(genes="symbols of R (HLA.DRA)"),
    Layout(genes="symbols with _ for -"),
    Layout(genes="symbols in lower case"),
    Layout(genes="symbols with GRCh38_"),
    Layout(genes="symbols with hg19_"),
    Layout(genes="ids with GRCh38_"),
    Layout(genes="symbols made unique (CD74.1)"),
    Layout(form="AnnData", genes="a column of var twice"),
    # where the values are, and which
    Layout(values="a layer"),
    Layout(values="raw"),
    Layout(form="zarr 3", values="a layer"),
    Layout(form="zarr 3", values="raw"),
    Layout(form="AnnData", values="raw"),
    Layout(values="log1p"),
    Layout(values="log1p", matrix="dense"),
    Layout(values="normalised"),
    Layout(values="ln of counts"),
    Layout(values="log2 of counts per million"),
    Layout(form="AnnData", values="log1p"),
    # features that are no genes
    *(Layout(form=form, others="antibodies, by type") for form in ("h5ad", "zarr 3", "10x .h5", "AnnData")),
    Layout(form="folder of Matrix Market", others="antibodies, by type"),
    Layout(others="antibodies, by type", values="log1p"),
    Layout(others="peaks, by type"),
    *(Layout(others=f"{what}, by name") for what in ("antibodies", "hashtags", "guides", "peaks", "spike-ins")),
    # refused
    Layout(values="scaled", message="looks scaled.*layer"),
    Layout(values="with NaN", message="NaN or infinite"),
    Layout(values="a layer that is not there", message="has no layer 'absent'"),
    Layout(form="AnnData", values="scaled", message="looks scaled.*layer"),
    Layout(genes="numbers", message="numbers for names"),
    Layout(genes="symbols of mouse", message="seems to be of mouse"),
    Layout(form="AnnData", genes="feature_name twice", message="var has several columns 'feature_name'"),
    Layout(others="no gene at all", message="holds no features of the type 'Gene Expression'"),
    Layout(form="MuData without rna", message="is a MuData of .* save the one with the genes"),
    Layout(form="h5ad, cut off", message="cut off or damaged"),
    Layout(form="h5ad, packed", message="Unpack it first, with gunzip"),
    Layout(form="HDF5 of something else", message="holds no cells"),
    Layout(form="a text file", message="is not an .h5ad file"),
    Layout(form="a column type of tomorrow", message="Nothing says that it is damaged"),
)

FOLDERS = {
    "h5ad": "csr.h5ad", "zarr 3": "csr.zarr", "zarr 2": "v2.zarr", "zarr, zipped": "zarr.zip", "10x .h5": "10x.h5",
    "10x .h5 of Cell Ranger 2": "10x-v2.h5", "folder of Matrix Market": "mtx",
    "folder of Matrix Market, Cell Ranger 2": "mtx-v2",
}  # fmt: skip


def plain_cells() -> ad.AnnData:
    """Forty cells of PBMC 3k: the genes of polygene-512 and 300 others, all with an approved symbol."""
    adata, known = pbmc(), human_genes()
    panel = set(PolyGene.from_pretrained("polygene-512").tokenizer.panel.ensembl_ids)
    approved = {symbol: id_ for id_, symbol in known.symbols.items()}
    named = [name for name in adata.var_names if name in approved and name == name.upper()]
    chosen = [name for name in named if approved[name] in panel]
    chosen += [name for name in named if approved[name] not in panel][:N_OTHERS]
    cells = np.linspace(0, adata.n_obs - 1, N_CELLS).astype(int)
    small = adata[cells, chosen].copy()
    small = ad.AnnData(small.X.astype(np.float32), obs=small.obs[["cell_type"]].copy(), var=pd.DataFrame(index=chosen))
    small.X.data = np.minimum(small.X.data, 200)  # uint8 and float16 hold them
    small.var["gene_ids"] = [approved[name] for name in chosen]
    return small


def predictions(source: Source, model: PolyGene, layer: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the cell types (C, V), and log1p counts per 10,000 of the panel (C, G)."""
    reader = CellReader(source, model.tokenizer, layer=layer)
    chunks = [cells for _, cells in reader.chunks()]
    p_CV = [label_probabilities(model, cells, predict=["cell_type"])[0] for cells in chunks]
    x_CG = [cells.as_csr(cells.values_N, len(model.tokenizer.panel)).toarray() for cells in chunks]
    return np.concatenate(p_CV), np.concatenate(x_CG)


def outcome(
    layout: Layout, plain: ad.AnnData, expected: tuple[np.ndarray, np.ndarray], model: PolyGene, folder: Path
) -> tuple[str, str]:
    """Try a layout: ("equal" | "refused" | "wrong", what is said)."""
    source, layer = write(layout, plain, folder)
    try:
        p_CV, x_CG = predictions(source, model, layer)
    except PolyGeneError as error:
        is_right = bool(layout.message) and re.search(layout.message, str(error), re.DOTALL)
        return ("refused" if is_right else "wrong"), str(error)
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {error}"
    if layout.message or p_CV.shape != expected[0].shape:
        return "wrong", "it was read, and should have been refused"
    difference = np.abs(p_CV - expected[0]).max(), np.abs(x_CG - expected[1]).max()
    is_equal = difference[0] < 1e-5 and difference[1] < 2e-3  # float32 of a logarithm undone
    said = f"probabilities differ by {difference[0]:.2g}, values by {difference[1]:.2g}"
    return ("equal", "") if is_equal else ("wrong", said)


def write(layout: Layout, plain: ad.AnnData, folder: Path) -> tuple[Source, str | None]:
    """Lay the cells out; return where they are, and the layer to read."""
    adata = _with_others(layout.others, plain.copy())
    adata = _named(layout.genes, adata)
    adata, layer = _valued(layout.values, adata)
    adata.X = {"csr": adata.X.tocsr, "csc": adata.X.tocsc, "dense": adata.X.toarray}[layout.matrix]()
    base, _, encoding = layout.form.partition(", texts")
    if base.startswith("AnnData"):
        return _in_memory(layout, adata, folder), layer
    if base in ODD:
        return ODD[base](adata, folder), layer
    kind = FOLDERS[base]
    if kind.startswith("csr") or kind == "v2.zarr":
        path = _stored(adata, folder, kind, layout)
    else:
        path = write_as(adata, folder, kind)
    if encoding:
        as_nullable_strings(path, ["obs/_index", "var/_index", "var/gene_ids"])
    return path, layer


def _stored(adata: ad.AnnData, folder: Path, kind: str, layout: Layout) -> Path:
    name = kind if layout.matrix == "csr" else kind.replace("csr", layout.matrix)
    if kind == "v2.zarr" and layout.matrix == "dense":
        with ad.settings.override(zarr_write_format=2):
            adata.write_zarr(folder / "dense-v2.zarr")
        path = folder / "dense-v2.zarr"
    else:
        path = write_as(adata if layout.matrix == "csr" else _sparse(adata), folder, name)
    if layout.dtype != "<f4":
        stored_as(path, "X" if layout.matrix == "dense" else "X/data", layout.dtype)
    return path


def _sparse(adata: ad.AnnData) -> ad.AnnData:
    adata.X = sparse.csr_matrix(adata.X)
    return adata


def _in_memory(layout: Layout, adata: ad.AnnData, folder: Path) -> ad.AnnData:
    if layout.dtype != "<f4" and layout.matrix == "dense":
        return ad.AnnData(adata.X.astype(layout.dtype), obs=adata.obs, var=adata.var)
    if layout.dtype != "<f4":
        adata.X.data = adata.X.data.astype(layout.dtype)
    if layout.form == "AnnData, a view":
        return adata[:, ::-1][:, ::-1]
    if layout.form == "AnnData, backed":
        adata.write_h5ad(folder / "backed.h5ad")
        return ad.read_h5ad(folder / "backed.h5ad", backed="r")
    return adata


def _with_others(others: str, adata: ad.AnnData) -> ad.AnnData:
    what, _, by = others.partition(", by ")
    if others == "none":
        return adata
    if others == "no gene at all":
        adata.var["feature_types"] = "Peaks"
        return adata
    names = {
        "antibodies": ["CD4_TotalSeqB", "CD8A_ADT", "AB_CD19"], "hashtags": ["HTO-A", "Hashtag2", "CMO301"],
        "guides": ["sgCD4_1", "sgRNA-2", "sgB2M-1"], "peaks": ["chr1:1000-2000", "chr2-1000-2000", "chrX_10000_20000"],
        "spike-ins": ["ERCC-00002", "ERCC-00003", "ERCC-00004"],
    }[what]  # fmt: skip
    names = ["CD4", "CD8A", "CD19"] if by == "type" else names
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(80, (adata.n_obs, 3)).astype(np.float32))
    both = ad.AnnData(sparse.hstack([adata.X, counts], format="csr"), obs=adata.obs)
    both.var = pd.DataFrame({"gene_ids": [*adata.var["gene_ids"], *names]}, index=[*adata.var_names, *names])
    if by == "type":
        kind = "Antibody Capture" if what == "antibodies" else "Peaks"
        both.var["feature_types"] = ["Gene Expression"] * adata.n_vars + [kind] * 3
    return both


def _named(genes: str, adata: ad.AnnData) -> ad.AnnData:
    symbols, ids = pd.Series(adata.var_names), list(adata.var["gene_ids"])
    others = adata.var.drop(columns="gene_ids")
    numbers = [str(i) for i in range(adata.n_vars)]
    index, columns = {
        "symbols": (symbols, {"gene_ids": ids}),
        "Ensembl ids": (ids, {}),
        "Ensembl ids with versions": ([f"{one}.{i % 20}" for i, one in enumerate(ids)], {}),
        "ids, symbols in feature_name": (ids, {"feature_name": pd.Categorical(symbols)}),
        "ids in gene_ids": ([f"gene {i}" for i in numbers], {"gene_ids": ids}),
        "numbers, symbols in feature_name": (numbers, {"feature_name": list(symbols)}),
        "symbols in a column of their own": (numbers, {"GeneSymbol": list(symbols)}),
        "symbols of R (HLA.DRA)": (symbols.str.replace("-", "."), {}),
        "symbols with _ for -": (symbols.str.replace("-", "_"), {}),
        "symbols in lower case": (symbols.str.lower(), {}),
        "symbols with GRCh38_": ("GRCh38_" + symbols, {}),
        "symbols with hg19_": ("hg19_" + symbols, {}),
        "ids with GRCh38_": ([f"GRCh38_{one}" for one in ids], {}),
        "symbols made unique (CD74.1)": ([f"{one}.1" if i % 9 == 0 else one for i, one in enumerate(symbols)], {}),
        "a column of var twice": (symbols, {"n_cells": numbers}),
        "numbers": (numbers, {}),
        "symbols of mouse": (symbols.str.capitalize(), {}),
        "feature_name twice": (symbols, {"feature_name": list(symbols)}),
    }[genes]
    table = pd.concat([pd.DataFrame(columns), others.reset_index(drop=True)], axis=1).set_axis(list(index))
    adata.var = table.iloc[:, [0, 0]] if genes.endswith("twice") else table
    return adata


def _valued(values: str, adata: ad.AnnData) -> tuple[ad.AnnData, str | None]:
    counts = adata.X.copy()
    if values == "log1p":
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    elif values == "normalised":
        sc.pp.normalize_total(adata, target_sum=1e4)
    elif values == "ln of counts":
        adata.X = counts.log1p()
    elif values == "log2 of counts per million":
        sc.pp.normalize_total(adata, target_sum=1e6)
        adata.X = adata.X.log1p() / np.float32(np.log(2))
    elif values in ("scaled", "raw", "a layer"):
        adata.layers["counts"], adata.raw = counts, adata.copy()
        adata.X = sparse.csr_matrix(counts - np.float32(1.5) * (counts > 0))
    elif values == "with NaN":
        adata.X.data[5] = np.nan
    return adata, {"raw": "raw", "a layer": "counts", "a layer that is not there": "absent"}.get(values)


def _packed(adata: ad.AnnData, folder: Path) -> Path:
    (folder / "cells.h5ad.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    return folder / "cells.h5ad.gz"


def _cut(adata: ad.AnnData, folder: Path) -> Path:
    path = write_as(adata, folder, "csr.h5ad")
    path.write_bytes(path.read_bytes()[:20_000])
    return path


def _weights(adata: ad.AnnData, folder: Path) -> Path:
    with h5py.File(folder / "weights.h5", "w") as file:
        file["kernel"] = [1]
    return folder / "weights.h5"


def _text(adata: ad.AnnData, folder: Path) -> Path:
    adata.to_df().iloc[:2, :2].to_csv(folder / "cells.csv")
    return folder / "cells.csv"


def _tomorrow(adata: ad.AnnData, folder: Path) -> Path:
    path = write_as(adata, folder, "csr.h5ad")
    with h5py.File(path, "r+") as file:
        file["var"].attrs["encoding-type"] = "dataframe-of-tomorrow"
    return path


ODD: dict[str, Callable[[ad.AnnData, Path], Path]] = {
    "h5ad of anndata 0.6": lambda adata, folder: as_anndata_06(adata, folder / "old.h5ad"),
    "h5mu": lambda adata, folder: as_mudata({"prot": adata[:, :3].copy(), "rna": adata}, folder, "csr.h5ad"),
    "MuData in zarr": lambda adata, folder: as_mudata({"prot": adata[:, :3].copy(), "rna": adata}, folder, "csr.zarr"),
    "MuData without rna": lambda adata, folder: as_mudata({"a": adata, "b": adata}, folder, "csr.h5ad"),
    "h5ad, cut off": _cut,
    "h5ad, packed": _packed,
    "HDF5 of something else": _weights,
    "a text file": _text,
    "a column type of tomorrow": _tomorrow,
}


def outcomes(layouts: tuple[Layout, ...], folder: Path) -> Iterator[tuple[Layout, str, str]]:
    """Try layouts one after the other."""
    model, plain = PolyGene.from_pretrained("polygene-512"), plain_cells()
    expected: Any = predictions(plain, model)
    for number, layout in enumerate(layouts):
        (folder / str(number)).mkdir()
        yield layout, *outcome(layout, plain, expected, model, folder / str(number))
