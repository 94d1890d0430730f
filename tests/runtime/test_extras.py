"""Optional packages: each task that lacks one names the extra that installs it."""

import gc
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from polygene.errors import MissingExtraError, PolyGeneError
from polygene.runtime import extras

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTION = {
    "sklearn": "scikit-learn",
    "skmisc": "scikit-misc",
    "aiohttp": "fsspec[http]",
    "umap": "umap-learn",
    "threadpoolctl": "scikit-learn",
    "scib_metrics": "scib-metrics",
}
BLOCKED = """
import os, sys
from transformers import BertModel, Trainer  # looks for packages when it is imported
import polygene as pg
for package, task in {tasks!r}:
    if os.fork() == 0:
        sys.modules[package] = None
        try:
            exec(task)
        except pg.errors.MissingExtraError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
"""
TASKS = [
    ("accelerate", "pg.train('recipe.toml')"),
    ("sklearn", "pg.tl.finetune"),
    ("sklearn", "pg.evaluate"),
    ("skmisc", "pg.prepare"),
    ("matplotlib", "pg.pl.umap"),
    ("jinja2", "from polygene.runtime import extras; extras.load('polygene.evaluation.report')"),
    ("aiohttp", "from polygene.io.paths import url_options; url_options('https://example.org/x.h5ad')"),
]


@pytest.mark.parametrize(("package", "extra"), extras.EXTRA_OF.items())
def test_every_optional_package_is_in_its_extra(package, extra):
    name = DISTRIBUTION.get(package, package)
    assert any(line.startswith(f"{name}>") for line in PROJECT["optional-dependencies"][extra])
    assert not any(line.startswith(f"{name}>") for line in PROJECT["dependencies"])


@pytest.mark.slow
def test_a_task_without_its_package_names_the_extra():
    code = [sys.executable, "-c", BLOCKED.format(tasks=TASKS)]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"This needs the package {package}, which is not installed. "
        f"Install it with: pip install 'polygene[{extras.EXTRA_OF[package]}]'"
        for package, _ in TASKS
    ]


def test_a_missing_extra_is_a_user_error_and_an_import_error():
    assert issubclass(MissingExtraError, PolyGeneError)
    assert issubclass(MissingExtraError, ImportError)


def test_a_missing_module_of_our_own_stays_a_mistake():
    with pytest.raises(ModuleNotFoundError, match=r"polygene\.nowhere"):
        extras.load("polygene.nowhere")


def test_a_lazy_package_lists_its_names_when_asked_for_another():
    with pytest.raises(AttributeError, match="its public names are one"):
        extras.lazy({"one": "polygene.errors"}, "package")("two")


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_collected_during_an_import_and_as_before_behind_it(
    collects: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"imported_{collects}".lower()
    (tmp_path / f"{name}.py").write_text("import gc\ncollects = gc.isenabled()\n", encoding="utf-8")
    (tmp_path / f"{name}_broken.py").write_text("import a_module_that_is_not_there\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        assert extras.load(name).collects is False
        assert gc.isenabled() is collects
        with pytest.raises(ModuleNotFoundError):
            extras.load(f"{name}_broken")
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()
