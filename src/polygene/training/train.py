"""Training: from a recipe to a checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.evaluation.novelty import learn_novelty
from polygene.evaluation.test_cells import donor_names
from polygene.model.calibration import Calibration, calibrate
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.model.metrics import Metrics
from polygene.model.recipe import Recipe
from polygene.runtime import extras
from polygene.runtime.subsample import spread
from polygene.training.data import training_cells
from polygene.training.defaults import find_recipe
from polygene.training.engine import Engine, of_interest, trainer_arguments
from polygene.training.setup import copy_model, loss_of, new_model
from polygene.training.states import (
    FINISHED,
    description_of,
    drop_states,
    last_whole_state,
    refuse_another_run,
    write_description,
)

log = logging.getLogger("polygene")
MOST_CALIBRATION_CELLS = 20_000


def train(recipe: Recipe | str | Path, out: str | Path | None = None, *, start: PolyGene | None = None) -> PolyGene:
    """Train a model as a recipe says, or with defaults by the size of a corpus, and write its checkpoint.

    A run that was stopped, at any moment, goes on from its last saved state when started again with the same recipe,
    and ends with the weights of a run that was never stopped; one that had ended is only loaded. The state with the
    best loss on the validation cells is kept, without validation cells the last one. The same cells calibrate it: they
    chose among a few states, which flatters the calibration by less than donors differ.

    Parameters
    ----------
    recipe
        A `Recipe`, a .toml file of one, or the folder of a corpus, which is trained with defaults by its size.
    out
        Folder of the checkpoint; in place of the `out` of a recipe.
    start
        A model to go on from, whose tokenizer the corpus was made with; it is not changed.

    Returns
    -------
    The model as saved: `metrics.validation` holds its scores before it was calibrated, `metrics.corpus` what it
    learned from (see `Corpus.summary`).

    Raises
    ------
    RecipeError
        If `recipe.out` holds a run of another recipe or corpus, or the recipe does not fit its machine.
    RunEndedError
        If one of several processes ended.
    PhenotypeError
        If the phenotype to balance is not in the corpus.
    CorpusError
        If the corpus cannot be read.
    """
    extras.require("accelerate", "sklearn")  # named before the hours of training, not after
    run = TrainingRun(find_recipe(recipe, out), start)
    if run.finished:
        log.info("%s holds the finished run of this recipe: nothing to do", run.out)
        drop_states(run.states)
        return PolyGene.from_pretrained(run.out)
    engine = run.engine(run.model())
    engine.learn(last_whole_state(run.states))
    return run.finish(engine)


class TrainingRun:
    """One run of training: `model()` is what is trained, `engine()` trains it, `finish()` makes the checkpoint.

    Parameters
    ----------
    recipe, start
        See `train`.
    """

    def __init__(self, recipe: Recipe, start: PolyGene | None = None) -> None:
        self.recipe, self.start, self.corpus = recipe, start, Corpus(recipe.corpus)
        self.out = Path(recipe.out)
        self.states = self.out / "training"
        self.description = description_of(recipe, self.corpus, start)
        refuse_another_run(self.states, self.description)

    @property
    def finished(self) -> bool:
        """Whether the checkpoint is written."""
        return (self.states / FINISHED).exists()

    @cached_property
    def validation(self) -> CorpusSplit:
        """The cells that choose the state, set the temperatures and the novelty threshold."""
        return self.corpus.split("validation")

    def model(self) -> PolyGene:
        """Make the model that is trained: a new one, or a copy of the one to go on from."""
        model = new_model(self.recipe, self.corpus) if self.start is None else copy_model(self.start, self.corpus)
        if self.recipe.training.gradient_checkpointing:
            network: Any = model.network  # transformers renamed the method, and warns of the old name
            getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)()
        return model

    def engine(self, model: PolyGene) -> Engine:
        """Set up the engine, and write down what decides the run."""
        recipe, n_places = self.recipe, self.recipe.training.epochs * len(self.corpus.split("train"))
        arguments = trainer_arguments(recipe, self.states, n_places, validates=len(self.validation) > 0)
        cells = training_cells(recipe, self.corpus, rank=arguments.process_index, world_size=arguments.world_size)
        engine = Engine(
            recipe=recipe,
            args=arguments,
            train_dataset=cells,
            loss=loss_of(recipe, self.corpus),
            model_of=model,
            validation=self.validation,
        )
        if engine.is_world_process_zero():
            write_description(self.states, self.description)
        if not len(self.validation):
            log.warning(
                "the corpus has no validation cells: nothing is scored, the last state is kept, "
                "and the model will not detect novel cells"
            )
        n_weights = sum(weights.numel() for weights in model.network.parameters() if weights.requires_grad)
        engine.log_once(
            "training on %s (%s): %s weights, %s cells x %d epochs",
            arguments.device, recipe.training.precision, f"{n_weights:,}", f"{len(cells.split):,}",
            recipe.training.epochs,
        )  # fmt: skip
        return engine

    def finish(self, engine: Engine) -> PolyGene:
        """Score, calibrate and save the state that is kept; the checkpoint."""
        scores = engine.scores()
        if scores:
            engine.log_once("kept the state of step %s: %s", engine.state.best_global_step, of_interest(scores))
        metrics = Metrics(corpus=self.corpus.summary(), validation=scores)
        trained = replace(engine.trained(), recipe=self.recipe, metrics=metrics)
        trained = replace(trained, calibration=calibration(trained, self.validation))
        for name, one in trained.calibration.labels.items():
            engine.log_once(
                "%s: temperature %.2f from %s cells of %d %ss; log loss %.3f, was %.3f",
                name, one.temperature, f"{one.cells:,}", one.units, one.unit, one.log_loss, one.log_loss_before,
            )  # fmt: skip
        if len(self.validation):
            split, seed = self.corpus.split("train"), self.recipe.training.seed
            trained = replace(trained, novelty=learn_novelty(trained, split, self.validation, seed=seed))
        if engine.is_world_process_zero():
            trained.save_pretrained(self.out)
            (self.states / FINISHED).touch()
            drop_states(self.states)
        engine.accelerator.wait_for_everyone()  # no process goes on before the checkpoint is there
        return trained


def calibration(model: PolyGene, validation: CorpusSplit) -> Calibration:
    """Calibrate an uncalibrated model on at most MOST_CALIBRATION_CELLS validation cells, nothing being given."""
    if not len(validation):
        return Calibration()
    rows, names = spread(len(validation), MOST_CALIBRATION_CELLS), model.tokenizer.schema.names
    answers = label_probabilities(model, validation.cells(rows), predict=names)
    found = {
        name: calibrate(
            probabilities_CV, validation.labels_CP[rows, p], donor_names(validation, rows), model.at_or_below(name)
        )
        for p, (name, probabilities_CV) in enumerate(zip(names, answers, strict=True))
    }
    return Calibration(labels={name: one for name, one in found.items() if one is not None})
