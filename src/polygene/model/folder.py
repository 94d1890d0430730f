"""The files of a checkpoint folder, checked before any is used; without torch, so that `polygene info` checks them too.

::

    config.json  model.safetensors   the network; computes in float32 however its weights are stored
    tokenizer.json  genes.tsv        bins, slots, phenotypes; the panel
    tokenizer.safetensors            the values that bins stand for
    calibration.json                 temperatures, and thresholds of label sets
    novelty.safetensors              clusters of the training cells; only where validation cells set a threshold
    heads.safetensors                what fine-tuning fitted, with the names of the genes it reads; only where it did
    recipe.toml  metrics.json        how it was trained, what it scored
    README.md                        model card
    SHA256SUMS                       of the files that decide a prediction
"""

from pathlib import Path
from typing import Any

from polygene.errors import CheckpointError
from polygene.runtime.files import check_regular, loading, parse_json, read_text, sha256
from polygene.vocab.tokenizer import FILES

CONFIG, WEIGHTS, SUMS, CARD = "config.json", "model.safetensors", "SHA256SUMS", "README.md"
CALIBRATION, NOVELTY, RECIPE, METRICS = "calibration.json", "novelty.safetensors", "recipe.toml", "metrics.json"
DECISIVE = (CONFIG, WEIGHTS, *FILES, CALIBRATION)
"""Files that every checkpoint has and that decide a prediction."""
HEADS = "heads.safetensors"
OPTIONAL = (NOVELTY, HEADS, RECIPE)
"""Files that decide predictions where they are there."""
LOADABLE = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".gguf", ".onnx"),
    *(".index.json", ".py", ".so"),
)
"""Endings of files from which some loader takes weights or code."""
LARGEST_HEADER = 1_000_000
"""Bytes of the header of model.safetensors: about 10,000 tensors."""
AGAIN = "get the checkpoint again, whole"


def verify(folder: Path) -> frozenset[str]:
    """Refuse a folder that is not the checkpoint that was saved; names of the files whose hashes were saved.

    A file is missing, is not the one of its hash, lies outside the folder behind a link, or is a foreign one that a
    loader could take weights or code from.
    """
    with loading(folder, CheckpointError, AGAIN):
        return _verify(folder)


def _is_there(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _verify(folder: Path) -> frozenset[str]:
    known = {*DECISIVE, *OPTIONAL, METRICS, CARD, SUMS}
    for path in sorted(folder.iterdir()):
        if path.name in known:
            _check_place(folder, path)
        elif path.name.endswith(LOADABLE) or path.name.startswith("adapter_"):
            msg = f"{path} is no file of a PolyGene checkpoint, and weights or code could come from it: move it away."
            raise CheckpointError(msg)
    config = folder / CONFIG
    if _is_there(config) and '"unmeasured_vectors"' not in read_text(config):
        msg = (
            f"{folder} is a checkpoint of version 0.1 of PolyGene, whose networks did not know which genes a file "
            "measured. This version does not read it: train it again from its recipe.toml, or use version 0.1."
        )
        raise CheckpointError(msg)
    sums = read_text(folder / SUMS) if (folder / SUMS).is_file() else ""
    saved = {name: digest for digest, _, name in (line.partition("  ") for line in sums.splitlines())}
    decisive = [*DECISIVE, *(name for name in OPTIONAL if name in saved)]
    missing = [name for name in (*decisive, SUMS) if not _is_there(folder / name)]
    if missing:
        again = "Copy the whole folder again, or give the folder that `polygene train` wrote."
        if (folder / "training").is_dir() and not (folder / "training" / "finished").exists():
            again = "Its training has not ended: the same command goes on from the last saved state."
        msg = f"{folder} is not a complete PolyGene checkpoint: {', '.join(missing)} missing or empty. {again}"
        raise CheckpointError(msg)
    for name in (NOVELTY, HEADS):
        if name not in saved and (folder / name).exists():
            msg = f"{folder / name} is not listed in {SUMS}, so it is of another model: move it away."
            raise CheckpointError(msg)
    if not sums.endswith("\n") or set(saved) != set(decisive):
        differ = ", ".join(sorted(set(saved) ^ set(decisive))) or "its end"
        msg = f"{folder / SUMS} was cut off or altered, see {differ}: {AGAIN}."
        raise CheckpointError(msg)
    for name in decisive:
        if sha256(folder / name) != saved[name]:
            msg = (
                f"{folder / name} is not the file that was saved: its SHA-256 differs from the one in {SUMS}. "
                "It was altered or copied incompletely; get the checkpoint again."
            )
            raise CheckpointError(msg)
    return frozenset(saved)


def _check_place(folder: Path, path: Path) -> None:
    """Refuse a link that leads out of the folder, and what is no regular file."""
    home = folder.resolve()
    # the Hub's cache keeps the files of a snapshot beside it, behind links
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if path.is_symlink() and not any(path.resolve().is_relative_to(one) for one in homes):
        msg = f"{path} is a link to {path.resolve()}, outside of the checkpoint: copy the file itself into the folder."
        raise CheckpointError(msg)
    if path.exists():
        check_regular(path)


def tensors(file: Path) -> dict[str, Any]:
    """Read the header of a .safetensors: shape, dtype and place of each tensor by name, without the tensors."""
    with file.open("rb") as opened:
        n_bytes = int.from_bytes(opened.read(8), "little")
        if n_bytes > LARGEST_HEADER:
            msg = f"{file} has a header of {n_bytes:,} bytes, and no network of PolyGene has more than a million."
            raise CheckpointError(msg)
        header: dict[str, Any] = parse_json(opened.read(n_bytes))
    header.pop("__metadata__", None)
    return header
