"""The models that ship inside the package, each a checkpoint folder that is written by `benchmarks/models/ship.py`."""

from pathlib import Path

NAMES = ("polygene-512", "polygene-2432")
"""Named by the genes of their panels."""
DEFAULT = "polygene-512"
"""The model of a verb or command that names none."""
MODELS = Path(__file__).parents[1] / "models"
MOST_BYTES = 25_000_000
"""No file of a shipped model is larger: the package stays a quick download."""


def folder_of(name_or_path: str | Path) -> Path:
    """Where a model is: a folder if there is one of this path, else that of the shipped model of this name, if any."""
    path = Path(name_or_path)
    return MODELS / path if str(path) in NAMES and not path.is_dir() else path
