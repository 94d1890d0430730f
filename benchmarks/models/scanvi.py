"""scANVI as a method of `benchmarks.models.external`: it learns sources as batches.

scVI, then scANVI on top of it (Xu et al. 2021), both in the shape that scvi-tools gives them: their encoder is not told
the batch, so a new study is predicted as it is, and surgery for it would change no prediction. Learned are files of
counts only. A gene that a source did not measure is zero to it, and a label competes with those above and below it.
"""

from collections.abc import Iterable, Sequence

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.shared import effort
from benchmarks.shared.genes import of_genes
from benchmarks.shared.scvi_baseline import HOW, NO_LABEL, quiet, seed_all

EPOCHS, LABEL_EPOCHS = 100, 20
FEW = 10  # cells of a label in a source that scANVI learns: a step sums over all labels, and costs as many passes


def counts_of(cells: ad.AnnData, genes: pd.Index) -> sparse.csr_matrix | None:
    """Give the counts of these genes, float32 (C, G), 0 where the file does not measure one; None of other values."""
    x_CG = sparse.csr_matrix(cells.X, dtype=np.float32)
    if (x_CG.data != np.rint(x_CG.data)).any():
        return None
    return of_genes(x_CG, cells.var_names, genes)


class ScAnvi:
    """scANVI on the panel's genes."""

    def __init__(self, parts: Iterable[ad.AnnData], genes: pd.Index, labels: Sequence[str], seed: int) -> None:
        import scvi

        self.genes, self.labels = genes, tuple(labels)
        counts = [
            (counts_of(cells, genes), cells.obs["cell_type"].astype(str), str(n)) for n, cells in enumerate(parts)
        ]
        learned = [self._cells(x_CG, label, source) for x_CG, label, source in counts if x_CG is not None]
        cells = ad.concat(learned, index_unique="-")
        self._source = cells.obs["source"].iloc[0]  # any of them: the encoder is not told
        with quiet():
            seed_all(seed)
            scvi.model.SCVI.setup_anndata(cells, batch_key="source", labels_key="label")
            vae = scvi.model.SCVI(cells)
            vae.train(max_epochs=effort.at_most(EPOCHS, 1), **HOW)
            self._model = scvi.model.SCANVI.from_scvi_model(vae, unlabeled_category=NO_LABEL, adata=_few(cells, seed))
            self._model.train(max_epochs=effort.at_most(LABEL_EPOCHS, 1), **HOW)

    def __call__(self, cells: ad.AnnData) -> np.ndarray:
        """Predict, p_CV, from the file's counts."""
        x_CG = counts_of(cells, self.genes)
        if x_CG is None:
            msg = "scANVI reads counts"
            raise ValueError(msg)
        study = self._cells(x_CG, NO_LABEL, self._source)
        with quiet():
            soft = self._model.predict(study, soft=True)
        p_CV = np.zeros((cells.n_obs, len(self.labels)), dtype=np.float32)
        known = [label for label in soft.columns if label in self.labels]
        p_CV[:, pd.Index(self.labels).get_indexer(pd.Index(known))] = soft[known].to_numpy()
        return p_CV

    def _cells(self, x_CG: sparse.csr_matrix, label: str | pd.Series, source: str) -> ad.AnnData:
        index = [f"{source}-{n}" for n in range(x_CG.shape[0])]
        obs = pd.DataFrame({"label": label if isinstance(label, str) else list(label), "source": source}, index=index)
        return ad.AnnData(x_CG, obs=obs, var=pd.DataFrame(index=self.genes))


def _few(cells: ad.AnnData, seed: int) -> ad.AnnData:
    """Keep some cells of each label in each source."""
    drawn = cells.obs.sample(frac=1, random_state=seed).groupby(["label", "source"], observed=True).head(FEW)
    return cells[cells.obs_names.isin(drawn.index)].copy()
