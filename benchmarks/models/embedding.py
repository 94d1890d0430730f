"""Which state is the cell: [CLS] or the mean of the genes, with or without a training objective on [CLS].

    python -m benchmarks.models.embedding --data DIR

Every cell of the test donors is labelled from the training donors in each state: by its 15 nearest neighbours
(Euclidean, majority), and by a logistic regression; beside it the same on 50 principal components of the log1p panel.
Trained with all labels, and with cell types taken out of the file, when their agreement says what the genes alone have
taught. The objective on [CLS] asks it for the labels that are hidden in the cell, with the weights of the phenotype
loss. The last line is one JSON object.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata as ad
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.shared import command, effort, files
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig
from polygene.model.batches import pack_cells
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import batches
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.training import train as training
from polygene.training.engine import FORWARD, TRUTH, Engine
from polygene.vocab.cells import EncodedCells

FILES = {"onek1k": "onek1k_scdesignpop_multicell", "velmeshev": "velmeshev_asd_pfc_glia"}
COLUMNS = {"onek1k": {}, "velmeshev": {"sex": "sex_inferred"}}
NETWORK = NetworkConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)


class AskingCls(Engine):
    """The engine with one more objective: [CLS] answers the hidden labels of its cell."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Add the phenotype loss of what [CLS] answers."""
        lengths_C = inputs["n_keys"] + inputs["n_queries"]
        ends_C = lengths_C.cumsum(0)
        cls_at_Q = (ends_C - lengths_C)[torch.searchsorted(ends_C, inputs["label_at"], right=True)]
        twice = inputs | {
            "label_at": torch.cat([inputs["label_at"], cls_at_Q]),
            "label_phenotype": inputs["label_phenotype"].repeat(2),
        }
        answers = model(**{name: twice[name] for name in FORWARD})
        shared = {name: inputs[name] for name in TRUTH} | {"n_cells": len(inputs["n_keys"])}
        halves = [logits_QV.chunk(2) for logits_QV in answers.label_logits]
        asked, of_cls = (
            self.loss(gene_logits=answers.gene_logits, label_logits=tuple(half[i] for half in halves), **shared)
            for i in (0, 1)
        )
        return asked["loss"] + self.loss.config.phenotype_weight * of_cls["phenotype_loss"]


@torch.inference_mode()
def states(model: PolyGene, cells: EncodedCells) -> dict[str, np.ndarray]:
    """Candidates for the state of a cell, each (C, D), and the two means side by side, (C, 2D).

    [CLS] and the mean over the visible genes, behind the last layer and before it, and the mean over the questions for
    all phenotypes behind the last layer. Of keys, only what they are before the last layer bears on any answer.
    """
    found: dict[str, list[np.ndarray]] = {}
    first_gene, n_phenotypes = model.network.config.first_gene_slot, cells.labels_CP.shape[1]
    before: list[torch.Tensor] = []
    hook = model.network.bert.encoder.layer[-1].register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    for rows in batches(cells, first_gene + 1 + n_phenotypes, torch.device("cpu")):
        part = cells.rows(rows)
        cells_Q, slots_Q = (
            np.repeat(np.arange(len(part)), n_phenotypes),
            np.tile(np.arange(n_phenotypes) + 1, len(part)),
        )
        packed, at_Q = pack_cells(model.tokenizer, part, np.full_like(part.labels_CP, -1), cells_Q, slots_Q)
        after_TD = model.network.encode(**packed.as_dict())
        before_TD = before.pop()[: len(after_TD)]  # behind it the row is filled up
        of_cell = torch.arange(len(part)).repeat_interleave(packed.n_keys + packed.n_queries)
        slots_T = packed.position_ids[0]
        gene = (slots_T >= first_gene) & (slots_T < first_gene + model.network.config.n_genes)
        n_C1 = torch.bincount(of_cell[gene], minlength=len(part)).clamp(min=1)[:, None]
        for when, hidden_TD in (("", after_TD), (", before last layer", before_TD)):
            sums_CD = torch.zeros(len(part), hidden_TD.shape[1]).index_add_(0, of_cell[gene], hidden_TD[gene])
            found.setdefault(f"[CLS]{when}", []).append(hidden_TD[slots_T == 0].numpy())
            found.setdefault(f"genes{when}", []).append((sums_CD / n_C1).numpy())
        asked_CPD = after_TD[torch.from_numpy(at_Q)].view(len(part), n_phenotypes, -1)
        found.setdefault("questions", []).append(asked_CPD.mean(1).numpy())
    hook.remove()
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    return joined | {"questions + genes before": np.hstack([joined["questions"], joined["genes, before last layer"]])}


