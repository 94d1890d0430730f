"""The recipe: one TOML file, one set of frozen dataclasses.

A key that is unknown is an error that names the nearest one; a key that is accepted acts.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from polygene.errors import RecipeError
from polygene.losses import LossConfig
from polygene.masking import MaskingConfig

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the encoder, in the words of Hugging Face's BertConfig."""

    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 512
    hidden_dropout_prob: float = 0.1

    def __post_init__(self) -> None:
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
    precision
        "bfloat16" runs matrix products in half precision (GPUs, and CPUs with AMX); "float32" is exact.
    class_weights
        Weigh labels against their frequency in the phenotype loss (and in the baselines).
    balance
        Name of a phenotype whose labels are drawn equally often; empty: every cell once an epoch.
    gradient_checkpointing
        Trade time for memory.
    num_workers
        Processes that prepare batches; changes nothing but speed.
    report_to
        Loggers of transformers' Trainer: "none", "tensorboard", "wandb", …
    seed
        Decides the first weights, the order of cells, what is hidden, and dropout.
    """

    epochs: int = 20
    batch_size: int = 64
    accumulation: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    evaluations: int = 10
    precision: Literal["float32", "bfloat16"] = "float32"
    class_weights: bool = False
    balance: str = ""
    gradient_checkpointing: bool = False
    num_workers: int = 0
    report_to: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "evaluations"):
            if getattr(self, name) < 1:
                msg = f"training.{name} = {getattr(self, name)}: it must be at least 1."
                raise RecipeError(msg)


@dataclass(frozen=True, kw_only=True)
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

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a TOML file.

        Raises
        ------
        RecipeError
            If the file is no TOML, a key is unknown or missing, or a value is of another type.
        """
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            msg = f"The recipe {path} cannot be read: {error}."
            raise RecipeError(msg) from error
        return build(cls, table)

    def to_toml(self) -> str:
        """Write every field, so that the text alone makes the same checkpoint again."""
        plain = asdict(self)
        lines = [f"{name} = {_toml(value)}" for name, value in plain.items() if not isinstance(value, dict)]
        for name, section in plain.items():
            if isinstance(section, dict):
                lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in section.items())]
        return "\n".join(lines) + "\n"


def build(kind: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """Make a dataclass from a table, checking every name and type on the way."""
    hints = get_type_hints(kind)
    values = {}
    for key, value in table.items():
        path = f"{where}{key}"
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"possible are {', '.join(sorted(hints))}."
            msg = f"The recipe has the unknown key {path}: {hint}"
            raise RecipeError(msg)
        values[key] = _checked(hints[key], value, path)
    missing = [f.name for f in fields(kind) if f.name not in values and _required(f)]  # type: ignore[arg-type]
    if missing:
        msg = f"The recipe lacks {', '.join(where + name for name in missing)}."
        raise RecipeError(msg)
    return kind(**values)


def _required(f: Any) -> bool:
    from dataclasses import MISSING

    return f.default is MISSING and f.default_factory is MISSING


def _checked(hint: Any, value: Any, path: str) -> Any:
    """Return the value as its field wants it, or say what it should have been."""
    if is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value, f"{path}.")  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        expected = " or ".join(map(repr, get_args(hint)))
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif type(value) is hint:
        return value
    else:
        expected = f"a table [{path}]" if is_dataclass(hint) else getattr(hint, "__name__", str(hint))
    msg = f"The recipe's {path} is {value!r}; it must be {expected}."
    raise RecipeError(msg)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
