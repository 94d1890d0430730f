"""What a verb adds to cells: to an AnnData in memory, to a copy of a file, or as a table of its own.

Legend: C cells.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, write_elem

from polygene.errors import DataError

ROOT = "polygene"
SUFFIXES = (".h5ad", ".csv", ".parquet")


@dataclass(frozen=True, kw_only=True, eq=False)
class Added:
    """What a verb found out about the cells of one AnnData.

    Attributes
    ----------
    verb
        Which function made it.
    obs
        New columns, a row for each cell, by its name.
    obsm
        New arrays, a row for each cell.
    uns
        How it was made; goes to `uns["polygene"][verb]`.
    """

    verb: str
    obs: pd.DataFrame
    obsm: Mapping[str, np.ndarray] = field(default_factory=dict)
    uns: Mapping[str, Any] = field(default_factory=dict)

    def add_to(self, adata: ad.AnnData) -> None:
        """Write it into an AnnData; what has the same name is replaced."""
        for name, column in self.obs.items():
            adata.obs[name] = column.array
        for name, array in self.obsm.items():
            adata.obsm[name] = array
        adata.uns[ROOT] = {**adata.uns.get(ROOT, {}), self.verb: dict(self.uns)}

    def table(self) -> pd.DataFrame:
        """Return the columns of `obs`, or where there are none the arrays: a column for each of theirs."""
        if len(self.obs.columns):
            return self.obs
        columns = {f"{name}_{d}": array[:, d] for name, array in self.obsm.items() for d in range(array.shape[1])}
        return pd.DataFrame(columns, index=self.obs.index)

    def write(self, path: Path, *, source: Path) -> None:
        """Write a copy of the file `source` with the additions (.h5ad), or only the table (.csv, .parquet).

        The matrix is copied as bytes and never held in memory.
        """
        if path.suffix == ".h5ad":
            shutil.copyfile(source, path)
            with h5py.File(path, "r+") as file:
                self._write_into(file)
        elif path.suffix == ".parquet":
            self.table().rename_axis("cell").to_parquet(path)
        else:
            self.table().to_csv(path, index_label="cell")

    def _write_into(self, file: h5py.File) -> None:
        obs = file["obs"]
        if obs.attrs.get("encoding-version") == "0.2.0":
            for name, column in self.obs.items():
                write_elem(obs, name, column.array if column.dtype == "category" else column.to_numpy())
            order = dict.fromkeys([*map(str, obs.attrs["column-order"]), *self.obs.columns])
            obs.attrs["column-order"] = np.array(list(order), dtype=h5py.string_dtype())
        else:  # anndata 0.7 kept categories elsewhere
            write_elem(file, "obs", read_elem(obs).assign(**{name: col.array for name, col in self.obs.items()}))
        for name, array in self.obsm.items():
            write_elem(_group(file, "obsm"), name, array)
        write_elem(_group(_group(file, "uns"), ROOT), self.verb, dict(self.uns))


def write_json(path: Path, value: Any) -> None:
    """Write nested dicts and lists as JSON, null where a number is NaN or infinite, which JSON cannot say."""
    path.write_text(json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    """Return a mapping of the file, made if it is not there."""
    if not isinstance(parent.get(name), h5py.Group):
        write_elem(parent, name, {})
    return parent[name]


@contextmanager
def written_beside(out: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    """Give a file beside `out` to write, and rename it when all is written; nothing is left of a failure.

    Entered before the work begins, it also finds out at once whether `out` can be written at all.

    Raises
    ------
    DataError
        `out` has another suffix, its folder is missing, or it cannot be written.
    """
    out = Path(out)
    if out.suffix not in suffixes:
        msg = f"{str(out)!r} cannot be written: its name must end with {' or '.join(suffixes)}."
        raise DataError(msg)
    if not out.parent.is_dir() or out.is_dir():
        wrong = f"{str(out)!r} is a folder" if out.is_dir() else f"there is no folder {str(out.parent)!r}"
        msg = f"{str(out)!r} cannot be written: {wrong}."
        raise DataError(msg)
    part = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        part.touch()
        yield part
        part.replace(out)
    except OSError as error:
        msg = f"{str(out)!r} could not be written, and nothing was left behind: {error}."
        raise DataError(msg) from error
    finally:
        part.unlink(missing_ok=True)
