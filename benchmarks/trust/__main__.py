"""When to believe an answer: calibration, sets of labels, unknown cells, ages by donor, what a split by cells flatters.

    python -m benchmarks.trust --data DIR
    python -m benchmarks.trust --data DIR --only novelty --models runs/benchmarks

Donors are held out. The models are small (2 layers x 128, 512 genes) and learn one file each. The last line is one JSON
object.
"""

from benchmarks.shared import parts
from benchmarks.trust import ages, calibration, conditions, hierarchy, leakage, novelty

PARTS = {
    "calibration": calibration.run,
    "ages": ages.run,
    "conditions": conditions.run,
    "leakage": leakage.run,
    "unknown": novelty.run,
    "hierarchy": hierarchy.run,
}

if __name__ == "__main__":
    parts.run(__doc__, PARTS)
