"""Seeds: what every generator of random numbers takes."""

from polygene.errors import DataError

LARGEST = 2**32 - 1
"""numpy, scikit-learn and torch all take seeds up to this one."""


def check_seed(seed: int) -> None:
    """Refuse a seed that a generator of random numbers would refuse, before any work is done."""
    if not 0 <= seed <= LARGEST:
        msg = f"the seed is {seed}; give a whole number from 0 to {LARGEST:,}."
        raise DataError(msg)
