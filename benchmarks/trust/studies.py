"""What to believe on studies never seen: sets, errors, unknown kinds of cells, votes; and donors as wholes.

    python -m benchmarks.trust --data DIR --only studies [--models FOLDER]

The models that ship and are calibrated on studies (all, if none is) annotate every external file with nothing given,
sets at 0.9 and a vote by Leiden cluster; what `annotate` writes is scored. A label is right if it is the true one or
finer; where the model knows no such label, if it is the nearest broader one. A vote may give a broader label than the
true one, which is neither right nor wrong: `vote_gain` counts what is right, `vote_broader` what is broader, and
`vote_wrong_less` by how much fewer cells have a wrong label than without the vote. Known tissues are the external
files, unknown ones are cell lines, which no model learned.

Donors: the test donors of FOLDER/corpora/corpus-512 (benchmarks.models.corpus), which is made if it is not there.
Sex, tissue, disease and age of each donor by the vote of its cells, beside the same pooling of logistic regression on
the same genes of 50 cells a training donor, and logistic regression on mean expression by donor (pseudobulk); for age
ridge regression in their place. Only sources in which a label varies are counted, except for tissue.

Legend: C cells, D donors, G genes, V labels.
"""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import polygene as pg
from benchmarks.models import corpus as making
from benchmarks.models.calibrate import ece, holding, table_of
from benchmarks.models.external import NearestProfile
from benchmarks.shared import effort, files
from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.evaluation.metrics import expected_years
from polygene.model.inference import label_probabilities
from polygene.model.pooling import pooled
from polygene.model.shipped import NAMES
from polygene.model.studies import leaf_labels
from polygene.vocab.ontology import ontology_of

LINES = ("lung_ca_lines_mixology", "sciplex3_cell_lines")
"""Files of cells that are no tissue of a person."""
FAR = "distance_to_profiles"
MOST, A_DONOR = 1_000, 50
"""Cells of a file and of a donor."""
COLUMN = "polygene_cell_type"


