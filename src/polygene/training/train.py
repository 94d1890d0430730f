"""Training: the only file that knows the engine, transformers' Trainer.

The whole run is one long list of cells: place k holds cell `order(epoch)[k % n]` of epoch `k // n`. The list is cut
into batches, and each batch into one part a process. So the engine sees a plain sequence of batches, resuming skips
those that were done, and processes and workers share the list without changing it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.errors import RecipeError, RunEndedError
from polygene.evaluation.evaluate import validation_scores
from polygene.evaluation.novelty import learn_novelty
from polygene.evaluation.test_cells import named
from polygene.model.calibration import Calibration, calibrate
from polygene.model.checkpoint import PolyGene, without_bars
from polygene.model.inference import label_probabilities
from polygene.model.masking import MaskingCollator
from polygene.model.metrics import Metrics
from polygene.model.recipe import Recipe
from polygene.nn.losses import PolyGeneLoss, gene_targets
from polygene.nn.network import PolyGeneModel
from polygene.runtime.subsample import spread
from polygene.vocab.cell_ontology import at_or_below

log = logging.getLogger("polygene")
MOST_CALIBRATION_CELLS = 20_000
COMPLETE, FINISHED = "complete", "finished"
"""Marks: a saved state that is whole, a run whose checkpoint is written."""
FORWARD = (
    "input_ids",
    "position_ids",
    "token_type_ids",
    "n_keys",
    "n_queries",
    "gene_at",
    "label_at",
    "label_phenotype",
    "unmeasured",
)
TRUTH = ("bins", "bin_weights", "labels", "label_weights", "label_phenotype")


class TrainingCells(Dataset):
    """The cells of a whole run in the order in which they are learned, as the masked batches of one process.

    The loss of a step is the mean over its cells. The engine takes the mean over batches and processes instead, so a
    batch says its `share`: how many of the cells of the step it holds, 1 if all batches of the step have equally many.
    """

    def __init__(
        self,
        split: CorpusSplit,
        collator: MaskingCollator,
        *,
        epochs: int,
        seed: int,
        batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        odds_C: np.ndarray | None = None,
    ) -> None:
        self.split, self.collator, self.seed, self.odds_C = split, collator, seed, odds_C
        self.n_places, self.width, self.accumulation = epochs * len(split), batch_size * world_size, accumulation
        self.rank, self.world_size = rank, world_size
        self.order = lru_cache(maxsize=2)(self._order)

    def __len__(self) -> int:
        return math.ceil(self.n_places / self.width)

    def _order(self, epoch: int) -> np.ndarray:
        """Return the cells of one epoch: each once, or drawn by their odds."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.odds_C is None:
            return rng.permutation(len(self.split))
        return rng.choice(len(self.split), size=len(self.split), p=self.odds_C)

    def __getitem__(self, batch: int) -> dict[str, Tensor]:
        first = batch * self.width
        n_cells = min(self.width, self.n_places - first)
        mine = [first + n_cells * rank // self.world_size for rank in (self.rank, self.rank + 1)]
        share = (mine[1] - mine[0]) * self.world_size / self._cells_per_batch(batch)
        # A process without a cell takes part all the same, or the others would wait: with a cell that does not count.
        places_C = np.arange(mine[0], mine[1]) if mine[1] > mine[0] else np.array([first])
        epochs_C, within_C = np.divmod(places_C, len(self.split))
        indices_C = np.empty_like(places_C)
        for epoch in np.unique(epochs_C):
            of_epoch = epochs_C == epoch
            indices_C[of_epoch] = self.order(int(epoch))[within_C[of_epoch]]
        made = self.collator(self.split.cells(indices_C), self.split.sources_C[indices_C], indices_C, epochs_C)
        return made | {"share": torch.tensor(share)}

    def _cells_per_batch(self, batch: int) -> float:
        """Cells of all processes in a batch, averaged over the batches of the same step."""
        first = batch // self.accumulation * self.accumulation
        last = min(first + self.accumulation, len(self))
        return (min(last * self.width, self.n_places) - first * self.width) / (last - first)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.order = lru_cache(maxsize=2)(self._order)


class _Engine(Trainer):
    """Trainer with our loss, our order of cells and our evaluation."""

    def __init__(self, *, loss: PolyGeneLoss, model_of: PolyGene, validation: CorpusSplit, **kwargs: Any) -> None:
        super().__init__(eval_dataset=validation, **kwargs)
        self.loss, self.model_of, self.validation = loss, model_of, validation

    def get_train_dataloader(self) -> DataLoader:
        """Give this process its batches; accelerate would fill up an uneven last one with cells that were learned."""
        return DataLoader(
            self.train_dataset,
            collate_fn=_the_only,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        answers = model(**{name: inputs[name] for name in FORWARD})
        parts = self.loss(
            gene_logits=answers.gene_logits,
            label_logits=answers.label_logits,
            n_cells=len(inputs["n_keys"]),
            **{name: inputs[name] for name in TRUTH},
        )
        return parts["loss"] * inputs["share"]

    def trained(self) -> PolyGene:
        """Give the model with the weights as they are; where processes share them out (FSDP), with a copy of all."""
        network: Any = self.model
        if self.is_fsdp_enabled:
            weights = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True))
            network = PolyGeneModel(self.model_of.network.config).to(self.args.device)
            network.load_state_dict(weights)
        return replace(self.model_of, network=network.eval())

    def scores(self) -> dict[str, float]:
        """Score the weights as they are on the validation cells."""
        return validation_scores(self.trained(), self.train_dataset.split, self.validation, self.loss.config)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = {f"eval_{name}": value for name, value in self.scores().items()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        return metrics


def _the_only(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return batches[0]


class _States(TrainerCallback):
    """Score and save at the last step too; keep the newest and the best of the saved states.

    The engine would remove old states before the new one is marked as whole, and a kill in between could leave none.
    """

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step >= state.max_steps:
            control.should_save = True
            control.should_evaluate = args.load_best_model_at_end

    def on_save(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if args.world_size > 1:
            torch.distributed.barrier()  # the other ranks have written their part
        if not state.is_world_process_zero:
            return
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (newest / COMPLETE).touch()
        kept = {newest.name, Path(state.best_model_checkpoint or newest).name}
        for old in newest.parent.glob("checkpoint-*"):
            if old.name not in kept:
                shutil.rmtree(old)


class _ProgressBar(TrainerCallback):
    """Show steps, loss and cells/s while training, and a line for every evaluation."""

    def __init__(self, cells_per_step: int) -> None:
        self.cells_per_step = cells_per_step
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]} loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if not state.is_world_process_zero:
            return
        self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step, speed="", loss="")
        self.first, self.paused = state.global_step, 0.0
        self.started = self.stepped = time.perf_counter()
        self.bar.start()

    def speed(self, state: Any) -> float:
        """Cells trained a second, evaluations left out."""
        seconds = time.perf_counter() - self.started - self.paused
        return (state.global_step - self.first) * self.cells_per_step / max(seconds, 1e-9)

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            self.bar.update(self.task, completed=state.global_step, speed=f"{self.speed(state):,.0f} cells/s")
            self.stepped = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero and "loss" in (logs or {}):
            self.bar.update(self.task, loss=f"{float(logs['loss']):.3f}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            log.info(
                "step %d of %d, %.0f cells/s, validation cells: %s",
                state.global_step,
                state.max_steps,
                self.speed(state),
                _of_interest({name.removeprefix("eval_"): value for name, value in metrics.items()}),
            )
            self.paused += time.perf_counter() - self.stepped


