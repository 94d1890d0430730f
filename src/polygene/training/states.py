"""The folder of a run: what decides the run, and the saved states from which a stopped one goes on."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

from polygene.corpus.corpus import Corpus
from polygene.errors import RecipeError
from polygene.model.checkpoint import PolyGene
from polygene.model.recipe import Recipe
from polygene.runtime.atomic import write_text

log = logging.getLogger("polygene")
COMPLETE, FINISHED = "complete", "finished"
"""Marks: a saved state that is whole, a run whose checkpoint is written."""


def description_of(recipe: Recipe, corpus: Corpus, start: PolyGene | None) -> str:
    """Write down what decides a run: its recipe, the corpus behind the name in it, and where it starts."""
    digest = hashlib.sha256((corpus.folder / "corpus.json").read_bytes()).hexdigest()
    text = f"{recipe.to_toml()}\n# SHA-256 of corpus.json: {digest}\n"
    if start is None:
        return text
    weights = hashlib.sha256(b"".join(one.cpu().numpy().tobytes() for one in start.network.state_dict().values()))
    return f"{text}# starts from weights of SHA-256 {weights.hexdigest()}\n"


def refuse_another_run(states: Path, run: str) -> None:
    """Refuse to go on with another recipe, or another corpus, than the one written down beside the states."""
    kept = states / "recipe.toml"
    if kept.exists() and kept.read_text(encoding="utf-8") != run:
        msg = (
            f"{states.parent} holds a run of another recipe, or of a corpus that was made anew since (see {kept}). "
            "Choose another `out`, or delete the folder to start over."
        )
        raise RecipeError(msg)


def write_description(states: Path, run: str) -> None:
    """Write the description of a run, whole or not at all."""
    states.mkdir(parents=True, exist_ok=True)
    write_text(states / "recipe.toml", run)


def last_whole_state(states: Path) -> str | None:
    """Folder of the newest state that was saved to its end; states cut off while saving are removed."""
    whole = []
    for state in states.glob("checkpoint-*"):
        if (state / COMPLETE).exists():
            whole.append(state)
        else:
            shutil.rmtree(state, ignore_errors=True)
    if not whole:
        return None
    newest = max(whole, key=lambda state: int(state.name.rpartition("-")[2]))
    log.info("resuming from %s", newest)
    return str(newest)


def drop_states(states: Path) -> None:
    """Remove the states of a run whose checkpoint is written; they are pickled, and larger than it."""
    for state in states.glob("checkpoint-*"):
        shutil.rmtree(state, ignore_errors=True)
