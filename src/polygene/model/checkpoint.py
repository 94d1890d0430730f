"""A checkpoint: tokenizer and network in one folder (`model.folder`), also a repository of the Hugging Face Hub."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polygene.errors import CheckpointError, RecipeError, check_type
from polygene.model.calibration import Calibration
from polygene.model.card import model_card
from polygene.model.folder import (
    AGAIN,
    CALIBRATION,
    CARD,
    DECISIVE,
    HEADS,
    METRICS,
    NOVELTY,
    OPTIONAL,
    RECIPE,
    SUMS,
    verify,
)
from polygene.model.head import Head, load_heads, save_heads
from polygene.model.load import load_network, sizes_of
from polygene.model.metrics import Metrics
from polygene.model.novelty import NoveltyDetector
from polygene.model.recipe import Recipe
from polygene.model.shipped import NAMES, folder_of
from polygene.nn.config import PolyGeneConfig
from polygene.nn.network import PolyGeneModel
from polygene.runtime.atomic import atomic_update
from polygene.runtime.distributed import own_device
from polygene.runtime.files import loading, sha256
from polygene.runtime.json import write_json
from polygene.vocab.ontology import at_or_below
from polygene.vocab.tokenizer import CellTokenizer

logger = logging.getLogger("polygene")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PolyGene:
    """Tokenizer and network: everything needed to read a new AnnData and predict.

    Parameters
    ----------
    tokenizer
        Turns cells into tokens.
    network
        Predicts labels and genes from them.
    recipe
        How it was trained; None if it was not.
    metrics
        What it was trained on and what it scored.
    calibration
        Temperatures and thresholds of label sets, learned from donors that did not train.
    novelty
        Detects cells unlike any that trained it; None if it was not trained, or was trained without validation cells.
    heads
        What fine-tuning fitted, by phenotype: they predict it in place of the network.
    """

    tokenizer: CellTokenizer
    network: PolyGeneModel
    recipe: Recipe | None = None
    metrics: Metrics = field(default_factory=Metrics)
    calibration: Calibration = field(default_factory=Calibration)
    novelty: NoveltyDetector | None = None
    heads: Mapping[str, Head] = field(default_factory=dict)

    def __repr__(self) -> str:
        n_weights = sum(weights.numel() for weights in self.network.parameters())
        name = Path(self.network.name_or_path).name or "not saved"
        panel, binner, device = self.tokenizer.panel, self.tokenizer.binner, self.network.device
        calibrated = ", ".join(self.calibration.labels) or "nothing"
        return (
            f"PolyGene ({name}): {len(panel):,} genes, {binner.n_bins} {binner.kind} bins, {n_weights:,} weights on "
            f"{device}\n{self.tokenizer.schema.describe()}\n"
            f"  calibrated: {calibrated}; novelty: {'detected' if self.novelty else 'not detected'}"
        )

    def at_or_below(self, phenotype: str) -> np.ndarray | None:
        """Say which labels (columns) were trained as a part of which (rows), bool (V, V); None: each by itself."""
        if self.recipe is None or not self.recipe.loss.granularity:
            return None
        return at_or_below(phenotype, self.tokenizer.schema.labels[self.tokenizer.schema.index(phenotype)])

    @classmethod
    def new(cls, tokenizer: CellTokenizer, *, seed: int = 0, **network: Any) -> PolyGene:
        """Make an untrained model for a tokenizer; `network` are fields of BertConfig such as `hidden_size`."""
        config = PolyGeneConfig(**sizes_of(tokenizer), **network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = PolyGeneModel(config)
        return cls(tokenizer=tokenizer, network=model.eval())

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, device: str | torch.device | None = None) -> PolyGene:
        """Load a checkpoint folder, a model that ships with PolyGene, or a repository of the Hugging Face Hub.

        Parameters
        ----------
        name_or_path
            A folder, else the name of a shipped model such as "polygene-512", else "owner/name" on the Hub.
        device
            Where the network runs; the GPU of this process if there is one, else the CPU.

        Raises
        ------
        CheckpointError
            If the folder is incomplete or a file is not the one that was saved (SHA-256).
        """
        check_type("model", name_or_path, str | Path, what="a PolyGene, a folder or a name such as 'polygene-512'")
        folder = folder_of(name_or_path)
        if not folder.is_dir():
            folder = _download(str(name_or_path))
        saved = verify(folder)
        with loading(folder, CheckpointError, AGAIN):
            return cls._load(folder, saved, device or own_device())

    @classmethod
    def _load(cls, folder: Path, saved: frozenset[str], device: str | torch.device) -> PolyGene:
        tokenizer = CellTokenizer.load(folder)
        sizes = dict(zip(tokenizer.schema.names, map(len, tokenizer.schema.labels), strict=True))
        calibration = Calibration.load(folder / CALIBRATION, sizes)
        if not calibration.labels:
            logger.info("%s was not calibrated: its probabilities are as sure as training left them", folder)
        try:
            metrics = Metrics.load(folder / METRICS)
        except CheckpointError as error:  # no prediction needs them
            logger.warning("%s The model is loaded without its scores.", error)
            metrics = Metrics()
        try:
            recipe = Recipe.load(folder / RECIPE) if (folder / RECIPE).exists() else None
        except RecipeError as error:
            msg = f"{folder / RECIPE}: {error} Load it with the version of PolyGene that made it, or train it again."
            raise CheckpointError(msg) from error
        network = load_network(folder, tokenizer).to(device)
        novelty = NoveltyDetector.load(folder / NOVELTY, network.config.hidden_size) if NOVELTY in saved else None
        if novelty is not None:
            tokenizer.schema.index(novelty.query)  # an error where there is none
        return cls(
            tokenizer=tokenizer,
            network=network,
            recipe=recipe,
            metrics=metrics,
            calibration=calibration,
            novelty=novelty,
            heads=load_heads(folder / HEADS, sizes, network.config.hidden_size) if HEADS in saved else {},
        )

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the checkpoint folder; other files that are in it already stay.

        With `half`, weights are written as float16, rounded to 11 binary digits, in half the bytes.

        A failure to write leaves the checkpoint that was there as it was. The hashes are moved into place last, so that
        a kill between two moves leaves a checkpoint that `from_pretrained` refuses.
        """
        folder = Path(folder)
        with atomic_update(folder, last=SUMS) as new:
            self.network.save_pretrained(new, half=half)
            self.tokenizer.save(new)
            self.calibration.save(new / CALIBRATION)
            if self.novelty is not None:
                self.novelty.save(new / NOVELTY)
            if self.heads:
                save_heads(self.heads, new / HEADS)
            write_json(new / METRICS, self.metrics.to_dict())
            if self.recipe is not None:
                (new / RECIPE).write_text(self.recipe.to_toml(), encoding="utf-8")
            (new / CARD).write_text(model_card(self), encoding="utf-8")
            decisive = [*DECISIVE, *(name for name in OPTIONAL if (new / name).exists())]
            sums = "".join(f"{sha256(new / name)}  {name}\n" for name in decisive)
            (new / SUMS).write_text(sums, encoding="utf-8")
            for name in OPTIONAL:  # of another model that was here
                if not (new / name).exists():
                    (folder / name).unlink(missing_ok=True)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload the checkpoint to the Hugging Face Hub and return its address; you must be logged in there."""
        from huggingface_hub import HfApi

        api = HfApi()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder)
        return str(url)


def _download(name: str) -> Path:
    """Fetch a checkpoint from the Hub; its folder in the local cache."""
    from huggingface_hub import snapshot_download  # only here: it takes a moment to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        msg = (
            f"There is no checkpoint {name!r}: it is no folder here, no model that ships with PolyGene "
            f"({', '.join(NAMES)}), and the Hugging Face Hub answers: {reason}. "
            "Give the folder that `polygene train` wrote, one of these names, or 'owner/name' on the Hub."
        )
        raise CheckpointError(msg) from error