def _of_interest(scores: Mapping[str, float]) -> str:
    """Name the scores that are looked at while waiting."""
    shown = {name: value for name, value in scores.items() if name == "loss" or name.endswith("macro_f1")}
    return ", ".join(f"{name} {value:.3f}" for name, value in shown.items())


def train(recipe: Recipe, *, start: PolyGene | None = None) -> PolyGene:
    """Train a model as the recipe says and write its checkpoint to `recipe.out`.

    A run that was stopped, at any moment, goes on from its last saved state when started again with the same recipe,
    and ends with the weights of a run that was never stopped; one that had ended is only loaded. The state with the
    best loss on the validation cells is kept, without validation cells the last one. The same cells calibrate it: they
    chose among a few states, which flatters the calibration by less than donors differ.

    Parameters
    ----------
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
    corpus = Corpus(recipe.corpus)
    out = Path(recipe.out)
    states = out / "training"
    run = _description(recipe, corpus, start)
    _refuse_another_run(states, run)
    if (states / FINISHED).exists():
        log.info("%s holds the finished run of this recipe: nothing to do", out)
        _drop_states(states)
        return PolyGene.from_pretrained(out)
    model = new_model(recipe, corpus) if start is None else _copy(start, corpus)
    validation = corpus.split("validation")
    n_places = recipe.training.epochs * len(corpus.split("train"))
    arguments = _arguments(recipe, states, n_places, validates=len(validation) > 0)
    cells = _training_cells(recipe, corpus, model, arguments)
    if recipe.training.gradient_checkpointing:
        network: Any = model.network  # transformers renamed the method, and warns of the old name
        getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)()
    progress = _ProgressBar(arguments.train_batch_size * recipe.training.accumulation * arguments.world_size)
    engine = _Engine(
        model=model.network,
        args=arguments,
        train_dataset=cells,
        loss=_loss(recipe, corpus),
        model_of=model,
        validation=validation,
        callbacks=[_States(), progress, *_loggers(recipe.training.report_to)],
    )
    engine.remove_callback(PrinterCallback)
    say = log.info if engine.is_world_process_zero() else log.debug
    if engine.is_world_process_zero():
        _write_down(states, run)
    if not len(validation):
        log.warning(
            "the corpus has no validation cells: nothing is scored, the last state is kept, "
            "and the model will not tell cells unlike its training cells"
        )
    say(
        "training on %s (%s): %s weights, %s cells x %d epochs",
        arguments.device,
        recipe.training.precision,
        f"{sum(weights.numel() for weights in model.network.parameters() if weights.requires_grad):,}",
        f"{len(cells.split):,}",
        recipe.training.epochs,
    )
    try:
        with without_bars():
            engine.train(resume_from_checkpoint=_last_whole_state(states))
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or "by peer" in str(error)  # as NCCL and gloo say it
        if arguments.world_size == 1 or not lost:
            raise
        msg = "another process of this run ended, see its message; the same command goes on from the last saved state"
        raise RunEndedError(msg) from error
    finally:
        progress.bar.stop()
    scores = engine.scores()
    if scores:
        say("kept the state of step %s: %s", engine.state.best_global_step, _of_interest(scores))
    metrics = Metrics(corpus=corpus.summary(), validation=scores)
    trained = replace(engine.trained(), recipe=recipe, metrics=metrics)
    trained = replace(trained, calibration=calibration(trained, validation))
    for name, one in trained.calibration.labels.items():
        say(
            "%s: temperature %.2f from %s cells of %d %ss; log loss %.3f, was %.3f",
            name, one.temperature, f"{one.cells:,}", one.units, one.unit, one.log_loss, one.log_loss_before,
        )  # fmt: skip
    if len(validation):
        novelty = learn_novelty(trained, cells.split, validation, seed=recipe.training.seed)
        trained = replace(trained, novelty=novelty)
    if engine.is_world_process_zero():
        trained.save_pretrained(out)
        (states / FINISHED).touch()
        _drop_states(states)
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
            probabilities_CV, validation.labels_CP[rows, p], named(validation, rows), model.at_or_below(name)
        )
        for p, (name, probabilities_CV) in enumerate(zip(names, answers, strict=True))
    }
    return Calibration(labels={name: one for name, one in found.items() if one is not None})


def new_model(recipe: Recipe, corpus: Corpus) -> PolyGene:
    """Make the untrained model of a recipe; its biases start at the frequencies in the training cells."""
    shape, n_bins = vars(recipe.network), corpus.tokenizer.binner.n_bins
    targets = gene_targets(n_bins, recipe.loss).tolist() if n_bins > 2 and recipe.loss.smoothing else None
    model = PolyGene.new(corpus.tokenizer, seed=recipe.training.seed, bin_targets=targets, **shape)
    labels_CP = corpus.split("train").labels_CP
    tables = label_tables(corpus, recipe)
    counts = [
        torch.from_numpy(spread_counts(np.bincount(labels_CP[labels_CP[:, p] >= 0, p], minlength=n), tables[p]))
        for p, n in enumerate(model.network.config.phenotype_sizes)
    ]
    model.network.start_from_frequencies(torch.from_numpy(corpus.tokenizer.inverse.counts_GB), counts)
    return model


def label_tables(corpus: Corpus, recipe: Recipe) -> list[np.ndarray | None]:
    """Give for each phenotype which labels are at or below which, where the recipe trains labels so."""
    schema = corpus.tokenizer.schema
    if not recipe.loss.granularity:
        return [None] * len(schema.names)
    return [at_or_below(name, labels) for name, labels in zip(schema.names, schema.labels, strict=True)]


def spread_counts(counts_V: np.ndarray, at_or_below_VV: np.ndarray | None) -> np.ndarray:
    """Spread the cells of each label over the labels at and below it, as these have cells of their own.

    It is what the network is trained towards: a cell labelled "T cell" is a cell of some finer label too.
    """
    if at_or_below_VV is None:
        return counts_V
    share_VV = at_or_below_VV * (counts_V + 0.5)
    spread_V: np.ndarray = counts_V @ (share_VV / share_VV.sum(axis=1, keepdims=True))
    return spread_V


def _copy(start: PolyGene, corpus: Corpus) -> PolyGene:
    """Give a model whose weights may change, and that knows nothing of how sure the other one was."""
    if corpus.tokenizer.fingerprint() != start.tokenizer.fingerprint():
        msg = f"{corpus.folder} was made with another tokenizer than the model's: make it with `prepare(tokenizer=…)`."
        raise RecipeError(msg)
    network = deepcopy(start.network).requires_grad_(True)
    return replace(start, network=network, calibration=Calibration(), novelty=None)


def class_weights(labels_CP: np.ndarray, model: PolyGene) -> list[np.ndarray | None]:
    """Weights of each phenotype's labels against their frequency; their mean over the labelled cells is 1."""
    weights: list[np.ndarray | None] = []
    for p, n_labels in enumerate(model.network.config.phenotype_sizes):
        given = labels_CP[labels_CP[:, p] >= 0, p]
        counts_V = np.maximum(np.bincount(given, minlength=n_labels), 1)
        weights.append(len(given) / (max(np.count_nonzero(np.bincount(given)), 1) * counts_V) if len(given) else None)
    return weights


