"""Fine-tuning on few cells: macro-F1 on held-out cells by how many labelled cells a class there are.

    python -m benchmarks.models.finetune --data DIR [--model NAME-OR-PATH]

`polygene finetune` and then `annotate`, beside logistic regression on the panel's genes and on all genes of the file,
both tuned for macro-F1 over donors of the labelled cells (over cells where there is one). Labels are the authors'.
Where a file has donors, half of them give labelled cells and the others are predicted. Every draw is of other cells and
donors; differences are paired by draw, with 95 % t-intervals, too narrow in so far as draws share cells. The last line
is one JSON object.

* pbmc3k, Wu (T cells of tumours), lung cell lines: the model never saw the study; kidney: never its people.
* Perez: the model learned other donors of the study with labels like these; labelled are cells of its training donors,
  predicted are those of its test donors, of whom it knows nothing.
* COVID-19 (severe or mild) and autism (a control: it cannot be read off these cells): the label is the donor's, so ten
  draws of donors, with more cells. Crohn's disease cannot be measured: the file of its study names no donors that can
  be relied on.

Legend: C cells, G genes, V labels.
"""

import argparse
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
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from benchmarks.shared import command, effort, files
from polygene.evaluation.baselines import PENALTIES_C
from polygene.evaluation.folds import donor_folds
from polygene.model.checkpoint import PolyGene
from polygene.tl._annotate import annotate
from polygene.tl._finetune import finetune
from polygene.tl._head import axes_of
from polygene.vocab.expression import log1p_values

FEW, OF_DONORS = (5, 20), (200,)
"""Labelled cells a class: of cell types, and of labels that are the donor's."""
MOST_ASKED = 500
HEAD, PANEL, ALL = "polygene finetune", "logistic regression, panel", "logistic regression, all genes"


@dataclass(frozen=True)
class Study:
    """A file, its columns of labels and donors, and which donors give labelled cells and are predicted (else drawn)."""

    file: str
    label: str = "cell_type"
    donor: str | None = "donor_id"
    labelled: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    few: tuple[int, ...] = FEW
    draws: int = 3


TRAINING_HALF = ("RCC1", "VHLRCC", "Wilms1", "RCC3", "Wilms3", "TxK2")  # of recipes/corpus/sources.toml
STUDIES = {
    "pbmc3k": Study("pbmc3k_10x", donor=None),
    "Wu": Study("tcells_wu2020_200"),
    "kidney": Study("kidney_immune_stewart", without=tuple(f"stewart_{one}" for one in TRAINING_HALF)),
    "lung cell lines": Study("lung_ca_lines_mixology", donor=None),
    "Perez": Study(
        "perez_sle_healthy_tcells",  # donors that train and that test in the corpus of recipes/corpus, seed 0
        labelled=("perez_IGTB141", "perez_IGTB195", "perez_IGTB498", "perez_IGTB508"),
        asked=("perez_IGTB143", "perez_IGTB826"),
    ),
    "COVID-19, severity": Study("covid_ulv_pbmc", label="severity", few=OF_DONORS, draws=10),
    "autism (control)": Study("velmeshev_asd_pfc_glia", label="disease", few=OF_DONORS, draws=10),
}


