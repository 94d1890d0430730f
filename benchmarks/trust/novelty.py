"""Cells unlike any in training: which score finds them, beside what is found without a look at any gene.

    python -m benchmarks.trust --data DIR --only novelty

Known cells are those of donors that were held out. Unseen ones are

* a cell type that was left out of the file before the panel was chosen: its cells of the same held-out donors;
* another tissue: trained on one study, on the genes that both measure, it meets the other. Studies differ in library
  size too, so once more with the counts of the larger cells thinned to the library sizes of the smaller;
* known cells whose values were shuffled among the genes: library size and number of expressed genes stay;
* doublets: the counts of two known cells of one donor and of different types, added; and thinned by half.

AUROC is that of telling the unseen from the known. The trivial detector sees how many panel genes are expressed, how
many counts there are, and (of files that measured other genes) which were measured: the best of nine ways to use these
is taken *on the very cells that are scored*, so its row is a bound that no detector fitted beforehand would reach.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.special import logsumexp
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from benchmarks.shared import effort, files, studies
from polygene.corpus.corpus import Corpus
from polygene.evaluation.novelty import score_novelty
from polygene.evaluation.test_cells import CellBlocks, model_predictions
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import bin_probabilities, cell_states, predict_labels
from polygene.model.masking import MaskingConfig, mask_genes
from polygene.model.novelty import NoveltyDetector
from polygene.runtime.hashing import uniform
from polygene.vocab.cells import EncodedCells

LEFT_OUT = {
    "velmeshev": ("microglial cell",),
    "onek1k": ("memory B cell", "naive/central memory CD4-positive T cell"),
}
OTHER_TISSUE = {"onek1k": {"brain": "velmeshev_asd_pfc_glia"}}
EPOCHS = 3
"""Of the networks that leave something out."""
KEPT, TRIVIAL = "question state, Mahalanobis (kept)", "trivial: library size"
CELLS = 500
"""Most cells of each kind that are scored, and twice as many that scores learn from."""


def run(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """AUROC by scenario and score, and the share of known cells that the kept score flags."""
    found = {}
    for name in effort.few(LEFT_OUT):
        try:
            for scenario, model, corpus, known, unseen in _scenarios(name, data, seed, folder):
                found[scenario] = _aurocs(model, corpus, known, unseen)
                print(scenario, {score: round(value, 3) for score, value in found[scenario].items()}, flush=True)
        except files.MissingDataError as reason:
            print(f"skipped: {reason}")
    for number, scenario in enumerate(found):
        print(f"{number + 1}: {scenario}")
    Console(width=220).print(table(found))
    return {"ood_auroc": found}


def _scenarios(
    name: str, data: Path | None, seed: int, folder: Path
) -> Iterator[tuple[str, PolyGene, Corpus, EncodedCells, EncodedCells]]:
    """Name, model, corpus, known and unseen cells of every scenario of a study."""
    adata = ad.read_h5ad(files.locate(studies.STUDIES[name].file, data))
    types_C = adata.obs["cell_type"].astype(str).to_numpy()
    for left_out in effort.few(LEFT_OUT[name]):
        model, corpus = studies.trained(
            name,
            folder,
            data=data,
            seed=seed,
            tag=f"without-{left_out}".replace("/", "-"),
            without={"cell_type": left_out},
            epochs=EPOCHS,
        )
        test = corpus.split("test")
        of_type = adata[(types_C == left_out) & _of_donors(adata, test.donors_C)]
        yield f"{name}: {left_out}", model, corpus, test.cells(_spread(len(test))), _encode(model, of_type)
    for tissue, file in effort.few(OTHER_TISSUE.get(name, {}).items()):
        other = ad.read_h5ad(files.locate(file, data))
        genes = sorted(set(adata.var_names) & set(other.var_names))
        model, corpus = studies.trained(
            name, folder, data=data, seed=seed, tag=f"shared-with-{tissue}", genes=genes, epochs=EPOCHS
        )
        known = adata[adata.obs_names.isin(corpus.split("test").names_C)]
        known, other = (each[_spread(each.n_obs), genes].copy() for each in (known, other))
        yield f"{name} meets {tissue}", model, corpus, _encode(model, known), _encode(model, other)
        known, other = _thinned_alike(known, other, seed)
        yield (
            f"{name} meets {tissue}, library sizes matched",
            model,
            corpus,
            _encode(model, known),
            _encode(model, other),
        )
    model, corpus = studies.held_out_widely(name, folder, data=data, seed=seed)
    test = corpus.split("test")
    known = test.cells(_spread(len(test)))
    yield f"{name}: genes shuffled", model, corpus, known, _shuffled(known, seed)
    for how, unseen in _doublets(adata[adata.obs_names.isin(test.names_C)], seed).items():
        yield f"{name}: {how}", model, corpus, known, _encode(model, unseen)


def _spread(n: int, most: int = CELLS) -> np.ndarray:
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)


def _of_donors(adata: ad.AnnData, donors_C: np.ndarray) -> np.ndarray:
    if "donor_id" not in adata.obs:
        return np.ones(adata.n_obs, dtype=bool)
    return adata.obs["donor_id"].astype(str).isin(set(donors_C)).to_numpy()


def _encode(model: PolyGene, adata: ad.AnnData) -> EncodedCells:
    return model.tokenizer.encode(adata[_spread(adata.n_obs)].copy(), use_labels=False)


def _thin(x_CG: sparse.csr_matrix, share_C: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Keep each count with the probability of its cell."""
    x_CG = x_CG.tocsr().copy()
    x_CG.data = rng.binomial(x_CG.data.round().astype(int), np.repeat(share_C, np.diff(x_CG.indptr))).astype(np.float32)
    x_CG.eliminate_zeros()
    return x_CG


