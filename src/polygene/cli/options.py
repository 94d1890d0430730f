"""Options that several commands share, and how their texts are read."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from polygene.errors import DataError, PhenotypeError

Cells = Annotated[str, Argument(metavar="CELLS.h5ad", help="Cells with counts or log1p values.")]
Model = Annotated[str, Option(help="A checkpoint folder, a model that ships, or a repository of the Hub.")]
CopyOut = Annotated[Path | None, Option(help="A copy with the results (.h5ad).", show_default="CELLS.polygene.h5ad")]
OUT = "A copy of the cells with the results (.h5ad), or only the results (.csv, .parquet; no ending: a folder)."
Out = Annotated[Path | None, Option(help=OUT, show_default="CELLS.polygene.h5ad")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace a file that is there; cells that are read stay.")]
TableOut = Annotated[Path, Option(help="The table of effects (.csv, .parquet).")]
NewCells = Annotated[Path, Option(metavar="CELLS.h5ad", help="Where the cells go.")]
Given = Annotated[str | None, Option(help="Phenotypes whose labels in obs are known, such as tissue,sex.")]
Layer = Annotated[str | None, Option(help="Read this layer, or 'raw', in place of X.")]
Totals = Annotated[str | None, Option(help="Column of obs with each cell's counts, if the file leaves genes out.")]
Donor = Annotated[str, Option(help="Column of obs with the donor.")]
Steps = Annotated[int, Option(help="Steps in which the genes of a cell are drawn.")]
Temperature = Annotated[float, Option(help="1: draw from the model's probabilities; near 0: the most probable bin.")]
Seed = Annotated[int, Option(help="Same seed, same result.")]


def default_out(cells: str) -> Path:
    """Name the results of a file: beside it, or in the current folder for a URL."""
    from polygene.io.paths import name_of, parse_path

    place = parse_path(cells)
    folder = place.parent if isinstance(place, Path) else Path()
    stem = re.sub(r"(\.(h5ad|h5mu|h5|zarr|mtx|gz))+$", "", name_of(place)) or "cells"
    return folder / f"{stem}.polygene.h5ad"


def names(text: str) -> list[str]:
    """Split names at commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def pairs(texts: Iterable[str] | None, option: str, example: str) -> dict[str, str]:
    """Read texts such as 'sex=male'; each name once."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            msg = f"{option} has a name and a value, such as {example!r}; got {text!r}"
            raise DataError(msg)
        if name in found:
            msg = f"{option} names {name} twice, in {text!r} too."
            raise PhenotypeError(msg)
        found[name] = value
    return found


def fixed_bins(texts: Iterable[str] | None) -> dict[str, int]:
    """Read texts such as 'XIST=0'."""
    found = pairs(texts, "--gene", "XIST=0")
    if wrong := [text for text in found.values() if not text.isdecimal()]:
        msg = f"--gene has the number of a bin, such as 'XIST=0'; got {wrong[0]!r}"
        raise DataError(msg)
    return {gene: int(text) for gene, text in found.items()}


def label_changes(texts: Iterable[str]) -> dict[str, str | tuple[str, str]]:
    """Read texts such as 'sex=male' and 'sex=female->male'."""
    changes: dict[str, str | tuple[str, str]] = {}
    for name, text in pairs(texts, "--set", "sex=male").items():
        before, arrow, after = (word.strip() for word in text.partition("->"))
        changes[name] = (before, after) if arrow else before
    return changes
