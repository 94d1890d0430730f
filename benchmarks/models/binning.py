"""Which binning is the default: annotation and reconstruction together, within a source and across sources.

    python -m benchmarks.models.binning --data DIR

Within: OneK1K, donors held out. Across: a model learns one study and reads another with other genes and another depth
(Zheng et al. → PBMC 3k; PBMC 3k → OneK1K, of whose genome only 998 genes are there, so its counts per 10,000 are
inflated). Labels of two studies are compared in the coarse types that both can tell. The last line is one JSON object.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score

from benchmarks.shared import files
from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.evaluation.masked_genes import score_genes, score_masked_genes
from polygene.evaluation.test_cells import MODEL
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.training.train import train

KINDS = ("linear", "cell_quantile", "binary")
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
    corpus = prepare(path, folder / "corpus", config=config, overwrite=True)
    training = TrainingConfig(epochs=epochs, evaluations=4, seed=seed)
    return train(Recipe(corpus=str(corpus.folder), out=str(folder / "run"), network=NETWORK, training=training))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files.add_data_option(parser)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=6, help="on OneK1K; twice as many on the smaller files")
    parser.add_argument("--only", choices=KINDS, action="append", help="this binning; may be given again")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows = []
    for kind in arguments.only or KINDS:
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "within"
                path = files.locate("onek1k_scdesignpop_multicell", arguments.data)
                model = learn(path, folder, kind, "donor", seed, arguments.epochs)
                test = Corpus(folder / "corpus").split("test")
                genes = score_genes(model, test)[MODEL]
                row = {
                    "macro_f1": within(model, test),
                    "spearman_gene": genes["spearman_gene"],
                    "average_precision_expressed": genes["average_precision_expressed"],
                    "mse_value": genes["mse_value"],
                }
                rows.append({"task": "within onek1k", "binning": kind, "seed": seed, **row})
                print(rows[-1], flush=True)
                for task, (learned, read) in ACROSS.items():
                    folder = Path(scratch) / learned
                    path = files.locate(learned, arguments.data)
                    model = learn(path, folder, kind, "random", seed, arguments.epochs * 2)
                    row = across(model, files.locate(read, arguments.data))
                    rows.append({"task": task, "binning": kind, "seed": seed, **row})
                    print(rows[-1], flush=True)
    means = pd.DataFrame(rows).groupby(["task", "binning"], sort=False).mean(numeric_only=True).drop(columns="seed")
    table = Table(title=f"mean over {arguments.seeds} seeds")
    for column in ("task", "binning", *means.columns):
        table.add_column(column.replace("_", " "))
    for (task, kind), row in means.iterrows():
        table.add_row(task, kind, *(f"{value:.3f}" for value in row))
    Console(width=140).print(table)
    print(json.dumps([{"task": task, "binning": kind, **row} for (task, kind), row in means.to_dict("index").items()]))


if __name__ == "__main__":
    main()
