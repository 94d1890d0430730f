"""One function over many tasks, in this process or in several; results come in the order of the tasks."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Self

from polygene.errors import RunEndedError

AHEAD = 2
"""Tasks under way for each process: what is finished early waits in memory."""

_THINGS: Sequence[Any] = ()
"""What the tasks are about, in each of the processes."""


class Workers:
    """Processes that each hold the same things; used as a context, which ends them.

    Parameters
    ----------
    things
        What tasks are about, sent to each process once.
    num_proc
        How many processes; with 1 all is done in this one.
    """

    def __init__(self, things: Sequence[Any], num_proc: int) -> None:
        self._things, self._num_proc = things, num_proc
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._num_proc > 1:
            spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
            self._pool = ProcessPoolExecutor(
                self._num_proc, mp_context=spawn, initializer=_hold, initargs=(self._things,)
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[..., Any], tasks: Iterable[tuple[int, tuple[Any, ...]]]) -> Iterator[Any]:
        """Give function(things[i], *arguments) for each task (i, arguments).

        Raises
        ------
        RunEndedError
            A process ended before its task was done.
        """
        if self._pool is None:
            yield from (function(self._things[i], *arguments) for i, arguments in tasks)
            return
        waiting: deque[Future[Any]] = deque()
        try:
            for i, arguments in tasks:
                waiting.append(self._pool.submit(_call, function, i, arguments))
                if len(waiting) > AHEAD * self._num_proc:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            msg = (
                f"one of the {self._num_proc} processes was ended from outside, mostly because memory ran out; "
                "try fewer: num_proc (--num-proc)"
            )
            raise RunEndedError(msg) from error


def _hold(things: Sequence[Any]) -> None:
    global _THINGS
    _THINGS = things


def _call(function: Callable[..., Any], i: int, arguments: tuple[Any, ...]) -> Any:
    return function(_THINGS[i], *arguments)
