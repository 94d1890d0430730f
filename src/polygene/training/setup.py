"""The model and the loss that a run starts from.

Legend: P phenotypes, V labels of one phenotype.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from polygene.corpus.corpus import Corpus
from polygene.errors import RecipeError
from polygene.model.calibration import Calibration
from polygene.model.checkpoint import PolyGene
from polygene.model.recipe import Recipe
from polygene.nn.losses import PolyGeneLoss, gene_targets
from polygene.vocab.ontology import at_or_below


def new_model(recipe: Recipe, corpus: Corpus) -> PolyGene:
    """Make the untrained model of a recipe; its biases start at the frequencies in the training cells."""
    n_bins = corpus.tokenizer.binner.n_bins
    targets = gene_targets(n_bins, recipe.loss).tolist() if n_bins > 2 and recipe.loss.smoothing else None
    model = PolyGene.new(corpus.tokenizer, seed=recipe.training.seed, bin_targets=targets, **vars(recipe.network))
    counts = [torch.from_numpy(counts_V) for counts_V in label_counts(recipe, corpus)]
    model.network.start_from_frequencies(torch.from_numpy(corpus.tokenizer.inverse.counts_GB), counts)
    return model


def label_counts(recipe: Recipe, corpus: Corpus) -> list[np.ndarray]:
    """Count the training cells of each label, spread over the labels below it, (V,) a phenotype."""
    labels_CP, counts = corpus.split("train").labels_CP, []
    for p, table_VV in enumerate(_label_tables(recipe, corpus)):
        n_labels = len(corpus.tokenizer.schema.labels[p])
        counts_V = np.bincount(labels_CP[labels_CP[:, p] >= 0, p], minlength=n_labels)
        counts.append(spread_counts(counts_V, table_VV))
    return counts


def _label_tables(recipe: Recipe, corpus: Corpus) -> list[np.ndarray | None]:
    """Which labels of each phenotype are at or below which, where the recipe trains labels so."""
    schema = corpus.tokenizer.schema
    pairs = zip(schema.names, schema.labels, strict=True)
    return [at_or_below(name, labels) if recipe.loss.granularity else None for name, labels in pairs]


def spread_counts(counts_V: np.ndarray, at_or_below_VV: np.ndarray | None) -> np.ndarray:
    """Spread the cells of each label over the labels at and below it, as these have cells of their own.

    It is what the network is trained towards: a cell labelled "T cell" is a cell of some finer label too.
    """
    if at_or_below_VV is None:
        return counts_V
    share_VV = at_or_below_VV * (counts_V + 0.5)
    spread_V: np.ndarray = counts_V @ (share_VV / share_VV.sum(axis=1, keepdims=True))
    return spread_V


def copy_model(start: PolyGene, corpus: Corpus) -> PolyGene:
    """Copy a model to go on from, without its calibration and its novelty detector, which are of its old weights."""
    if corpus.tokenizer.fingerprint() != start.tokenizer.fingerprint():
        msg = f"{corpus.folder} was made with another tokenizer than the model's: make it with `prepare(tokenizer=…)`."
        raise RecipeError(msg)
    network = deepcopy(start.network).requires_grad_(True)
    return replace(start, network=network, calibration=Calibration(), novelty=None)


def loss_of(recipe: Recipe, corpus: Corpus) -> PolyGeneLoss:
    """Make the loss of the recipe for the bins and labels of the corpus."""
    schema = corpus.tokenizer.schema
    return PolyGeneLoss(
        config=recipe.loss,
        n_bins=corpus.tokenizer.binner.n_bins,
        phenotype_sizes=[len(labels) for labels in schema.labels],
        years=[schema.years(one.name).tolist() if one.ordinal == "age" else None for one in schema.phenotypes],
        at_or_below=[None if one is None else torch.tensor(one) for one in _label_tables(recipe, corpus)],
    )
