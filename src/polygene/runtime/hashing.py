"""Random numbers that are a function of what they decide about."""

import numpy as np


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers so that neighbours share nothing (finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, epochs_C: np.ndarray, cells_C: np.ndarray, slots_S: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each (cell, slot), the same at every call; float32 (C, S)."""
    step = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        h_C = _mix(np.full(len(cells_C), seed, dtype=np.uint64) * step + step)
        h_C = _mix(h_C + epochs_C.astype(np.uint64) * step)
        h_C = _mix(h_C + cells_C.astype(np.uint64) * step)
        h_CS = _mix(h_C[:, None] + slots_S.astype(np.uint64)[None, :] * step)
    return (h_CS >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
