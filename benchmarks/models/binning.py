"""Which binning is the default: annotation and reconstruction together, within a source and across sources.

    python -m benchmarks.models.binning --data DIR

Within: OneK1K, donors held out. Across: a model learns one study and reads another with other genes and another depth
(Zheng et al. → PBMC 3k; PBMC 3k → OneK1K, of whose genome only 998 genes are there, so its counts per 10,000 are
inflated). Labels of two studies are compared in the coarse types that both can tell. The last line is one JSON object.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score

from benchmarks.shared import command, effort, files
from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.corpus.prepare import PrepareConfig
from polygene.evaluation.masked_genes import score_genes, score_masked_genes
from polygene.evaluation.test_cells import MODEL
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig

KINDS = ("cell_rank", "cell_quantile", "linear", "binary")
NETWORK = NetworkConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)
COARSE = {
    "B cell": "B cell",
    "memory B cell": "B cell",
    "CD14-positive monocyte": "CD14 monocyte",
    "classical monocyte": "CD14 monocyte",
    "FCGR3A-positive monocyte": "FCGR3A monocyte",
    "non-classical monocyte": "FCGR3A monocyte",
    "natural killer cell": "NK cell",
    "CD8-positive T cell": "CD8 T cell",
    "CD8-positive cytotoxic T cell": "CD8 T cell",
    "naive CD8-positive T cell": "CD8 T cell",
    "CD4-positive helper T cell": "CD4 T cell",
    "memory CD4-positive T cell": "CD4 T cell",
    "naive CD4-positive T cell": "CD4 T cell",
    "naive/central memory CD4-positive T cell": "CD4 T cell",
    "regulatory T cell": "CD4 T cell",
}
"""Author label → type that two studies share; an answer that is not here is a miss."""
ACROSS = {
    "zheng → pbmc3k": ("zheng_pbmc_facs", "pbmc3k_10x"),
    "pbmc3k → onek1k": ("pbmc3k_10x", "onek1k_scdesignpop_multicell"),
}


def learn(path: Path, folder: Path, kind: str, split: str, seed: int, epochs: int) -> PolyGene:
    """Prepare one file with one binning and train on it."""
    config = PrepareConfig(binning=kind, split=split, seed=seed)
    corpus = effort.prepare(path, folder / "corpus", config=config, overwrite=True)
    training = TrainingConfig(epochs=epochs, evaluations=4, seed=seed)
    return effort.train(Recipe(corpus=str(corpus.folder), out=str(folder / "run"), network=NETWORK, training=training))


def within(model: PolyGene, test: CorpusSplit) -> float:
    """Macro-F1 of the cell types of held-out donors."""
    p = model.tokenizer.schema.index("cell_type")
    truth_C = test.labels_CP[:, p]
    answer_C = label_probabilities(model, test.cells(slice(None)), predict=["cell_type"])[0].argmax(axis=1)
    return float(f1_score(truth_C[truth_C >= 0], answer_C[truth_C >= 0], average="macro"))


def across(model: PolyGene, path: Path) -> dict[str, float]:
    """Read another study: macro-F1 of the coarse types, and how well hidden genes are restored."""
    adata = ad.read_h5ad(path)
    truth_C = adata.obs["cell_type"].astype(str).map(COARSE)
    adata = adata[truth_C.notna().to_numpy()].copy()
    truth_C = truth_C.dropna()
    cells = model.tokenizer.encode(adata, use_labels=False)
    probabilities_CV = label_probabilities(model, cells, predict=["cell_type"])[0]
    labels = pd.Series(model.tokenizer.schema.labels[model.tokenizer.schema.index("cell_type")])
    known = labels.map(COARSE).fillna("other")
    answer_C = known.to_numpy()[probabilities_CV.argmax(axis=1)]
    few = cells.rows(np.arange(0, len(cells), max(1, len(cells) // 1000)))
    genes = score_masked_genes(model, few, np.tile(cells.measured_G, (len(few), 1)))[MODEL]
    return {
        "macro_f1": float(f1_score(truth_C, answer_C, labels=sorted(set(truth_C)), average="macro")),
        "spearman_gene": genes["spearman_gene"],
        "average_precision_expressed": genes["average_precision_expressed"],
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=1, help="as many, from --seed on")
    parser.add_argument("--epochs", type=int, default=6, help="on OneK1K; twice as many on the smaller files")
    parser.add_argument("--only", choices=KINDS, action="append", help="this binning; may be given again")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train with every binning, print the table, and return the means over seeds."""
    rows = []
    for kind in options.only or effort.few(KINDS, 2):
        for seed in range(options.seed, options.seed + options.seeds):
            rows += [{"binning": kind, "seed": seed, **row} for row in of_binning(kind, options, seed)]
    means = pd.DataFrame(rows).groupby(["task", "binning"], sort=False).mean(numeric_only=True).drop(columns="seed")
    table = Table(title=f"mean over {options.seeds} seeds")
    for column in ("task", "binning", *means.columns):
        table.add_column(column.replace("_", " "))
    for (task, kind), row in means.iterrows():
        table.add_row(task, kind, *(f"{value:.3f}" for value in row))
    Console(width=140).print(table)
    return {"binning": [{"task": task, "binning": kind, **row} for (task, kind), row in means.to_dict("index").items()]}


def of_binning(kind: str, options: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Train one model a task with a binning, and score them."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "within"
        path = files.locate("onek1k_scdesignpop_multicell", options.data)
        model = learn(path, folder, kind, "donor", seed, options.epochs)
        test = Corpus(folder / "corpus").split("test")
        genes = score_genes(model, test)[MODEL]
        scores = {name: genes[name] for name in ("spearman_gene", "average_precision_expressed", "mse_value")}
        rows = [{"task": "within onek1k", "macro_f1": within(model, test), **scores}]
        print(kind, rows[-1], flush=True)
        for task, (learned, read) in ACROSS.items():
            folder = Path(scratch) / learned
            model = learn(files.locate(learned, options.data), folder, kind, "random", seed, options.epochs * 2)
            rows.append({"task": task, **across(model, files.locate(read, options.data))})
            print(kind, rows[-1], flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    command.run("binning", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
