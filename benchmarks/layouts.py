"""What PolyGene reads: the same cells in every layout of tests/io/layouts.py, compared with the plain form.

    python -m benchmarks.layouts          # prints the table, ends with one JSON object
    python -m benchmarks.layouts --write  # and writes docs/layouts.md

Forty cells of PBMC 3k, which ships; no other data are read. "Equal": the probabilities of all cell types differ by less
than 1e-5, and log1p values by less than 0.002. A smoke run tries every tenth layout.
"""

import argparse
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.shared import command
from tests.io.layouts import LAYOUTS, N_CELLS, outcomes

PAGE = Path(__file__).parents[1] / "docs/layouts.md"
COLUMNS = ("format", "matrix", "numbers", "genes", "values", "features that are no genes", "outcome")
HEAD = """# What PolyGene reads

{n_cells} cells of PBMC 3k were written in {n} layouts, and read with polygene-512. Equal: the probabilities of all cell
types are those of the plain form, up to 1e-5, and the log1p values too, up to 0.002. Refused: one message says why and
what to do. By `python -m benchmarks.layouts --write`, {date}: {equal} equal, {refused} refused. A test runs
the same table.

"""


def main(argv: Sequence[str] | None = None) -> None:
    command.run("layouts", __doc__, measure, add_options, argv=argv)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="write docs/layouts.md")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Try the layouts; prints the table."""
    logging.getLogger("polygene").setLevel(logging.ERROR)
    layouts = LAYOUTS[:: 10 if options.smoke else 1]
    rows, counts = [_row(COLUMNS), _row(["---"] * len(COLUMNS))], Counter(equal=0, refused=0, wrong=0)
    with tempfile.TemporaryDirectory() as folder:
        for layout, found, said in outcomes(layouts, Path(folder)):
            counts[found] += 1
            said = re.sub(rf"{re.escape(folder)}/\d+/", "", said)
            rows.append(_row((*layout.words, found if not said else f"{found}: {_short(said)}")))
            print(rows[-1], flush=True)
    if options.write:
        head = HEAD.format(n_cells=N_CELLS, n=len(layouts), date=datetime.now(UTC).date(), **counts)
        PAGE.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    return dict(counts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(said: str) -> str:
    text = " ".join(said.replace("|", "/").split())
    return text if len(text) < 160 else text[:160].rpartition(" ")[0] + " …"


if __name__ == "__main__":
    main()
