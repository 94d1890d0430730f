"""Fine-tuning on few cells: macro-F1 on held-out cells by how many labelled cells a class there are.

    python -m benchmarks.models.finetune --data DIR              # the shipped polygene-512
    python -m benchmarks.models.finetune --data DIR --parts      # also heads that read only a part of what it reads
    python -m benchmarks.models.finetune --data DIR --train all  # also trains the network, minutes a draw

Rows are the head that `polygene finetune` fits (see `tl.finetune`), and logistic regression on the panel's genes and on
2,000 genes of the file's own (those that vary most in the labelled cells), tuned alike on the labelled cells. Labels
are the authors'. Donors are held out where a file has them: half of the donors give labelled cells, the other half are
answered. Means over draws, and how often (of all draws) the head is below each regression. The last line is one JSON
object.

* pbmc3k, Wu (T cells of tumours), lung cell lines: the model never saw the study.
* Perez: the model learned other donors of the study with labels like these; labelled are cells of its training donors,
  answered are those of its test donors, of whom it knows nothing.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.metrics import f1_score

from benchmarks.shared import command, effort, files
from polygene.evaluation.baselines import baseline_probabilities
from polygene.evaluation.estimators import CellTable
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import cell_states
from polygene.tl._annotate import annotate
from polygene.tl._finetune import finetune
from polygene.tl._head import fit_head, head_features

FEW = (5, 20, 100, 1_000)
TRAINED_ON = (20, 100)
OWN_GENES, MOST_ASKED = 2_000, 3_000
PARTS = {
    "state that asks": ("state",),
    "values of genes": ("genes",),
    "mean state of genes": ("mean",),
    "mean state and values": ("mean", "genes"),
}
HEAD, PANEL, OWN = "head of PolyGene", "logistic regression, panel", "logistic regression, own genes"
TRAINED = "polygene finetune --how"


@dataclass(frozen=True)
class Study:
    """A file, its columns of labels and donors, and which donors give labelled cells and are answered (else drawn)."""

    file: str
    label: str = "cell_type"
    donor: str | None = "donor_id"
    labelled: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


STUDIES = {
    "pbmc3k": Study("pbmc3k_10x", donor=None),
    "Wu": Study("tcells_wu2020_200"),
    "lung cell lines": Study("lung_ca_lines_mixology", donor=None),
    "Perez": Study(
        "perez_sle_healthy_tcells",  # donors that train and that test in the corpus of recipes/corpus, seed 0
        labelled=("perez_IGTB141", "perez_IGTB195", "perez_IGTB498", "perez_IGTB508"),
        asked=("perez_IGTB143", "perez_IGTB826"),
    ),
}


def draws(
    study: Study, labels_C: np.ndarray, donors_C: np.ndarray, n: int, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw labelled cells, n a class as far as there are, and answered ones: pairs of indices."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        may_C = rng.random(len(labels_C)) < 0.5
        if study.labelled:
            may_C = np.isin(donors_C, study.labelled)
        elif study.donor is not None:
            donors = rng.permutation(np.unique(donors_C))
            may_C = np.isin(donors_C, donors[: (len(donors) + 1) // 2])
        own = [rng.permutation(np.flatnonzero(may_C & (labels_C == v)))[:n] for v in np.unique(labels_C)]
        labelled = np.sort(np.concatenate([some for some in own if len(some) > 1]))
        asked_C = np.isin(donors_C, study.asked) if study.asked else ~may_C
        asked = np.flatnonzero(asked_C & np.isin(labels_C, labels_C[labelled]))
        yield labelled, rng.permutation(asked)[:MOST_ASKED]


def regression(x_CG: sparse.csr_matrix, labels_C: np.ndarray, donors_C: np.ndarray | None, split, seed: int):
    """Answer the asked cells by a tuned logistic regression."""
    labelled, asked = split
    measured = np.ones((1, x_CG.shape[1]), dtype=bool)
    tables = [
        CellTable(
            x_CG=sparse.csr_matrix(x_CG[rows], dtype=float), sources_C=np.zeros(len(rows), int), measured_SG=measured,
            donors_C=None if donors_C is None else donors_C[rows],
        )
        for rows in (labelled, asked)
    ]  # fmt: skip
    p_CV = baseline_probabilities(
        "logistic regression", tables[0], labels_C[labelled], tables[1], labels_C.max() + 1, seed=seed
    )
    return p_CV.argmax(axis=1)


def most_variable(x_CG: sparse.csr_matrix, labelled: np.ndarray) -> np.ndarray:
    """Choose a file's own genes by their variance in the labelled cells."""
    some_CG = x_CG[labelled]
    variance_G = np.asarray(some_CG.multiply(some_CG).mean(axis=0) - np.square(some_CG.mean(axis=0))).ravel()
    return np.sort(np.argsort(-variance_G, kind="stable")[:OWN_GENES])


def f1(truth_C: np.ndarray, answers_C: np.ndarray) -> float:
    return float(f1_score(truth_C, answers_C, average="macro", labels=np.unique(truth_C), zero_division=0))


