"""The cells of a training run, in the order in which they are learned, as the masked batches of one process.

The whole run is one long list of cells: place k holds cell `order(epoch)[k % n]` of epoch `k // n`. The list is cut
into batches, and each batch into one part a process. So the engine sees a plain sequence of batches, resuming skips
those that are done, and processes and workers share the list without changing it.

Legend: C cells, P phenotypes, V labels of one phenotype.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from polygene.corpus.corpus import Corpus, CorpusSplit
from polygene.model.masking import MaskingCollator
from polygene.model.recipe import Recipe, TrainingConfig


class TrainingCells(Dataset):
    """The masked batches of one process over a whole run.

    The loss of a step is the mean over its cells. The engine takes the mean over batches and processes instead, so a
    batch has a `share`: how many of the cells of the step it holds, 1 if all batches of the step have equally many.
    """

    def __init__(
        self,
        split: CorpusSplit,
        collator: MaskingCollator,
        training: TrainingConfig,
        *,
        rank: int,
        world_size: int,
    ) -> None:
        self.split, self.collator, self.seed = split, collator, training.seed
        self.n_places, self.width = training.epochs * len(split), training.batch_size * world_size
        self.accumulation, self.rank, self.world_size = training.accumulation, rank, world_size
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return math.ceil(self.n_places / self.width)

    def order(self, epoch: int) -> np.ndarray:
        """Return the cells of one epoch: each once."""
        if epoch not in self._orders:
            rng, n_cells = np.random.default_rng([self.seed, epoch]), len(self.split)
            order_C = rng.permutation(n_cells)
            # The last epoch stays: a batch may hold cells of two.
            self._orders = {known: self._orders[known] for known in list(self._orders)[-1:]} | {epoch: order_C}
        return self._orders[epoch]

    def __getitem__(self, batch: int) -> dict[str, Tensor]:
        first = batch * self.width
        n_cells = min(self.width, self.n_places - first)
        mine = [first + n_cells * rank // self.world_size for rank in (self.rank, self.rank + 1)]
        share = (mine[1] - mine[0]) * self.world_size / self._cells_per_batch(batch)
        # A process without a cell takes part all the same, or the others would wait: with a cell that does not count.
        places_C = np.arange(mine[0], mine[1]) if mine[1] > mine[0] else np.array([first])
        epochs_C, within_C = np.divmod(places_C, len(self.split))
        indices_C = np.empty_like(places_C)
        for epoch in np.unique(epochs_C):
            of_epoch = epochs_C == epoch
            indices_C[of_epoch] = self.order(int(epoch))[within_C[of_epoch]]
        made = self.collator(self.split.cells(indices_C), self.split.sources_C[indices_C], indices_C, epochs_C)
        return made | {"share": torch.tensor(share)}

    def _cells_per_batch(self, batch: int) -> float:
        """Cells of all processes in a batch, averaged over the batches of the same step."""
        first = batch // self.accumulation * self.accumulation
        last = min(first + self.accumulation, len(self))
        return (min(last * self.width, self.n_places) - first * self.width) / (last - first)


def training_cells(recipe: Recipe, corpus: Corpus, *, rank: int, world_size: int) -> TrainingCells:
    """Lay out the cells of a run for one process, masked and weighted as the recipe says."""
    split, training, schema = corpus.split("train"), recipe.training, corpus.tokenizer.schema
    sizes = [len(labels) for labels in schema.labels]
    collator = MaskingCollator(
        tokenizer=corpus.tokenizer,
        measured_SG=corpus.measured_SG,
        config=recipe.masking,
        seed=training.seed,
        class_weights=class_weights(split.labels_CP, sizes) if training.class_weights else None,
    )
    return TrainingCells(split, collator, training, rank=rank, world_size=world_size)


def class_weights(labels_CP: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray | None]:
    """Weights of each phenotype's labels against their frequency; their mean over the labelled cells is 1."""
    weights: list[np.ndarray | None] = []
    for p, n_labels in enumerate(sizes):
        counts_V = np.bincount(labels_CP[labels_CP[:, p] >= 0, p], minlength=n_labels)
        n_present = np.count_nonzero(counts_V)
        weights.append(counts_V.sum() / (n_present * np.maximum(counts_V, 1)) if n_present else None)
    return weights
