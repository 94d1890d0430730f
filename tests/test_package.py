"""The package as a whole: what importing it costs, and what it offers."""

import os
import re
import subprocess
import sys
from collections.abc import Set
from pathlib import Path

import pytest

import polygene as pg

ROOT = Path(__file__).parents[1]
HEAVY = {
    "accelerate",
    "anndata",
    "matplotlib",
    "numpy",
    "pandas",
    "scanpy",
    "sklearn",
    "torch",
    "transformers",
}

HELP = """
import sys
from polygene.cli.commands import main

sys.argv = ["polygene", "--help"]
try:
    main()
except SystemExit:
    pass
"""


ANNOTATE = """
import polygene as pg

pg.tl.annotate(pg.datasets.pbmc()[:20].copy(), "polygene-512", predict="cell_type")
"""


def heavy_modules_after(code: str, heavy: Set[str] = HEAVY) -> set[str]:
    """Run Python code in a new interpreter and name the heavy packages it has imported."""
    program = f"{code}\nimport sys; print('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return heavy & set(done.stdout.rpartition("modules:")[2].split())


def processor_seconds(*command: str) -> float:
    """Least processor time of three runs: unlike the clock's, it does not depend on what else the machine does."""
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run(command, capture_output=True, check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(seconds)


@pytest.mark.parametrize(
    "code", ["import polygene", "import polygene; dir(polygene)", HELP], ids=["import", "dir", "help"]
)
def test_nothing_heavy_is_imported_before_it_is_used(code: str) -> None:
    assert heavy_modules_after(code) == set()


def test_to_annotate_imports_nothing_that_takes_long_and_is_not_used() -> None:
    unused = {"accelerate", "matplotlib", "scanpy", "scipy.spatial", "scipy.stats", "sklearn", "sympy", "transformers"}
    assert heavy_modules_after(ANNOTATE, unused) == set()


def test_import_takes_less_than_a_tenth_of_a_second() -> None:
    bare = processor_seconds(sys.executable, "-c", "pass")
    assert processor_seconds(sys.executable, "-c", "import polygene") - bare < 0.1


def test_help_answers_in_less_than_half_a_second() -> None:
    assert processor_seconds(sys.executable, "-c", HELP) < 0.5


@pytest.mark.parametrize("name", pg.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(pg)
    assert getattr(pg, name) is not None


def test_an_unknown_name_is_an_attribute_error_that_lists_the_names() -> None:
    with pytest.raises(AttributeError, match="CellTokenizer"):
        _ = pg.CellTokeniser


def test_citation_and_changelog_carry_the_version() -> None:
    assert f"\nversion: {pg.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{pg.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_readme_gives_one_line_for_the_demo_and_one_for_the_tests() -> None:
    lines = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [line.rpartition(" && ")[2] for line in lines] == [".venv/bin/polygene demo", ".venv/bin/python -m pytest"]


def test_the_page_for_contributors_has_a_line_for_every_room() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    rooms = page.partition("## The rooms")[2].partition("\n## ")[0]
    package = ROOT / "src" / "polygene"
    names = {path.name for path in package.glob("*.py")} | {path.parent.name + "/" for path in package.glob("*/*.py")}
    assert {name for name in names if name not in rooms} == set()
