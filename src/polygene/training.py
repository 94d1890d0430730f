"""Training: the only file that knows the engine, transformers' Trainer.

The whole run is one long list of cells: place k holds cell `order(epoch)[k % n]` of epoch `k // n`. So the engine sees
a plain sequence, resuming skips the places that were done, and ranks and workers share the list without changing it.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from polygene.checkpoint import PolyGene, without_bars
from polygene.corpus import Corpus, CorpusSplit
from polygene.errors import RecipeError
from polygene.evaluation import validation_scores
from polygene.losses import PolyGeneLoss
from polygene.masking import MaskingCollator
from polygene.recipe import Recipe

log = logging.getLogger("polygene")
COMPLETE = "complete"
FORWARD = ("input_ids", "position_ids", "n_keys", "n_queries", "gene_at", "label_at", "label_phenotype")
TRUTH = ("bins", "bin_weights", "labels", "label_weights", "label_phenotype")


class TrainingCells(Dataset):
    """The cells of a whole run in the order in which they are learned, as masked batches."""

    def __init__(
        self, split: CorpusSplit, collator: MaskingCollator, *, epochs: int, seed: int, odds_C: np.ndarray | None = None
    ) -> None:
        self.split, self.collator, self.epochs, self.seed, self.odds_C = split, collator, epochs, seed, odds_C
        self.order = lru_cache(maxsize=2)(self._order)

    def __len__(self) -> int:
        return self.epochs * len(self.split)

    def _order(self, epoch: int) -> np.ndarray:
        """Return the cells of one epoch: each once, or drawn by their odds."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.odds_C is None:
            return rng.permutation(len(self.split))
        return rng.choice(len(self.split), size=len(self.split), p=self.odds_C)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[int]) -> dict[str, Tensor]:
        epochs_C, within_C = np.divmod(np.asarray(places), len(self.split))
        indices_C = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(epochs_C):
            of_epoch = epochs_C == epoch
            indices_C[of_epoch] = self.order(int(epoch))[within_C[of_epoch]]
        return self.collator(self.split.cells(indices_C), self.split.sources_C[indices_C], indices_C, epochs_C)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.order = lru_cache(maxsize=2)(self._order)


class _Engine(Trainer):
    """Trainer with our loss, our order of cells and our evaluation."""

    def __init__(self, *, loss: PolyGeneLoss, model_of: PolyGene, validation: CorpusSplit, **kwargs: Any) -> None:
        super().__init__(data_collator=_as_it_is, eval_dataset=validation, **kwargs)
        self.loss, self.model_of, self.validation = loss, model_of, validation

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)  # type: ignore[arg-type]

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
        return parts["loss"]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.model.eval()
        scores = validation_scores(
            replace(self.model_of, network=self.model), self.train_dataset.split, self.validation, self.loss.config
        )
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        return metrics


def _as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


class _Milestones(TrainerCallback):
    """Score and save at the last step too, and mark a saved state as whole."""

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_save(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class _ProgressBar(TrainerCallback):
    """Show steps, loss and cells/s while training, and a line for every evaluation."""

    def __init__(self, cells_per_step: int) -> None:
        self.cells_per_step = cells_per_step
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]} loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            transient=True,
        )

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if not state.is_world_process_zero:
            return
        self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step, speed="", loss="")
        self.first, self.started, self.paused = state.global_step, time.perf_counter(), 0.0
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
            shown = {name.removeprefix("eval_"): value for name, value in metrics.items()}
            of_interest = ", ".join(
                f"{name} {value:.3f}" for name, value in shown.items() if name == "loss" or name.endswith("macro_f1")
            )
            log.info(
                "step %d of %d, %.0f cells/s, held-out donors: %s",
                state.global_step,
                state.max_steps,
                self.speed(state),
                of_interest,
            )
            self.paused += time.perf_counter() - self.stepped

    def on_train_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            self.bar.stop()


