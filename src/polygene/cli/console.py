"""How the commands speak: the group that turns errors into messages and exit codes, and printing."""

import os
import sys
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperGroup

from polygene.errors import PolyGeneError
from polygene.runtime import extras
from polygene.runtime.ranks import rank

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
        except ModuleNotFoundError as error:
            if not (missing := extras.missing(error)):
                raise
            message, code = str(missing), WRONG_INPUT
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
