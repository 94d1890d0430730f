"""Write what the pages take from elsewhere: numbers and tables of benchmarks/results.

    python -m recipes.pages

In README.md and docs/*.md `0.88<!-- eight -->` is a number that docs/numbers.toml finds in a kept result; its digits
after the point and a % behind it stay. No data and no model are needed, and a test compares. The pages of the Python
and of the command line are made when the site is built (docs/conf.py).
"""

import functools
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NUMBER = re.compile(r"(?P<sign>[+−]?)(?P<value>\d[\d,]*(?:\.\d+)?)(?P<percent> ?%)?<!-- (?P<name>[\w.-]+) -->")
TITLE = """\
# Command line

`polygene --help` says the same. `polygene COMMAND --help` explains one command.
"""
API = {
    "Models": ["PolyGene", "CellTokenizer", "GenePanel", "ExpressionBinner", "PhenotypeSchema"],
    "Corpus and training": ["prepare", "Corpus", "Recipe", "train", "evaluate"],
    "pg.tl: tools": [],
    "pg.pp: what makes cells ready": [],
    "pg.pl: pictures": [],
    "Example data": ["datasets.pbmc"],
}
"""Heads of the page of the Python, and the names under them; those of a room are its `__all__`."""
AUTOSUMMARY = """\
```{{eval-rst}}
.. currentmodule:: polygene

.. autosummary::
   :toctree:

{}
```
"""


def pages() -> list[Path]:
    """Every page that may hold numbers."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@functools.cache
def numbers() -> dict[str, Any]:
    """Find the value of each name of docs/numbers.toml."""
    return {name: value(path) for name, path in tomllib.loads((DOCS / "numbers.toml").read_text("utf-8")).items()}


def value(path: Sequence[Any]) -> float:
    """Follow a path into a JSON file: keys; {key = value} for the row of a list that has it; # for a length."""
    file, *steps = path
    here = json.loads(
        (ROOT / "benchmarks/results" / f"{file}.json" if "/" not in file else ROOT / file).read_text("utf-8")
    )
    for step in steps:
        if isinstance(step, dict):
            (here,) = (row for row in here if step.items() <= row.items())
        else:
            here = len(here) if step == "#" else here[step]
    return here


def written(match: re.Match[str], values: dict[str, Any]) -> str:
    """Write a number as it is written now, with its present value."""
    name, text = match["name"], match["value"]
    found = values[name] * (100 if match["percent"] else 1)
    digits = len(text.partition(".")[2])
    sign = ("−" if found < 0 else "+") if match["sign"] else ""
    return f"{sign}{abs(found):,.{digits}f}{match['percent'] or ''}<!-- {name} -->"


def renewed(text: str) -> str:
    """Write the numbers of a page anew."""
    return NUMBER.sub(lambda match: written(match, numbers()), text)


def command_line() -> str:
    """Describe every command and its options, from the same source as --help."""
    from polygene.cli.commands import app

    parts = [TITLE]
    for name, command in typer.main.get_command(app).commands.items():
        arguments = [_metavar(one) for one in command.params if one.param_type_name == "argument"]
        usage = " ".join(["polygene", name, *arguments, "[OPTIONS]"])
        rows = [row for one in command.params if (row := _row(one))]
        table = ["| option | what it does | default |", "|---|---|---|", *rows]
        said = [" ".join(text.split()) for text in (command.help, command.epilog) if text]
        parts.append("\n\n".join([f"## {name}", said[0], f"```text\n{usage}\n```", "\n".join(table), *said[1:]]) + "\n")
    return "\n".join(parts)


def _metavar(one: Any) -> str:
    name = one.metavar or one.name.upper()
    return name if one.required else f"[{name}]"


def _row(one: Any) -> str:
    shown = one.show_default if isinstance(one.show_default, str) else one.default
    default = "required" if one.required else "" if shown in (None, False, (), []) else str(shown)
    name = _metavar(one) if one.param_type_name == "argument" else " ".join(filter(None, [one.opts[0], one.metavar]))
    return "| " + " | ".join(text.replace("|", "\\|") for text in (f"`{name}`", one.help or "", default)) + " |"


def api() -> str:
    """List every public name of the package, by room, for autosummary."""
    import polygene as pg

    parts = ["# Python\n\n`import polygene as pg`. What the command line can do, Python can.\n"]
    for title, names in API.items():
        found = names or [f"{title[3:5]}.{name}" for name in getattr(pg, title[3:5]).__all__]
        head = AUTOSUMMARY.format("\n".join(f"   {name}" for name in found))
        parts.append(f"## {title}\n\n{head}")
    return "\n".join(parts)


def main() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := renewed(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
