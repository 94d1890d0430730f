"""The recipe: one TOML file, one set of frozen dataclasses.

A key that is unknown is an error that names the nearest one; a key that is accepted acts.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

from polygene.errors import RecipeError
from polygene.model.masking import MaskingConfig
from polygene.nn.losses import LossConfig
from polygene.runtime.toml import build, check_bounds, read_toml, write_toml

MANY = 1_000_001
"""Above any number of epochs, of layers or of cells in a batch that makes sense."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the encoder, in the words of Hugging Face's BertConfig.

    With `unmeasured_vectors`, the network is given which panel genes the cells' file did not measure.
    """

    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 512
    hidden_dropout_prob: float = 0.1
    unmeasured_vectors: bool = True

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        check_bounds("network", self, **dict.fromkeys(sizes, (1, MANY)), hidden_dropout_prob=(0, 1))
        if self.hidden_size % self.num_attention_heads:
            msg = (
                f"network.hidden_size = {self.hidden_size} cannot be shared among num_attention_heads = "
                f"{self.num_attention_heads}: choose a multiple."
            )
            raise RecipeError(msg)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how fast to learn.

    Parameters
    ----------
    epochs
        Passes over the training cells.
    batch_size
        Cells a step on each process.
    accumulation
        Batches whose gradients are summed before a step.
    learning_rate, warmup, weight_decay
        AdamW with a peak rate, the share of steps that lead up to it, then a cosine to zero.
    evaluations
        How often within the run the validation donors are scored and a checkpoint is kept.
    save_minutes
        Minutes after which a state is saved between evaluations too; 0: with evaluations only.
    precision
        "bfloat16" runs matrix products in half precision (GPUs, and CPUs with AMX); "float32" is exact.
    class_weights
        Weigh labels against their frequency in the phenotype loss (and in the baselines).
    gradient_checkpointing
        Trade time for memory.
    num_workers
        Processes that prepare batches; changes nothing but speed.
    report_to
        Loggers of transformers' Trainer: "none", "tensorboard", "wandb", …
    seed
        Decides the first weights, the order of cells, what is masked, and dropout.
    """

    epochs: int = 20
    batch_size: int = 64
    accumulation: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    evaluations: int = 10
    save_minutes: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    class_weights: bool = False
    gradient_checkpointing: bool = False
    num_workers: int = 0
    report_to: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        check_bounds(
            "training",
            self,
            **dict.fromkeys(("epochs", "batch_size", "accumulation", "evaluations"), (1, MANY)),
            learning_rate=(1e-12, inf),
            save_minutes=(0, inf),
            warmup=(0, 1),
            weight_decay=(0, inf),
            num_workers=(0, 1_000),
            seed=(0, 2**32),
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Recipe:
    """Everything that makes a checkpoint from a corpus.

    Parameters
    ----------
    corpus
        Folder written by `polygene prepare`; relative to where the command runs.
    out
        Folder of the checkpoint.
    network, masking, loss, training
        See `NetworkConfig`, `MaskingConfig`, `LossConfig`, `TrainingConfig`.
    """

    corpus: str
    out: str
    network: NetworkConfig = field(default_factory=NetworkConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __repr__(self) -> str:
        lines = [f"Recipe: {self.corpus} to {self.out}"]
        for name in ("network", "masking", "loss", "training"):
            settings = ", ".join(f"{key} {value}" for key, value in vars(getattr(self, name)).items() if value != "")
            lines += textwrap.wrap(f"{name}: {settings}", 110, initial_indent="  ", subsequent_indent="    ")
        return "\n".join(lines)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a TOML file.

        Raises
        ------
        RecipeError
            If the file is no TOML, a key is unknown or missing, or a value is of another type.
        """
        return build(cls, read_toml(path))

    def to_toml(self) -> str:
        """Write every field, so that the text alone makes the same checkpoint again."""
        return write_toml(asdict(self))
