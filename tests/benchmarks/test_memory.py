"""The benchmark of memory runs commands that there are: its smoke run runs a few of them."""

from pathlib import Path

import pytest
from typer.main import get_command

from benchmarks.speed.memory import words_of
from polygene.cli.commands import app


@pytest.mark.parametrize("verb", words_of(Path(), 0))
def test_a_command_line_is_one(verb: str) -> None:
    name, *words = words_of(Path("folder"), 300)[verb]
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.make_context(name, words).params
