"""When to believe an answer: calibration, sets of labels, unknown cells, ages by donor, what a split by cells flatters.

    python benchmarks/trust.py --data DIR
    python benchmarks/trust.py --data DIR --only unknown --models runs/benchmarks

Donors are held out. The models are small (2 layers x 128, 512 genes) and learn one file each. The last line is one JSON
object.
"""

import _parts
import _trust_ages
import _trust_calibration
import _trust_hierarchy
import _trust_leakage
import _trust_unknown

PARTS = {
    "calibration": _trust_calibration.run,
    "ages": _trust_ages.run,
    "leakage": _trust_leakage.run,
    "unknown": _trust_unknown.run,
    "hierarchy": _trust_hierarchy.run,
}

if __name__ == "__main__":
    _parts.run(__doc__, PARTS)
