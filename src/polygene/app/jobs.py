"""The jobs of the worker: they call the public verbs and the streaming readers, and write what the page reads.

Legend: C cells.
"""

import json
import logging
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np

from polygene.app import columns
from polygene.app.ask import change_genes, change_labels, markers, selected
from polygene.app.incoming import FOLDER, column_file
from polygene.app.layout import MOST_FITTED, lay_out
from polygene.app.takeaway import take
from polygene.app.unpack import unpack
from polygene.app.worker import plain, say
from polygene.errors import GeneError, PolyGeneError
from polygene.io.datasets import PBMC
from polygene.io.read import CellSource, open_cells
from polygene.model.shipped import NAMES, folder_of
from polygene.tl import annotate as annotate_cells
from polygene.vocab.expression import counts_share, log1p_values
from polygene.vocab.gene_matching import GeneMatch
from polygene.vocab.gene_names import find_gene, gene_table
from polygene.vocab.phenotypes import count_labels
from polygene.vocab.tokenizer import CellTokenizer

__all__ = ["annotate", "change_genes", "change_labels", "draw", "gene", "markers", "read", "selected", "take"]

SCALES = {
    "counts": "counts",
    "log1p": "log1p of counts per 10,000",
    "ln": "natural logarithm, undone on reading",
    "log2": "binary logarithm, undone on reading",
    "log10": "decimal logarithm, undone on reading",
}
NEW_PLANE = "X_polygene_umap"
SHOWN = 6  # labels of a phenotype that the overview names


def read(
    *,
    path: str | None,
    name: str,
    folder: Path,
    layer: str | None = None,
    example: bool = False,
    models: Sequence[str] = NAMES,
) -> dict[str, Any]:
    """Open a file (None: the example that ships), and say what is in it and what to expect of it."""
    file = Path(str(PBMC)) if path is None else Path(path)
    if zipfile.is_zipfile(file) and file.suffix == ".zip":
        file = unpack(file, Path(tempfile.mkdtemp(prefix=FOLDER, dir=folder)) / file.stem)
    with _warnings() as notes:
        facts, tokenizer, cells = _describe(file, layer, models)
    facts |= {"name": name, "path": str(file), "example": example, "notes": list(dict.fromkeys(notes))}
    table = gene_table(cells.var)
    names = table["symbol"].where(table["symbol"] != "", table["ensembl_id"]).tolist()
    (folder / "genes.json").write_text(json.dumps({"all": names, "panel": list(tokenizer.panel.symbols)}))
    say("state", state={"file": facts})
    return facts


def _describe(file: Path, layer: str | None, models: Sequence[str]) -> tuple[dict[str, Any], CellTokenizer, CellSource]:
    """Say what is in a file, and how much of its panel each model finds there."""
    cells = open_cells(file, layer=layer)
    layers, maps = _parts(file)
    facts: dict[str, Any] = {"layer": layer, "layers": layers, "maps": maps, "cells": cells.n_obs}
    facts |= {"genes": len(cells.var), "columns": _columns(cells)}
    try:
        facts["scale"] = SCALES[cells.scale]
    except PolyGeneError as error:  # another layer may hold what can be read
        if not layers:
            raise
        facts["problem"] = plain(str(error))
    else:
        facts["models"] = [_coverage(cells, model) for model in models]
        if all("problem" in one for one in facts["models"]):
            facts["problem"] = facts["models"][0]["problem"]
    tokenizer = CellTokenizer.load(folder_of(models[0]))
    phenotypes = tokenizer.schema.phenotypes
    counted = count_labels(cells.frame([one.column for one in phenotypes]), phenotypes)
    facts["phenotypes"] = [
        {
            "name": one.name,
            "column": one.column,
            "in_file": one.column in cells.columns,
            "labels": sorted(counted[one.name].items(), key=lambda pair: -pair[1])[:SHOWN],
            "n_labels": len(counted[one.name]),
            "known": list(labels),
        }
        for one, labels in zip(phenotypes, tokenizer.schema.labels, strict=True)
    ]
    return facts, tokenizer, cells


