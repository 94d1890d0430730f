"""Progress: a bar on a terminal; elsewhere one line at the end, and in a long run a line now and then."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polygene.runtime.distributed import rank, world_size

logger = logging.getLogger("polygene")


@contextmanager
def progress(
    total: float | None, *, done: str, unit: str = "cells", device: object = None, every: float = float("inf")
) -> Iterator[Callable[[float], None]]:
    """Yield a function to call with the amount that was just done.

    Parameters
    ----------
    total
        The amount in all; None if it is not known.
    done, unit
        The words of the last line: "annotated 700 cells on cpu, 350 cells/s" is done="annotated", unit="cells".
    device
        Where it is computed, if that matters.
    every
        Seconds between lines where there is no terminal.
    """
    console = Console(stderr=True)
    is_visible = console.is_terminal and rank() == 0
    speed_column = TextColumn("{task.fields[speed]}")
    columns = (TextColumn(done), BarColumn(), MofNCompleteColumn(), speed_column, TimeRemainingColumn())
    where = "" if device is None else f" on {device}"
    process = f" (process {rank() + 1} of {world_size()})" if world_size() > 1 else ""
    started = last = time.perf_counter()
    n_done = 0.0

    def speed() -> str:
        return f"{n_done / max(time.perf_counter() - started, 1e-9):,.0f} {unit}/s"

    def advance(n: float) -> None:
        nonlocal n_done, last
        n_done += n
        bar.update(task, completed=int(n_done), speed=speed())
        if not is_visible and time.perf_counter() - last > every:
            last = time.perf_counter()
            of = f" of {total:,.0f}" if total else ""
            logger.info("%s %s%s %s%s, %s%s", done, f"{n_done:,.0f}", of, unit, where, speed(), process)

    with Progress(*columns, console=console, transient=True, disable=not is_visible) as bar:
        task = bar.add_task("", total=total, speed="")
        yield advance
    logger.info("%s %s %s%s, %s%s", done, f"{n_done:,.0f}", unit, where, speed(), process)
