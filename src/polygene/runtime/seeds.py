"""Seeds, which every generator of random numbers takes, and counts: checked before any work is done."""

from polygene.errors import DataError, is_number

LARGEST = 2**32 - 1
"""numpy, scikit-learn and torch all take seeds up to this one."""


def check_seed(seed: int) -> None:
    """Refuse a seed that a generator of random numbers would refuse, before any work is done."""
    check_count("the seed", seed, LARGEST, least=0)


def check_count(name: str, value: int, most: int, *, least: int = 1) -> None:
    """Refuse a number of things that is not whole, too small, or beyond what memory or patience can hold."""
    if not is_number(value, whole=True) or not least <= value <= most:
        msg = f"{name} is {value!r}; give a whole number from {least} to {most:,}."
        raise DataError(msg)
