"""What an answer is worth when a file measures a part of the panel, and how many genes go by another name.

    python -m benchmarks.models.coverage --data DIR --plot coverage.png

First part: a small model learns cell types of one study, and reads its held-out donors with a part of its 512 genes:
drawn at random several times, or by a whole block, the least variable genes (the harder case: the most variable ones
are gone). Shown are accuracy and macro-F1, and the share of the macro-F1 of all genes that is left; the share of the
random draws, averaged over studies, is the curve `polygene.vocab.gene_matching.KEPT`.
Second part: for every pair of files the panel of the one is looked for in the other, with and without HGNC's other
names. The last line is one JSON object.
"""

import argparse
import tempfile
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.metrics import accuracy_score, f1_score

from benchmarks.shared import command, effort, files
from polygene.corpus.corpus import CorpusSplit
from polygene.corpus.prepare import PrepareConfig
from polygene.corpus.variable_genes import GeneMoments, GeneVariability, choose_panel, rank_genes, score_genes
from polygene.errors import GeneError
from polygene.io.read import open_cells
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.vocab.cells import EncodedCells
from polygene.vocab.expression import log1p_values
from polygene.vocab.panel import GenePanel, merged_genes

FILES = ("onek1k_scdesignpop_multicell", "velmeshev_asd_pfc_glia")
SHARES = (1.0, 0.75, 0.5, 0.3, 0.2, 0.1, 0.05)
NETWORK = NetworkConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)
N_GENES = 512


def learn(path: Path, folder: Path, epochs: int, seed: int) -> tuple[PolyGene, CorpusSplit]:
    """Prepare one file, train on its training donors, and give the model with the cells of its test donors."""
    corpus = effort.prepare(path, folder / "corpus", config=PrepareConfig(n_genes=N_GENES, seed=seed))
    training = TrainingConfig(epochs=epochs, evaluations=4, seed=seed)
    model = effort.train(Recipe(corpus=str(corpus.folder), out=str(folder / "run"), network=NETWORK, training=training))
    return model, corpus.split("test")


def measuring(model: PolyGene, cells: EncodedCells, measured_G: np.ndarray) -> EncodedCells:
    """Encode the cells again as if the file had only these genes."""
    shape = (len(cells), len(measured_G))
    values_CG = sparse.csr_matrix((cells.values_N, cells.genes_N.astype(np.int32), cells.offsets_C1), shape)
    return model.tokenizer.encode_values(values_CG[:, np.flatnonzero(measured_G)], measured_G, cells.labels_CP)


def score(model: PolyGene, cells: EncodedCells) -> dict[str, float]:
    """Accuracy and macro-F1 of the cell types."""
    truth_C = cells.labels_CP[:, model.tokenizer.schema.index("cell_type")]
    given = truth_C >= 0
    answer_C = label_probabilities(model, cells, predict=["cell_type"])[0].argmax(axis=1)
    labels = np.unique(truth_C[given])
    return {
        "accuracy": accuracy_score(truth_C[given], answer_C[given]),
        "macro_f1": f1_score(truth_C[given], answer_C[given], labels=labels, average="macro", zero_division=0),
        "cells_without_genes": float((np.diff(cells.offsets_C1) == 0).mean()),
    }


def curve(model: PolyGene, cells: EncodedCells, draws: int, seed: int) -> pd.DataFrame:
    """Score the cells at every share of the panel."""
    rng = np.random.default_rng(seed)
    n_genes = len(model.tokenizer.panel)
    rows = []
    for share in SHARES:
        n = round(share * n_genes)
        kept = [("random", rng.choice(n_genes, n, replace=False)) for _ in range(draws if share < 1 else 1)]
        if share < 1:
            kept += [("least variable", np.arange(n_genes - n, n_genes)), ("most variable", np.arange(n))]
        for kind, genes in kept:
            found = score(model, measuring(model, cells, np.isin(np.arange(n_genes), genes)))
            rows.append({"genes": kind, "coverage": share, **found})
    return pd.DataFrame(rows)


