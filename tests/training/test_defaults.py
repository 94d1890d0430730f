"""Training without a recipe file: defaults by the size of the corpus, and a commented recipe that is the same."""

import logging
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import polygene as pg
from polygene.corpus.corpus import CorpusSplit
from polygene.errors import CorpusError, OutputError, RecipeError
from polygene.model.recipe import Recipe, TrainingConfig
from polygene.training import defaults
from polygene.training.defaults import default_recipe, find_recipe, write_recipe


def test_more_cells_get_a_larger_network_and_fewer_epochs(toy_corpus, monkeypatch, caplog):
    recipes = []
    for n_cells in (400, 34_733, 2_000_000):
        monkeypatch.setattr(CorpusSplit, "__len__", lambda _, n=n_cells: n)
        with caplog.at_level(logging.INFO, "polygene"):
            recipes.append(default_recipe(toy_corpus.folder, "run"))
        assert f"{n_cells:,} training cells" in caplog.text
    assert [one.network.hidden_size for one in recipes] == [64, 128, 256]
    assert [one.training.epochs for one in recipes] == [30, 29, 3]


def test_the_default_for_the_cells_of_the_shipped_model_is_its_recipe(toy_corpus, monkeypatch):
    monkeypatch.setattr(CorpusSplit, "__len__", lambda _: 34_733)
    shipped = Recipe.load(Path(__file__).parents[2] / "recipes" / "polygene-512.toml")
    ours = default_recipe(toy_corpus.folder, "run")
    assert (ours.network, ours.masking, ours.loss) == (shipped.network, shipped.masking, shipped.loss)
    assert replace(ours.training, epochs=6, evaluations=1, precision="bfloat16") == shipped.training


def test_a_written_recipe_is_the_same_explained_and_not_replaced(toy_corpus, tmp_path):
    recipe = Recipe(corpus=str(toy_corpus.folder), out="run", training=TrainingConfig(epochs=7, class_weights=True))
    write_recipe(recipe, tmp_path / "mine.toml")
    assert Recipe.load(tmp_path / "mine.toml") == recipe
    text = (tmp_path / "mine.toml").read_text(encoding="utf-8")
    for key in (key for part in asdict(recipe).values() if isinstance(part, dict) for key in part):
        assert f"\n{key} = " in text
    write_recipe(toy_corpus.folder, tmp_path / "small.toml")
    assert Recipe.load(tmp_path / "small.toml") == default_recipe(toy_corpus.folder, "runs/small")
    write_recipe(None, tmp_path / "first.toml")
    assert Recipe.load(tmp_path / "first.toml").corpus == "corpus"
    with pytest.raises(OutputError, match="exists and is not replaced"):
        write_recipe(recipe, tmp_path / "mine.toml")


def test_a_recipe_is_found_as_an_object_a_file_and_a_corpus(toy_corpus, tmp_path):
    recipe = Recipe(corpus="corpus", out="run")
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    assert find_recipe(recipe) == find_recipe(tmp_path / "mine.toml") == recipe
    assert find_recipe(tmp_path / "mine.toml", "other").out == "other"
    assert find_recipe(toy_corpus.folder, tmp_path / "run") == default_recipe(toy_corpus.folder, tmp_path / "run")


@pytest.mark.parametrize(
    ("source", "out", "error", "says"),
    [
        ("corpus", None, RecipeError, r"needs a folder too: out=… \(--out RUN\)"),
        ("empty", "run", CorpusError, "is no corpus"),
        ("cells.h5ad", "run", RecipeError, "neither a recipe .* polygene prepare CELLS.h5ad"),
        ("nowhere", "run", RecipeError, "neither a recipe .* nor the folder of a corpus"),
        ("nowhere.toml", "run", RecipeError, "cannot be read"),
    ],
)
def test_what_is_neither_recipe_nor_corpus_is_refused(source, out, error, says, toy_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").symlink_to(toy_corpus.folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "cells.h5ad").touch()
    with pytest.raises(error, match=says):
        pg.train(source, out)


def test_a_corpus_is_trained_without_a_recipe(toy_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "CELLS_SEEN", 0)
    model = pg.train(toy_corpus.folder, tmp_path / "run")
    assert model.recipe == Recipe.load(tmp_path / "run" / "recipe.toml")
    assert (model.recipe.corpus, model.recipe.training.epochs) == (str(toy_corpus.folder), 3)