def draws(
    study: Study, labels_C: np.ndarray, donors_C: np.ndarray, n: int, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw labelled cells, n a class as far as there are, and those to predict: pairs of indices."""
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
        yield labelled, np.sort(rng.permutation(asked)[:MOST_ASKED])


def regression(x_CG: sparse.csr_matrix, labels_C: np.ndarray, donors_C: np.ndarray | None, split, seed: int):
    """Predict by the logistic regression of `evaluation.baselines`, in the axes in which the labelled cells lie."""
    labelled, asked = split
    x_CG = x_CG[np.concatenate([labelled, asked])].astype(float).tocsc()
    known_CG = x_CG[: len(labelled)]
    spread_G = np.sqrt(known_CG.multiply(known_CG).mean(axis=0).A1 - np.square(known_CG.mean(axis=0).A1))
    varies = np.flatnonzero(spread_G > 1e-6)
    scaled_CG = x_CG[:, varies].toarray() / spread_G[varies]
    scaled_CG -= scaled_CG[: len(labelled)].mean(axis=0)  # the intercept takes it up
    if len(labelled) < scaled_CG.shape[1]:
        scaled_CG = scaled_CG @ axes_of(scaled_CG[: len(labelled)])
    x, new, y = scaled_CG[: len(labelled)], scaled_CG[len(labelled) :], labels_C[labelled]
    donors = None if donors_C is None or len(set(donors_C[labelled])) == 1 else pd.factorize(donors_C[labelled])[0]
    codes = np.unique(y, return_inverse=True)[1]
    predicted = np.full((len(PENALTIES_C), len(y)), -1)
    for train, test in donor_folds(codes, donors, 3, seed):
        for i, c in enumerate(PENALTIES_C if len(set(y[train])) > 1 else ()):
            predicted[i, test] = logistic(c).fit(x[train], y[train]).predict(x[test])
    reached = np.array([f1(y, one) for one in predicted])
    return logistic(PENALTIES_C[int(reached.argmax())]).fit(x, y).predict(new)


def logistic(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=300)


def f1(truth_C: np.ndarray, found_C: np.ndarray) -> float:
    return float(f1_score(truth_C, found_C, average="macro", labels=np.unique(truth_C), zero_division=0))


def tuned(adata: ad.AnnData, model: PolyGene, study: Study, split, seed: int) -> float:
    """Fine-tune on the labelled cells, annotate the others, and score them."""
    known, asked = (adata[rows].copy() for rows in split)
    donor = {"donor": study.donor} if study.donor else {}
    annotate(asked, finetune(known, model, label="own_label", seed=seed, **donor), predict="own_label")
    return f1(asked.obs["own_label"].to_numpy(dtype=str), asked.obs["polygene_own_label"].to_numpy(dtype=str))


def score(name: str, path: Path, model: PolyGene, few: Sequence[int], count: int) -> list[dict[str, Any]]:
    """Score every method on every draw of one study."""
    study, adata = STUDIES[name], ad.read_h5ad(path)
    kept_C = adata.obs[study.label].notna().to_numpy()
    if study.without:
        kept_C &= ~adata.obs[study.donor].isin(study.without).to_numpy()
    adata = adata[kept_C].copy()
    adata.obs["own_label"] = "label " + adata.obs[study.label].astype(str)
    labels_C = pd.factorize(adata.obs["own_label"], sort=True)[0]
    donors_C = np.zeros(len(labels_C)) if study.donor is None else adata.obs[study.donor].to_numpy(dtype=str)
    match = model.tokenizer.panel.match(adata.var)
    matrices = {PANEL: log1p_values(adata, match), ALL: log1p_values(adata)}
    rows = []
    for n in few:
        for seed, split in enumerate(draws(study, labels_C, donors_C, n, count)):
            if max(np.bincount(labels_C[split[0]])) < n:
                break
            found = {HEAD: tuned(adata, model, study, split, seed)}
            by = donors_C if study.donor else None
            for method, x_CG in matrices.items():
                found[method] = f1(labels_C[split[1]], regression(x_CG, labels_C, by, split, seed))
            n_labels = len(np.unique(labels_C[split[0]]))
            rows.append({"study": name, "cells_a_class": n, "labels": n_labels, "draw": seed, **found})
            print(rows[-1], flush=True)
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Lay out means over draws, and differences with their intervals, for terminal and docs."""
    laid = [["study", "labels", "cells a class", "draws", HEAD, PANEL, "difference", ALL, "difference"]]
    for (name, n), some in pd.DataFrame(rows).groupby(["study", "cells_a_class"], sort=False):
        line = [str(name), f"{some['labels'].max()}", f"{n}", f"{len(some)}", f"{some[HEAD].mean():.3f}"]
        for other in (PANEL, ALL):
            gain, n_draws = some[HEAD] - some[other], len(some)
            half = student.ppf(0.975, n_draws - 1) * gain.std() / np.sqrt(n_draws) if n_draws > 1 else None
            line += [
                f"{some[other].mean():.3f}",
                f"{gain.mean():+.3f}" + (f" ± {half:.3f}" if half is not None else ""),
            ]
        laid.append(line)
    return laid


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="polygene-512")
    parser.add_argument("--draws", type=int, help="in place of three, and ten for labels of donors")
    parser.add_argument(
        "--few", type=int, nargs="+", help="labelled cells a class, in place of 5 and 20, 200 of donors"
    )
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=list(STUDIES))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Score every method on every study, print the table, and return the rows."""
    model = PolyGene.from_pretrained(options.model, device="cpu")
    rows: list[dict[str, Any]] = []
    for name in effort.few(options.studies):
        try:
            path = files.locate(STUDIES[name].file, options.data)
        except files.MissingDataError as reason:
            print(f"skipped: {reason}")
            continue
        study = STUDIES[name]
        few, count = effort.few(options.few or study.few), effort.at_most(options.draws or study.draws, 1)
        rows += score(name, path, model, few, count)
    head, *body = summary(rows) if rows else [["nothing"]]
    table = Table(*head, title=f"macro-F1, {options.model}, means of draws")
    for line in body:
        table.add_row(*line)
    Console(width=200).print(table)
    return {"model": options.model, "rows": rows}


def main(argv: Sequence[str] | None = None) -> None:
    command.run("finetune", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
