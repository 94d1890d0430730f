"""Which cells something holds of, kept in a result as a 1 or 0 for each. Legend: C cells."""

import numpy as np


def written(holds_C: np.ndarray) -> str:
    """Write a 1 or 0 for each cell."""
    return "".join(np.where(holds_C, "1", "0"))


def read(text: str) -> np.ndarray:
    """Read what `written` wrote, bool (C,)."""
    holds_C: np.ndarray = np.array(list(text)) == "1"
    return holds_C
