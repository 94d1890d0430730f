"""Every error a user can cause, each with a message that says what is wrong, what was given and what to do."""

import difflib
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from types import UnionType


class PolyGeneError(ValueError):
    """The root of them all; the command line prints its message and exits with code 2."""


class GeneError(PolyGeneError):
    """The genes of a file cannot be used: numbers for names, another species, too few of the panel."""


class ScaleError(PolyGeneError):
    """The expression values are neither counts nor log1p values: negative, NaN, infinite."""


class PhenotypeError(PolyGeneError):
    """A phenotype is missing, or a label is not in the vocabulary."""


class ColumnError(PolyGeneError):
    """A column that was named, or that the task needs, is not in the table; `missing_column` makes it."""


class CorpusError(PolyGeneError):
    """A corpus folder is broken, truncated, or was made with another tokenizer."""


class RecipeError(PolyGeneError):
    """A recipe holds an unknown key or a wrong value."""


class CheckpointError(PolyGeneError):
    """A checkpoint folder is incomplete or was altered."""


class DataError(PolyGeneError):
    """The data are no AnnData, are empty, or lack what the task needs; or an argument is of no use here."""


class OutputError(PolyGeneError):
    """The place for an output exists, is written by another process, or cannot be written."""


class RunEndedError(PolyGeneError):
    """Another process of the run ended, so this one cannot go on."""


class MissingExtraError(PolyGeneError, ImportError):
    """A package that only some tasks need is not installed; the message names the extra that brings it."""


MOST_SUMS = 4e9  # bytes


def check_sums(n_bytes: float, n_donors: int) -> None:
    """Refuse sums of each donor that would fill the memory: so many donors are mostly names of cells."""
    if n_bytes > MOST_SUMS:
        msg = (
            f"The sums of {n_donors:,} donors, or donors within groups, would take {n_bytes / 1e9:,.0f} GB. If the "
            "donors' column names cells, give another one; else give fewer cells, genes or groups at a time."
        )
        raise DataError(msg)


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Refuse a value of an argument that is none of the choices."""
    if value not in (allowed := list(choices)):
        msg = f"{name} is one of {', '.join(map(str, allowed))}; got {value!r}."
        raise DataError(msg)


def check_names(name: str, value: object) -> list[str]:
    """Return the names in an argument, which is one or several; refuse anything else, a mapping too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Iterable) and not isinstance(value, Mapping):
        names = list(value)
        if all(isinstance(one, str) for one in names):
            return names
    msg = f"{name} is a name or a list of names; got {value!r}."
    raise DataError(msg)


def check_type(name: str, value: object, kind: type | UnionType, *, what: str) -> None:
    """Refuse a value of an argument that is not of this kind, which `what` names."""
    if not isinstance(value, kind):
        msg = f"{name} is {what}; got {value!r:.200}."
        raise DataError(msg)


def is_number(value: object, *, whole: bool = False) -> bool:
    """Whether a value is a number of Python or numpy."""
    return isinstance(value, Integral if whole else Real)


def check_number(name: str, value: float, least: float, most: float, *, what: str) -> None:
    """Refuse a value of an argument that is no number, or outside of these bounds, which `what` names."""
    if not is_number(value) or not least <= value <= most:
        msg = f"{name} is {what}; got {value!r}."
        raise DataError(msg)


def missing_column(column: str, columns: Iterable[object], *, of: str, holds: str = "", do: str = "") -> ColumnError:
    """Make the error for a column that is not there; it names the nearest columns, or the first ten.

    Parameters
    ----------
    columns
        The columns that exist.
    of
        The file or object whose `obs` was searched.
    holds, do
        What the column would hold, and what to pass or change.
    """
    names = list(dict.fromkeys(map(str, columns)))
    near = difflib.get_close_matches(str(column), names, n=3)
    others = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"It has {others or 'no columns'}."
    what = f", which should hold {holds}" if holds else ""
    return ColumnError(f"{of} has no column {column!r} in obs{what}. {hint} {do}".rstrip())


def repeated_column(column: object, *, of: str = "obs") -> ColumnError:
    """Make the error for a column whose name is there more than once."""
    return ColumnError(f"{of} has several columns {column!r}, and it is not clear which is meant: rename or drop some.")
