"""TOML to frozen dataclasses and back.

An unknown key is an error that names the nearest one; a value of another type, one that names the right type.
"""

import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from polygene.errors import RecipeError, is_number
from polygene.runtime.files import read_text

T = TypeVar("T")
LARGEST = 1_000_000  # bytes of a TOML file

WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file; RecipeError where it cannot be read or is no TOML."""
    try:
        return tomllib.loads(read_text(Path(path), LARGEST))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        msg = f"{path} cannot be read: {error}."
        raise RecipeError(msg) from error


def write_toml(plain: Mapping[str, Any]) -> str:
    """Write values, then one section for each table; what is None is left out."""
    text = partial(json.dumps, ensure_ascii=False)  # JSON writes text, numbers, booleans and lists as TOML does
    given = {key: value for key, value in plain.items() if value is not None}
    lines = [f"{key} = {text(value)}" for key, value in given.items() if not isinstance(value, Mapping)]
    for key, section in given.items():
        if isinstance(section, Mapping):
            lines += ["", f"[{key}]", *(f"{inner} = {text(value)}" for inner, value in section.items())]
    return "\n".join(lines) + "\n"


def build(kind: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """Make a dataclass from a table; RecipeError names a key that is unknown or missing, or a value of another type."""
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
    missing = [
        where + f.name
        for f in fields(kind)  # type: ignore[arg-type]
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        msg = f"The recipe lacks {', '.join(missing)}."
        raise RecipeError(msg)
    return kind(**values)


def check_bounds(section: str, config: Any, **bounds: tuple[float, float]) -> None:
    """Refuse a configuration one of whose numbers is not within its bounds: at least the first, below the second."""
    for name, (least, limit) in bounds.items():
        value, kind = getattr(config, name), type(getattr(type(config), name))  # that of the default
        if not is_number(value, whole=kind is int) or not least <= value < limit:
            below = "finite" if limit == math.inf else f"below {limit:,g}"
            msg = f"{section}.{name} = {value!r}: it must be {WORDS[kind]}, at least {least:,g} and {below}."
            raise RecipeError(msg)


def _checked(hint: Any, value: Any, path: str) -> Any:
    kind, inner = get_origin(hint), get_args(hint)
    if kind is UnionType:  # a value or None, which TOML does not have
        return _checked(inner[0], value, path)
    if is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value, f"{path}.")  # type: ignore[arg-type]
    if kind is Mapping and isinstance(value, Mapping):
        return {key: _checked(inner[1], one, f"{path}.{key}") for key, one in value.items()}
    if kind is Sequence and isinstance(value, list | tuple):
        return tuple(_checked(inner[0], one, path) for one in value)
    if kind is tuple and isinstance(value, list | tuple) and len(value) == len(inner):
        return tuple(_checked(want, one, path) for want, one in zip(inner, value, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    if (kind is Literal and value in inner) or type(value) is hint:
        return value
    msg = f"The recipe's {path} is {value!r}; it must be {_expected(hint, path)}."
    raise RecipeError(msg)


def _expected(hint: Any, path: str) -> str:
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return " or ".join(map(repr, inner))
    if is_dataclass(hint) or kind is Mapping:
        return f"a table [{path}]"
    if kind is Sequence:
        return f"a list of {WORDS[inner[0]]}"
    if kind is tuple:
        return f"a list of {len(inner)} numbers"
    return WORDS[hint]
