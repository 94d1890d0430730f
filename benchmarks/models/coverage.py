"""What a prediction is worth when a file measures a part of the panel, and how many genes go by another name.

    python -m benchmarks.models.coverage --data DIR --plot coverage.png

First part: the model that ships annotates cells of studies that trained nothing (at most 300 of each, evenly spread)
with a part of the panel genes that the file measures: drawn at random several times, or a whole block, such as the
least variable ones (the harder case: the most variable ones are gone). Shown are accuracy and macro-F1 by the ontology,
and the share that is left of the macro-F1 of all measured genes. The share of the random draws, averaged over studies,
and that of the least variable genes in the worst study, never rising as genes go, are the curve
`polygene.vocab.gene_matching.KEPT`.
Second part: the panels that ship are looked for in every file, with and without HGNC's other names. The last line is
one JSON object.
"""

import argparse
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import sparse

from benchmarks.models import corpus as making
from benchmarks.models.external import by_ontology
from benchmarks.shared import command, effort, files
from polygene.errors import GeneError
from polygene.io.read import open_cells
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.model.shipped import NAMES
from polygene.runtime.subsample import spread
from polygene.vocab.cells import EncodedCells
from polygene.vocab.ontology import reported_labels

STUDIES = ("pbmc3k_10x", "kidney_immune_stewart_external", "heart_san_kanemaru")
SHARES = (1.0, 0.75, 0.5, 0.3, 0.2, 0.1, 0.05)
MOST = 300
"""Cells of a study."""
WORST = "least variable"


def measuring(model: PolyGene, cells: EncodedCells, measured_G: np.ndarray) -> EncodedCells:
    """Encode the cells again as if the file had only these genes."""
    shape = (len(cells), len(measured_G))
    values_CG = sparse.csr_matrix((cells.values_N, cells.genes_N.astype(np.int32), cells.offsets_C1), shape)
    return model.tokenizer.encode_values(values_CG[:, np.flatnonzero(measured_G)], measured_G, cells.labels_CP)


