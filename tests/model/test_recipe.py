"""The recipe: what it accepts, what it refuses, and that it is written down whole."""

import tomllib
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

import pytest

from polygene.errors import RecipeError
from polygene.model.recipe import Recipe, TrainingConfig
from polygene.runtime.toml import build

MINIMAL = {"corpus": "corpus", "out": "runs/x"}


def test_a_recipe_needs_a_corpus_and_an_out_and_nothing_else(tmp_path):
    (tmp_path / "recipe.toml").write_text('corpus = "corpus"\nout = "runs/x"\n')
    assert Recipe.load(tmp_path / "recipe.toml") == Recipe(corpus="corpus", out="runs/x")
    with pytest.raises(RecipeError, match="lacks out"):
        build(Recipe, {"corpus": "corpus"})


def test_every_field_is_written_and_read_back(tmp_path):
    """Every field is moved off its default first, so that none is lost on the way unseen."""
    recipe = Recipe(corpus='a "b" \\ ü', out="x")
    others = {
        "seed": 7,
        "report_to": "tensorboard",
        "precision": "bfloat16",
        "smoothing_kind": "uniform",
    }
    for section in fields(recipe):
        config = getattr(recipe, section.name)
        if is_dataclass(config):
            moved = {name: others[name] if name in others else _moved(value) for name, value in asdict(config).items()}
            recipe = replace(recipe, **{section.name: replace(config, **moved)})
    defaults = Recipe(corpus="", out="")
    for section in ("network", "masking", "loss", "training"):
        for name, value in asdict(getattr(recipe, section)).items():
            assert value != getattr(getattr(defaults, section), name), f"{section}.{name} was not moved"
    (tmp_path / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "recipe.toml") == recipe
    assert tomllib.loads(recipe.to_toml()) == asdict(recipe)


def _moved(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value * 2 if isinstance(value, int) and value else value / 2 or 3


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"trainng": {}}, r"unknown key trainng: did you mean training\?"),
        ({"training": {"epoch": 3}}, r"unknown key training\.epoch: did you mean training\.epochs\?"),
        ({"masking": {"genes_rate": 0.1}}, r"did you mean masking\.gene_rate\?"),
        ({"loss": {"zzz": 1}}, r"unknown key loss\.zzz: possible are bin_reach, gene_weight"),
        ({"network": {"hidden_size": "wide"}}, r"network\.hidden_size is 'wide'; it must be a whole number"),
        ({"network": {"hidden_size": 1.5}}, r"network\.hidden_size is 1\.5"),
        ({"training": {"epochs": True}}, r"training\.epochs is True"),
        ({"training": {"class_weights": "yes"}}, r"must be true or false"),
        ({"training": {"precision": "float16"}}, r"must be 'float32' or 'bfloat16'"),
        ({"loss": {"smoothing_kind": "linear"}}, r"must be 'ordinal' or 'uniform'"),
        ({"training": 3}, r"must be a table \[training\]"),
        ({"out": 3}, r"out is 3; it must be text"),
    ],
)
def test_what_is_misspelt_or_of_another_type_is_refused_by_name(table, says):
    with pytest.raises(RecipeError, match=says):
        build(Recipe, MINIMAL | table)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("section", "name"),
    [
        (section.name, option.name)
        for section in fields(Recipe)
        if section.name not in MINIMAL
        for option in fields(section.default_factory)
        if isinstance(option.default, float)
    ],
)
def test_no_number_may_be_negative_or_not_a_number_or_infinite(section, name, value):
    with pytest.raises(RecipeError, match=rf"{section}\.{name} = {value}"):
        build(Recipe, MINIMAL | {section: {name: float(value)}})


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        *(
            (("network", name, 0))
            for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        ),
        *((("training", name, 0)) for name in ("epochs", "batch_size", "accumulation", "evaluations", "learning_rate")),
        ("network", "num_attention_heads", 3),
        ("network", "hidden_dropout_prob", 1),
        ("training", "warmup", 1),
        ("training", "num_workers", -1),
        ("training", "seed", -1),
        ("training", "seed", 2**32),
        ("loss", "smoothing", 1),
        ("loss", "bin_reach", 0),
        ("loss", "years_reach", 0),
        ("masking", "gene_rate", 1.01),
        ("masking", "phenotype_rate", 1.01),
        ("masking", "all_phenotypes_rate", 0.6),
        ("masking", "zero_rate", 0),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(section, name, value):
    with pytest.raises(RecipeError, match=rf"{section}\.{name} = {value}|{section}\.\w+ = \d+ .*{name} =\s+{value}"):
        build(Recipe, MINIMAL | {section: {name: value}})


@pytest.mark.parametrize("content", [None, 'corpus = "a'], ids=["missing", "no TOML"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, content):
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=r"recipe\.toml cannot be read"):
        Recipe.load(path)


def test_a_recipe_cannot_be_changed_nor_given_by_place():
    with pytest.raises(AttributeError):
        TrainingConfig().epochs = 3
    with pytest.raises(TypeError):
        TrainingConfig(3)
