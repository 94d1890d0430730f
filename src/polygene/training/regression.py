"""A logistic regression of the labels on the genes, which is joined to a network that has been trained.

On studies never seen, regression on few cells of each label makes other mistakes than the network, which learns all
cells: their mean is better (docs/decisions.md). It is fitted apart: a linear part that learns with the network makes up
for the network's mistakes in the studies that it knows.

Legend: C cells, G panel genes, B bins, V labels of one phenotype, L labels of all phenotypes.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polygene.corpus.corpus import Corpus
from polygene.model.extend import BIAS, GENES
from polygene.model.load import network_of
from polygene.model.recipe import Recipe
from polygene.nn.losses import PolyGeneLoss
from polygene.nn.network import PolyGeneModel
from polygene.runtime.subsample import spread
from polygene.training.setup import label_counts, loss_of, spread_counts

MOST_OF_A_LABEL, MOST_CELLS = 200, 200_000
"""Cells that a label is learned from in each source, and cells of a phenotype in all."""
L2, HIDDEN = 1e-5, 0.8
"""Weight of the sum of squares; largest share of a cell's genes that is masked."""
EPOCHS, BATCH, RATE = 12, 256, 0.02


def join_regression(network: PolyGeneModel, recipe: Recipe, corpus: Corpus) -> PolyGeneModel:
    """Fit the labels on the bins of the training cells, and give a network that predicts the mean of both."""
    loss, counts = loss_of(recipe, corpus), label_counts(recipe, corpus)
    fits = [_fit(network, recipe, corpus, loss, counts_V, p) for p, counts_V in enumerate(counts)]
    weights_GL, bias_L = (torch.cat(parts, dim=-1) for parts in zip(*fits, strict=True))
    genes_GX = torch.cat([network.linear_branch.genes.weight.detach(), weights_GL], dim=1)
    return _rebuilt(network, {GENES: genes_GX, BIAS: bias_L})


def without_regression(network: PolyGeneModel) -> PolyGeneModel:
    """Give the network alone, to train it further."""
    if not network.config.label_regression:
        return network
    return _rebuilt(network, {GENES: network.linear_branch.genes.weight.detach()[:, : network.config.hidden_size]})


def _rebuilt(network: PolyGeneModel, branch: dict[str, Tensor]) -> PolyGeneModel:
    """Give the network with these weights of its linear branch, whose sizes differ."""
    rebuilt = network_of(replace(network.config, label_regression=BIAS in branch))
    rebuilt.load_state_dict({name: one for name, one in network.state_dict().items() if name != BIAS} | branch)
    return rebuilt.to(network.device).eval()


def _fit(
    network: PolyGeneModel, recipe: Recipe, corpus: Corpus, loss: PolyGeneLoss, counts_V: np.ndarray, p: int
) -> tuple[Tensor, Tensor]:
    """Fit the labels of one phenotype: weights (G, V) and, for labels as frequent as in the corpus, biases (V,).

    Few cells of each label are learned, whose frequencies are put right at the end (Saerens et al. 2002): they matter
    little on new studies, and much for new donors of known ones.
    """
    split, table_VV = corpus.split("train"), loss.at_or_below[p]
    rng, n_genes = np.random.default_rng(recipe.training.seed), network.config.n_genes
    cells = split.cells(_learned(split.labels_CP[:, p], split.sources_C, rng))
    x_CG = cells.as_csr(network.linear_branch.bins.detach().cpu().numpy()[cells.bins_N], n_genes)
    labels_C = torch.from_numpy(cells.labels_CP[:, p].astype(np.int64))
    sizes = (n_genes, network.config.phenotype_sizes[p]), network.config.phenotype_sizes[p]
    weights_GV, bias_V = weights = [torch.zeros(size, device=network.device, requires_grad=True) for size in sizes]
    n_batches = max(1, len(labels_C) // BATCH) if len(labels_C) else 0
    steps = torch.optim.Adam(weights, lr=RATE)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(steps, max(1, EPOCHS * n_batches))
    for _ in range(EPOCHS if n_batches else 0):
        for rows in np.array_split(rng.permutation(len(labels_C)), n_batches):
            shown = rng.random((len(rows), n_genes)) >= rng.uniform(0, HIDDEN, (len(rows), 1))
            x_BG = torch.from_numpy(x_CG[rows].toarray() * shown).to(network.device)
            loss_B = loss.labels(x_BG @ weights_GV + bias_V, labels_C[rows].to(network.device), p)
            steps.zero_grad()
            (loss_B.mean() + L2 * (weights_GV**2).sum()).backward()
            steps.step()
            rates.step()
    drawn_V = np.bincount(labels_C, minlength=len(counts_V))
    learned_V = spread_counts(drawn_V, None if table_VV is None else table_VV.numpy()) + 0.5
    wanted_V = learned_V if recipe.training.class_weights else counts_V + 0.5
    odds_V = torch.from_numpy(wanted_V / wanted_V.sum() * learned_V.sum() / learned_V)
    return weights_GV.detach(), (bias_V.detach() + odds_V.log().to(network.device)).float()


def _learned(labels_C: np.ndarray, sources_C: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose the cells to learn from, ascending: some of each label in each source."""
    rows = pd.Series(rng.permutation(np.flatnonzero(labels_C >= 0)))
    some = rows.groupby([labels_C[rows], sources_C[rows]]).head(MOST_OF_A_LABEL)
    return np.sort(some.to_numpy())[spread(len(some), MOST_CELLS)]
