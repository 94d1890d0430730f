"""What the usual methods make of the studies that no cell trains, learned from the same real and sampled cells.

    python -m benchmarks.models.external --data DIR --corpora DIR [--model NAME-OR-PATH ...]

--corpora is what benchmarks.models.corpus made (corpus-512, split, train, external), else it is made. Each method
predicts a cell type for every cell of each external file, nothing but expression being given:

nearest profile       the profile whose log expression correlates best with the cell's, over the profiles' most variable
                      genes that the file measures (what SingleR does, without its fine tuning)
logistic regression   on the panel's genes, with the best of three L2 on the validation donors, and on all genes, with
                      the middle one and a third of the epochs; a label trains the summed probability of all at and
                      below it, as the network's do
CellTypist            1.7.1 on the panel's genes, by its stochastic gradient descent in small batches (use_SGD,
                      mini_batch): its usual solver asks scikit-learn for multi_class="ovr", which is no more, and was
                      not replaced for 254 labels
scANVI                on the panel's genes of the files of counts, sources as batches (benchmarks/models/scanvi.py)
a model               given with --model

All but the profiles learn from at most 200 cells of each label in each source. Scored "by ontology": a predicted label
is right where it is the true one or below it; `among` is the most probable of the study's own labels, each as probable
as all labels of which it is the finest at or above. The last line is one JSON object.

Legend: C cells, G genes, P profiles, V labels of the corpus, N labels of a study.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse

from benchmarks.models import corpus as making
from benchmarks.models.scanvi import ScAnvi
from benchmarks.shared import bits, command, files
from benchmarks.shared.genes import of_genes
from benchmarks.shared.scvi_baseline import AVAILABLE, MISSING
from polygene.corpus.corpus import Corpus
from polygene.vocab.expression import log1p_values
from polygene.vocab.ontology import at_or_below, ontology_of

MOST = 200  # cells of a label in a source that are learned from
VARIABLE = 3_000  # genes that profiles are compared by
L2S = (1e-6, 1e-5, 1e-4)
EPOCHS, BATCH, RATE = 12, 256, 0.02
SHARP = 0.002  # a difference in correlation that makes a profile e times less probable
BATCHED = 10_000  # cells from which CellTypist takes batches of a thousand
FEW = 4_096  # genes that are learned from as a dense matrix
IN_SOURCES = 5  # a gene of "all genes" is measured by so many sources at least


# --- scores ---


def by_ontology(p_CV: np.ndarray, labels: Sequence[str], truth: Sequence[str]) -> dict[str, Any]:
    """Score predictions against the labels of a study, which may be finer or coarser than those of the corpus.

    Returns
    -------
    `accuracy`, `macro_f1` of the predicted labels, and `right`, a 1 or 0 for each cell; `among_accuracy`,
    `among_macro_f1` among the study's labels.
    """
    compare = ontology_of("cell_type").compare
    names = sorted(set(truth))
    below_VN = np.array([[compare(label, name) in ("same", "finer") for name in names] for label in labels])
    # How many of the study's labels stand above each: of those a prediction falls under, the deepest is the finest.
    depth_N = np.array([sum(compare(name, other) == "finer" for other in names) for name in names])
    truth_C = pd.Index(names).get_indexer(pd.Index(truth))
    answer_C = p_CV.argmax(axis=1)
    finest_V = np.where(below_VN.any(axis=1), np.where(below_VN, depth_N, -1).argmax(axis=1), -1)
    found_C = np.where(below_VN[answer_C, truth_C], truth_C, finest_V[answer_C])
    # Each label of the corpus counts for the finest of the study's labels above it, so that a coarse one of the study
    # does not win by holding all the others.
    among_C = (p_CV[:, finest_V >= 0] @ np.eye(len(names))[finest_V[finest_V >= 0]]).argmax(axis=1)
    # A finer label of the study than the true one is right, too: the true one cannot say otherwise.
    below_NN = np.array([[compare(a, b) in ("same", "finer") for b in names] for a in names])
    among_C = np.where(below_NN[among_C, truth_C], truth_C, among_C)
    return {
        "accuracy": float((found_C == truth_C).mean()),
        "macro_f1": macro_f1(found_C, truth_C),
        "right": bits.written(found_C == truth_C),
        "among_accuracy": float((among_C == truth_C).mean()),
        "among_macro_f1": macro_f1(among_C, truth_C),
    }


def macro_f1(found_C: np.ndarray, truth_C: np.ndarray) -> float:
    """Mean F1 over the labels that are true somewhere."""
    scores = []
    for label in set(truth_C):
        both = ((found_C == label) & (truth_C == label)).sum()
        scores.append(2 * both / ((found_C == label).sum() + (truth_C == label).sum()))
    return float(np.mean(scores))


# --- cells ---


def matrix(cells: ad.AnnData, genes: pd.Index) -> sparse.csr_matrix:
    """Give log1p counts per 10,000 of these genes, 0 where the file does not measure them."""
    return of_genes(log1p_values(cells), cells.var_names, genes)


class Training:
    """The cells that methods learn from: of each label in each source at most `MOST` of the corpus' training cells."""

    def __init__(self, corpora: Path, corpus: Corpus, seed: int, *, without: Collection[str] = ()) -> None:
        schema = corpus.tokenizer.schema
        self.labels = tuple(schema.labels[schema.index("cell_type")])
        self.panel = pd.Index(corpus.tokenizer.panel.symbols)
        held_out = {part: set(corpus.split(part).donors_C) - {""} for part in ("validation", "test")}
        rng = np.random.default_rng(seed)
        self.parts: dict[str, list[ad.AnnData]] = {"train": [], "validation": []}
        for path in sorted([*(corpora / "split").glob("*.h5ad"), *(corpora / "train").glob("*.h5ad")]):
            cells = None if path.stem in without else ad.read_h5ad(path)
            if cells is None or "cell_type" not in cells.obs:
                continue
            donor = cells.obs["donor_id"].astype(str)
            for part, wanted in (
                ("train", ~donor.isin(held_out["validation"] | held_out["test"])),
                ("validation", donor.isin(held_out["validation"])),
            ):
                rows = np.flatnonzero(wanted & cells.obs["cell_type"].isin(self.labels))
                drawn = pd.Series(rng.permutation(rows))
                label = drawn.map(dict(enumerate(cells.obs["cell_type"].astype(str))))
                chosen = np.sort(drawn.groupby(label).head(MOST))
                if len(chosen):
                    self.parts[part].append(cells[chosen].copy())
        measured = pd.Index(np.concatenate([cells.var_names for cells in self.parts["train"]])).value_counts()
        self.all_genes = measured.index[measured >= IN_SOURCES].sort_values()

    def cells(self, part: str, genes: pd.Index) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Give the values of these genes and the place of each label."""
        some = self.parts[part]
        label = np.concatenate([cells.obs["cell_type"].astype(str) for cells in some])
        x_CG = sparse.vstack([matrix(cells, genes) for cells in some], format="csr")
        return x_CG, pd.Index(self.labels).get_indexer(pd.Index(label))


# --- methods ---


class Regression:
    """Multinomial logistic regression in which a label trains the sum of all labels at and below it."""

    def __init__(self, training: Training, genes: pd.Index, seed: int) -> None:
        self.genes, self.labels = genes, training.labels
        table_VV = at_or_below("cell_type", training.labels)
        self._below_VV = torch.tensor(np.eye(len(self.labels)) if table_VV is None else table_VV, dtype=torch.float32)
        x_CG, label_C = training.cells("train", genes)
        held_CG, held_C = training.cells("validation", genes)
        fits = []
        for l2 in L2S if len(genes) <= FEW else L2S[1:2]:
            weights = self._fit(x_CG, label_C, l2, seed)
            fits.append((self._loss(weights, held_CG, held_C), l2, weights))
        self.loss, self.l2, self._weights = min(fits, key=lambda fit: fit[0])

    def _log_p(self, weights: Sequence[torch.Tensor], x_CG: sparse.csr_matrix) -> torch.Tensor:
        return torch.log_softmax(_tensor(x_CG) @ weights[0] + weights[1], dim=1)

    def _loss(self, weights: Sequence[torch.Tensor], x_CG: sparse.csr_matrix, label_C: np.ndarray) -> float:
        with torch.no_grad():
            return float(self._nll(self._log_p(weights, x_CG), label_C))

    def _nll(self, log_p_CV: torch.Tensor, label_C: np.ndarray) -> torch.Tensor:
        sums_C = (log_p_CV.exp() * self._below_VV[torch.as_tensor(label_C)]).sum(dim=1)
        return -sums_C.clamp_min(1e-12).log().mean()

    def _fit(self, x_CG: sparse.csr_matrix, label_C: np.ndarray, l2: float, seed: int) -> list[torch.Tensor]:
        rng = np.random.default_rng(seed)
        weights = [torch.zeros(n, requires_grad=True) for n in ((x_CG.shape[1], len(self.labels)), len(self.labels))]
        engine = torch.optim.Adam(weights, lr=RATE)
        epochs = EPOCHS if len(self.genes) <= FEW else EPOCHS // 3
        n_steps = epochs * (len(label_C) // BATCH)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(engine, n_steps)
        for _ in range(epochs):
            for rows in np.array_split(rng.permutation(len(label_C)), len(label_C) // BATCH):
                loss = self._nll(self._log_p(weights, x_CG[rows]), label_C[rows]) + l2 * (weights[0] ** 2).sum()
                engine.zero_grad()
                loss.backward()
                engine.step()
                rates.step()
        return [weight.detach() for weight in weights]

    def __call__(self, cells: ad.AnnData) -> np.ndarray:
        """Predict, p_CV."""
        with torch.no_grad():
            p_CV: np.ndarray = self._log_p(self._weights, matrix(cells, self.genes)).exp().numpy()
        return p_CV


def _tensor(x_CG: sparse.csr_matrix) -> torch.Tensor:
    if x_CG.shape[1] <= FEW:
        return torch.from_numpy(x_CG.toarray().astype(np.float32))
    coo = x_CG.tocoo()
    return torch.sparse_coo_tensor(np.stack([coo.row, coo.col]), coo.data.astype(np.float32), coo.shape)


class CellTypist:
    """CellTypist by stochastic gradient descent, else with its defaults."""

    def __init__(self, training: Training, genes: pd.Index) -> None:
        import celltypist

        celltypist.logger.set_level(logging.ERROR)
        self._package, self.genes, self.labels = celltypist, genes, training.labels
        x_CG, label_C = training.cells("train", genes)
        self._model = celltypist.train(
            x_CG.toarray(), label_C.astype(str), genes.to_numpy(), check_expression=False, n_jobs=1, use_SGD=True,
            mini_batch=len(label_C) > BATCHED,
        )  # fmt: skip

    def __call__(self, cells: ad.AnnData) -> np.ndarray:
        """Predict, p_CV: its probabilities of one label against the rest, divided by their sum."""
        asked = ad.AnnData(matrix(cells, self.genes).toarray(), var=pd.DataFrame(index=self.genes))
        scores = self._package.annotate(asked, model=self._model).probability_matrix
        p_CV = np.zeros((cells.n_obs, len(self.labels)), dtype=np.float32)
        p_CV[:, scores.columns.astype(int)] = scores.to_numpy()
        return p_CV / p_CV.sum(axis=1, keepdims=True)


class NearestProfile:
    """Correlation of logs with each profile; a label is as good as its best profile."""

    def __init__(self, data: Path, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        rules, donors = making.read_table("labels.tsv"), making.read_table("donors.tsv")
        self._studies = []
        for name, source in making.sources_of(data).items():
            if not source.measured or source.role == "left out":
                continue
            profiles = ad.read_h5ad(files.locate(name, data))
            measured = pd.read_csv(files.locate(source.measured, data), index_col=0)
            study = profiles.obs.get(making.STUDY, pd.Series("", profiles.obs_names)).astype(str)
            for one in sorted(study.unique()):
                part = profiles[(study == one).to_numpy()].copy()
                genes = measured.index[measured[one] > 0] if one in measured else part.var_names
                part = making.harmonise(part, source, rules, donors)
                part = part[part.obs["cell_type"].notna().to_numpy(), part.var_names.isin(genes)].copy()
                label = part.obs["cell_type"].astype(str)
                self._studies.append((log1p_values(part, scale="counts").toarray(), part.var_names, label))

    def __call__(self, cells: ad.AnnData) -> np.ndarray:
        """Predict by the correlation with each label's best profile.

        What stands for probabilities is sharp enough that the nearest label has nearly all, and not so sharp that the
        nearest among a study's labels is lost.
        """
        best_CV = self.correlations(cells)
        p_CV = np.exp((best_CV - best_CV.max(axis=1, keepdims=True)) / SHARP)
        return (p_CV / p_CV.sum(axis=1, keepdims=True)).astype(np.float32)

    def correlations(self, cells: ad.AnnData) -> np.ndarray:
        """Correlate cells with each label's best profile, over the genes that the file and a study measure, (C, V)."""
        x_CG = log1p_values(cells).toarray()
        best_CV = np.full((cells.n_obs, len(self.labels)), -np.inf)
        for profiles_PG, names, label in self._studies:
            both = names.intersection(cells.var_names)
            p_PG = profiles_PG[:, names.get_indexer(both)]
            variable = np.argsort(-p_PG.var(axis=0))[:VARIABLE]
            r_CP = _correlation(x_CG[:, cells.var_names.get_indexer(both[variable])], p_PG[:, variable])
            for p, v in enumerate(pd.Index(self.labels).get_indexer(pd.Index(label))):
                if v >= 0:
                    best_CV[:, v] = np.maximum(best_CV[:, v], r_CP[:, p])
        return best_CV


