"""How the commands speak: the group that turns errors into messages and exit codes, and printing."""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from polygene.errors import PolyGeneError
from polygene.runtime import extras
from polygene.runtime.ranks import rank

WRONG_INPUT = 2
STOPPED = 130  # as shells count an interrupt
NO_READER = 141  # as shells count a closed pipe
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
"""What torch says then, in errors that are no MemoryError."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves the cursor, changes colours or the direction of a text; lines and tabs stay."""


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
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            message, code = f"memory ran out: {str(error).splitlines()[0] if str(error) else 'too much was asked'}", 2
        except OSError as error:
            message, code = f"{error.filename}: {error.strerror}" if error.filename else str(error), WRONG_INPUT
        except KeyboardInterrupt:
            message, code = "stopped", STOPPED
            if ctx.invoked_subcommand in ("train", "perturb"):
                message += "; the same command goes on from the last saved state, if there is one"
        else:
            return found
        if rank() == 0 or ctx.invoked_subcommand == "train":  # the others' errors reach the first process
            print_error(message)
        raise typer.Exit(code)


def print_error(message: str) -> None:
    """Print one line to stderr."""
    typer.secho(f"polygene: {printable(message)}", err=True, fg=typer.colors.RED)


def printable(text: str) -> str:
    """Write the control characters that names in a file can hold as their codes."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what is logged, which is said elsewhere, once."""
    logger = logging.getLogger("polygene")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def print_all(things: Iterable[Any]) -> None:
    """Print tables and lines, in the first of several processes only."""
    out = console(quiet=rank() > 0)
    for thing in things:
        out.print(thing, soft_wrap=isinstance(thing, str))


def console(**options: Any) -> Any:
    """Make a console; a file is as wide as a table."""
    from rich.console import Console
    from rich.segment import Segment

    class Piped(Console):
        def render(self, *args: Any, **kwargs: Any) -> Iterable[Segment]:
            for text, style, control in super().render(*args, **kwargs):
                yield Segment(text if control else printable(text), style, control)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich itself would exit with 1

    made = Piped(highlight=False, markup=False, **options)
    if not made.is_terminal:
        made.width = 160
    return made