def head(train_CD: np.ndarray, train_C: np.ndarray, test_CD: np.ndarray, test_C: np.ndarray) -> float:
    """Macro-F1 of a logistic regression on the standardised state."""
    known, asked = train_C >= 0, test_C >= 0
    learned = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    answer_C = learned.fit(train_CD[known], train_C[known]).predict(test_CD[asked])
    return float(f1_score(test_C[asked], answer_C, labels=np.unique(test_C[asked]), average="macro"))


def agreement(train_CD: np.ndarray, train_C: np.ndarray, test_CD: np.ndarray, test_C: np.ndarray) -> float:
    """Macro-F1 of the neighbours' majority label."""
    known, asked = train_C >= 0, test_C >= 0
    neighbours = KNeighborsClassifier(15).fit(train_CD[known], train_C[known])
    answer_C = neighbours.predict(test_CD[asked])
    return float(f1_score(test_C[asked], answer_C, labels=np.unique(test_C[asked]), average="macro"))


def learn(adata: ad.AnnData, name: str, folder: Path, engine: type, seed: int, epochs: int) -> tuple[PolyGene, Corpus]:
    config = PrepareConfig(binning="linear", phenotypes=COLUMNS[name], seed=seed)
    corpus = effort.prepare({name: adata}, folder / "corpus", config=config, overwrite=True)
    recipe = Recipe(
        corpus=str(corpus.folder),
        out=str(folder / "run"),
        network=NETWORK,
        training=TrainingConfig(epochs=epochs, evaluations=4, seed=seed),
    )
    with patch.object(training, "Engine", engine):
        return effort.train(recipe), corpus


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=1, help="as many, from --seed on")
    parser.add_argument("--epochs", type=int, default=8)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train every variant on every file, print the tables, and return the rows."""
    engine = Engine
    variants = {
        "all labels": (True, engine),
        "all labels, objective on [CLS]": (True, AskingCls),
        "no cell types": (False, engine),
        "no cell types, objective on [CLS]": (False, AskingCls),
    }
    rows = []
    for name, file in effort.few(FILES.items()):
        adata = ad.read_h5ad(files.locate(file, options.data))
        for variant, (labelled, engine_of) in variants.items():
            for seed in range(options.seed, options.seed + options.seeds):
                scores = of_states(adata, name, labelled, engine_of, seed, options.epochs)
                rows += [{"data": name, "trained with": variant, "seed": seed, **row} for row in scores]
                print(rows[-1], flush=True)
    for how in ("neighbours", "head"):
        means = pd.DataFrame(rows).pivot_table(index=["data", "trained with"], columns="state", values=how, sort=False)
        table = Table(title=f"macro-F1 of cell types, donors held out, by {how}; mean of {options.seeds} seeds")
        for column in ("data", "trained with", *means.columns):
            table.add_column(column)
        for (name, variant), row in means.iterrows():
            table.add_row(name, variant, *(f"{value:.3f}" for value in row))
        Console(width=200).print(table)
    return {"embedding": rows}


def of_states(
    adata: ad.AnnData, name: str, labelled: bool, engine: type, seed: int, epochs: int
) -> list[dict[str, Any]]:
    """Train once, and score each candidate for the state of a cell."""
    type_of = pd.Series(pd.Categorical(adata.obs["cell_type"]).codes, index=adata.obs_names)
    visible = adata if labelled else ad.AnnData(adata.X, adata.obs.drop(columns="cell_type"), adata.var)
    with tempfile.TemporaryDirectory() as folder:
        model, corpus = learn(visible, name, Path(folder), engine, seed, epochs)
        train, test = corpus.split("train"), corpus.split("test")
        train_C, test_C = (type_of[split.names_C].to_numpy() for split in (train, test))
        of_train, of_test = (states(model, split.cells(slice(None))) for split in (train, test))
        pca = PCA(effort.at_most(50, 10), random_state=0).fit(train.values())
        of_train["PCA"], of_test["PCA"] = pca.transform(train.values()), pca.transform(test.values())
    rows = []
    for state, train_CD in of_train.items():
        cells = (train_CD, train_C, of_test[state], test_C)
        rows.append({"state": state, "neighbours": agreement(*cells), "head": head(*cells)})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    command.run("embedding", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
