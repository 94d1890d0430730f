"""TOML to dataclasses: what fits, and what is said of what does not."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from polygene.errors import RecipeError
from polygene.runtime.toml import build, read_toml, write_toml


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    n: int = 1
    on: bool = False
    kind: Literal["a", "b"] = "a"
    maybe: str | None = None
    words: Sequence[str] = ()
    shares: tuple[float, float] = (0.5, 0.5)
    columns: Mapping[str, str] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


FULL = Outer(
    name='a "quoted" \\ name',
    n=3,
    on=True,
    kind="b",
    maybe="x",
    words=("one", "two"),
    shares=(0.25, 0.75),
    columns={"sex": "sex_inferred"},
    inner=Inner(rate=0.1),
)


@pytest.mark.parametrize("value", [Outer(name="plain"), FULL], ids=["defaults", "everything"])
def test_what_is_written_reads_back_the_same(value: Outer, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(write_toml(asdict(value)), encoding="utf-8")
    assert build(Outer, read_toml(tmp_path / "x.toml")) == value


def test_a_whole_number_serves_where_a_number_is_wanted() -> None:
    assert build(Outer, {"name": "x", "inner": {"rate": 1}}).inner.rate == 1.0


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"nane": "x"}, "unknown key nane: did you mean name"),
        ({"name": "x", "inner": {"rte": 1}}, "did you mean inner.rate"),
        ({"name": "x", "zzz": 1}, "possible are columns, inner, kind"),
        ({}, "lacks name"),
        ({"name": 3}, "name is 3; it must be text"),
        ({"name": "x", "n": 1.5}, "n is 1.5; it must be a whole number"),
        ({"name": "x", "n": True}, "it must be a whole number"),
        ({"name": "x", "on": 1}, "it must be true or false"),
        ({"name": "x", "kind": "c"}, "it must be 'a' or 'b'"),
        ({"name": "x", "maybe": 1}, "it must be text"),
        ({"name": "x", "words": "one"}, "it must be a list of text"),
        ({"name": "x", "shares": [1.0]}, "it must be a list of 2 numbers"),
        ({"name": "x", "columns": ["sex"]}, r"it must be a table \[columns\]"),
        ({"name": "x", "inner": 1}, r"it must be a table \[inner\]"),
    ],
)
def test_what_does_not_fit_is_said(table: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        build(Outer, table)


@pytest.mark.parametrize("content", [None, b"name = ", b"\xff\xfe"], ids=["missing", "no TOML", "no text"])
def test_a_file_that_is_no_toml_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"x\.toml cannot be read"):
        read_toml(path)
