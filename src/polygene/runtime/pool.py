"""A process pool whose processes each hold the same objects; results come in the order of the tasks."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from polygene.errors import RunEndedError
from polygene.runtime.seeds import check_count

AHEAD = 2
"""Tasks under way for each process: results that are early wait in memory."""

_HELD: Sequence[Any] = ()
"""The objects, in each of the processes."""


@contextmanager
def process_pool(objects: Sequence[Any], num_proc: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield `map`, which yields function(objects[i], *arguments) for each task (i, arguments).

    joblib would pickle the objects, which can be whole AnnData, with every task; here each process gets them once.
    With one process the work is done in this one.
    """
    check_count("num_proc", num_proc, 10_000)
    if num_proc == 1:
        yield lambda function, tasks: (function(objects[i], *arguments) for i, arguments in tasks)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    pool = ProcessPoolExecutor(num_proc, spawn, initializer=_hold, initargs=(objects,))

    def map_in_order(function: Callable[..., Any], tasks: Iterable[tuple[int, tuple[Any, ...]]]) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        for i, arguments in tasks:
            waiting.append(pool.submit(_call, function, i, arguments))
            if len(waiting) > AHEAD * num_proc:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield map_in_order
    except BrokenProcessPool as error:
        msg = (
            f"one of the {num_proc} processes was ended from outside, mostly because memory ran out; "
            "try fewer: num_proc (--num-proc)"
        )
        raise RunEndedError(msg) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _hold(objects: Sequence[Any]) -> None:
    global _HELD
    _HELD = objects


def _call(function: Callable[..., Any], i: int, arguments: tuple[Any, ...]) -> Any:
    return function(_HELD[i], *arguments)
