"""What every part of the benchmark gets, and how it reads the files."""

from dataclasses import dataclass
from pathlib import Path

import anndata as ad

from benchmarks.shared import effort, files
from polygene.model.checkpoint import PolyGene


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The data folder, the models by name or folder, the seed, and a folder for corpora and models that parts train."""

    data: Path | None
    models: tuple[str, ...]
    seed: int
    folder: Path

    def load(self) -> dict[str, PolyGene]:
        """Load the models; in a smoke run the first one."""
        return {Path(name).name: PolyGene.from_pretrained(name) for name in effort.few(self.models)}

    def cells(self, name: str) -> ad.AnnData:
        """Read a file of the data folder; `files.MissingDataError` says which is missing."""
        return ad.read_h5ad(files.locate(name, self.data))
