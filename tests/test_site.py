"""The pages: what they take from the package and from kept results is what these say now."""

import re

from typer.testing import CliRunner

import polygene as pg
from polygene.cli.commands import app
from recipes import pages, reference


def test_the_page_of_the_command_line_has_the_options_that_help_shows() -> None:
    of_page = reference.options()
    assert set(of_page) == {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    for name, options in of_page.items():
        shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
        assert options == set(re.findall(r"^\W*(?:\* )?\W*(--[\w-]+)", shown, re.MULTILINE)) - {"--help"}, name


def test_the_page_of_the_python_lists_every_public_name() -> None:
    listed = set(re.findall(r"^   ([\w.]+)$", reference.api(), re.MULTILINE))
    rooms = {"tl", "pp", "pl"}
    names = {name for name in pg.__all__ if name not in {*rooms, "__version__", "datasets", "errors"}}
    assert listed == names | {f"{room}.{name}" for room in rooms for name in getattr(pg, room).__all__} | {
        "datasets.pbmc"
    }


LAB = {"decisions", "contributing", "release", "layouts", "tables", "paper"}
"""Pages that are a record, are made whole by a command, or keep their numbers by one of their own."""
CODE = re.compile(r"```.*?```|`[^`\n]+`|\$\$.*?\$\$", re.DOTALL)


def test_no_score_is_typed_into_a_page() -> None:
    """A share with two digits, or a percentage of the pages of scores, stands beside the name of what keeps it."""
    typed = []
    for page in pages.pages():
        if page.stem not in LAB and "models" not in page.parts:
            text = pages.NUMBER.sub("", pages.TABLE.sub("", CODE.sub("", page.read_text("utf-8"))))
            typed += [f"{page.name}: {found}" for found in re.findall(r"(?<![\d.,])[01]\.\d{2,}(?![\d.])", text)]
            if page.stem in {"README", "index", "scores"}:
                typed += [f"{page.name}: {found}" for found in re.findall(r"\d+ %", text)]
    assert typed == [], "name them in docs/numbers.toml, or call them a setting (recipes/pages.py)"


def test_the_pages_name_only_what_there_is() -> None:
    """Functions of the Python, commands and their options."""
    texts = {page.name: page.read_text("utf-8") for page in pages.pages() if page.stem not in {"decisions", "release"}}
    for text in texts.values():
        for path in set(re.findall(r"\bpg((?:\.\w+)+)\(", text)):
            thing = pg
            for part in path[1:].split("."):
                thing = getattr(thing, part)
    options = reference.options()
    for name, text in texts.items():
        for block in re.findall(r"```bash\n(.*?)```|`(polygene [^`]+)`", text, re.DOTALL):
            for line in "".join(block).replace("\\\n", " ").splitlines():
                if found := re.search(r"(?:^|[\s/])polygene (\w+)(.*)", line.partition("  #")[0]):
                    command, rest = found[1], found[2]
                    assert command in options, (name, line)
                    assert set(re.findall(r"(?<=\s)--[\w-]+", rest)) <= options[command], (name, line)


def test_the_cheat_sheet_names_every_verb_and_every_command() -> None:
    sheet = (pages.DOCS / "cheatsheet.md").read_text("utf-8")
    assert [
        name
        for name in pg.tl.__all__
        if f"{name}(" not in sheet and f"`{name}`" not in sheet and f".{name}`" not in sheet
    ] == []
    assert [name for name in reference.options() if f"polygene {name}" not in sheet] == []


def test_each_number_of_the_pages_is_the_kept_one() -> None:
    stale = [page.name for page in pages.pages() if pages.renewed(page.read_text("utf-8")) != page.read_text("utf-8")]
    assert stale == [], "run `python -m recipes.pages`"
