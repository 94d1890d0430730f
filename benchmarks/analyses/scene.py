"""What every part of the benchmark gets, and how it reads the files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad

from benchmarks.shared import effort, files
from polygene.model.checkpoint import PolyGene
from polygene.tl._states import balanced


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the command line names.

    The data folder, the models by name or folder, the seed, a folder for corpora and models that parts train, and where
    known edges between genes are.
    """

    data: Path | None
    models: tuple[str, ...]
    seed: int
    folder: Path
    reference: Path | None = None

    def load(self) -> dict[str, PolyGene]:
        """Load the models; in a smoke run the first one."""
        return {Path(name).name: PolyGene.from_pretrained(name) for name in effort.few(self.models)}

    def cells(self, name: str) -> ad.AnnData:
        """Read a file of the data folder; `files.MissingDataError` says which is missing."""
        return ad.read_h5ad(files.locate(name, self.data))

    def studies(self, names: Iterable[str]) -> dict[str, ad.AnnData]:
        """Read several files; those that are missing are named, and left out."""
        found = {}
        for name in names:
            try:
                found[name] = self.cells(name)
            except (files.MissingDataError, KeyError) as reason:
                print(f"skipped: {reason}")
        return found


def spread_over(adata: ad.AnnData, columns: Sequence[str], most: int, seed: int) -> ad.AnnData:
    """Take at most so many cells, as many of each combination of labels as can be."""
    most = effort.at_most(most, 120)
    codes = [adata.obs[column].astype("category").cat.codes.to_numpy() for column in columns]
    return adata[balanced(codes, most, seed=seed)].copy()
