"""The corpus: a folder of tokenised cells with the tokenizer they were made with. `polygene.corpus.prepare` writes it.

Legend: C cells, N expressed entries (cell, gene), G panel genes, P phenotypes, S sources.
"""

from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from polygene.corpus.arrow import SPLITS, VALUES, Shard, SplitName
from polygene.corpus.written import FORMAT, digest_of
from polygene.errors import CorpusError, PolyGeneError, check_choice
from polygene.runtime.files import loading, read_json, sha256
from polygene.vocab.cells import EncodedCells, ranges
from polygene.vocab.columns import some
from polygene.vocab.tokenizer import CellTokenizer

AGAIN = "copy the folder again, whole, or run polygene prepare"


class Corpus:
    """A corpus folder, checked and opened; cells are read on demand.

    Attributes
    ----------
    folder
        Where it is.
    info
        The content of corpus.json: how it was split, its sources, what was not given.
    tokenizer
        The tokenizer it was made with.
    split_word
        How the cells were split: "donor", "study" or "random"; every table names it.
    sources
        Names of the sources.
    measured_SG
        bool, which panel genes each source measured; the others are not zero but unknown.

    Raises
    ------
    CorpusError
        The folder is no corpus, or a file of it is missing, cut off or altered.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        with loading(f"the corpus {self.folder}", CorpusError, AGAIN):
            self._open()

    def _open(self) -> None:
        self.info = self._read_info()
        self._check_files()
        try:
            self.tokenizer = CellTokenizer.load(self.folder)
        except PolyGeneError as error:
            msg = f"the tokenizer of the corpus {self.folder} cannot be read: {error}"
            raise CorpusError(msg) from error
        self.split_word: str = self.info["config"]["split"]
        self.sources: tuple[str, ...] = tuple(source["name"] for source in self.info["sources"])
        self.measured_SG = np.array([list(source["measured"]) for source in self.info["sources"]]) == "1"
        self._splits: dict[SplitName, CorpusSplit] = {}
        if self.tokenizer.fingerprint() != self.info["tokenizer"]:
            msg = (
                f"{self.folder} was altered: tokenizer.json and genes.tsv are not the ones its cells were made with. "
                "Restore them, or run polygene prepare again."
            )
            raise CorpusError(msg)

    def __repr__(self) -> str:
        n_cells = {split: sum(source["cells"].get(split, 0) for source in self.info["sources"]) for split in SPLITS}
        cells = ", ".join(f"{split} {n:,}" for split, n in n_cells.items() if n)
        return (
            f"Corpus in {str(self.folder)!r}, split by {self.split_word}\n"
            f"    cells: {cells}\n"
            f"    sources: {len(self.sources):,} ({some(self.sources)})\n"
            f"    genes: {len(self.tokenizer.panel):,} in {self.tokenizer.binner.n_bins} bins\n"
            f"    phenotypes: {', '.join(self.tokenizer.schema.names)}"
        )

    def split(self, name: SplitName) -> "CorpusSplit":
        """Open the cells of "train", "validation", "test" or "seen" (cells of training donors that do not train).

        A split can be empty.
        """
        check_choice("the split", name, SPLITS)
        if name not in self._splits:  # kept: a split maps its files when it is made
            files = [self.folder / file for file in self.info["files"] if file.startswith(f"{name}/")]
            with loading(f"the corpus {self.folder}", CorpusError, AGAIN):
                split = CorpusSplit(files, self.measured_SG, len(self.tokenizer.schema.names))
                written = sum(source["cells"].get(name, 0) for source in self.info["sources"])
                if name == "train":  # each copy is one row more
                    written += sum(source.get("thinned", 0) for source in self.info["sources"])
                if split.n_rows != written:
                    msg = f"{self.folder} holds {split.n_rows:,} {name} cells, and {written:,} were written: {AGAIN}."
                    raise CorpusError(msg)
            self._splits[name] = split
        return self._splits[name]

    def check(self, tokenizer_fingerprint: str) -> None:
        """Refuse to go on with a model whose tokenizer is another one."""
        if tokenizer_fingerprint != self.info["tokenizer"]:
            msg = (
                f"the corpus {self.folder} was made with another tokenizer ({self.info['tokenizer'][:12]}) than the "
                f"model ({tokenizer_fingerprint[:12]}): genes, bins or labels differ. "
                "Train on this corpus, or take the corpus that the model was trained on."
            )
            raise CorpusError(msg)

    def summary(self) -> dict[str, Any]:
        """Return what a model records of it: cells, donors and genes of each source, and the filter of its cells."""
        sources = {
            source["name"]: {
                "cells": {split: n for split, n in source["cells"].items() if n},
                "donors": {split: n for split, n in source["donors"].items() if n},
                "panel_genes": source["panel_genes"],
            }
            for source in self.info["sources"]
        }
        return {"split": self.split_word, "where": self.info["config"].get("where"), "sources": sources}

    def _read_info(self) -> dict[str, Any]:
        path = self.folder / "corpus.json"
        if not path.is_file():
            why = "it holds no corpus.json" if self.folder.is_dir() else "there is no such folder"
            msg = f"{self.folder} is no corpus: {why}. Make one: polygene prepare FILES --out FOLDER"
            raise CorpusError(msg)
        try:
            info = read_json(path)
        except (OSError, ValueError) as error:
            msg = f"{path} is damaged ({error}); run polygene prepare again"
            raise CorpusError(msg) from error
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            msg = f"{path} is not of the format that this version reads ({FORMAT}); run polygene prepare again"
            raise CorpusError(msg)
        if "digest" in info and info["digest"] != digest_of(info):
            msg = f"{path} was altered: it is not what polygene prepare wrote; {AGAIN}"
            raise CorpusError(msg)
        return info

    def _check_files(self) -> None:
        """Compare every Arrow file with the size and the hash that were written down."""
        for file, written in self.info["files"].items():
            path = self.folder / file
            n_bytes, digest = (written, None) if isinstance(written, int) else (written["bytes"], written["sha256"])
            if not path.is_file():
                msg = f"the corpus {self.folder} lacks {file}; {AGAIN}"
                raise CorpusError(msg)
            if (found := path.stat().st_size) != n_bytes:
                msg = f"{path} is cut off or altered: {found:,} bytes, {n_bytes:,} were written; {AGAIN}"
                raise CorpusError(msg)
            if digest and digest != _hash_of(path, path.stat().st_size, path.stat().st_mtime_ns):
                msg = f"{path} was altered: its SHA-256 is not the one that was written down; {AGAIN}"
                raise CorpusError(msg)


@cache
def _hash_of(path: Path, _size: int, _mtime_ns: int) -> str:
    """Hash a file once in a process, half a second a gigabyte, as long as its size and time stay."""
    return sha256(path)


class CorpusSplit:
    """The cells of one split: an array-like of cells over memory-mapped Arrow files.

    It holds no cells and can be sent to worker processes, which map the files themselves.
    """

    def __init__(self, files: list[Path], measured_SG: np.ndarray, n_phenotypes: int) -> None:
        self.measured_SG = measured_SG
        self._files, self._n_phenotypes = files, n_phenotypes
        self._shards = [Shard(file) for file in files]
        self._starts = np.cumsum([0, *(shard.n_cells for shard in self._shards)])
        self.n_rows = int(self._starts[-1])

    def __len__(self) -> int:
        return self.n_rows

    def __reduce__(self) -> tuple[type[Self], tuple[list[Path], np.ndarray, int]]:
        return type(self), (self._files, self.measured_SG, self._n_phenotypes)

    def cells(self, indices: slice | np.ndarray) -> EncodedCells:
        """Gather cells in the order of `indices`, which may repeat.

        `measured_G` of the result are the panel genes that the source of *every* one of these cells measured; what
        each cell's own source measured is in its `measured_SG` and `sources_C`.
        """
        rows_C = self._rows(indices)
        n_cells = len(rows_C)
        lengths_C = np.empty(n_cells, dtype=np.int64)
        labels_CP = np.empty((n_cells, self._n_phenotypes), dtype=np.int16)
        sources_C = np.empty(n_cells, dtype=np.int16)
        parts: list[tuple[np.ndarray | slice, Shard, np.ndarray, np.ndarray]] = []
        for shard, which, local in self._by_shard(rows_C):
            batch, start, length = shard.locate(local)
            lengths_C[which] = length
            labels_CP[which] = shard.labels(batch, local, self._n_phenotypes)
            sources_C[which] = shard.sources(batch, local)
            parts.append((which, shard, batch, start))
        offsets_C1 = np.concatenate([[0], np.cumsum(lengths_C)])
        gathered = {name: np.empty(offsets_C1[-1], dtype) for name, dtype in VALUES.items()}
        for which, shard, batch, start in parts:
            into: np.ndarray | slice = slice(None)
            if len(parts) > 1:
                into = ranges(offsets_C1[:-1][which], lengths_C[which])
            for name, out_N in gathered.items():
                out_N[into] = shard.values(name, batch, start, lengths_C[which])
        present_S = np.unique(sources_C)
        return EncodedCells(
            offsets_C1=offsets_C1,
            genes_N=gathered["genes"],
            bins_N=gathered["bins"],
            values_N=gathered["values"].astype(np.float32),
            labels_CP=labels_CP,
            measured_G=np.logical_and.reduce(self.measured_SG[present_S]),
            measured_SG=self.measured_SG,
            sources_C=sources_C,
        )

    def values(self, indices: slice | np.ndarray | None = None) -> sparse.csr_matrix:
        """Give x_CG, log1p counts per 10,000 of the expressed panel genes (half precision, as float32), by cell."""
        cells = self.cells(slice(None) if indices is None else indices)
        return cells.as_csr(cells.values_N, self.measured_SG.shape[1])

    @cached_property
    def labels_CP(self) -> np.ndarray:
        """Labels of all cells, int16, -1 = not given."""
        flat = self._column("labels", lambda column: pc.list_flatten(column).to_numpy())
        return flat.astype(np.int16).reshape(-1, self._n_phenotypes)

    @cached_property
    def sources_C(self) -> np.ndarray:
        """Source of every cell, int16, an index into `Corpus.sources`."""
        return self._column("source", lambda column: column.to_numpy()).astype(np.int16)

    @cached_property
    def years_C(self) -> np.ndarray | None:
        """Age of every cell in years, float32, also where no training cell has its label; NaN where not known.

        None for a corpus that was made before ages were written down.
        """
        if any("years" not in shard.table.column_names for shard in self._shards):
            return None
        return self._column("years", lambda column: column.to_numpy()).astype(np.float32)

    @cached_property
    def donors_C(self) -> np.ndarray:
        """Donor of every cell, str objects, "" = not given."""
        return self._column("donor_id", _strings).astype(object)

    @cached_property
    def names_C(self) -> np.ndarray:
        """Name of every cell in its source, str objects."""
        return self._column("cell", _strings).astype(object)

    def _column(self, name: str, read: Callable[[pa.ChunkedArray], np.ndarray]) -> np.ndarray:
        return np.concatenate([np.empty(0, np.int16), *(read(shard.table.column(name)) for shard in self._shards)])

    def _rows(self, indices: slice | np.ndarray) -> np.ndarray:
        if isinstance(indices, slice):
            return np.arange(*indices.indices(len(self)))
        rows_C = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(rows_C) and not (-len(self) <= rows_C.min() and rows_C.max() < len(self)):
            msg = f"cells are numbered from 0 to {len(self) - 1:,}; got {rows_C.min():,} to {rows_C.max():,}"
            raise IndexError(msg)
        return np.where(rows_C < 0, rows_C + len(self), rows_C)

    def _by_shard(self, rows_C: np.ndarray) -> list[tuple["Shard", np.ndarray | slice, np.ndarray]]:
        """Return (shard, which of these cells are in it, their rows there)."""
        if len(self._shards) == 1:
            return [(self._shards[0], slice(None), rows_C)]
        number_C = np.searchsorted(self._starts, rows_C, side="right") - 1
        return [
            (self._shards[number], which := np.flatnonzero(number_C == number), rows_C[which] - self._starts[number])
            for number in np.unique(number_C)
        ]


def _strings(column: pa.ChunkedArray) -> np.ndarray:
    """Give a text column as str objects, equal ones once in memory."""
    encoded = column.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.dictionary.to_numpy(zero_copy_only=False)[encoded.indices.to_numpy()]
