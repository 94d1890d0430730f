"""The rank of this process among those that torchrun or accelerate launch started; torch is not needed to know it."""

import os

from polygene.errors import RunEndedError


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Count the processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def one_process(what: str) -> None:
    """Refuse work that several processes would each do as a whole."""
    if world_size() > 1:
        msg = f"{what} runs in one process, and this is one of {world_size()}: start it without torchrun."
        raise RunEndedError(msg)


def own_rows(n: int) -> range:
    """Rows of n that fall to this process: contiguous, all of them to one of the processes."""
    return range(n * rank() // world_size(), n * (rank() + 1) // world_size())
