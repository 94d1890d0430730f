"""A process pool whose processes each hold the same objects; results come in the order of the tasks."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Self

from polygene.errors import RunEndedError

AHEAD = 2
"""Tasks under way for each process: results that are early wait in memory."""

_HELD: Sequence[Any] = ()
"""The objects, in each of the processes."""


class ProcessPool:
    """A context for `map`; leaving it ends the processes.

    joblib would pickle the objects, which can be whole AnnData, with every task; here each process gets them once.

    Parameters
    ----------
    objects
        What the tasks are about.
    num_proc
        How many processes; 1 computes in this one.
    """

    def __init__(self, objects: Sequence[Any], num_proc: int) -> None:
        self._objects, self._num_proc = objects, num_proc
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._num_proc > 1:
            spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
            self._pool = ProcessPoolExecutor(self._num_proc, spawn, initializer=_hold, initargs=(self._objects,))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[..., Any], tasks: Iterable[tuple[int, tuple[Any, ...]]]) -> Iterator[Any]:
        """Yield function(objects[i], *arguments) for each task (i, arguments).

        Raises
        ------
        RunEndedError
            A process ended before its task was done.
        """
        if self._pool is None:
            yield from (function(self._objects[i], *arguments) for i, arguments in tasks)
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


def _hold(objects: Sequence[Any]) -> None:
    global _HELD
    _HELD = objects


def _call(function: Callable[..., Any], i: int, arguments: tuple[Any, ...]) -> Any:
    return function(_HELD[i], *arguments)
