"""Options that several commands share, and how their texts are read."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from polygene.errors import DataError, PhenotypeError, RecipeError

Cells = Annotated[str, typer.Argument(metavar="CELLS.h5ad", help="Cells with counts or log1p values.")]
Model = Annotated[
    str, typer.Option(help="Checkpoint folder, a model that ships (polygene-512), or a repository of the Hub.")
]
Copy = Annotated[
    Path | None, typer.Option(help="A copy of the cells with the results (.h5ad).", show_default="CELLS.polygene.h5ad")
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="A copy of the cells with the results (.h5ad), or only the results (.csv, .parquet).",
        show_default="CELLS.polygene.h5ad",
    ),
]
NewCells = Annotated[Path, typer.Option(metavar="CELLS.h5ad", help="Where the cells go.")]
Given = Annotated[str | None, typer.Option(help="Phenotypes whose labels in obs are known, such as tissue,sex.")]
Coverage = Annotated[
    float | None, typer.Option(metavar="0.9", help="Also write sets of labels that hold the true label this often.")
]
BackOff = Annotated[
    float | None, typer.Option(metavar="0.9", help="Where the cell type is less sure than this, give a broader type.")
]
Output = Annotated[
    Literal["expression", "expressed"],
    typer.Option(help="Expected log1p counts per 10,000, or the probability of being expressed."),
]
Layer = Annotated[str | None, typer.Option(help="Read this layer, or 'raw', in place of X.")]
Totals = Annotated[
    str | None,
    typer.Option(help="Column of obs with each cell's counts over the whole genome, if genes were left out."),
]
Donor = Annotated[str, typer.Option(help="Column of obs with the donor.")]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME=LABEL", help="Such as 'cell_type=memory B cell'; repeatable."),
]
FixedGenes = Annotated[
    list[str] | None,
    typer.Option("--gene", metavar="GENE=BIN", help="A gene with a fixed bin, 0 for not expressed; repeatable."),
]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=LABEL",
        help="The new label of a phenotype, such as sex=male, or both, 'sex=female->male'; repeatable.",
    ),
]
Steps = Annotated[int, typer.Option(help="Steps in which the genes of a cell are drawn.")]
Temperature = Annotated[
    float, typer.Option(help="1: draw from the model's probabilities; near 0: the most probable bin.")
]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]


def default_out(cells: str) -> Path:
    """Name the results of a file: beside it, or in the current folder for a URL.

    Raises
    ------
    DataError
        The file exists, and might hold results of another command.
    """
    from polygene.io.paths import name_of, parse_path

    place = parse_path(cells)
    folder = place.parent if isinstance(place, Path) else Path()
    stem = re.sub(r"(\.(h5ad|h5|zarr|mtx|gz))+$", "", name_of(place)) or "cells"
    out = folder / f"{stem}.polygene.h5ad"
    if out.exists():
        msg = f"{str(out)!r} exists: name it with --out to replace it, or another file."
        raise DataError(msg)
    return out


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
            raise RecipeError(msg)
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
        raise RecipeError(msg)
    return {gene: int(text) for gene, text in found.items()}


def label_changes(texts: Iterable[str]) -> dict[str, str | tuple[str, str]]:
    """Read texts such as 'sex=male' and 'sex=female->male'."""
    changes: dict[str, str | tuple[str, str]] = {}
    for name, text in pairs(texts, "--set", "sex=male").items():
        before, arrow, after = (word.strip() for word in text.partition("->"))
        changes[name] = (before, after) if arrow else before
    return changes
