import os
import time

import pytest

from polygene.errors import RunEndedError
from polygene.runtime.pool import AHEAD, process_pool


def late_is_first(thing, number):
    """Take the longer, the earlier the task."""
    time.sleep((5 - number) / 20)
    return thing * number, os.getpid()


def die(thing):
    os._exit(1)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_results_come_in_the_order_of_the_tasks(num_proc):
    with process_pool([10, 100], num_proc) as run:
        results = list(run(late_is_first, ((i % 2, (i,)) for i in range(6))))
    assert [number for number, _ in results] == [0, 100, 20, 300, 40, 500]
    assert len({pid for _, pid in results}) == num_proc
    assert (os.getpid() in {pid for _, pid in results}) == (num_proc == 1)


def test_tasks_are_made_when_there_is_room_for_their_results():
    made = []

    def tasks():
        for i in range(50):
            made.append(i)
            yield 0, (5,)

    with process_pool([1], 2) as run:
        results = run(late_is_first, tasks())
        next(results)
        assert len(made) == AHEAD * 2 + 1


def test_a_process_that_dies_is_an_error_that_says_what_to_do():
    with pytest.raises(RunEndedError, match=r"memory ran out; try fewer: num_proc"), process_pool([1], 2) as run:
        list(run(die, [(0, ())]))
