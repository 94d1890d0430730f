"""How far a verb has come: a bar where a person watches, a line at the end."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polygene.runtime.distributed import rank, world_size

logger = logging.getLogger("polygene")


@contextmanager
def progress(n_cells: int, *, done: str, device: object) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of cells just done; say cells/s on the way, and the device at the end."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(done),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or rank() > 0,
    )
    started, n_done, speed = time.perf_counter(), 0, "0 cells/s"

    def advance(n: int) -> None:
        nonlocal n_done, speed
        n_done += n
        speed = f"{n_done / max(time.perf_counter() - started, 1e-9):,.0f} cells/s"
        bar.update(task, completed=n_done, speed=speed)

    with bar:
        task = bar.add_task("", total=n_cells, speed="")
        yield advance
    of_all = f" (process {rank() + 1} of {world_size()})" if world_size() > 1 else ""
    logger.info("%s %s cells on %s, %s%s", done, f"{n_done:,}", device, speed, of_all)
