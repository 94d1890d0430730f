"""How much a benchmark does: all of it, or with --smoke the least that runs every line.

Benchmarks train and prepare through this module, so that a smoke run shrinks every network and every corpus in one
place. Nothing heavy is imported here: `benchmarks.speed.memory` measures the memory of its own child processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from polygene.corpus.corpus import Corpus
    from polygene.corpus.prepare import PrepareConfig
    from polygene.model.checkpoint import PolyGene
    from polygene.model.recipe import NetworkConfig, Recipe

GENES = 64
"""Genes of a panel in a smoke run."""
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_smoke = False


@contextmanager
def smoke(on: bool) -> Iterator[None]:
    """Make what runs inside a smoke run."""
    global _smoke
    before, _smoke = _smoke, on
    try:
        yield
    finally:
        _smoke = before


def few(items: Iterable[Any], n: int = 1) -> list[Any]:
    """All items; in a smoke run the first n."""
    return list(itertools.islice(items, n if _smoke else None))


def at_most(number: int, least: int) -> int:
    """The number; in a smoke run no more than `least`."""
    return min(number, least) if _smoke else number


def network(config: NetworkConfig) -> NetworkConfig:
    """The shape of a network; in a smoke run a tiny one."""
    return replace(config, **SHAPE) if _smoke else config


def prepare(source: Any, out: Any, *, config: PrepareConfig, **options: Any) -> Corpus:
    """Prepare a corpus; in a smoke run of few genes."""
    from polygene.corpus.prepare import prepare as prepare_corpus

    named = few(config.include_genes, GENES // 2)
    config = replace(config, n_genes=at_most(config.n_genes, GENES), include_genes=tuple(named))
    return prepare_corpus(source, out, config=config, **options)


def train(recipe: Recipe) -> PolyGene:
    """Train a model; in a smoke run a tiny one, for one epoch."""
    from polygene.training.train import train as train_recipe

    if _smoke:
        schedule = replace(recipe.training, epochs=1, evaluations=1)
        recipe = replace(recipe, network=network(recipe.network), training=schedule)
    return train_recipe(recipe)


def model(name: str, corpus: Corpus, folder: Path) -> PolyGene:
    """The model that ships; in a smoke run a tiny one, trained on the corpus."""
    from polygene.model.checkpoint import PolyGene
    from polygene.model.recipe import Recipe

    if not _smoke:
        return PolyGene.from_pretrained(name, device="cpu")
    return train(Recipe(corpus=str(corpus.folder), out=str(folder / "model")))
