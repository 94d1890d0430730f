"""Make what the pages show again, after a model, a benchmark or the demo changed: pictures, tables and numbers.

    python -m recipes.readme

docs/demo.png is the demo's picture. docs/scores.png draws what `python -m benchmarks.models.never_seen` and
`python -m benchmarks.models.external` keep in benchmarks/results. The table is what the README's Python prints. The
numbers and tables of all pages follow (`python -m recipes.pages` writes them alone). No data are needed.
"""

import contextlib
import io
import json
import re
import shutil
import tempfile
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
MODEL = "polygene-512"
EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<printed>.*?)```\n", re.DOTALL)
"""The first Python of the README and what it prints."""
WHO = {
    "PolyGene": ("PolyGene", "o", "#D55E00", 90),
    "logistic regression, panel": ("logistic regression", "s", "#0072B2", 42),
    "nearest profile": ("nearest profile", "v", "#CC79A7", 42),
}
"""Method → its name, marker, colour (Okabe and Ito) and size."""
STUDIES = {
    "pbmc3k_10x": "blood, PBMC 3k",
    "heart_san_kanemaru": "heart nuclei, Kanemaru 2023",
    "kidney_immune_stewart_external": "kidney immune cells, Stewart 2019",
    "tumour_immune_spectra": "tumour immune cells",
    "tcells_wu2020_200": "tumour T cells, Wu 2020",
    "covid_tcells_trex": "T cells of a COVID-19 patient",
}


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


def scores(model: str) -> pd.DataFrame:
    """Gather the kept accuracies by ontology on studies never seen: the model and the usual methods, a row a study."""
    ours, others = (json.loads((RESULTS / f"{name}.json").read_text())["rows"] for name in ("never_seen", "external"))
    rows = [row for row in ours if row["score"] == "types, by ontology" and row["model"] == model]
    table = pd.DataFrame([{"method": "PolyGene", **row} for row in rows] + others)
    return table.pivot(index="study", columns="method", values="accuracy").loc[list(STUDIES)]


def scores_picture(table: pd.DataFrame) -> Figure:
    """Draw the accuracy of each method (columns) on each study (rows)."""
    figure = Figure(figsize=(7.5, 1.0 + 0.36 * len(table)), layout="constrained", dpi=130, facecolor="white")
    axis = figure.subplots()
    heights = list(range(len(table)))[::-1]
    for who, (name, marker, colour, size) in WHO.items():  # the largest marker first, lest it hides another
        if who in table:
            axis.scatter(table[who], heights, s=size, marker=marker, c=colour, label=name, zorder=2)
    axis.set_yticks(heights, [STUDIES.get(name, name) for name in table.index])
    axis.set(
        xlim=(0, 1.02), ylim=(-0.6, len(table) - 0.4), xlabel="share of cells whose type is right, by the ontology"
    )
    _plain(axis)
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def _plain(axis: Axes) -> None:
    axis.grid(axis="both", color="#E6E6E6", zorder=0)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(length=0)


def main() -> None:
    from rich.console import Console

    from polygene.cli.demo import run
    from recipes import pages

    console = Console(width=120)
    with tempfile.TemporaryDirectory() as scratch:
        for thing in run(Path(scratch) / "demo", model=MODEL):
            console.print(thing)
        shutil.copy(Path(scratch) / "demo" / "demo.png", ROOT / "docs" / "demo.png")
    scores_picture(scores(MODEL)).savefig(ROOT / "docs" / "scores.png")
    text = README.read_text(encoding="utf-8")
    found = example(text)
    start, end = found.span("printed")
    README.write_text(text[:start] + printed(found["code"]) + text[end:], encoding="utf-8")
    console.print("made docs/demo.png, docs/scores.png and the table of README.md")
    pages.main()


if __name__ == "__main__":
    main()
