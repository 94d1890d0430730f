"""What a model was trained on and what it scored: the file metrics.json of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polygene.errors import CheckpointError
from polygene.runtime.files import read_json


@dataclass(frozen=True, kw_only=True, repr=False)
class Metrics:
    """What a model was trained on and what it scored.

    Attributes
    ----------
    corpus
        Cells and donors of each source by split, see `Corpus.summary`.
    validation
        Scores on the validation cells by name, before calibration.
    test
        What `polygene evaluate` found on the test cells.
    finetuned
        The column, cells and donors of a fine-tuning, and its scores on held-out donors.
    """

    corpus: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)
    finetuned: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = {name: score for name, score in self.validation.items() if name == "loss" or "macro_f1" in name}
        scores = ", ".join(f"{name} {score:.3f}" for name, score in shown.items())
        return f"Metrics: {', '.join(self.to_dict()) or 'none'}{f'; validation {scores}' if scores else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return what metrics.json holds: the fields that are not empty."""
        return {name: value for name, value in vars(self).items() if value}

    @classmethod
    def load(cls, path: Path) -> Metrics:
        """Read metrics.json; a file that is not there has no metrics.

        Raises
        ------
        CheckpointError
            The file is broken.
        """
        if not path.exists():
            return cls()
        try:
            fields = read_json(path)
            if not all(isinstance(one, dict) for one in fields.values()):
                msg = "its fields are tables"
                raise TypeError(msg)
            return cls(**fields)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            msg = f"{path} is broken ({error}): copy it again from where it was made."
            raise CheckpointError(msg) from error
