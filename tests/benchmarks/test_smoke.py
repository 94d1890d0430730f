"""Every benchmark runs: each with --smoke, on made-up cells."""

import importlib
import json
import pkgutil

import pytest

import benchmarks
from benchmarks.shared import command


def modules() -> list[str]:
    """All modules that run as a benchmark: those that have a measure or parts."""
    found = []
    for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks."):
        source = importlib.util.find_spec(module.name).loader.get_source(module.name)
        if "command.run(" in source or "command.run_parts(" in source:
            found.append(module.name)
    return [name for name in found if name != "benchmarks.shared.command"]


MODULES = modules()


def test_each_folder_of_benchmarks_has_one_at_least():
    folders = {name.split(".")[1] for name in MODULES}
    assert folders == {"analyses", "app", "control", "faults", "layouts", "models", "scale", "speed", "trust"}
    assert len(MODULES) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_smoke(name, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    importlib.import_module(name).main(["--smoke"])
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"date", "commit", "hardware", "versions", "seed"} < set(numbers)
    assert not (tmp_path / "results").exists(), "a smoke run keeps no number"


def test_a_kept_command_names_no_path_of_a_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["x", "--data", "/home/me/data", "--folds", "a=/home/me/run", "--model", "a/b"])
    command.run("nothing", "Measure nothing.", lambda _: {}, argv=[])
    kept = json.loads((tmp_path / "results" / "nothing.json").read_text())
    assert kept["command"].endswith("--data DIR --folds a=DIR --model a/b")


def test_numbers_are_kept_with_when_and_where_they_were_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    command.run("nothing", "Measure nothing.", lambda _: {"seconds_a_cell": float("nan")}, argv=["--seed", "3"])
    kept = json.loads((tmp_path / "results" / "nothing.json").read_text())
    assert kept == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert kept["seed"] == 3
    assert kept["hardware"]["cores"] > 0
    assert kept["seconds_a_cell"] is None
