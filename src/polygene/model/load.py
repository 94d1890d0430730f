"""The network of a checkpoint folder: its sizes are compared before memory is taken, and nothing else is opened."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from polygene.errors import CheckpointError
from polygene.model.folder import AGAIN, CONFIG, WEIGHTS, tensors
from polygene.nn.config import PolyGeneConfig
from polygene.nn.network import PolyGeneModel
from polygene.runtime.files import read_json
from polygene.vocab.tokenizer import CellTokenizer

LARGEST_CONFIG = 4_000_000  # bytes: targets of 256 × 256 bins


def sizes_of(tokenizer: CellTokenizer) -> dict[str, Any]:
    """Give the fields of a network's config that its tokenizer decides."""
    return {
        "n_genes": len(tokenizer.panel),
        "n_bins": tokenizer.binner.n_bins,
        "phenotype_sizes": [len(labels) for labels in tokenizer.schema.labels],
        "n_added": len(tokenizer.schema.phenotypes) - tokenizer.schema.n_leading,
        "vocab_size": tokenizer.n_tokens,
        "max_position_embeddings": tokenizer.n_slots,
    }


def network_of(config: PolyGeneConfig) -> PolyGeneModel:
    """Make a network that gets its weights from another one; torch's random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        return PolyGeneModel(config)


class _NoFirstWeights(TorchFunctionMode):
    """Leave out drawing first weights, for which torch would import its compiler where tensors have no memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def load_network(folder: Path, tokenizer: CellTokenizer) -> PolyGeneModel:
    """Load config.json and model.safetensors, and no other file."""
    given = {"label_regression": False} | read_json(folder / CONFIG, LARGEST_CONFIG)  # networks were made without it
    header = tensors(folder / WEIGHTS)
    _check_sizes(folder, given, header, tokenizer)
    # A network is made by these keys of config.json; all others are as transformers sets them.
    config = PolyGeneConfig(**{one.name: given[one.name] for one in fields(PolyGeneConfig)})
    usual = config.to_dict()
    free = {"dtype", "architectures", "transformers_version", "use_cache"}  # change no prediction
    if odd := [name for name in given if name in usual and name not in free and given[name] != usual[name]]:
        msg = f"{folder / CONFIG} sets {odd[0]} = {given[odd[0]]!r}, which no network of PolyGene has: {AGAIN}."
        raise CheckpointError(msg)
    with torch.device("meta"), _NoFirstWeights():  # shapes without memory
        network = PolyGeneModel(config)
    shapes = {name: list(one.shape) for name, one in network.state_dict().items()}
    there = {name: one["shape"] for name, one in header.items()}
    if unlike := sorted(name for name in shapes | there if shapes.get(name) != there.get(name)):
        msg = (
            f"{folder} holds weights of another PolyGene: {', '.join(unlike[:3])} differ. "
            "Load it with the version that made it, or train it again."
        )
        raise CheckpointError(msg)
    weights = {name: one.float() for name, one in load_file(folder / WEIGHTS).items()}
    if broken := [name for name, one in weights.items() if not one.isfinite().all()]:
        msg = f"{folder / WEIGHTS} holds values of {broken[0]} that are no numbers: {AGAIN}."
        raise CheckpointError(msg)
    network.load_state_dict(weights, assign=True)
    network.name_or_path = str(folder)
    return network.eval()


def _check_sizes(folder: Path, given: dict[str, Any], header: dict[str, Any], tokenizer: CellTokenizer) -> None:
    """Refuse a config whose sizes are not those of the tokenizer and of the weights."""
    n_layers = sum(name.endswith(".attention.self.query.weight") for name in header)
    sizes = sizes_of(tokenizer) | {"num_hidden_layers": n_layers}
    for name, size in sizes.items():
        if given[name] != size:
            what = "weights" if name == "num_hidden_layers" else "tokenizer"
            msg = f"{folder / CONFIG} says {name} = {str(given[name])[:80]}, and the {what} have {size}: {AGAIN}."
            raise CheckpointError(msg)
    width, n_heads = given["hidden_size"], given["num_attention_heads"]
    if n_heads < 1 or width % n_heads:
        msg = f"{folder / CONFIG} says num_attention_heads = {n_heads}, among which {width} cannot be shared."
        raise CheckpointError(msg)
