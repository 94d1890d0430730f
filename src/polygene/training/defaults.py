"""Training without a recipe file: settings by the size of the corpus, and a commented file to start from."""

import logging
import re
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path

from polygene.corpus.corpus import Corpus
from polygene.errors import OutputError, RecipeError
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.nn.losses import LossConfig
from polygene.runtime.toml import write_toml

log = logging.getLogger("polygene")
SMALL, LARGE = 5_000, 300_000  # training cells below which the network is smaller than the shipped ones, and larger
WIDE = 1_000  # genes
CELLS_SEEN = 1_000_000  # in all epochs: the schedule of polygene-512; half for a wide panel


def default_recipe(corpus: str | Path, out: str | Path) -> Recipe:
    """Choose a recipe by the training cells and genes of a corpus.

    From 5,000 to 300,000 cells it is that of the shipped models, which is measured (docs/decisions.md). The network is
    half as wide below, and twice as wide and deep above.
    """
    made = Corpus(corpus)
    n_cells, n_genes = len(made.split("train")), len(made.tokenizer.panel)
    recipe = recipe_by_size(n_cells, n_genes, corpus=str(corpus), out=str(out))
    size = f"{n_cells:,} training cells and {n_genes:,} genes"
    log.info("no recipe is given: defaults for %s. %r", size, recipe)
    return recipe


def recipe_by_size(n_cells: int, n_genes: int, *, corpus: str, out: str) -> Recipe:
    """Choose the settings for so many training cells and genes, see `default_recipe`."""
    width, layers = (64, 2) if n_cells < SMALL else (128, 2) if n_cells < LARGE else (256, 4)
    passes = CELLS_SEEN / max(n_cells, 1) / (1 if n_genes < WIDE else 2)
    return Recipe(
        corpus=corpus,
        out=out,
        network=NetworkConfig(hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width),
        loss=LossConfig(phenotype_weight=0.3),
        training=TrainingConfig(
            epochs=min(max(round(passes), 3), 30),
            batch_size=64 if n_cells < LARGE else 256,
            learning_rate=2e-3 if n_cells < LARGE else 1e-3,
            evaluations=5,
            precision="float32" if n_cells < LARGE else "bfloat16",
        ),
    )


def find_recipe(source: Recipe | str | Path, out: str | Path | None = None) -> Recipe:
    """Return the recipe of a run: a `Recipe`, that of a .toml file, or a corpus's default; `out` replaces its own."""
    if isinstance(source, Recipe):
        return source if out is None else replace(source, out=str(out))
    path = Path(source)
    if path.is_dir():
        if out is None:
            msg = f"{path} is a folder and no recipe, so the model needs a folder too: out=… (--out RUN)."
            raise RecipeError(msg)
        return default_recipe(path, out)
    if path.suffix != ".toml":
        msg = (
            f"{path} is neither a recipe (.toml) nor the folder of a corpus. Make a corpus of cells first: "
            "polygene prepare CELLS.h5ad --out corpus"
        )
        raise RecipeError(msg)
    return find_recipe(Recipe.load(path), out)


def write_recipe(source: Recipe | str | Path | None, path: str | Path, out: str | Path | None = None) -> None:
    """Write a recipe as a TOML file in which every key is explained; a file that is there stays.

    `source` and `out` are those of `find_recipe`; by default the recipe is for the folders `corpus` and `runs/NAME`.
    """
    if not isinstance(source, Recipe) and Path(source or "").suffix != ".toml":
        out = out or Path("runs") / Path(path).stem
    # The shipped models' size serves a corpus that is not made yet.
    recipe = recipe_by_size(30_000, 512, corpus="corpus", out=str(out)) if source is None else find_recipe(source, out)
    values = current = asdict(recipe)
    lines = []
    for line in files("polygene.training").joinpath("template.toml").read_text(encoding="utf-8").splitlines():
        if section := re.match(r"\[(\w+)\]", line):
            current = values[section[1]]
        elif key := re.match(r"(\w+) = .*?(  # .*)", line):
            line = write_toml({key[1]: current[key[1]]}).strip() + key[2]
        lines.append(line)
    try:
        with Path(path).open("x", encoding="utf-8") as file:
            file.write("\n".join([*lines, ""]))
    except FileExistsError as error:
        msg = f"{path} exists and is not replaced; choose another name."
        raise OutputError(msg) from error