def train(recipe: Recipe) -> PolyGene:
    """Train a model as the recipe says and write its checkpoint to `recipe.out`.

    A run that was stopped, at any moment, goes on from its last saved state when started again with the same recipe,
    and ends with the weights of a run that was never stopped. The state with the best loss on the validation cells is
    kept.

    Returns
    -------
    The model as saved: `metrics["validation"]` holds its scores.

    Raises
    ------
    RecipeError
        If `recipe.out` holds a run of another recipe, or the recipe does not fit its corpus or machine.
    CorpusError
        If the corpus cannot be read.
    """
    corpus = Corpus(recipe.corpus)
    out = Path(recipe.out)
    states = out / "training"
    _refuse_another_run(states, recipe)
    model = new_model(recipe, corpus)
    split = corpus.split("train")
    cells = TrainingCells(
        split,
        MaskingCollator(
            tokenizer=corpus.tokenizer,
            measured_SG=corpus.measured_SG,
            config=recipe.masking,
            seed=recipe.training.seed,
            class_weights=class_weights(split.labels_CP, model) if recipe.training.class_weights else None,
        ),
        epochs=recipe.training.epochs,
        seed=recipe.training.seed,
        odds_C=balancing_odds(split.labels_CP[:, corpus.tokenizer.schema.index(recipe.training.balance)])
        if recipe.training.balance
        else None,
    )
    arguments = _arguments(recipe, states, len(cells))
    if recipe.training.gradient_checkpointing:
        model.network.gradient_checkpointing_enable()
    engine = _Engine(
        model=model.network,
        args=arguments,
        train_dataset=cells,
        loss=PolyGeneLoss(
            config=recipe.loss,
            n_bins=corpus.tokenizer.binner.n_bins,
            phenotype_sizes=model.network.config.phenotype_sizes,
            years=[
                _years(corpus, phenotype.name, phenotype.ordinal) for phenotype in corpus.tokenizer.schema.phenotypes
            ],
        ),
        model_of=model,
        validation=corpus.split("validation"),
        callbacks=[
            _Milestones(),
            _ProgressBar(arguments.train_batch_size * recipe.training.accumulation * arguments.world_size),
        ],
    )
    engine.remove_callback(PrinterCallback)
    log.info(
        "training on %s (%s): %s weights, %s cells x %d epochs",
        arguments.device,
        recipe.training.precision,
        f"{sum(weights.numel() for weights in model.network.parameters()):,}",
        f"{len(split):,}",
        recipe.training.epochs,
    )
    with without_bars():
        engine.train(resume_from_checkpoint=_last_whole_state(states))
    scores = engine.evaluate()
    metrics = {"validation": {name.removeprefix("eval_"): value for name, value in scores.items()}}
    trained = replace(model, network=engine.model.eval(), recipe=recipe.to_toml(), metrics=metrics)
    if engine.is_world_process_zero():
        trained.save_pretrained(out)
    return trained


def new_model(recipe: Recipe, corpus: Corpus) -> PolyGene:
    """Make the untrained model of a recipe; its biases start at the frequencies in the training cells."""
    shape = vars(recipe.network)
    model = PolyGene.new(corpus.tokenizer, seed=recipe.training.seed, **shape)
    labels_CP = corpus.split("train").labels_CP
    counts = [
        torch.from_numpy(np.bincount(labels_CP[labels_CP[:, p] >= 0, p], minlength=n))
        for p, n in enumerate(model.network.config.phenotype_sizes)
    ]
    model.network.start_from_frequencies(torch.from_numpy(corpus.tokenizer.inverse.counts_GB), counts)
    return model


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


def _years(corpus: Corpus, name: str, ordinal: str | None) -> list[float] | None:
    return corpus.tokenizer.schema.years(name).tolist() if ordinal == "age" else None


def _arguments(recipe: Recipe, states: Path, n_cells: int) -> TrainingArguments:
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
        seed=training.seed,
        dataloader_num_workers=training.num_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="steps",
        save_strategy="steps",
        logging_steps=20,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=training.report_to,
        label_names=[],
    )
    if arguments.n_gpu > 1:
        msg = (
            f"{arguments.n_gpu} GPUs are visible to one process, which would cut the packed rows apart. "
            "Start one process a GPU: torchrun --nproc-per-node=gpu -m polygene train RECIPE.toml, "
            "or show it one GPU with CUDA_VISIBLE_DEVICES=0."
        )
        raise RecipeError(msg)
    steps = math.ceil(n_cells / (training.batch_size * training.accumulation * arguments.world_size))
    arguments.eval_steps = arguments.save_steps = max(1, math.ceil(steps / training.evaluations))
    return arguments


def _refuse_another_run(states: Path, recipe: Recipe) -> None:
    """Keep the recipe beside the saved states, and refuse to go on with another one."""
    text, kept = recipe.to_toml(), states / "recipe.toml"
    if kept.exists() and kept.read_text() != text:
        msg = (
            f"{states.parent} holds a run of another recipe (see {kept}). "
            "Choose another `out`, or delete the folder to start over."
        )
        raise RecipeError(msg)
    states.mkdir(parents=True, exist_ok=True)
    kept.write_text(text)


def _last_whole_state(states: Path) -> str | None:
    """Folder of the newest state that was saved to its end; states cut off while saving are removed."""
    whole = []
    for state in states.glob("checkpoint-*"):
        if (state / COMPLETE).exists():
            whole.append(state)
        else:
            shutil.rmtree(state)
    if not whole:
        return None
    newest = max(whole, key=lambda state: int(state.name.rpartition("-")[2]))
    log.info("resuming from %s", newest)
    return str(newest)
