"""The cells that `benchmarks/models` scores, and what baselines answer for them, kept beside the corpora.

The predictions do not depend on a model, and take an hour where those of a model take a minute. They are kept in
DIR/answers under a hash of the corpus and of the studies never seen, one file each, so that a run that was cut off goes
on where it was.

Legend: C cells, G panel genes, S sources, V labels of a phenotype, P phenotypes.
"""

import hashlib
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from polygene.corpus.corpus import Corpus
from polygene.evaluation.baselines import YEARS_BASELINES, TuningScore, baseline_years, tuned_probabilities
from polygene.evaluation.estimators import CellTable
from polygene.evaluation.test_cells import BLOCK, ROWS, actual_years, cell_table
from polygene.tl._reader import CellReader
from polygene.vocab.ages import age_in_years
from polygene.vocab.cells import EncodedCells

log = logging.getLogger("polygene")

CELLTYPIST = "CellTypist"
Weights = dict[str, Literal["balanced"] | None]
"""Class weights of the baselines, by phenotype: those that the model was trained with."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The test cells of a corpus, and after them those of whole studies that no cell trains.

    Attributes
    ----------
    table
        The cells as baselines see them; `measured_SG` has a row for each source of the corpus and for each study.
    parts
        The same cells as the model reads them, in the same order.
    sources
        Names of the rows of `measured_SG`.
    n_corpus
        How many of them are sources of the corpus; the others are studies never seen.
    labels
        Column by phenotype: the label of each cell, also one that no training cell has; None where not given.
    years
        Column by age phenotype: years of each cell, NaN where not known.
    """

    table: CellTable
    parts: list[EncodedCells]
    sources: tuple[str, ...]
    n_corpus: int
    labels: pd.DataFrame
    years: pd.DataFrame

    def truth(self, phenotype: str, labels: Sequence[str]) -> np.ndarray:
        """Place of each cell's label among these, -1 for another or none."""
        return pd.Index(labels).get_indexer(self.labels[phenotype])


def asked_cells(corpus: Corpus, folder: Path) -> Asked:
    """Read the test cells of a corpus and the studies in `folder`/external, those as a user's file would be read."""
    schema, test = corpus.tokenizer.schema, corpus.split("test")
    ages = [one.name for one in schema.phenotypes if one.ordinal == "age"]
    names, measured_SG = list(corpus.sources), [corpus.measured_SG]
    first = cell_table(corpus, test, np.arange(len(test)))
    x, parts, sources = [first.x_CG], [test.cells(slice(None))], [first.sources_C.astype(int)]
    donors = [test.donors_C]
    labels = [schema.decode(test.labels_CP).astype(object).set_axis(list(schema.names), axis=1)]
    years = [pd.DataFrame({n: actual_years(test, schema.years(n), test.labels_CP[:, schema.index(n)]) for n in ages})]
    for path in sorted((folder / "external").glob("*.h5ad")):
        reader = CellReader(path, corpus.tokenizer)
        obs = ad.read_h5ad(path, backed="r").obs
        for _, encoded in reader.chunks():
            parts.append(encoded)
            x.append(encoded.as_csr(encoded.values_N, measured_SG[0].shape[1]))
        names.append(path.stem)
        measured_SG.append(reader.match.measured_G[None])
        sources.append(np.full(len(obs), len(names) - 1))
        donors.append(obs["donor_id"].astype(object).fillna("").to_numpy())
        known = {one.name: obs[one.column].astype(object) for one in schema.phenotypes if one.column in obs}
        labels.append(pd.DataFrame(known, index=obs.index).reindex(columns=list(schema.names)))
        years.append(pd.DataFrame({n: labels[-1][n].map(age_in_years, na_action="ignore") for n in ages}))
    together = pd.concat(labels, ignore_index=True)
    return Asked(
        table=CellTable(
            x_CG=sparse.vstack(x, format="csr"),
            sources_C=np.concatenate(sources),
            measured_SG=np.concatenate(measured_SG),
            donors_C=np.concatenate(donors),
        ),
        parts=parts,
        sources=tuple(names),
        n_corpus=len(corpus.sources),
        labels=together.where(together.notna(), None),
        years=pd.concat(years, ignore_index=True).astype(float),
    )


