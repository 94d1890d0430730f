"""Some of many rows."""

import numpy as np


def spread(n: int, most: int) -> np.ndarray:
    """At most so many of n rows, evenly spread."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)
