"""When to believe a prediction: calibration, sets, novel cells, ages by donor, what a split by cells flatters.

    python -m benchmarks.trust --data DIR
    python -m benchmarks.trust --data DIR --only novelty --models runs/benchmarks

`studies` measures the models that ship. The other parts need to choose what trains, so they train small networks (2
layers x 128, 512 genes) of one file each, which they share; donors are held out. The last line is one JSON object.
"""

from collections.abc import Sequence

from benchmarks.shared import command
from benchmarks.trust import ages, calibration, conditions, hierarchy, leakage, novelty, studies

PARTS = {
    "studies": studies.run,
    "calibration": calibration.run,
    "ages": ages.run,
    "conditions": conditions.run,
    "leakage": leakage.run,
    "novelty": novelty.run,
    "hierarchy": hierarchy.run,
}


def main(argv: Sequence[str] | None = None) -> None:
    command.run_parts(__doc__, PARTS, argv=argv)


if __name__ == "__main__":
    main()