def _correlation(a_CG: np.ndarray, b_PG: np.ndarray) -> np.ndarray:
    """Correlate rows of one with rows of the other (Pearson), 0 for a row that does not vary."""
    centred = [x - x.mean(axis=1, keepdims=True) for x in (a_CG.astype(np.float64), b_PG.astype(np.float64))]
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in centred)
    r_CP: np.ndarray = a @ b.T
    return r_CP


class Model:
    """A checkpoint, read as `polygene annotate` reads a file."""

    def __init__(self, name: str) -> None:
        from polygene.model.checkpoint import PolyGene

        self._model = PolyGene.from_pretrained(name)
        schema = self._model.tokenizer.schema
        self.labels = tuple(schema.labels[schema.index("cell_type")])

    def __call__(self, cells: ad.AnnData) -> np.ndarray:
        """Predict, p_CV."""
        from polygene.model.inference import predict_labels
        from polygene.tl._reader import CellReader

        reader = CellReader(cells, self._model.tokenizer)
        parts = [predict_labels(self._model, encoded, predict=["cell_type"])[0][0] for _, encoded in reader.chunks()]
        p_CV: np.ndarray = np.concatenate(parts)
        return p_CV


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Learn each method, score it on each external study."""
    with made(options) as corpora:
        training = Training(corpora, Corpus(corpora / "corpus-512"), options.seed)
        studies = {path.stem: ad.read_h5ad(path) for path in sorted((corpora / "external").glob("*.h5ad"))}
    rows = []
    for name, make in methods(training, options).items():
        method = make()
        for study, cells in studies.items():
            known = cells.obs["cell_type"].notna().to_numpy()
            truth = cells.obs["cell_type"].astype(str)[known].tolist()
            scores = by_ontology(method(cells)[known], method.labels, truth)
            rows.append({"method": name, "study": study, "cells": len(truth), **scores})
            print(f"{name}, {study}: {scores['accuracy']:.3f} / {scores['macro_f1']:.3f}", flush=True)
    show(rows)
    n_cells = {part: sum(cells.n_obs for cells in some) for part, some in training.parts.items()}
    return {"learned_from": n_cells, "all_genes": len(training.all_genes), "rows": rows}


@contextmanager
def made(options: argparse.Namespace) -> Iterator[Path]:
    """Give the folder of the corpora; without --corpora they are made for the time being."""
    with tempfile.TemporaryDirectory() as scratch:
        if not options.corpora:
            making.make(options.data, Path(scratch) / "corpora", [512])
        yield options.corpora or Path(scratch) / "corpora"


def methods(training: Training, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Name the methods that are asked for; each is learned when it is called."""
    panel, genes, seed = training.panel, training.all_genes, options.seed
    known: dict[str, Callable[[], Any]] = {
        "nearest profile": partial(NearestProfile, options.data, training.labels),
        "logistic regression, panel": partial(Regression, training, panel, seed),
        "logistic regression, all genes": partial(Regression, training, genes, seed),
        "CellTypist, panel": partial(CellTypist, training, panel),
        "scANVI, panel": partial(ScAnvi, training.parts["train"], panel, training.labels, seed),
    }
    if not any(source.measured for source in making.sources_of(options.data).values()):
        del known["nearest profile"]
    if not AVAILABLE:
        del known["scANVI, panel"]
        print(f"scANVI {MISSING}")
    chosen = {name: make for name, make in known.items() if not options.methods or name in options.methods}
    return chosen | {name: partial(Model, name) for name in options.model}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print accuracy and macro-F1 of the predicted labels by study."""
    table = pd.DataFrame(rows).assign(
        both=lambda t: t["accuracy"].map("{:.3f}".format) + " / " + t["macro_f1"].map("{:.3f}".format)
    )
    wide = table.pivot(index="method", columns="study", values="both")
    printed = Table("method", *wide.columns, title="cell types of studies never seen, by ontology: accuracy / macro-F1")
    for name in dict.fromkeys(table["method"]):
        printed.add_row(name, *wide.loc[name])
    Console(width=200).print(printed)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpora", type=Path, help="folder that benchmarks.models.corpus made; else it is made")
    parser.add_argument("--model", nargs="*", default=[], help="checkpoints to score beside")
    parser.add_argument("--methods", nargs="*", default=[], help="these only, such as 'nearest profile'")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("external", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
