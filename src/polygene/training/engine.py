"""The engine: transformers' Trainer with our loss, our order of cells and our evaluation."""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from polygene.corpus.corpus import CorpusSplit
from polygene.errors import RecipeError, RunEndedError
from polygene.evaluation.validation import validation_scores
from polygene.model.checkpoint import PolyGene
from polygene.model.load import network_of
from polygene.model.recipe import Recipe
from polygene.nn.losses import PolyGeneLoss
from polygene.runtime.atomic import writing
from polygene.runtime.files import read_json
from polygene.runtime.progress import progress
from polygene.runtime.ranks import world_size
from polygene.training.data import TrainingCells
from polygene.training.states import mark_whole

log = logging.getLogger("polygene")
FAR = 2.0  # times the untrained loss: on PBMC 3k learning rates to 0.03 reach 1.3 of it, 0.1 1.5, 0.3 5 and 1 54
DO = "Lower training.learning_rate or raise training.warmup, and begin anew: restart=True (--restart), or another out."
PATIENCE = 300  # seconds after which a silent process counts as lost: a host without power closes no connection
FORWARD = (
    *("input_ids", "position_ids", "token_type_ids", "n_keys", "n_queries"),
    *("gene_at", "label_at", "label_phenotype", "unmeasured"),
)
TRUTH = ("bins", "bin_weights", "labels", "label_weights", "label_phenotype")


