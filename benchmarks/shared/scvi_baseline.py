"""scVI and scANVI (Lopez et al. 2018 Nat Methods 15:1053; Xu et al. 2021 Mol Syst Biol 17:e9620) as baselines.

The package is optional: where it is missing, rows say so, and how to get it::

    if not scvi.AVAILABLE:
        print(scvi.MISSING)
    model = scvi.fit(counts_CG, seed=0)
    model.rates(other_counts_CG)  # denoised
    model = scvi.fit(counts_CG, labels_C=labels, seed=0)
    model.sample("memory B cell", 500, seed=0)  # generated counts

Networks and training are the package's defaults, stopped when the bound on a tenth of the cells no longer improves, at
the latest after 150 epochs.

Legend: C cells, G genes, D latent dimensions.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

AVAILABLE = find_spec("scvi") is not None
MISSING = "skipped: scvi-tools missing (pip install polygene[bench])"
NO_LABEL = "no label"
HOW: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A trained model: scVI, and with labels scANVI on top of it; `totals` are the counts of the training cells."""

    vae: Any
    labels_C: np.ndarray
    totals_C: np.ndarray
    by_label: Any = None

    def rates(self, counts_CG: Any, *, n_samples: int = 10) -> np.ndarray:
        """Denoise: the expected share of each gene in the counts of a cell, float32 (C, G), rows sum to 1.

        Mean over draws of the latent state given all counts of the cell, the gene's own among them.
        """
        with quiet():
            torch.manual_seed(0)
            expected = self.vae.get_normalized_expression(
                _cells(counts_CG, self.labels_C[0]),
                n_samples=n_samples,
                return_mean=True,
                return_numpy=True,
                silent=True,
            )
        return np.asarray(expected, dtype=np.float32)

    @torch.inference_mode()
    def sample(self, label: str, n_cells: int, *, seed: int = 0) -> np.ndarray:
        """Generate cells of a label: counts, int (n_cells, G).

        The latent state is drawn from scANVI's prior given the label, the total from the training cells of the label.
        """
        if self.by_label is None:
            msg = "cells are sampled by label from a model that was fitted with labels_C"
            raise ValueError(msg)
        rng = np.random.default_rng(seed)
        totals_C = rng.choice(self.totals_C[self.labels_C == label], n_cells)
        module, manager = self.by_label.module.eval(), self.by_label.adata_manager
        codes = list(manager.get_state_registry("labels")["categorical_mapping"])
        y_C1 = torch.full((n_cells, 1), codes.index(label))
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(seed)
            mean_CD, variance_CD = module.decoder_z1_z2(torch.randn(n_cells, module.n_latent), y_C1)
            z_CD = mean_CD + variance_CD.sqrt() * torch.randn_like(mean_CD)
            library_C1 = torch.from_numpy(np.log(totals_C).astype(np.float32))[:, None]
            drawn = module.generative(z_CD, library_C1, torch.zeros_like(y_C1), y=y_C1)["px"].sample()
        return np.asarray(drawn.numpy().astype(np.int64))


def seed_all(seed: int) -> None:
    """Seed scvi-tools, and let it read cells in this process."""
    import scvi

    scvi.settings.seed = seed
    scvi.settings.dl_num_workers = 0


def fit(counts_CG: Any, *, labels_C: Sequence[str] | None = None, seed: int = 0) -> Fitted:
    """Train scVI on counts of training cells, and scANVI on top of it where labels are given."""
    import scvi

    adata = _cells(counts_CG, NO_LABEL if labels_C is None else labels_C)
    how: dict[str, Any] = {"early_stopping": True, **HOW}
    with quiet():
        seed_all(seed)
        scvi.model.SCVI.setup_anndata(adata, labels_key="label")
        vae = scvi.model.SCVI(adata)
        vae.train(max_epochs=150, **how)
        by_label = None
        if labels_C is not None:
            by_label = scvi.model.SCANVI.from_scvi_model(vae, unlabeled_category=NO_LABEL)
            by_label.train(max_epochs=20, **how)
    totals_C = np.asarray(adata.X.sum(axis=1)).ravel()
    return Fitted(vae=vae, by_label=by_label, labels_C=adata.obs["label"].to_numpy().astype(str), totals_C=totals_C)


def _cells(counts_CG: Any, labels: str | Sequence[str]) -> ad.AnnData:
    """Lay out counts as scvi-tools reads them; it wants labels of all cells, which scVI itself does not look at."""
    x_CG = sparse.csr_matrix(counts_CG, dtype=np.float32)
    return ad.AnnData(x_CG, obs=pd.DataFrame({"label": labels}, index=[f"cell{i}" for i in range(x_CG.shape[0])]))


class quiet(warnings.catch_warnings):  # noqa: N801 used as a function
    """Keep what the packages say to their developers out of the tables."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        for name in ("scvi", "scvi.inference", "lightning", "lightning.pytorch", "pytorch_lightning"):
            logging.getLogger(name).setLevel(logging.ERROR)