def annotate(*, file: dict[str, Any], folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Annotate, and write the columns for the page."""
    out = folder / "annotated.h5ad"
    for old in (out, folder / "map.bin"):
        old.unlink(missing_ok=True)
    say("progress", text="predicting", live=[])
    with _warnings() as notes:
        annotate_cells(file["path"], out=out, layer=file["layer"], **options)
    say("progress", text="writing the columns", left=None)
    annotated = open_cells(out, layer=file["layer"])
    described = columns.write_all(annotated, folder / "columns")
    (folder / "names.json").write_text(json.dumps([str(one) for part in annotated.names() for one in part]))
    with h5py.File(out) as opened:
        predicted = opened["uns/polygene/annotate/predict"].asstr()[:].tolist()
    say("state", state={"run": {"options": options, "columns": described, "predict": predicted, "notes": notes}})
    return {"cells": annotated.n_obs}


def draw(*, file: dict[str, Any], folder: Path, model: str, plane: str | None = None) -> dict[str, Any]:
    """Write where the cells are on the map: on a plane that the file has, or on a new one, which it then has too."""
    out = folder / "annotated.h5ad"
    if plane:
        about = f"the map is {plane} of the file"
    else:
        cells = open_cells(out, layer=file["layer"])
        xy_C2, about = lay_out(cells, model), "UMAP of the principal components of the genes that the model reads"
        if cells.n_obs > MOST_FITTED:
            about += f", fitted on {MOST_FITTED:,} of {cells.n_obs:,} cells; the others are placed by their neighbours"
        with h5py.File(out, "r+") as opened:
            opened.require_group("obsm").pop(NEW_PLANE, None)
            ad.io.write_elem(opened["obsm"], NEW_PLANE, xy_C2)
    with h5py.File(out) as opened:
        xy_C2 = opened[f"obsm/{plane or NEW_PLANE}"][:, :2].astype(np.float32)
    (folder / "map.bin").write_bytes(_in_unit_square(xy_C2).tobytes())
    say("state", state={"map": about, "plane": plane})
    return {}


def gene(*, file: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """Write the expression of one gene in log1p counts per 10,000, as a column."""
    cells = open_cells(file["path"], layer=file["layer"])
    found, places = find_gene(name, cells.var)
    if not places:
        msg = f"{name!r} is not among the {len(cells.var):,} genes of this file; choose one from the list."
        raise GeneError(msg)
    path = column_file(folder, f"gene {found}")
    if not path.exists():
        match = GeneMatch.of({0: places}, 1, found={})
        x_C, first = np.zeros(cells.n_obs, np.float32), 0
        for chunk in cells.chunks(size=10_000, columns=()):
            x_C[first : first + chunk.n_obs] = log1p_values(chunk, match, scale=cells.scale).toarray()[:, 0]
            first += chunk.n_obs
            say("progress", n=first, total=cells.n_obs)
        facts, x_C = columns.packed_numbers(x_C)
        columns.write(path, facts | {"low": 0.0, "high": max(facts["high"], float(x_C.max()) / 2, 1e-3)}, x_C)
    return {"gene": found}


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what is warned of in the block."""
    notes: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.addFilter(lambda record: record.module != "transpose")  # of which the page's reader need know nothing
    handler.emit = lambda record: notes.append(plain(record.getMessage()))  # type: ignore[method-assign]
    logger = logging.getLogger("polygene")
    logger.addHandler(handler)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)


def _parts(path: Path) -> tuple[list[str], list[str]]:
    """List the layers of an .h5ad, raw among them, and the planes in its obsm."""
    if not (path.is_file() and h5py.is_hdf5(path)):
        return [], []
    with h5py.File(path) as opened:
        layers = [*opened.get("layers", ()), *(["raw"] if "raw/X" in opened else [])]
        obsm = opened.get("obsm", {})
        planes = [name for name in obsm if len(getattr(obsm[name], "shape", ())) == 2 and obsm[name].shape[1] >= 2]
    return layers, [name for name in planes if "umap" in name.lower() or "tsne" in name.lower()]


def _columns(cells: CellSource) -> list[dict[str, Any]]:
    """Describe the columns of obs; those with some labels can name clusters or donors."""
    described = []
    for name in cells.columns:
        column = cells.frame([name])[name]
        described.append({"name": name, "n_labels": 0 if columns.is_number(column) else int(column.nunique())})
    return described


def _coverage(cells: CellSource, model: str) -> dict[str, Any]:
    """How much of the panel of a model the file measures, and what share of the accuracy to expect of it."""
    panel = CellTokenizer.load(folder_of(model)).panel
    try:
        match = panel.match(cells.var)
        sample = cells.sample(columns=())
        found = match.report(counts_share(sample.X, match, cells.scale))
    except PolyGeneError as error:
        return {"name": model, "panel": len(panel), "problem": plain(str(error))}
    del found["found"], found["missing"]
    return {"name": model, **found}


def _in_unit_square(xy_C2: np.ndarray) -> np.ndarray:
    """Move a plane into [-1, 1], both axes alike; cells without a place go to the middle."""
    known = np.isfinite(xy_C2).all(axis=1)
    low, high = (f(xy_C2[known], axis=0) if known.any() else np.zeros(2) for f in (np.min, np.max))
    scaled = (xy_C2 - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-6)
    return np.where(known[:, None], scaled, 0).astype(np.float32)