def balancing_odds(labels_C: np.ndarray) -> np.ndarray:
    """Odds of drawing each cell such that all labels are drawn equally often, cells without a label as one more."""
    _, inverse_C, counts = np.unique(labels_C, return_inverse=True, return_counts=True)
    odds_C = 1.0 / counts[inverse_C]
    return odds_C / odds_C.sum()


def _training_cells(recipe: Recipe, corpus: Corpus, model: PolyGene, arguments: TrainingArguments) -> TrainingCells:
    """Lay out the cells of the run for this process, masked, weighted and drawn as the recipe says."""
    split, training = corpus.split("train"), recipe.training
    odds_C = None
    if training.balance:
        odds_C = balancing_odds(split.labels_CP[:, corpus.tokenizer.schema.index(training.balance)])
    collator = MaskingCollator(
        tokenizer=corpus.tokenizer,
        measured_SG=corpus.measured_SG,
        config=recipe.masking,
        seed=training.seed,
        class_weights=class_weights(split.labels_CP, model) if training.class_weights else None,
    )
    return TrainingCells(
        split,
        collator,
        epochs=training.epochs,
        seed=training.seed,
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        rank=arguments.process_index,
        world_size=arguments.world_size,
        odds_C=odds_C,
    )


def _loss(recipe: Recipe, corpus: Corpus) -> PolyGeneLoss:
    """Make the loss of the recipe for the bins and labels of the corpus."""
    schema = corpus.tokenizer.schema
    return PolyGeneLoss(
        config=recipe.loss,
        n_bins=corpus.tokenizer.binner.n_bins,
        phenotype_sizes=[len(labels) for labels in schema.labels],
        years=[schema.years(one.name).tolist() if one.ordinal == "age" else None for one in schema.phenotypes],
        at_or_below=[None if one is None else torch.from_numpy(one) for one in label_tables(corpus, recipe)],
    )