def score(model: PolyGene, cells: EncodedCells, truth: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro-F1 of the reported cell types, by the ontology."""
    labels = model.tokenizer.schema.labels[model.tokenizer.schema.index("cell_type")]
    p_CV = label_probabilities(model, cells, predict=["cell_type"])[0]
    reported_CV = np.eye(len(labels))[reported_labels(p_CV, model.at_or_below("cell_type"))]
    scores = by_ontology(reported_CV, labels, truth)
    return {
        "accuracy": scores["accuracy"],
        "macro_f1": scores["macro_f1"],
        "cells_without_genes": float((np.diff(cells.offsets_C1) == 0).mean()),
    }


def curve(model: PolyGene, cells: EncodedCells, truth: Sequence[str], draws: int, seed: int) -> pd.DataFrame:
    """Score the cells at every share of the panel genes that their file measures."""
    rng, measured = np.random.default_rng(seed), np.flatnonzero(cells.measured_G)
    rows = []
    for share in SHARES:
        n = round(share * len(measured))
        kept = [("random", rng.choice(measured, n, replace=False)) for _ in range(draws if share < 1 else 1)]
        if share < 1:
            kept += [(WORST, measured[-n:]), ("most variable", measured[:n])]
        for kind, genes in kept:
            found = score(model, measuring(model, cells, np.isin(np.arange(len(cells.measured_G)), genes)), truth)
            rows.append({"genes": kind, "coverage": share, **found})
    return pd.DataFrame(rows)


def other_names(paths: dict[str, Path]) -> pd.DataFrame:
    """For the panel of each model and every file: how many genes are found, and how many by another name only."""
    panels = {name: PolyGene.from_pretrained(name, device="cpu").tokenizer.panel for name in effort.few(NAMES)}
    rows = []
    for panel, file in product(panels, paths):
        try:
            match = panels[panel].match(open_cells(paths[file]).var)
        except GeneError as error:
            print(f"{panel} in {file}: {error}")
            continue
        by_other_name = match.found.get("another name", 0)
        rows.append({"panel": panel, "file": file, "size": len(panels[panel]), "with": match.n_measured,
                     "without": match.n_measured - by_other_name})  # fmt: skip
    return pd.DataFrame(rows)


def plot(scores: pd.DataFrame, path: Path) -> None:
    """Draw macro-F1 against coverage, a line a study and way of choosing genes, every draw a dot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    styles = {"random": "-", "least variable": ":", "most variable": "--"}
    for color, (study, of_study) in enumerate(scores.groupby("study")):
        for kind, rows in of_study.groupby("genes"):
            means = rows.groupby("coverage")["macro_f1"].mean()
            axes.plot(means.index, means, styles[kind], color=f"C{color}", label=f"{study}, {kind} kept")
            axes.plot(rows["coverage"], rows["macro_f1"], ".", color=f"C{color}", alpha=0.5)
    axes.set(xscale="log", xlabel="share of the panel that is measured", ylabel="macro-F1 of cell types", ylim=(0, 1))
    axes.set_xticks(SHARES, [f"{share:.0%}" for share in SHARES], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=min(NAMES, key=len))
    parser.add_argument("--draws", type=int, default=3, help="random draws at every share")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves into this .png")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both parts, as far as their files are there."""
    model = PolyGene.from_pretrained(options.model, device="cpu")
    paths = {}
    for name, entry in files.catalogue_of(options.data).items():
        try:
            if entry.facts["kind"] in ("counts", "log1p"):
                paths[name] = files.locate(name, options.data)
        except files.MissingDataError as reason:
            print(f"skipped: {reason}")
    scores = [scored(model, name, cells, options) for name, cells in studies(options.data).items()]
    results: dict[str, Any] = {"model": options.model, "draws": options.draws}
    results |= curves(pd.concat(scores, ignore_index=True), options.plot)
    if len(paths) > 1:
        results["other_names"] = gained(other_names(dict(effort.few(paths.items(), 2))))
    return results


def studies(data: Path | None) -> dict[str, ad.AnnData]:
    """Harmonise studies that trained nothing."""
    sources = {name: one for name, one in making.sources_of(data).items() if one.role == "external"}
    with tempfile.TemporaryDirectory() as scratch:
        written = [path for some in making.write(data, Path(scratch), sources).values() for path in some]
        return {path.stem: ad.read_h5ad(path) for path in written if path.stem in STUDIES}


def scored(model: PolyGene, name: str, cells: ad.AnnData, options: argparse.Namespace) -> pd.DataFrame:
    """Scores of one study at every share of the panel."""
    rows = np.flatnonzero(cells.obs["cell_type"].notna().to_numpy())
    cells = cells[rows[spread(len(rows), effort.at_most(MOST, 30))]].copy()
    encoded = model.tokenizer.encode(cells, use_labels=False)
    truth = cells.obs["cell_type"].astype(str).tolist()
    table = curve(model, encoded, truth, effort.at_most(options.draws, 1), options.seed)
    full = table.loc[table["coverage"] == 1, "macro_f1"].iloc[0]
    return table.assign(study=name.split("_")[0], measured=int(encoded.measured_G.sum()), kept=table["macro_f1"] / full)


def curves(scores: pd.DataFrame, picture: Path | None) -> dict[str, Any]:
    """Print the means by share of the panel, and return them and the curve that `gene_matching.KEPT` holds."""
    by = ["study", "genes", "coverage"]
    means = scores.groupby(by)[["accuracy", "macro_f1", "kept", "cells_without_genes"]].mean()
    means[["lowest", "highest"]] = scores.groupby(by)["kept"].agg(["min", "max"])
    table = Table(*by, *means.columns, title="cell types of studies never seen, by the share of the panel measured")
    for row in means.sort_index(level=2, ascending=False, sort_remaining=False).itertuples():
        table.add_row(*map(str, row.Index), *(f"{value:.3f}" for value in row[1:]))
    Console(width=160).print(table)
    if picture:
        plot(scores, picture)
    random = scores[scores["genes"] == "random"].groupby(["coverage", "study"])["kept"].mean().groupby("coverage")
    worst = scores[scores["genes"].isin([WORST]) | (scores["coverage"] == 1)].groupby("coverage")["kept"].min()
    worst = worst[::-1].cummin()[::-1]
    named = {f"{study}, {genes}, {share}": value for (study, genes, share), value in means["macro_f1"].items()}
    return {
        "kept": random.mean().to_dict(),
        "kept_at_worst": worst.to_dict(),
        "cells_without_genes": scores[scores["coverage"] == SHARES[-1]]
        .groupby("study")["cells_without_genes"]
        .max()
        .to_dict(),
        "measured": scores.groupby("study")["measured"].first().to_dict(),
        "curves": named,
    }


def gained(pairs: pd.DataFrame) -> dict[str, Any]:
    """Print and return what HGNC's other names add."""
    pairs = pairs.assign(gained=pairs["with"] - pairs["without"])
    table = Table("panel", "genes", "files that gain", "matched without", "with other names", title="other names")
    for name, rows in pairs.groupby("panel", sort=False):
        table.add_row(name, str(rows["size"].iloc[0]), f"{(rows.gained > 0).sum()} of {len(rows)}",
                      f"{rows['without'].mean():.1f}", f"{rows['with'].mean():.1f}")  # fmt: skip
    Console(width=160).print(table)
    return {
        "pairs": len(pairs),
        "pairs_that_gain": int((pairs.gained > 0).sum()),
        "matched_without": int(pairs["without"].sum()),
        "matched_with": int(pairs["with"].sum()),
        "largest_gain": pairs.nlargest(1, "gained").to_dict("records"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    command.run("coverage", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
