"""What the commands share: the group that turns errors into messages, options, and printing."""

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from polygene.errors import DataError, PhenotypeError, PolyGeneError, RecipeError
from polygene.model.shipped import DEFAULT
from polygene.runtime.distributed import rank

WRONG_INPUT = 2
STOPPED = 130  # as shells count an interrupt
NO_READER = 141  # as shells count a closed pipe


class Commands(TyperGroup):
    """The commands, and the message and exit code when one of them fails."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error that a user can cause becomes one line and an exit code."""
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()  # a reader that has gone is noticed here, not while Python ends
        except PolyGeneError as error:
            message, code = str(error), WRONG_INPUT
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(NO_READER) from None
        except OSError as error:
            message, code = f"{error.filename}: {error.strerror}" if error.filename else str(error), WRONG_INPUT
        except KeyboardInterrupt:
            goes_on = ctx.invoked_subcommand in ("train", "perturb")
            message = f"stopped{'; the same command goes on from the last saved state' if goes_on else ''}"
            code = STOPPED
        else:
            return found
        if rank() == 0 or ctx.invoked_subcommand == "train":  # the others' errors reach the first process
            print_error(message)
        raise typer.Exit(code)


CellsFile = Annotated[str, typer.Argument(metavar="CELLS.h5ad", help="Cells with counts or log1p values.")]
Model = Annotated[
    str, typer.Option(help="Checkpoint folder, a model that ships (polygene-512), or a repository of the Hub.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="A copy of the cells with the results (.h5ad), or only the results (.csv, .parquet).",
        show_default="CELLS.polygene.h5ad",
    ),
]
Copy = Annotated[
    Path | None, typer.Option(help="A copy of the cells with the results (.h5ad).", show_default="CELLS.polygene.h5ad")
]
NewCells = Annotated[Path, typer.Option(metavar="CELLS.h5ad", help="Where the cells go.")]
Table = Annotated[Path, typer.Option(help="Where the table goes (.csv, .parquet).")]
Given = Annotated[str, typer.Option(help="Phenotypes whose labels in obs are known, such as tissue,sex.")]
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
Steps = Annotated[int, typer.Option(help="Steps in which the genes of a cell are drawn.")]
Temperature = Annotated[
    float, typer.Option(help="1: draw from the model's probabilities; near 0: the most probable bin.")
]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]

__all__ = ["DEFAULT", "CellsFile", "Commands", "Copy", "Donor", "Given", "Layer", "Model", "NewCells", "Out", "Output"]
__all__ += ["Seed", "Steps", "Table", "Temperature", "Totals"]


def print_error(message: str) -> None:
    """Print one line to stderr."""
    typer.secho(f"polygene: {message}", err=True, fg=typer.colors.RED)


def print_all(things: Iterable[Any]) -> None:
    """Print tables and lines, in the first of several processes only."""
    out = console(quiet=rank() > 0)
    for thing in things:
        out.print(thing, soft_wrap=isinstance(thing, str))


def console(**options: Any) -> Any:
    """Make a console; a file is as wide as a table."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich itself would exit with 1

    made = Piped(highlight=False, markup=False, **options)
    if not made.is_terminal:
        made.width = 160
    return made


def default_out(cells: str) -> Path:
    """Name the results of a file: beside it, or in the current folder for a URL.

    Raises
    ------
    DataError
        The file exists, and might hold results of another command.
    """
    from polygene.io.paths import as_place, name_of

    place = as_place(cells)
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
            msg = f"{option} names {name} twice, in {text!r} too: a cell has one label of it."
            raise PhenotypeError(msg)
        found[name] = value
    return found