def panel_of(path: Path) -> GenePanel:
    """The panel of one file, ranked on all of its cells."""
    cells = open_cells(path)
    genes, match = merged_genes(cells.var)
    moments = GeneMoments(len(genes))
    for chunk in cells.chunks(columns=()):
        moments.add(log1p_values(chunk, match, scale=cells.scale))
    variability = GeneVariability(moments)
    for chunk in cells.chunks(columns=()):
        variability.add(log1p_values(chunk, match, scale=cells.scale))
    ranks = rank_genes(variability.finish(), genes["symbol"].tolist())
    genes = genes.reset_index(drop=True)
    return choose_panel(genes, score_genes(genes, [genes], [ranks]), N_GENES)


def other_names(paths: dict[str, Path]) -> pd.DataFrame:
    """For every pair of files: how much of the panel of the one is in the other, and how much by another name only."""
    panels = {name: panel_of(path) for name, path in paths.items()}
    var = {name: open_cells(path).var for name, path in paths.items()}
    rows = []
    for ours, theirs in permutations(paths, 2):
        try:
            match = panels[ours].match(var[theirs])
        except GeneError as error:
            print(f"{ours} → {theirs}: {error}")
            continue
        by_other_name = match.found.get("another name", 0)
        rows.append({"panel": ours, "file": theirs, "size": len(panels[ours]), "with": match.n_measured,
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
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--draws", type=int, default=5, help="random draws at every share")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves into this .png")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both parts, as far as their files are there."""
    paths = {}
    for name, entry in files.catalogue_of(options.data).items():
        try:
            if entry.facts["kind"] in ("counts", "log1p"):
                paths[name] = files.locate(name, options.data)
        except files.MissingDataError as reason:
            print(f"skipped: {reason}")
    results: dict[str, Any] = {"epochs": options.epochs, "draws": options.draws}
    scores = [scored(name, paths[name], options) for name in effort.few(FILES) if name in paths]
    if scores:
        results |= curves(pd.concat(scores, ignore_index=True), options.plot)
    if len(paths) > 1:
        results["other_names"] = gained(other_names(dict(effort.few(paths.items(), 2))))
    return results


def scored(name: str, path: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Scores of the held-out donors of one study at every share of the panel."""
    with tempfile.TemporaryDirectory() as scratch:
        model, test = learn(path, Path(scratch), options.epochs, options.seed)
        table = curve(model, test.cells(slice(None)), effort.at_most(options.draws, 1), options.seed)
    full = table.loc[table["coverage"] == 1, "macro_f1"].iloc[0]
    return table.assign(study=name.split("_")[0], kept=table["macro_f1"] / full)


def curves(scores: pd.DataFrame, picture: Path | None) -> dict[str, Any]:
    """Print the means by share of the panel, and return them and the curve that `gene_matching.KEPT` holds."""
    by = ["study", "genes", "coverage"]
    means = scores.groupby(by)[["accuracy", "macro_f1", "kept", "cells_without_genes"]].mean()
    means[["lowest", "highest"]] = scores.groupby(by)["kept"].agg(["min", "max"])
    table = Table(*by, *means.columns, title="cell types of held-out donors, by the share of the panel measured")
    for row in means.sort_index(level=2, ascending=False, sort_remaining=False).itertuples():
        table.add_row(*map(str, row.Index), *(f"{value:.3f}" for value in row[1:]))
    Console(width=160).print(table)
    if picture:
        plot(scores, picture)
    random = scores[scores["genes"] == "random"].groupby(["coverage", "study"])["kept"].mean().groupby("coverage")
    named = {" ".join(map(str, key)): value for key, value in means["macro_f1"].round(3).items()}
    return {"kept": random.mean().round(3).to_dict(), "curves": named}


def gained(pairs: pd.DataFrame) -> dict[str, Any]:
    """Print and return what HGNC's other names add."""
    pairs = pairs.assign(gained=pairs["with"] - pairs["without"])
    table = Table("panel of", "genes", "files that gain", "matched without", "with other names", title="other names")
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