class Engine(Trainer):
    """Trainer with our loss, our order of cells and our evaluation; its dataset holds whole batches."""

    def __init__(
        self,
        recipe: Recipe,
        args: TrainingArguments,
        model: PolyGene,
        cells: TrainingCells,
        validation: CorpusSplit,
        loss: PolyGeneLoss,
    ) -> None:
        self.loss, self.model_of, self.validation = loss, model, validation
        cells_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.bar = _ProgressBar(cells_per_step, args.device)
        callbacks = [_States(60 * recipe.training.save_minutes), self.bar, *_loggers(recipe.training.report_to)]
        super().__init__(model.network, args, train_dataset=cells, eval_dataset=validation, callbacks=callbacks)
        self.remove_callback(PrinterCallback)

    def log_once(self, message: str, *values: object) -> None:
        """Log a line once, by the first of the processes."""
        (log.info if self.is_world_process_zero() else log.debug)(message, *values)

    def learn(self, state: str | None) -> None:
        """Train to the end, from a saved state if there is one, which as many processes saved."""
        if state is not None:
            begun = read_json(Path(state) / "trainer_state.json")["max_steps"]
            n_steps = -(-len(self.train_dataset) // self.args.gradient_accumulation_steps)
            if begun != n_steps:
                msg = (
                    f"{state} is of a run of {begun:,} steps, and with {self.args.world_size} processes these are "
                    f"{n_steps:,}: start as many processes as began it, or begin anew: restart=True (--restart)."
                )
                raise RecipeError(msg)
        try:
            with writing(Path(self.args.output_dir), "what was saved is whole: make room, the same command goes on"):
                self.train(resume_from_checkpoint=state)
        except RuntimeError as error:
            silent = "Timed out" in str(error)  # as gloo says it, or a connection that it closed
            lost = silent or isinstance(error, torch.distributed.DistError) or "by peer" in str(error)
            if self.args.world_size == 1 or not lost:
                raise
            what = f"was silent for {PATIENCE} seconds" if silent else "ended, see its message"
            msg = f"another process of this run {what}; the same command goes on from the last saved state"
            raise RunEndedError(msg) from error
        finally:
            self.bar.shown.close()
        self._check_weights()

    def _check_weights(self) -> None:
        if not self.is_fsdp_enabled and not all(weights.isfinite().all() for weights in self.model.parameters()):
            raise _diverged(self.state.global_step)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Write numbers down; a loss that is none ends the run."""
        if not all(math.isfinite(float(logs.get(name, 0.0))) for name in ("loss", "eval_loss")):
            raise _diverged(self.state.global_step)
        super().log(logs, *args, **kwargs)

    def warn_of_loss(self) -> None:
        """Warn of a loss that was far above the first one, though all weights are numbers."""
        losses = [logs[name] for logs in self.state.log_history for name in ("loss", "eval_loss") if name in logs]
        if losses and max(losses) > FAR * losses[0] and self.is_world_process_zero():
            what = "the run seems to have diverged: its loss rose from %.3g to %.3g, so expect little of the model. %s"
            log.warning(what, losses[0], max(losses), DO)

    def get_train_dataloader(self) -> DataLoader:
        """Give this process its batches; accelerate would fill up an uneven last one with cells that were learned."""
        return DataLoader(
            self.train_dataset,
            collate_fn=itemgetter(0),  # the dataset holds whole batches
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Weigh the mean over the cells of a batch by the batch's share of the step."""
        predicted = model(**{name: inputs[name] for name in FORWARD})
        parts = self.loss(
            gene_logits=predicted.gene_logits,
            label_logits=predicted.label_logits,
            n_cells=len(inputs["n_keys"]),
            **{name: inputs[name] for name in TRUTH},
        )
        return parts["loss"] * inputs["share"]

    def trained(self) -> PolyGene:
        """Give the model with the weights as they are; where processes share them out (FSDP), with a copy of all."""
        network: Any = self.model
        if self.is_fsdp_enabled:
            weights = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True))
            network = network_of(self.model_of.network.config).to(self.args.device)
            network.load_state_dict(weights)
        return replace(self.model_of, network=network.eval())

    def scores(self, model: PolyGene | None = None) -> dict[str, float]:
        """Score a model on the validation cells, or the weights as they are."""
        model = model or self.trained()
        return validation_scores(model, self.train_dataset.split, self.validation, self.loss.config)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the validation cells in our own loop, which the engine then compares."""
        self._check_weights()
        metrics = {f"eval_{name}": value for name, value in self.scores().items()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        return metrics


def _diverged(step: int) -> RecipeError:
    return RecipeError(f"The run diverged: at step {step:,} its loss or its weights are no numbers. {DO}")


class _States(TrainerCallback):
    """Score and save at the last step too; keep those of the saved states that a run may go on from.

    The engine would remove old states before the new one is marked as whole, and a kill in between could leave none.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.saved = seconds, time.monotonic()  # a state is saved after so many, 0: not by the clock

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.saved = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if self.seconds:  # the clock of the first process decides for all, which must save together
            due = torch.tensor(int(time.monotonic() - self.saved >= self.seconds), device=args.device)
            if args.world_size > 1:
                torch.distributed.broadcast(due, 0)
            control.should_save |= bool(due)
        if state.global_step >= state.max_steps:
            control.should_save = True
            control.should_evaluate = args.load_best_model_at_end

    def on_save(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.saved = time.monotonic()
        if args.world_size > 1:
            torch.distributed.barrier()  # the other ranks have written their part
        if not state.is_world_process_zero:
            return
        mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class _ProgressBar(TrainerCallback):
    """Show cells, speed and loss while training, and a line for every evaluation."""

    def __init__(self, cells_per_step: int, device: object) -> None:
        self.cells_per_step, self.device, self.shown = cells_per_step, device, ExitStack()

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        left = (state.max_steps - state.global_step) * self.cells_per_step  # a run that goes on has done some
        if state.is_world_process_zero:
            self.advance = self.shown.enter_context(progress(left, done="trained", device=self.device, every=600))
            self.stepped = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            self.advance(self.cells_per_step)
            self.stepped = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero and "loss" in (logs or {}):
            self.advance(0, f"loss {float(logs['loss']):.3f}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            speed = self.advance.speed()
            scores = of_interest({name.removeprefix("eval_"): value for name, value in metrics.items()})
            log.info("step %d of %d, %s, validation cells: %s", state.global_step, state.max_steps, speed, scores)
            self.advance(0, idle=time.perf_counter() - self.stepped)


def of_interest(scores: Mapping[str, float]) -> str:
    """Name the scores that are looked at while waiting."""
    shown = {name: f"{value:.3f}" for name, value in scores.items() if name == "loss" or name.endswith("macro_f1")}
    for name in shown:
        if n_labels := scores.get(f"{name.removesuffix('macro_f1')}labels"):
            shown[name] += f" of {n_labels:.0f} labels"
    return ", ".join(f"{name} {text}" for name, text in shown.items())


def _loggers(name: str) -> list[TrainerCallback]:
    try:
        return [logger() for logger in get_reporting_integration_callbacks(name)]
    except (ValueError, RuntimeError, ImportError) as error:
        msg = f'training.report_to = {name!r} cannot be used: {error} Or write "none".'
        raise RecipeError(msg) from error


def trainer_arguments(recipe: Recipe, states: Path, n_places: int, *, validates: bool) -> TrainingArguments:
    """Translate the recipe into the engine's words."""
    training, cpu = recipe.training, not torch.accelerator.is_available()
    if cpu and world_size() > 1 and not torch.distributed.is_initialized():  # the engine would give gloo half an hour
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE))
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
        use_cpu=cpu,  # without this the engine refuses bfloat16 on CPUs
        seed=training.seed,
        dataloader_num_workers=training.num_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="steps" if validates else "no",
        save_strategy="steps",
        logging_steps=20,
        logging_first_step=True,  # what `warn_of_loss` compares with
        logging_nan_inf_filter=False,  # a loss that is no number ends the run
        load_best_model_at_end=validates,
        metric_for_best_model="loss" if validates else None,
        greater_is_better=False if validates else None,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",  # `_loggers` makes them
        label_names=[],
        ddp_timeout=PATIENCE,
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
