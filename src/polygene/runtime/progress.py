"""Progress: a bar on a terminal; elsewhere one line at the end, and in a long run a line now and then."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polygene.runtime.ranks import rank, world_size

logger = logging.getLogger("polygene")

Listener = Callable[["Advance", Any], None]
_LISTENERS: list[Listener] = []


class Advance:
    """What `progress` yields: call it with the amount that was just done, and what to show behind the speed."""

    def __init__(self, total: float | None, done: str, unit: str, device: object, every: float) -> None:
        console = Console(stderr=True)
        self.is_visible = console.is_terminal and rank() == 0
        columns = TextColumn(done), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}")
        self.bar = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not self.is_visible
        )
        self._task = self.bar.add_task("", total=total, speed="")
        self.total, self.done, self._unit, self._every, self._note = total, done, unit, every, ""
        self._of = f" of {total:,.0f}" if total else ""
        self._where = "" if device is None else f" on {device}"
        self._process = f" (process {rank() + 1} of {world_size()})" if world_size() > 1 else ""
        self.n, self._idle = 0.0, 0.0
        self._started = self._last = time.perf_counter()

    def __call__(
        self, n: float, note: str | None = None, *, idle: float = 0.0, total: float | None = None, made: Any = None
    ) -> None:
        """Add what was just done; `idle` seconds do not count for the speed, and `note` is shown behind it.

        `made` is the result of this step, for those who listen.
        """
        self.n, self._idle, self.total = self.n + n, self._idle + idle, total or self.total
        self._note = self._note if note is None else f" {note}"
        self.bar.update(self._task, completed=int(self.n), total=total, speed=self.speed() + self._note)
        if not self.is_visible and time.perf_counter() - self._last > self._every:
            self.log(self._of)
        for listener in _LISTENERS:
            listener(self, made)

    def left(self) -> float | None:
        """Estimate how many seconds are left; None where the end is not known."""
        seconds = time.perf_counter() - self._started
        return None if not self.total or not self.n else seconds * max(self.total - self.n, 0) / self.n

    def speed(self) -> str:
        """Name the amount done in a second."""
        seconds = time.perf_counter() - self._started - self._idle
        return f"{self.n / max(seconds, 1e-9):,.0f} {self._unit}/s"

    def log(self, of: str = "") -> None:
        """Write a line with all of it."""
        self._last = time.perf_counter()
        n = f"{self.n:,.0f}{of} {self._unit}"
        logger.info("%s %s%s, %s%s%s", self.done, n, self._where, self.speed(), self._note, self._process)


@contextmanager
def progress(
    total: float | None, *, done: str, unit: str = "cells", device: object = None, every: float | None = None
) -> Iterator[Advance]:
    """Show how far long work is: yield what to call with the amount that was just done.

    "annotated 700 cells on cpu, 350 cells/s", the line at the end, has done="annotated" and unit="cells". `every` is
    for work that reports its end itself: then there is a line every so many seconds where there is no terminal.
    """
    advance = Advance(total, done, unit, device, float("inf") if every is None else every)
    with advance.bar if advance.is_visible else nullcontext():  # before rich 15 a hidden bar ends with an empty line
        yield advance
    if every is None:
        advance.log()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` at every step of all progress in the block, with the progress and what was just made."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)