def run(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Score the models that ship; the numbers of the first are those of the last line, those of the others within."""
    external, lines = _external(data, folder), _lines(data)
    _add_profiles(data, [*external.values(), *lines])
    found = {}
    models = {name: pg.PolyGene.from_pretrained(name, device="cpu") for name in effort.few(NAMES)}
    calibrated = {name: model for name, model in models.items() if model.calibration.studies}
    for name, model in (calibrated or models).items():
        found[name] = of_model(model, external, lines)
        found[name]["donor_scores"] = donor_scores(model, _corpus(data, folder, len(model.tokenizer.panel)), seed)
        show(name, found[name])
    first, *others = found
    return found[first] | {"model": first, "other_models": {name: found[name] for name in others}}


def of_model(model: pg.PolyGene, external: dict[str, ad.AnnData], lines: list[ad.AnnData]) -> dict[str, Any]:
    """Score a model on the external studies: means, and the studies under `by_study`."""
    by_study, known = {}, []
    for study, cells in external.items():
        cells = cells.copy()
        pg.tl.annotate(cells, model, coverage=0.9, vote={"cell_type": "leiden"})
        known.append(doubts(cells.obs))
        if study_scores := of_study(cells):
            by_study[study] = study_scores
    unknown = []
    for cells in lines:
        pg.tl.annotate(cells, model, predict=["cell_type"])
        unknown.append(doubts(cells.obs))
    names = [name for name in next(iter(by_study.values())) if name != "cells"]
    mean = {name: float(np.nanmean([scores[name] for scores in by_study.values()])) for name in names}
    novel = {} if not unknown else {name: _told(known, unknown, name) for name in known[0]}
    return mean | {"novel_tissue_auroc": novel.get("novelty"), "novel_tissue_by": novel, "by_study": by_study}


def doubts(obs: pd.DataFrame) -> pd.DataFrame:
    """What may tell a wrong label, or a kind of cell that the model does not know."""
    found = {"1 - probability": 1 - obs[f"{COLUMN}_probability"]}
    columns = {"error": f"{COLUMN}_error", "novelty": "polygene_novelty", "set size": f"{COLUMN}_set_size"}
    columns["distance to profiles"] = FAR
    found |= {name: obs[column] for name, column in columns.items() if column in obs}
    return pd.DataFrame({name: column.astype(float) for name, column in found.items()})


def _told(known: list[pd.DataFrame], unknown: list[pd.DataFrame], name: str) -> float | None:
    """AUROC of telling cells of unknown kinds from others; None where it is not written for both."""
    if name not in known[0] or name not in unknown[0]:
        return None
    values = np.concatenate([table[name] for table in (*known, *unknown)])
    return float(roc_auc_score(np.arange(len(values)) >= sum(map(len, known)), values))


def of_study(cells: ad.AnnData) -> dict[str, float]:
    """Score what `annotate` wrote about the cells whose type is known; empty without any."""
    cells = cells[cells.obs["cell_type"].notna().to_numpy()] if "cell_type" in cells.obs else cells[:0]
    if not cells.n_obs:
        return {}
    obs, labels = cells.obs, list(map(str, cells.uns["polygene"]["annotate"]["labels"]["cell_type"]))
    table_VV = table_of(labels)
    types, type_C = np.unique(obs["cell_type"].astype(str), return_inverse=True)
    holds_NV = np.array([holding(labels, table_VV, one) for one in types])
    place = {label: v for v, label in enumerate(labels)}
    label_C = obs[COLUMN].astype(str).map(place).to_numpy()
    right_C = holds_NV[type_C, label_C]
    above_NV = np.array([broader(labels, one) for one in types]) & ~holds_NV
    known_C = (holds_NV & leaf_labels(table_VV)).any(axis=1)[type_C]  # sets are of leaves
    sets = [[place[label] for label in text.split(" | ")] for text in obs[f"{COLUMN}_set"]]
    held_C = np.array([holds_NV[n, some].any() for n, some in zip(type_C, sets, strict=True)])
    error_C = obs[f"{COLUMN}_error"] if f"{COLUMN}_error" in obs else 1 - obs[f"{COLUMN}_probability"]
    scores = {
        "cells": cells.n_obs, "accuracy": right_C.mean(), "unknown_types": (~known_C).mean(),
        "coverage_external": held_C[known_C].mean(), "set_size": obs[f"{COLUMN}_set_size"].mean(),
        "ece_external": ece(error_C.to_numpy(float), ~right_C),
        "ece_probability": ece(obs[f"{COLUMN}_probability"].to_numpy(float), right_C),
        "flagged": obs["polygene_unknown"].mean() if "polygene_unknown" in obs else np.nan,
    }  # fmt: skip
    votes = _vote(cells, right_C, right_C | above_NV[type_C, label_C], (holds_NV, above_NV), type_C, place)
    for name, column in doubts(obs).items():
        both = 0 < right_C.mean() < 1
        key = "auroc_wrong" if name == "error" else f"auroc_wrong_{name.replace('1 -', '1 minus').replace(' ', '_')}"
        scores[key] = roc_auc_score(~right_C, column) if both else np.nan
    return {name: float(value) for name, value in (scores | votes).items()}


def broader(labels: list[str], truth: str) -> np.ndarray:
    """Which labels are above a type in the ontology, bool (V,)."""
    compare = ontology_of("cell_type").compare
    return np.array([compare(label, truth) == "broader" for label in labels])


def _vote(
    cells: ad.AnnData,
    right_C: np.ndarray,
    true_C: np.ndarray,
    tables: tuple[np.ndarray, np.ndarray],
    type_C: np.ndarray,
    place: dict[str, int],
) -> dict[str, float]:
    """Score votes beside the cells' own labels: of `annotate`, and the most frequent label of the cluster's cells.

    `within_gain` is that of the label that each cell keeps within the branch of its cluster.

    `true_C` says which own labels are right or broader; `tables` are the labels that are right and those above.
    """
    holds_NV, above_NV = tables
    table = cells.uns["polygene"]["annotate"]["votes"]["cell_type_leiden"]["table"].set_index("group")
    clusters = cells.obs["leiden"].astype(str)
    label_C = clusters.map(table["label"]).map(place).to_numpy()
    most_C = cells.obs[COLUMN].astype(str).groupby(clusters).transform(lambda one: one.value_counts().index[0])
    voted_C, majority_C = holds_NV[type_C, label_C], holds_NV[type_C, most_C.map(place).to_numpy()]
    within_C = cells.obs[f"{COLUMN}_leiden_within"].astype(str).map(place).to_numpy()
    mixed_C = clusters.map(table["heterogeneous"]).to_numpy(dtype=bool)
    broader_C = above_NV[type_C, label_C]
    return {
        "vote_gain": voted_C.mean() - right_C.mean(),
        "vote_broader": broader_C.mean(),
        "vote_wrong_less": (voted_C | broader_C).mean() - true_C.mean(),
        "within_gain": holds_NV[type_C, within_C].mean() - right_C.mean(),
        "majority_gain": majority_C.mean() - right_C.mean(),
        "heterogeneous": mixed_C.mean(),
        "vote_accuracy_of_others": voted_C[~mixed_C].mean() if (~mixed_C).any() else np.nan,
    }


# --- donors ---


def donor_scores(model: pg.PolyGene, corpus: Corpus | None, seed: int) -> dict[str, Any]:
    """Score each phenotype of the test donors; None where the corpus is another than the model's."""
    if corpus is None or corpus.info["tokenizer"] != model.tokenizer.fingerprint():
        print("donor scores: skipped, the corpus has another tokenizer than the model", flush=True)
        return {}
    rng = np.random.default_rng(seed)
    train, test = (_some(corpus.split(part), rng) for part in ("train", "test"))  # type: ignore[arg-type]
    found = {}
    for p, name in enumerate(model.tokenizer.schema.names):
        if name != "cell_type" and (scores := _phenotype(model, p, name, train, test)):
            found[name] = scores
    return found


def _some(split: CorpusSplit, rng: np.random.Generator) -> tuple[CorpusSplit, np.ndarray, np.ndarray]:
    """Draw at most `A_DONOR` cells of each donor: the split, their rows, and the donor of each."""
    rows = rng.permutation(np.flatnonzero(split.donors_C != ""))
    key = pd.Series(split.sources_C[rows].astype(str)) + "/" + pd.Series(split.donors_C[rows].astype(str))
    kept = (key.groupby(key).cumcount() < A_DONOR).to_numpy()
    order = np.argsort(rows[kept])
    return split, rows[kept][order], key[kept].to_numpy()[order]


def _phenotype(model: pg.PolyGene, p: int, name: str, train: Any, test: Any) -> dict[str, Any]:
    split, rows, donor = train
    truth, of = split.labels_CP[rows, p], split.sources_C[rows]
    asked = test[0].labels_CP[test[1], p] >= 0
    if name != "tissue":  # a label that does not vary in a source is read off the source
        varied = [s for s in np.unique(of) if len(set(truth[(of == s) & (truth >= 0)])) > 1]
        asked &= np.isin(test[0].sources_C[test[1]], varied)
    known = truth >= 0
    if not asked.any() or len(set(truth[known])) < 2:
        return {}
    x_CG, new_CG = split.values(rows[known]).toarray(), test[0].values(test[1][asked]).toarray()
    group_C, donors = pd.factorize(test[2][asked])
    (p_CV,) = label_probabilities(model, test[0].cells(test[1][asked]), predict=[name])
    weight = model.calibration.labels[name].vote if name in model.calibration.labels else 1.0
    truth_D = np.array([test[0].labels_CP[test[1], p][asked][group_C == d][0] for d in range(len(donors))])
    train_D, names_D = pd.factorize(donor[known])
    mean_DG, new_DG = _means(x_CG, train_D), _means(new_CG, group_C)
    label_D = np.array([truth[known][train_D == d][0] for d in range(len(names_D))])
    if model.tokenizer.schema.phenotypes[p].ordinal == "age":
        years_V = model.tokenizer.schema.years(name)
        predicted = {
            "PolyGene, vote": expected_years(pooled(p_CV, group_C, weight), years_V),
            "regression, pooled": _means(_ridge(x_CG, years_V[truth[known]], new_CG)[:, None], group_C)[:, 0],
            "pseudobulk": _ridge(mean_DG, years_V[label_D], new_DG),
            "training mean": np.full(len(donors), years_V[label_D].mean()),
        }
        errors = {who: float(np.nanmean(abs(years - years_V[truth_D]))) for who, years in predicted.items()}
        return {"donors": len(donors), "score": "mean absolute error, years", **errors}
    n = p_CV.shape[1]
    labels = {
        "PolyGene, one cell": None,
        "PolyGene, vote": pooled(p_CV, group_C, weight).argmax(axis=1),
        "regression, pooled": pooled(_regression(x_CG, truth[known], new_CG, n), group_C, 1.0).argmax(axis=1),
        "pseudobulk": _regression(mean_DG, label_D, new_DG, n).argmax(axis=1),
        "most frequent": np.full(len(donors), np.bincount(label_D).argmax()),
    }
    scores = {who: float((found == truth_D).mean()) for who, found in labels.items() if found is not None}
    scores["PolyGene, one cell"] = float((p_CV.argmax(axis=1) == truth_D[group_C]).mean())
    return {"donors": len(donors), "score": "accuracy", **scores}


def _means(x_CG: np.ndarray, group_C: np.ndarray) -> np.ndarray:
    return pd.DataFrame(x_CG).groupby(group_C).mean().to_numpy()


def _ridge(x_CG: np.ndarray, years_C: np.ndarray, new_CG: np.ndarray) -> np.ndarray:
    scale, known = StandardScaler().fit(x_CG), np.isfinite(years_C)
    fit = RidgeCV(np.logspace(0, 6, 13)).fit(scale.transform(x_CG)[known], years_C[known])
    years_C_: np.ndarray = fit.predict(scale.transform(new_CG))
    return years_C_


def _regression(x_CG: np.ndarray, label_C: np.ndarray, new_CG: np.ndarray, n_labels: int) -> np.ndarray:
    """Probabilities of multinomial logistic regression on standardised genes."""
    scale = StandardScaler().fit(x_CG)
    fit = LogisticRegression(C=0.01, max_iter=300).fit(scale.transform(x_CG), label_C)
    p_CV = np.zeros((len(new_CG), n_labels))
    p_CV[:, fit.classes_] = fit.predict_proba(scale.transform(new_CG))
    return p_CV


# --- files ---


def _add_profiles(data: Path | None, studies: list[ad.AnnData]) -> None:
    """Write 1 − the correlation of each cell with its nearest public profile, whatever its label."""
    if any(one.measured for one in making.sources_of(data).values()):
        labels = making.read_table("labels.tsv")
        profiles = NearestProfile(data, sorted(set(labels.loc[labels["column"] == "cell_type", "name"]) - {""}))
        for cells in studies:
            cells.obs[FAR] = 1 - profiles.correlations(cells).max(axis=1)


def _some_cells(cells: ad.AnnData) -> ad.AnnData:
    rows = np.random.default_rng(0).permutation(cells.n_obs)[: effort.at_most(MOST, 50)]
    return cells[np.sort(rows)].copy()


def _external(data: Path | None, folder: Path) -> dict[str, ad.AnnData]:
    """Harmonise the external files, and draw cells of each."""
    sources = {name: one for name, one in making.sources_of(data).items() if one.role == "external"}
    paths = making.write(data, folder / "studies", sources)
    return {path.stem: _some_cells(ad.read_h5ad(path)) for some in paths.values() for path in some}


def _lines(data: Path | None) -> list[ad.AnnData]:
    found = []
    for name in LINES:
        try:
            found.append(_some_cells(ad.read_h5ad(files.locate(name, data))))
        except (files.MissingDataError, KeyError) as reason:
            print(f"skipped: {reason}")
    return found


def _corpus(data: Path | None, folder: Path, n_genes: int) -> Corpus | None:
    """Open the corpus of a panel size in FOLDER/corpora, which is made if there is no such folder."""
    corpora = folder / "corpora"
    if not corpora.is_dir():
        making.make(data, corpora, [n_genes])
    path = corpora / f"corpus-{n_genes}"
    return Corpus(path) if path.is_dir() else None


def show(name: str, found: dict[str, Any]) -> None:
    """Print the studies, and the donors."""
    table = Table("study", *(key for key in next(iter(found["by_study"].values()))), title=name)
    for study, scores in found["by_study"].items():
        table.add_row(study, *(f"{value:.3f}" if key != "cells" else f"{value:.0f}" for key, value in scores.items()))
    Console(width=300).print(table)
    for phenotype, scores in found["donor_scores"].items():
        print(phenotype, {key: round(one, 3) if isinstance(one, float) else one for key, one in scores.items()})
