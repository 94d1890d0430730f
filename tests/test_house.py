"""The size of the house: every room has a bound, and no file and no function is long; .ci/size counts the rooms."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "polygene"
BOUNDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["polygene"]
ROOMS, MOST = BOUNDS["rooms"], BOUNDS["house"]
FILES = sorted(SOURCE.rglob("*.py"))
LONG: dict[str, str] = {}
"""Files and functions that may be longer, each with its reason."""


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> dict[str, int]:
    """Lines of each function, without its docstring."""
    lengths = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            has_docstring = ast.get_docstring(node, clean=False) is not None
            docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
            lengths[node.name] = node.end_lineno - node.lineno + 1 - docstring
    return lengths


def test_every_room_has_a_bound():
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(ROOMS)


def test_no_file_is_long():
    long = {name: n for path in FILES if (n := lines_of(path)) > MOST["file"] and (name := path.name) not in LONG}
    assert not long


def test_no_function_is_long():
    long = {
        f"{path.name}:{name}": n
        for path in FILES
        for name, n in functions(path).items()
        if n > MOST["function"] and name not in LONG
    }
    assert not long
