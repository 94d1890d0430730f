"""Make what the README shows again, after a model or the demo changed: both pictures and the printed table.

    python -m recipes.readme

docs/demo.png is the demo's picture. docs/scores.png draws the scores of the shipped model's metrics.json, which
`python -m benchmarks.models --write` stores; where it has none, those of new studies in docs/models.md. The table is
what the README's Python prints. No data are needed.
"""

import contextlib
import io
import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MODEL = "polygene-512"
EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<printed>.*?)```\n", re.DOTALL)
"""The first Python of the README and what it prints."""
WHO = {
    "macro_f1": ("PolyGene", "o", "#D55E00"),
    "logistic regression": ("logistic regression", "s", "#0072B2"),
    "CellTypist": ("CellTypist", "^", "#009E73"),
    "nearest profile": ("nearest profile", "v", "#CC79A7"),
    "k-nearest neighbours": ("k-nearest neighbours", "D", "#999999"),
}
"""Predictor in metrics.json → its name, marker and colour (Okabe and Ito)."""


def printed(code: str) -> str:
    """Run Python and give what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def example(text: str) -> re.Match[str]:
    """Find the README's first Python and the text under it."""
    found = EXAMPLE.search(text)
    if found is None:
        msg = "README.md has no ```python block with a ```text block under it"
        raise ValueError(msg)
    return found


def scores_picture(marks: Mapping[str, Mapping[str, Mapping[str, float]]], studies: Mapping[str, str]) -> Figure:
    """Draw macro-F1 of cell types, a row a study, new studies above those with held-out donors."""
    rows = [
        (name, marks[name]["cell_type"]) for name in studies if "macro_f1" in marks.get(name, {}).get("cell_type", {})
    ]
    figure = Figure(figsize=(7.5, 1.0 + 0.36 * len(rows)), layout="constrained", dpi=130, facecolor="white")
    axis = figure.subplots()
    heights = list(range(len(rows)))[::-1]
    for who, (name, marker, colour) in reversed(WHO.items()):
        at = [(of_study[who], y) for (_, of_study), y in zip(rows, heights, strict=True) if who in of_study]
        if at:
            ours = who == "macro_f1"
            x, y = zip(*at, strict=True)
            axis.scatter(x, y, s=90 if ours else 42, marker=marker, c=colour, label=name, zorder=3 if ours else 2)
    axis.set_yticks(heights, [studies[name] for name, _ in rows])
    axis.set(xlim=(0, 1.02), ylim=(-0.6, len(rows) - 0.4), xlabel="macro-F1 of cell types, from expression alone")
    _plain(axis)
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside upper center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def new_studies_picture(page: str) -> Figure:
    """Draw the accuracies in docs/models.md on studies never seen: a model, and the one before it."""
    (table, *_) = re.findall(r"^\| study never seen \|[^|\n]*\|[^|\n]*\|\n(?:\|.*\n)+", page, re.MULTILINE)
    head, _, *body = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    figure = Figure(figsize=(7.5, 0.9 + 0.36 * len(body)), layout="constrained", dpi=130, facecolor="white")
    axis = figure.subplots()
    heights = list(range(len(body)))[::-1]
    values = [[float(cell.split(maxsplit=1)[0]) for cell in row[1:]] for row in body]
    axis.hlines(heights, *zip(*values, strict=True), color="#CCCCCC", linewidth=2, zorder=1)
    for column, (size, colour) in enumerate(((42, "#999999"), (90, "#D55E00"))):
        label = f"polygene-512 of {head[1 + column]}"
        axis.scatter([row[column] for row in values], heights, s=size, c=colour, label=label, zorder=2)
    axis.set_yticks(heights, [row[0] for row in body])
    axis.set(xlim=(0, 1.02), ylim=(-0.6, len(body) - 0.4), xlabel="share of cells right, by the ontology")
    _plain(axis)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def _plain(axis: Axes) -> None:
    axis.grid(axis="both", color="#E6E6E6", zorder=0)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(length=0)


def studies() -> dict[str, str]:
    """Name the studies that test: those never seen, then those with held-out donors."""
    sources = tomllib.loads((ROOT / "recipes/corpus/sources.toml").read_text(encoding="utf-8"))["source"]
    files = tomllib.loads((ROOT / "benchmarks/data.toml").read_text(encoding="utf-8"))["file"]
    of_file = {one["name"]: re.split(r" et al\.|,|\(", one.get("study", one["name"]))[0].strip() for one in files}
    found = {}
    for role, said in (("external", "new study"), ("split", "held-out donors")):
        for one in sources:
            if one["role"] == role:
                found[one["name"]] = f"{NAMES.get(one['name'], of_file.get(one['name'], one['name']))}: {said}"
    return found


NAMES = {
    "pbmc3k_10x": "Blood, PBMC 3k",
    "tcells_wu2020_200": "Tumour T cells, Wu 2020",
    "heart_san_kanemaru": "Heart, Kanemaru 2023",
    "tumour_immune_spectra": "Tumour immune cells",
    "kidney_immune_stewart": "Kidney immune cells, Stewart 2019",
    "velmeshev_asd_pfc_glia": "Brain, Velmeshev 2019",
    "onek1k_scdesignpop_multicell": "Blood, OneK1K 2022",
    "perez_sle_healthy_tcells": "T cells, Perez 2022",
    "pancreas_panc8_small": "Pancreas, panc8",
    "pancreas_baron_175": "Pancreas, Baron 2016",
}
"""Sources as the picture names them; others by their authors."""


def main() -> None:
    from rich.console import Console

    from polygene.cli.demo import run

    console = Console(width=120)
    with tempfile.TemporaryDirectory() as scratch:
        for thing in run(Path(scratch) / "demo", model=MODEL):
            console.print(thing)
        shutil.copy(Path(scratch) / "demo" / "demo.png", ROOT / "docs" / "demo.png")
    metrics: dict[str, Any] = json.loads((ROOT / "src/polygene/models" / MODEL / "metrics.json").read_text())
    if "marks" in metrics:
        picture = scores_picture(metrics["marks"], studies())
    else:
        picture = new_studies_picture((ROOT / "docs" / "models.md").read_text(encoding="utf-8"))
    picture.savefig(ROOT / "docs" / "scores.png")
    text = README.read_text(encoding="utf-8")
    found = example(text)
    start, end = found.span("printed")
    README.write_text(text[:start] + printed(found["code"]) + text[end:], encoding="utf-8")
    console.print("made docs/demo.png, docs/scores.png and the table of README.md")


if __name__ == "__main__":
    main()