def _loggers(name: str) -> list[TrainerCallback]:
    """Make the loggers of a recipe's `report_to`."""
    try:
        return [logger() for logger in get_reporting_integration_callbacks(name)]
    except (ValueError, RuntimeError, ImportError) as error:
        msg = f'training.report_to = {name!r} cannot be used: {error} Or write "none".'
        raise RecipeError(msg) from error


def _arguments(recipe: Recipe, states: Path, n_places: int, *, validates: bool) -> TrainingArguments:
    """Translate the recipe into the engine's words."""
    training = recipe.training
    arguments = TrainingArguments(
        output_dir=str(states),
        num_train_epochs=1,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=training.warmup,
        bf16=training.precision == "bfloat16",
        use_cpu=not torch.accelerator.is_available(),  # unless this is said, the engine refuses bfloat16 on CPUs
        seed=training.seed,
        dataloader_num_workers=training.num_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="steps" if validates else "no",
        save_strategy="steps",
        logging_steps=20,
        load_best_model_at_end=validates,
        metric_for_best_model="loss" if validates else None,
        greater_is_better=False if validates else None,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",  # `_loggers` makes them
        label_names=[],
        ddp_find_unused_parameters=False,  # every head enters every loss
    )
    if arguments.n_gpu > 1:
        msg = (
            f"{arguments.n_gpu} GPUs are visible to one process, which would cut the packed rows apart. "
            "Start one process a GPU: torchrun --nproc-per-node=gpu -m polygene train RECIPE.toml, "
            "or show it one GPU with CUDA_VISIBLE_DEVICES=0."
        )
        raise RecipeError(msg)
    steps = math.ceil(n_places / (training.batch_size * training.accumulation * arguments.world_size))
    arguments.eval_steps = arguments.save_steps = max(1, math.ceil(steps / training.evaluations))
    return arguments