def trained(adata: ad.AnnData, model: PolyGene, study: Study, split, how: str, seed: int) -> float:
    """Fine-tune the network itself and score it."""
    with tempfile.TemporaryDirectory() as scratch:
        out, key = Path(scratch) / "model", "own_label"
        adata.obs[key] = "label " + adata.obs[study.label].astype(str)
        donor = {"donor": study.donor} if study.donor else {}
        tuned = finetune(adata[split[0]].copy(), model, label=key, out=out, how=how, seed=seed, **donor)
        asked = adata[split[1]].copy()
        annotate(asked, tuned, predict=key)
        return f1(asked.obs[key].to_numpy(dtype=str), asked.obs[f"polygene_{key}"].to_numpy(dtype=str))


def head_answers(features_CF: np.ndarray, width: int, labels_C: np.ndarray, codes_C: np.ndarray, split, seed: int):
    """Answer the asked cells by a head."""
    labelled, asked = split
    known, places_C = np.unique(labels_C[labelled], return_inverse=True)
    head = fit_head(features_CF[labelled], places_C, codes_C[labelled], width=width, seed=seed)
    return known[head.probabilities(features_CF[asked]).argmax(axis=1)]


def score(
    study: Study, path: Path, model: PolyGene, few: Sequence[int], count: int, train: Sequence[str], parts: bool
) -> list[dict]:
    """Score every row on every draw of one study."""
    adata = ad.read_h5ad(path)
    adata = adata[adata.obs[study.label].notna()].copy()
    labels_C = pd.factorize(adata.obs[study.label].astype(str), sort=True)[0]
    donors_C = np.zeros(len(labels_C)) if study.donor is None else adata.obs[study.donor].to_numpy(dtype=str)
    encoded = model.tokenizer.encode(adata, use_labels=False)
    features_CF, width = head_features(model, encoded, "cell_type"), model.network.config.hidden_size
    part_of = {"state": features_CF[:, :width], "genes": features_CF[:, width:]}
    if parts:
        part_of["mean"] = cell_states(model, encoded)
    panel_CG = encoded.as_csr(encoded.values_N, len(model.tokenizer.panel))
    whole_CG = sparse.csr_matrix(adata.X, dtype=np.float32)
    totals_C = np.asarray(whole_CG.sum(axis=1)).ravel()
    own_CG = sparse.csr_matrix(sparse.diags(1e4 / np.maximum(totals_C, 1)) @ whole_CG).log1p()
    codes_C = pd.factorize(donors_C)[0] if study.donor else np.full(len(labels_C), -1)
    rows = []
    for n in few:
        if n > np.bincount(labels_C).max():
            continue
        for seed, split in enumerate(draws(study, labels_C, donors_C, n, count if n < 1_000 else min(count, 3))):
            labelled, asked = split
            found = {HEAD: f1(labels_C[asked], head_answers(features_CF, width, labels_C, codes_C, split, seed))}
            for name, of_part in PARTS.items() if parts else ():
                some_CF = np.concatenate([part_of[one] for one in of_part], axis=1)
                first = width if len(of_part) > 1 else 0
                found[name] = f1(labels_C[asked], head_answers(some_CF, first, labels_C, codes_C, split, seed))
            by = donors_C if study.donor else None
            found[PANEL] = f1(labels_C[asked], regression(panel_CG, labels_C, by, split, seed))
            genes = most_variable(own_CG, labelled)
            found[OWN] = f1(labels_C[asked], regression(own_CG[:, genes], labels_C, by, split, seed))
            if seed == 0 and n in TRAINED_ON:
                for how in train:
                    started = time.perf_counter()
                    found[f"{TRAINED} {how}"] = trained(adata, model, study, split, how, seed)
                    print(f"--how {how}: {time.perf_counter() - started:.0f} s", flush=True)
            rows.append({"cells_a_class": n, "labels": len(np.unique(labels_C[labelled])), "seed": seed, **found})
            print(path.stem, rows[-1], flush=True)
    return rows


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="polygene-512")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--few", type=int, nargs="+", default=FEW)
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--train", nargs="*", default=[], choices=["all"])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Score every row on every study, print the table, and return the rows."""
    model = PolyGene.from_pretrained(options.model, device="cpu")
    scores: dict[str, list[dict]] = {}
    few, draws = effort.few(options.few), effort.at_most(options.draws, 1)
    for name in effort.few(options.studies):
        study = STUDIES[name]
        try:
            path = files.locate(study.file, options.data)
        except files.MissingDataError as reason:
            print(f"skipped: {reason}")
            continue
        scores[name] = score(study, path, model, few, draws, options.train, options.parts or options.smoke)
    others = (PANEL, OWN, *(PARTS if options.parts else ()), *(f"{TRAINED} {how}" for how in options.train))
    table = Table(title=f"macro-F1, {options.model}, mean of draws (draws in which the head is below)")
    for column in ("study", "labels", "cells a class", "draws", HEAD, *others):
        table.add_column(column)
    for name, rows in scores.items():
        for n, of_n in pd.DataFrame(rows).groupby("cells_a_class"):
            labels = f"{of_n['labels'].min()}–{of_n['labels'].max()}"
            below = [
                f"{of_n[row].mean():.3f} ({int((of_n[HEAD] < of_n[row]).sum())})" if row in of_n else ""
                for row in others
            ]
            table.add_row(name, labels, f"{n:,}", f"{len(of_n)}", f"{of_n[HEAD].mean():.3f}", *below)
    Console(width=200).print(table)
    return {"model": options.model, "finetune": scores}


def main(argv: Sequence[str] | None = None) -> None:
    command.run("finetune", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
