"""Seeds, which every generator of random numbers takes, and counts: checked before any work is done."""

from polygene.errors import DataError

LARGEST = 2**32 - 1
"""numpy, scikit-learn and torch all take seeds up to this one."""


def check_seed(seed: int) -> None:
    """Refuse a seed that a generator of random numbers would refuse, before any work is done."""
    if not 0 <= seed <= LARGEST:
        msg = f"the seed is {seed}; give a whole number from 0 to {LARGEST:,}."
        raise DataError(msg)


def check_count(name: str, value: int, most: int, *, least: int = 1) -> None:
    """Refuse a number of things that is too small, or beyond what memory or patience can hold."""
    if not least <= value <= most:
        msg = f"{name} = {value:,}: give a whole number from {least} to {most:,}."
        raise DataError(msg)
