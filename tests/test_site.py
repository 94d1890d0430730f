"""The pages: what they take from the package and from kept results is what these say now."""

import re

from typer.testing import CliRunner

import polygene as pg
from polygene.cli.commands import app
from recipes import pages, reference


def test_the_page_of_the_command_line_has_the_options_that_help_shows() -> None:
    _, *parts = re.split(r"^## (\S+)$", reference.command_line(), flags=re.MULTILINE)
    of_page = {
        name: set(re.findall(r"^\| `(--[\w-]+)", text, re.MULTILINE))
        for name, text in zip(*[iter(parts)] * 2, strict=True)
    }
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


def test_each_number_of_the_pages_is_the_kept_one() -> None:
    stale = [page.name for page in pages.pages() if pages.renewed(page.read_text("utf-8")) != page.read_text("utf-8")]
    assert stale == [], "run `python -m recipes.pages`"
