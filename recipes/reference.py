"""Pages that are made when the site is built (docs/conf.py): the command line and the Python of the package."""

import re
from typing import Any

import typer

TITLE = """\
# Command line

`polygene --help` says the same. `polygene COMMAND --help` explains one command.
"""
ROOMS = {
    "pg.tl: tools": "tl",
    "pg.pp: what makes cells ready": "pp",
    "pg.pl: pictures": "pl",
    "Example data": "datasets",
}
"""Heads of the page of the Python, and the rooms whose public names stand under them."""
AUTOSUMMARY = """\
```{{eval-rst}}
.. currentmodule:: polygene

.. autosummary::
   :toctree:
   :nosignatures:

{}
```
"""


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


def options() -> dict[str, set[str]]:
    """Give the options of each command that its part of the page has."""
    _, *parts = re.split(r"^## (\S+)$", command_line(), flags=re.MULTILINE)
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    return {name: set(re.findall(r"^\| `(--[\w-]+)", text, re.MULTILINE)) for name, text in texts.items()}


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

    own = [name for name in pg.__all__ if name not in {*ROOMS.values(), "errors", "__version__"}]
    heads = {
        "Models": [name for name in own if name[0].isupper()],
        "Corpus and training": [name for name in own if name[0].islower()],
        **{head: [f"{room}.{name}" for name in _public(getattr(pg, room))] for head, room in ROOMS.items()},
    }
    parts = ["# Python\n\n`import polygene as pg`. What the command line can do, Python can.\n"]
    for head, names in heads.items():
        listed = AUTOSUMMARY.format("\n".join(f"   {name}" for name in names))
        parts.append(f"## {head}\n\n{listed}")
    return "\n".join(parts)


def _public(room: Any) -> list[str]:
    return getattr(room, "__all__", ["pbmc"])