def _description(recipe: Recipe, corpus: Corpus, start: PolyGene | None) -> str:
    """Write down what decides a run: its recipe, the corpus behind the name in it, and where it starts."""
    digest = hashlib.sha256((corpus.folder / "corpus.json").read_bytes()).hexdigest()
    text = f"{recipe.to_toml()}\n# SHA-256 of corpus.json: {digest}\n"
    if start is None:
        return text
    weights = hashlib.sha256(b"".join(one.cpu().numpy().tobytes() for one in start.network.state_dict().values()))
    return f"{text}# starts from weights of SHA-256 {weights.hexdigest()}\n"


def _refuse_another_run(states: Path, run: str) -> None:
    """Refuse to go on with another recipe, or another corpus, than the one written down beside the states."""
    kept = states / "recipe.toml"
    if kept.exists() and kept.read_text(encoding="utf-8") != run:
        msg = (
            f"{states.parent} holds a run of another recipe, or of a corpus that was made anew since (see {kept}). "
            "Choose another `out`, or delete the folder to start over."
        )
        raise RecipeError(msg)


def _write_down(states: Path, run: str) -> None:
    """Write the description of a run, whole or not at all."""
    states.mkdir(parents=True, exist_ok=True)
    part = states / ".recipe.toml"
    part.write_text(run, encoding="utf-8")
    part.replace(states / "recipe.toml")


def _last_whole_state(states: Path) -> str | None:
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


def _drop_states(states: Path) -> None:
    """Remove the states of a run whose checkpoint is written; they are pickled, and larger than it."""
    for state in states.glob("checkpoint-*"):
        shutil.rmtree(state, ignore_errors=True)
