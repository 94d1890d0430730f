"""Write the numbers and tables of README.md, docs/ and the models' cards anew, from benchmarks/results.

    python -m recipes.pages

`0.88<!-- eight -->` is a number that docs/numbers.toml finds in a kept result; its digits after the point and a %
behind it stay; `0.25<!-- setting -->` is none that was measured. What stands between `<!-- table: NAME -->` and
`<!-- end -->` is what recipes/tables.py gives. No data and no model are needed, and a test compares.
"""

import functools
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.tables import TABLES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NUMBER = re.compile(r"(?P<sign>[+−]?)(?P<value>\d[\d,]*(?:\.\d+)?)(?P<percent> ?%)?<!-- (?P<name>[\w.-]+) -->")
SETTING = "setting"
TABLE = re.compile(r"(?P<begin><!-- table: (?P<name>\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page that may hold numbers."""
    cards = sorted((ROOT / "src/polygene/models").glob("*/README.md"))
    return [ROOT / "README.md", *cards, *sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "generated")]


@functools.cache
def numbers() -> dict[str, Any]:
    """Find the value of each name of docs/numbers.toml."""
    return {name: value(path) for name, path in tomllib.loads((DOCS / "numbers.toml").read_text("utf-8")).items()}


def value(path: Sequence[Any]) -> float:
    """Follow a path into a JSON file.

    A step is a key, {key = value} for the row of a list that has it, {key = value, mean = "column"} for the mean over
    such rows, or # for a length.
    """
    file, *steps = path
    here = json.loads(
        (ROOT / "benchmarks/results" / f"{file}.json" if "/" not in file else ROOT / file).read_text("utf-8")
    )
    for step in steps:
        if isinstance(step, dict) and "mean" in step:
            column, rest = step["mean"], {key: one for key, one in step.items() if key != "mean"}
            found = [row[column] for row in here if rest.items() <= row.items()]
            here = sum(found) / len(found)
        elif isinstance(step, dict):
            (here,) = (row for row in here if step.items() <= row.items())
        else:
            here = len(here) if step == "#" else here[step]
    return here


def written(match: re.Match[str], values: dict[str, Any]) -> str:
    """Write a number as it is written now, with its present value."""
    name, text = match["name"], match["value"]
    if name == SETTING:
        return match[0]
    found = values[name] * (100 if match["percent"] else 1)
    digits = len(text.partition(".")[2])
    sign = ("−" if found < 0 else "+") if match["sign"] else ""
    return f"{sign}{abs(found):,.{digits}f}{match['percent'] or ''}<!-- {name} -->"


def renewed(text: str) -> str:
    """Write the numbers and the tables of a page anew."""
    text = NUMBER.sub(lambda match: written(match, numbers()), text)
    return TABLE.sub(lambda match: f"{match['begin']}\n{TABLES[match['name']]()}\n\n", text)


def main() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := renewed(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
