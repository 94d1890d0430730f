"""How unlike a cell is to all cells that trained a model, and how unlike is too unlike.

Legend: C cells, K kinds of cells, D width.

A cell is known if its state lies near those of some kind of training cells. Kinds are clusters, which need no label;
near is measured by the spread within kinds: Mahalanobis distance with one covariance for all (Lee et al. 2018, "A
simple unified framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS 31).
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.spatial.distance import cdist

from polygene.errors import CheckpointError

KINDS = 20
"""Clusters of training cells, at most; fewer where there would be less than ten cells in each."""
FALSE_ALARMS = 0.05
"""Share of a held-out donor's cells that is flagged although nothing is wrong with them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Familiarity:
    """Where the training cells stand in the model's space, and how far from them a cell is called unknown.

    Attributes
    ----------
    whitening_DD, centres_KD
        float32; `states_CD @ whitening_DD` have a spread of one within kinds in every direction, and the centres of the
        kinds lie there.
    asked
        The phenotype from whose question the states are (see `inference.label_answers`), nothing being given.
    threshold
        The distance beyond which a cell is called unknown.
    false_alarms
        Share of known cells beyond it, the mean over the donors on which it was set.
    donors, cells
        How many those were; 0 donors where they have no names, and cells count alike.
    """

    whitening_DD: np.ndarray
    centres_KD: np.ndarray
    asked: str
    threshold: float = 1.0
    false_alarms: float = FALSE_ALARMS
    donors: int = 0
    cells: int = 0

    @classmethod
    def learn(
        cls, train_CD: np.ndarray, held_out_CD: np.ndarray, donors_C: np.ndarray | None, *, asked: str, seed: int = 0
    ) -> Self:
        """Learn the kinds from states of training cells, and the threshold from those of cells of other donors.

        Parameters
        ----------
        donors_C
            Donor of each held-out cell; None where they have no names.
        asked
            See the attribute.
        """
        from sklearn.cluster import KMeans  # takes a second to import, and a checkpoint is read without it
        from sklearn.covariance import ledoit_wolf

        known_CD = train_CD.astype(float)
        scale_D = np.maximum(known_CD.std(axis=0), 1e-6)
        kinds = KMeans(min(KINDS, 1 + len(known_CD) // 10), n_init=3, random_state=seed).fit(known_CD / scale_D)
        within_DD, _ = ledoit_wolf(known_CD / scale_D - kinds.cluster_centers_[kinds.labels_], assume_centered=True)
        variances_D, axes_DD = np.linalg.eigh(within_DD)
        whitening_DD = axes_DD / np.sqrt(np.maximum(variances_D, 1e-3 * variances_D.max() + 1e-12))
        learned = cls(
            whitening_DD=(whitening_DD / scale_D[:, None]).astype(np.float32),
            centres_KD=(kinds.cluster_centers_ @ whitening_DD).astype(np.float32),
            asked=asked,
        )
        threshold = quantile_of_donors(learned.unfamiliarity(held_out_CD), donors_C, 1 - FALSE_ALARMS)
        n_donors = 0 if donors_C is None else len(set(donors_C))
        return replace(learned, threshold=threshold, donors=n_donors, cells=len(held_out_CD))

    def unfamiliarity(self, states_CD: np.ndarray) -> np.ndarray:
        """Distance of cells to the nearest kind in units of the threshold, float32 (C,): above 1 a cell is unknown."""
        distance_CK = cdist(states_CD.astype(float) @ self.whitening_DD, self.centres_KD)
        return (distance_CK.min(axis=1) / self.threshold).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write one file: arrays as safetensors, numbers in its header."""
        numbers = {name: value for name, value in asdict(self).items() if not isinstance(value, np.ndarray)}
        arrays = {"whitening": self.whitening_DD, "centres": self.centres_KD}
        save_file(arrays, path, metadata={"familiarity": json.dumps(numbers)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        CheckpointError
            The file is broken.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                numbers = json.loads(file.metadata()["familiarity"])
                return cls(whitening_DD=file.get_tensor("whitening"), centres_KD=file.get_tensor("centres"), **numbers)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            msg = f"{path} is broken ({type(error).__name__}: {error}): copy it again from where it was made."
            raise CheckpointError(msg) from error


def quantile_of_donors(values_C: np.ndarray, donors_C: np.ndarray | None, q: float) -> float:
    """Give the value that a share q of the cells stays at or below, the cells of each donor weighing 1 together."""
    if donors_C is None:
        return float(np.quantile(values_C, q, method="inverted_cdf"))
    _, donor_C, n_donor = np.unique(donors_C.astype(str), return_inverse=True, return_counts=True)
    return float(np.quantile(values_C, q, method="inverted_cdf", weights=1 / n_donor[donor_C]))
