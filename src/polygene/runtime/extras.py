"""Optional packages: which extra of pyproject.toml installs each, and an error that names it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from polygene.errors import MissingExtraError

EXTRA_OF = {
    "accelerate": "train",
    "skmisc": "train",
    "sklearn": "train",
    "threadpoolctl": "train",
    "igraph": "report",
    "jinja2": "report",
    "markupsafe": "report",
    "matplotlib": "report",
    "scanpy": "report",
    "aiohttp": "remote",
    "tiledbsoma": "soma",
    "fastapi": "app",
    "umap": "app",
    "uvicorn": "app",
    "networkx": "analysis",
    "powerlaw": "analysis",
    "scib_metrics": "bench",
}
"""Extra by the module that it brings; every module that is not in the base dependencies is here."""


def load(module: str) -> ModuleType:
    """Import a module; MissingExtraError names the extra that installs what it lacks."""
    collects = gc.isenabled()
    gc.disable()  # to look for garbage among what imports make, all of which stays, takes a fifth of the time
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if found := missing(error):
            raise found from error
        raise
    finally:
        (gc.enable if collects else gc.disable)()


def require(*packages: str) -> None:
    """Raise MissingExtraError if one of these packages is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise _error(package)


def missing(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Say which extra brings the module that was not found; None where none does."""
    package = (error.name or "").partition(".")[0]
    return _error(package) if package in EXTRA_OF else None


def lazy(module_of: Mapping[str, str], package: str) -> Callable[[str], object]:
    """Make the `__getattr__` of a package whose public names are loaded on first use (PEP 562)."""

    def getattr_of_package(name: str) -> object:
        if name not in module_of:
            msg = f"module {package!r} has no attribute {name!r}; its public names are {', '.join(module_of)}"
            raise AttributeError(msg)
        return getattr(load(module_of[name]), name)

    return getattr_of_package


def _error(package: str) -> MissingExtraError:
    install = f"pip install 'polygene[{EXTRA_OF[package]}]'"
    return MissingExtraError(f"This needs the package {package}, which is not installed. Install it with: {install}")
