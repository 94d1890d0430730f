"""What the command line can do, Python can: the options of a command are the parameters of its verb."""

import inspect
from collections.abc import Mapping
from typing import Any

import pytest
from typer.main import get_command

import polygene as pg
from polygene.app import serve
from polygene.cli.commands import app
from polygene.corpus.prepare import PrepareConfig

VERBS = ("annotate", "vote", "embed", "denoise", "finetune", "generate", "balance", "perturb", "counterfactual")
ANALYSES = (
    "ageing_topology", "biomarkers", "gene_network", "manifold_scores", "network_statistics", "phenotype_distances",
    "polyfunctionality", "similarity",
)  # fmt: skip
"""Verbs of Python alone: they return tables and take several models."""
RENAMED = {"cells": "adata"}
"""The argument of a command, and the first parameter of its verb."""
SINGULAR = {("generate", "labels"): "--label", ("generate", "genes"): "--gene", ("counterfactual", "changes"): "--set"}
"""Options that are given once for each entry of a mapping."""
REQUIRED = {
    ("finetune", "out"), ("generate", "out"), ("balance", "out"), ("perturb", "out"), ("counterfactual", "out"),
    ("counterfactual", "changes"),
}  # fmt: skip
"""Python returns what a command has to write, and says what is wrong with no changes."""


def parameters_of(command: str) -> dict[str, Any]:
    click_command = get_command(app).commands[command]  # type: ignore[attr-defined]
    return {RENAMED.get(one.name, one.name): one for one in click_command.params if one.name != "help"}


def same(of_command: Any, of_verb: Any) -> bool:
    """Whether two defaults mean the same: no names are "" on the command line, and () or None in Python."""
    nothing = ("", None, (), [], {})
    if isinstance(of_verb, Mapping):
        of_verb = dict(of_verb)
    return of_command == of_verb or (of_command in nothing and of_verb in nothing)


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_has_the_parameters_of_its_verb(verb: str) -> None:
    of_verb = inspect.signature(getattr(pg.tl, verb)).parameters
    assert set(parameters_of(verb)) == set(of_verb)


@pytest.mark.parametrize("verb", VERBS)
def test_defaults_and_option_names_are_those_of_the_verb(verb: str) -> None:
    of_verb = inspect.signature(getattr(pg.tl, verb)).parameters
    for name, option in parameters_of(verb).items():
        default = of_verb[name].default
        if (verb, name) in REQUIRED:
            assert option.required
        elif default is inspect.Parameter.empty:
            assert option.required, name
        else:
            assert not option.required, name
            assert same(option.default, default), (name, option.default, default)
        if option.param_type_name == "option":
            assert SINGULAR.get((verb, name), f"--{name.replace('_', '-')}") in option.opts


FUNCTIONS = {
    # command: its argument and the parameter of the function, options of the command alone, parameters of Python alone
    "prepare": (
        {"files": "sources"},
        {"genes", "include_genes", "split", "column", "layer", "where", "part"},
        {"tokenizer", "overwrite"},
    ),
    "join": ({}, set(), {"overwrite"}),
    "train": ({"source": "recipe"}, {"write_recipe"}, {"start"}),
    "evaluate": ({}, {"out", "report", "overwrite"}, set()),
}
"""`prepare` sets fields of `config`; `evaluate` writes what Python returns; a recipe is an object in Python."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_commands_differ_from_their_function_by_a_short_list(name: str) -> None:
    renamed, of_command, of_python = FUNCTIONS[name]
    in_command = {renamed.get(one, one) for one in parameters_of(name)}
    in_python = inspect.signature(getattr(pg, name)).parameters
    assert in_command - set(in_python) == of_command
    assert set(in_python) - in_command == of_python
    for one, option in parameters_of(name).items():
        if one in in_python and (default := in_python[one].default) is not inspect.Parameter.empty:
            assert same(option.default, default), (one, option.default, default)


def test_the_command_app_has_the_parameters_of_serve() -> None:
    of_serve = inspect.signature(serve).parameters
    options = parameters_of("app")
    assert [{"adata": "cells"}.get(name, name) for name in options] == list(of_serve)
    assert all(same(options[name].default, one.default) for name, one in of_serve.items() if name != "cells")


def test_defaults_that_prepare_prints_are_those_of_its_config() -> None:
    options, config = parameters_of("prepare"), PrepareConfig()
    assert options["genes"].show_default == str(config.n_genes)
    assert options["split"].show_default == config.split


def test_every_verb_is_a_command_and_every_command_a_public_function() -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(VERBS) <= commands
    assert set(pg.tl.__all__) == {*VERBS, *ANALYSES}
    functions = {name for name in commands - set(VERBS) if callable(getattr(pg, name, None))}
    assert commands - set(VERBS) - functions == {"app", "demo", "info", "models"}