class Baselines:
    """What baselines that learn from the training cells of a corpus answer for asked cells, computed once."""

    def __init__(self, corpus: Corpus, asked: Asked, folder: Path, weights: Weights, *, seed: int = 0) -> None:
        train = corpus.split("train")
        self._learned = cell_table(corpus, train, np.arange(len(train)))
        self._learned = CellTable(
            x_CG=self._learned.x_CG,
            sources_C=self._learned.sources_C,
            measured_SG=asked.table.measured_SG,
            donors_C=self._learned.donors_C,
        )
        self.labels_CP = train.labels_CP
        schema = self._schema = corpus.tokenizer.schema
        self._years = {n: actual_years(train, schema.years(n), self.labels_CP[:, schema.index(n)]) for n in asked.years}
        self._asked, self._weights, self._seed = asked, weights, seed
        said = hashlib.sha256((corpus.folder / "corpus.json").read_bytes())
        for path in sorted((folder / "external").glob("*.h5ad")):
            said.update(path.read_bytes())
        self._folder = folder / "answers" / f"{said.hexdigest()[:16]}-seed{seed}"

    def probabilities(self, phenotype: str) -> dict[str, np.ndarray]:
        """Answer a phenotype with every row of the table, float32 (C, V) each."""
        weight = self._weights.get(phenotype)
        p = self._schema.index(phenotype)
        labels_C, n_labels = self.labels_CP[:, p], len(self._schema.labels[p])
        found = {}
        for baseline, rows in ROWS.items():
            scores: list[TuningScore] = list(rows.values())

            def answer(baseline: Any = baseline, scores: list[TuningScore] = scores) -> np.ndarray:
                answers = tuned_probabilities(
                    baseline, self._learned, labels_C, self._asked.table, n_labels,
                    class_weight=weight, tune_for=scores, seed=self._seed,
                )  # fmt: skip
                return np.stack(answers).astype(np.float32)

            found |= dict(zip(rows, self._once(f"{phenotype}, {baseline}, {weight}", answer), strict=True))
        if phenotype == "cell_type":
            found[CELLTYPIST] = self._once(
                f"{phenotype}, {CELLTYPIST}", lambda: celltypist(self._learned, labels_C, self._asked.table, n_labels)
            )
        return found

    def years(self, phenotype: str) -> dict[str, np.ndarray]:
        """Answer an age in years with every baseline, (C,) each."""
        learned = self._learned, self._years[phenotype], self._asked.table
        return {
            name: self._once(f"{phenotype} in years, {name}", lambda name=name: baseline_years(name, *learned))
            for name in YEARS_BASELINES
        }

    def _once(self, name: str, answer: Any) -> np.ndarray:
        """Give what is kept, or answer and keep it."""
        path = self._folder / f"{name}.npy"
        if not path.exists():
            started, used = time.perf_counter(), time.process_time()
            found = answer()
            log.info(
                "%s: %.0f s, %.0f s of them computing", name, time.perf_counter() - started, time.process_time() - used
            )
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                np.save(file, found)
            Path(file.name).replace(path)
        return np.load(path)


class OneAgainstRest(LogisticRegression):
    """What CellTypist 1.7 trains, `LogisticRegression(multi_class="ovr")`, which scikit-learn no longer has."""

    def __init__(self, *, C: float, solver: str, max_iter: int, multi_class: str, n_jobs: int | None) -> None:
        super().__init__(C=C, solver=solver, max_iter=max_iter)
        self.multi_class, self.n_jobs = multi_class, n_jobs

    def fit(self, x_CG: np.ndarray, labels_C: np.ndarray) -> "OneAgainstRest":
        """Fit one classifier a label."""
        self.classes_ = np.unique(labels_C)
        fits = []
        for label in self.classes_:
            one = LogisticRegression(C=self.C, solver=self.solver, max_iter=self.max_iter)
            fits.append(one.fit(x_CG, labels_C == label))
        self.coef_ = np.concatenate([one.coef_ for one in fits])
        self.intercept_ = np.concatenate([one.intercept_ for one in fits])
        return self


def celltypist(train: CellTable, labels_C: np.ndarray, asked: CellTable, n_labels: int) -> np.ndarray:
    """Train CellTypist with its defaults on labelled cells and answer for others.

    An unmeasured gene is 0, as for the other baselines. CellTypist itself leaves out genes that a file lacks, which
    makes them average: for cells of sources that trained as 0 that is far worse. Majority voting, off by default, would
    answer for clusters and not for cells. Its probabilities, one for each label against the rest, are divided by their
    sum.
    """
    import celltypist as package

    package.logger.set_level(logging.ERROR)  # it tells of every step

    given_C = labels_C >= 0
    genes = np.array([f"gene {g}" for g in range(train.x_CG.shape[1])])
    x_CG = train.x_CG[given_C].astype(np.float32).toarray()
    with mock.patch("celltypist.train.LogisticRegression", OneAgainstRest):
        model = package.train(x_CG, labels_C[given_C].astype(str), genes, check_expression=False, n_jobs=1)
    found_CV = np.zeros((len(asked), n_labels), dtype=np.float32)
    for block in np.array_split(np.arange(len(asked)), max(1, len(asked) // BLOCK)):
        cells = ad.AnnData(asked.x_CG[block].astype(np.float32).toarray(), var=pd.DataFrame(index=genes))
        scores = package.annotate(cells, model=model).decision_matrix
        log_p = -np.logaddexp(0, -scores.to_numpy(dtype=float))
        p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
        found_CV[np.ix_(block, scores.columns.astype(int))] = p / p.sum(axis=1, keepdims=True)
    return found_CV
