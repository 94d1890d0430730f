"""The rank of this process among those that torchrun or accelerate launch started; torch is not needed to know it."""

import os
import re
from typing import NamedTuple, Self

from polygene.errors import DataError, RunEndedError


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


class Part(NamedTuple):
    """One of several parts of the same work, which machines do by themselves: the third of sixteen is "3/16"."""

    number: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read K/N."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(text))
        part = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= part.number <= part.n:
            msg = f"part is K/N, the K-th of N parts counted from 1, such as 3/16; got {text!r}"
            raise DataError(msg)
        return part

    def __str__(self) -> str:
        return f"{self.number}/{self.n}"

    def of(self, n_items: int) -> slice:
        """Give the items of n that are of this part: contiguous, all of them in one of the parts."""
        return slice(n_items * (self.number - 1) // self.n, n_items * self.number // self.n)


WHOLE = Part(1, 1)


def own_rows(n: int) -> range:
    """Rows of n that fall to this process: contiguous, all of them to one of the processes."""
    return range(n)[Part(rank() + 1, world_size()).of(n)]
