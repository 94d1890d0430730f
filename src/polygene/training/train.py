"""Training: from a recipe to a checkpoint.

The folder `training` of the checkpoint holds what decides a run, and the states from which a stopped one goes on.
"""

import hashlib
import logging
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.errors import RecipeError
from polygene.evaluation.novelty import learn_novelty
from polygene.evaluation.test_cells import donor_names
from polygene.model.calibration import Calibration, calibrate
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.model.metrics import Metrics
from polygene.model.recipe import Recipe
from polygene.runtime import extras
from polygene.runtime.atomic import locked, write_text
from polygene.runtime.distributed import process_group
from polygene.runtime.files import sha256
from polygene.runtime.ranks import rank
from polygene.runtime.subsample import spread
from polygene.training.data import training_cells
from polygene.training.defaults import find_recipe
from polygene.training.engine import Engine, of_interest, trainer_arguments
from polygene.training.regression import join_regression, without_regression
from polygene.training.setup import copy_model, loss_of, new_model
from polygene.training.states import drop_states, last_whole_state
from polygene.vocab.columns import some

log = logging.getLogger("polygene")
MOST_CALIBRATION_CELLS = 20_000


def train(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    start: PolyGene | None = None,
    restart: bool = False,
) -> PolyGene:
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
    restart
        Begin anew: forget the states of a run that was stopped, or that had ended, in this folder.

    Returns
    -------
    The model as saved: `metrics.validation` holds its scores before calibration, `metrics.corpus` what it learned from.

    Raises
    ------
    RecipeError, CorpusError, PhenotypeError
        `out` holds another run or a corpus, the recipe does not fit its machine or corpus, or that cannot be read.
    CheckpointError
        The states of the run are damaged, all of them.
    RunEndedError
        One of several processes ended.
    """
    extras.require("accelerate", "sklearn")  # named before the hours of training, not after
    recipe = find_recipe(recipe, out)
    folder, states = Path(recipe.out), Path(recipe.out) / "training"
    _check_free(folder, states)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder) if rank() == 0 else nullcontext():
        if restart:
            with process_group() as gather:
                if rank() == 0:
                    _forget(states)
                gather(None)
        return _train(recipe, start)


def _check_free(folder: Path, states: Path) -> None:
    """Refuse a folder that holds anything, unless a run of training wrote it."""
    others = sorted(one.name for one in folder.iterdir() if one != states) if folder.is_dir() else []
    if folder.is_file() or (others and not (states / "recipe.toml").exists()):
        holds = f"holds {some(others, 3)}" if others else "is a file"
        msg = f"{str(folder)!r} {holds}, and no run of training: choose another `out`, or delete it."
        raise RecipeError(msg)


def _forget(states: Path) -> None:
    drop_states(states)
    (states / "finished").unlink(missing_ok=True)
    if (states / "recipe.toml").exists():  # empty, it is still the mark of a run's folder
        write_text(states / "recipe.toml", "")


def _train(recipe: Recipe, start: PolyGene | None) -> PolyGene:
    run = _Run(recipe, start)
    _compare_hosts(run)
    if run.finished.exists():
        log.info("%s holds the finished run of this recipe: nothing to do", run.out)
        drop_states(run.states)
        return PolyGene.from_pretrained(run.out)
    engine = run.engine(run.model())
    engine.learn(last_whole_state(run.states))
    return run.finish(engine)


def _compare_hosts(run: "_Run") -> None:
    """Refuse to train where the processes, on one host or several, would not do the same: another corpus or recipe."""
    with process_group() as gather:
        hosts = gather((socket.gethostname(), run.description))
    for number, (host, description) in enumerate(hosts):
        if description != hosts[0][1]:
            msg = (
                f"process {number + 1} of {len(hosts)}, on {host}, reads another version of the corpus "
                f"{run.corpus.folder} or of the recipe than the first, on {hosts[0][0]}. Copy both to every host again."
            )
            raise RecipeError(msg)


class _Run:
    """One run: `model()` is what is trained, `engine()` trains it, `finish()` makes the checkpoint."""

    def __init__(self, recipe: Recipe, start: PolyGene | None) -> None:
        self.recipe, self.start, self.corpus, self.out = recipe, start, Corpus(recipe.corpus), Path(recipe.out)
        self.validation = self.corpus.split("validation")
        self.states = self.out / "training"
        self.finished = self.states / "finished"  # a mark: the checkpoint is written
        self.description = _description(recipe, self.corpus, start)
        if self.out.resolve().is_relative_to(self.corpus.folder.resolve()):
            msg = f"{self.out} is in the corpus, and no model is written into one. Choose another `out`."
            raise RecipeError(msg)
        written = self.states / "recipe.toml"
        if written.exists() and written.read_bytes() not in (b"", self.description.encode()):
            msg = (
                f"{self.out} holds a run of another recipe, or of a corpus that was made anew since (see {written}). "
                "Choose another `out`, to train on from a model with start=…, or begin anew: restart=True (--restart)."
            )
            raise RecipeError(msg)

    def model(self) -> PolyGene:
        start = self.start and replace(self.start, network=without_regression(self.start.network))
        model = new_model(self.recipe, self.corpus) if start is None else copy_model(start, self.corpus)
        model.network.bert.gradient_checkpointing = self.recipe.training.gradient_checkpointing
        return model

    def engine(self, model: PolyGene) -> Engine:
        """Set up the engine, and write down what decides the run."""
        recipe, n_places = self.recipe, self.recipe.training.epochs * len(self.corpus.split("train"))
        arguments = trainer_arguments(recipe, self.states, n_places, validates=len(self.validation) > 0)
        cells = training_cells(recipe, self.corpus, rank=arguments.process_index, world_size=arguments.world_size)
        engine = Engine(recipe, arguments, model, cells, self.validation, loss_of(recipe, self.corpus))
        if engine.is_world_process_zero():
            self.states.mkdir(parents=True, exist_ok=True)
            write_text(self.states / "recipe.toml", self.description)
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
        """Score, calibrate and save the state that is kept."""
        trained = engine.trained()
        engine.log_once("fitting a logistic regression of the labels on the genes, which the network is joined with")
        trained = replace(trained, network=join_regression(trained.network, self.recipe, self.corpus))
        scores = engine.scores(trained)
        if scores:
            engine.log_once("kept the state of step %s: %s", engine.state.best_global_step, of_interest(scores))
        metrics = Metrics(corpus=self.corpus.summary(), validation=scores)
        trained = replace(trained, recipe=self.recipe, metrics=metrics)
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
            write_text(self.finished, "")
            drop_states(self.states)
        engine.warn_of_loss()
        engine.accelerator.wait_for_everyone()  # no process goes on before the checkpoint is there
        return trained


def _description(recipe: Recipe, corpus: Corpus, start: PolyGene | None) -> str:
    """What decides a run: its recipe, the corpus behind the name in it, and where it starts."""
    digest = sha256(corpus.folder / "corpus.json")
    text = f"{recipe.to_toml()}\n# SHA-256 of corpus.json: {digest}\n"
    if start is None:
        return text
    weights = hashlib.sha256(b"".join(one.cpu().numpy().tobytes() for one in start.network.state_dict().values()))
    return f"{text}# starts from weights of SHA-256 {weights.hexdigest()}\n"


def calibration(model: PolyGene, validation: CorpusSplit) -> Calibration:
    """Calibrate an uncalibrated model on at most MOST_CALIBRATION_CELLS validation cells, nothing being given."""
    if not len(validation):
        return Calibration()
    rows, names = spread(len(validation), MOST_CALIBRATION_CELLS), model.tokenizer.schema.names
    p_PCV = label_probabilities(model, validation.cells(rows), predict=names)
    labels = {}
    for name, p_CV, truth_C in zip(names, p_PCV, validation.labels_CP[rows].T, strict=True):
        one = calibrate(p_CV, truth_C, donor_names(validation, rows), model.at_or_below(name))
        if one is not None:
            labels[name] = one
    return Calibration(labels=labels)