def _thinned_alike(one: ad.AnnData, other: ad.AnnData, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Thin both to the same library sizes: ranks of one get the smaller of the two sizes at that rank."""
    rng = np.random.default_rng(seed)
    totals = [np.asarray(each.X.sum(axis=1)).ravel() for each in (one, other)]
    thinned = []
    for each, own_C in zip((one, other), totals, strict=True):
        rank_C = (np.argsort(np.argsort(own_C)) + 0.5) / len(own_C)
        target_C = np.minimum(*(np.quantile(total, rank_C) for total in totals))
        share_C = np.minimum(target_C / np.maximum(own_C, 1), 1.0)
        thinned.append(ad.AnnData(_thin(each.X, share_C, rng), obs=each.obs[[]], var=each.var[[]]))
    return thinned[0], thinned[1]


def _shuffled(cells: EncodedCells, seed: int) -> EncodedCells:
    """Give the values of each cell to measured genes drawn at random."""
    rng, measured = np.random.default_rng(seed), np.flatnonzero(cells.measured_G)
    drawn = [rng.permutation(measured)[:n] for n in np.diff(cells.offsets_C1)]
    order_N = np.lexsort((np.concatenate(drawn), cells.cells_N))
    return replace(
        cells,
        genes_N=np.concatenate(drawn)[order_N].astype(np.uint16),
        bins_N=cells.bins_N[order_N],
        values_N=cells.values_N[order_N],
    )


def _doublets(adata: ad.AnnData, seed: int) -> dict[str, ad.AnnData]:
    """Add the counts of pairs of cells of one donor and of different types."""
    rng = np.random.default_rng(seed)
    types_C = adata.obs["cell_type"].astype(str).to_numpy()
    donors_C = adata.obs["donor_id"].astype(str).to_numpy() if "donor_id" in adata.obs else np.zeros(adata.n_obs)
    pairs = []
    for first in rng.integers(0, adata.n_obs, effort.at_most(CELLS, 20)):
        others = np.flatnonzero((donors_C == donors_C[first]) & (types_C != types_C[first]))
        pairs += [(first, rng.choice(others))] if len(others) else []
    one, two = np.array(pairs).T
    added_CG = (adata.X[one] + adata.X[two]).tocsr()
    halved_CG = _thin(added_CG, np.full(len(pairs), 0.5), rng)
    obs = pd.DataFrame(index=[f"doublet{i}" for i in range(len(pairs))])
    made = {"doublets": added_CG, "doublets, thinned by half": halved_CG}
    return {how: ad.AnnData(x_CG, obs=obs, var=adata.var[[]]) for how, x_CG in made.items()}


class Looked:
    """What the candidates see of some cells."""

    def __init__(self, model: PolyGene, cells: EncodedCells) -> None:
        schema, p = model.tokenizer.schema, model.tokenizer.schema.index("cell_type")
        answers, states = predict_labels(model, cells, predict=schema.names)
        self.probabilities, self.question_CD = answers, states[p]
        with torch.inference_mode():
            rows = model.network.label_rows(p)  # without the linear branch
            self.logits_CV = torch.nn.functional.linear(torch.from_numpy(states[p]), *rows).numpy()
        self.type_CV = answers[p]
        self.genes_CD = cell_states(model, cells)
        shape = (len(cells), len(model.tokenizer.panel))
        self.x_CG = sparse.csr_matrix((cells.values_N, cells.genes_N.astype(np.int32), cells.offsets_C1), shape)
        self.n_expressed_C = np.diff(cells.offsets_C1)
        self.total_C = np.asarray(self.x_CG.expm1().sum(axis=1)).ravel()
        self.n_measured_C = np.full(len(cells), cells.measured_G.sum())
        self.surprise_C, self.standard_C = reconstruction(model, cells)


def reconstruction(model: PolyGene, cells: EncodedCells, *, rate: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Give the cross-entropy of a cell's hidden genes, (C,), and how far it is from what the answers themselves expect.

    The latter is in standard deviations, so that it does not depend on how many genes a cell expresses.
    """
    n_genes, n_cells = len(cells.measured_G), len(cells)
    random_CG = uniform(0, np.zeros(n_cells), np.arange(n_cells), np.arange(n_genes))
    config = MaskingConfig(gene_rate=rate, zero_rate=1.0)
    cells_Q, genes_Q, bins_Q, _, visible_N = mask_genes(
        cells, np.tile(cells.measured_G, (n_cells, 1)), random_CG, config
    )
    order = np.lexsort((genes_Q, cells_Q))
    cells_Q, genes_Q, bins_Q = cells_Q[order], genes_Q[order], bins_Q[order]
    p_QB = (
        bin_probabilities(model, cells, cells_Q, genes_Q, visible_N, visible_share=1 - rate).astype(float).clip(1e-9, 1)
    )
    surprise_QB = -np.log(p_QB)
    expected_Q = (p_QB * surprise_QB).sum(axis=1)
    variance_Q = (p_QB * surprise_QB**2).sum(axis=1) - expected_Q**2
    surprise_Q = surprise_QB[np.arange(len(bins_Q)), bins_Q]
    sums = [np.bincount(cells_Q, w, minlength=n_cells) for w in (surprise_Q, surprise_Q - expected_Q, variance_Q)]
    n_C = np.maximum(np.bincount(cells_Q, minlength=n_cells), 1)
    return sums[0] / n_C, sums[1] / np.sqrt(sums[2] + 1e-9)


def entropy(p_CV: np.ndarray) -> np.ndarray:
    return -(p_CV * np.log(p_CV.clip(1e-12, 1))).sum(axis=1)


def candidates(model: PolyGene, train: Looked) -> dict[str, Callable[[Looked], np.ndarray]]:
    """Scores that are higher the less a cell is like those of training."""
    pca = TruncatedSVD(50, random_state=0).fit(train.x_CG)
    spaces: dict[str, Callable[[Looked], np.ndarray]] = {
        "question state": lambda cells: cells.question_CD,
        "mean state of genes": lambda cells: cells.genes_CD,
        "50 principal components, no network": lambda cells: pca.transform(cells.x_CG),
    }
    scores: dict[str, Callable[[Looked], np.ndarray]] = {
        "energy of cell types, without the linear branch": lambda cells: -logsumexp(cells.logits_CV, axis=1),
        "1 - probability of the best cell type": lambda cells: 1 - cells.type_CV.max(axis=1),
        "entropy of cell types": lambda cells: entropy(cells.type_CV),
        "entropy of all phenotypes": lambda cells: sum(entropy(p_CV) for p_CV in cells.probabilities),
        "hidden genes: cross-entropy": lambda cells: cells.surprise_C,
        "hidden genes: standardised": lambda cells: cells.standard_C,
    }
    for space, of in spaces.items():
        known_CD = of(train)
        near = NoveltyDetector.learn(known_CD, known_CD, None, query="cell_type")
        white_CD = known_CD @ near.whitening_DD
        neighbours = NearestNeighbors(n_neighbors=10).fit(white_CD)
        centre_D = white_CD.mean(axis=0)
        variances_D, axes_DD = np.linalg.eigh(np.cov(white_CD.T))
        to_unit_DD = axes_DD / np.sqrt(np.maximum(variances_D, 1))  # all cells spread at least as one kind does

        def to_all(cells: Looked, of=of, near=near, centre_D=centre_D, to_unit_DD=to_unit_DD) -> np.ndarray:
            return (((of(cells) @ near.whitening_DD - centre_D) @ to_unit_DD) ** 2).sum(axis=1)

        def distance(cells: Looked, of=of, near=near) -> np.ndarray:
            return near.score(of(cells)) * near.threshold

        def relative(cells: Looked, distance=distance, to_all=to_all) -> np.ndarray:
            return distance(cells) ** 2 - to_all(cells)

        def to_neighbours(cells: Looked, of=of, near=near, neighbours=neighbours) -> np.ndarray:
            return neighbours.kneighbors(of(cells) @ near.whitening_DD)[0].mean(axis=1)

        scores[f"{space}, Mahalanobis"] = distance
        scores[f"{space}, relative Mahalanobis"] = relative
        scores[f"{space}, 10 neighbours"] = to_neighbours
    known = model.novelty
    del scores["question state, Mahalanobis"]
    scores[KEPT] = lambda cells: known.score(cells.question_CD)
    spread = np.log(scores[KEPT](train)).std(), entropy(train.type_CV).std()
    scores["kept + entropy of cell types"] = lambda cells: (
        np.log(scores[KEPT](cells)) / spread[0] + entropy(cells.type_CV) / spread[1]
    )
    return scores


def trivial(train: Looked, known: Looked, unseen: Looked) -> float:
    """AUROC of the best of: more or fewer genes, more or less of the counts, unusual numbers of either or of both."""

    def seen(cells: Looked) -> np.ndarray:
        return np.log1p(np.column_stack([cells.n_expressed_C, cells.total_C, cells.n_measured_C]))

    mean, deviation = seen(train).mean(axis=0), np.maximum(seen(train).std(axis=0), 1e-9)
    z_known, z_unseen = ((seen(cells) - mean) / deviation for cells in (known, unseen))
    precision = np.linalg.pinv(np.cov(((seen(train) - mean) / deviation).T))
    tried = [(z_known[:, i], z_unseen[:, i]) for i in range(3)]
    tried += [(-a, -b) for a, b in tried[:2]] + [(abs(a), abs(b)) for a, b in tried]
    tried.append(tuple(np.einsum("ci,ij,cj->c", z, precision, z) for z in (z_known, z_unseen)))
    return max(auroc(*pair) for pair in tried)


def auroc(known_C: np.ndarray, unseen_C: np.ndarray) -> float:
    truth = np.repeat([0, 1], [len(known_C), len(unseen_C)])
    return float(roc_auc_score(truth, np.concatenate([known_C, unseen_C])))


def _aurocs(model: PolyGene, corpus: Corpus, known: EncodedCells, unseen: EncodedCells) -> dict[str, Any]:
    split = corpus.split("train")
    of_train = Looked(model, split.cells(_spread(len(split), 2 * CELLS)))
    of_known, of_unseen = Looked(model, known), Looked(model, unseen)
    scores = candidates(model, of_train)
    found = {TRIVIAL: trivial(of_train, of_known, of_unseen)}
    found |= {name: auroc(score(of_known), score(of_unseen)) for name, score in scores.items()}
    test = corpus.split("test")
    flagged = score_novelty(model, test, model_predictions(model, CellBlocks(corpus, test))[1])
    found["known cells flagged"] = float(flagged.false_alarms.iloc[0])
    found["unseen cells flagged"] = float((scores[KEPT](of_unseen) > 1).mean())
    return found


def table(found: dict[str, dict[str, float]]) -> Table:
    laid_out = Table(title="AUROC of unseen cells among known ones; the last two rows are shares of cells")
    frame = pd.DataFrame(found)
    laid_out.add_column("score")
    for number, scenario in enumerate(frame.columns):
        laid_out.add_column(f"{number + 1}", footer=scenario, justify="right")
    laid_out.add_column("mean", justify="right")
    for score, row in frame.iterrows():
        laid_out.add_row(str(score), *(f"{value:.2f}" for value in row), f"{row.mean():.2f}")
    return laid_out
