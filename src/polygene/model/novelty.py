"""Novelty: how far a cell is from all training cells, and from which distance on it is out-of-distribution.

Legend: C cells, K clusters of training cells, D width of the network.

A cell is known if its hidden state lies near a cluster of training cells. Clusters need no labels. Near is measured by
the spread within clusters: Mahalanobis distance with one covariance for all (Lee et al. 2018, "A simple unified
framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS 31).
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from polygene.errors import CheckpointError

CLUSTERS = 20
"""At most; fewer where a cluster would have less than ten training cells."""
FALSE_ALARMS = 0.05
"""Share of the cells of a held-out donor that are flagged although they are known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NoveltyDetector:
    """Clusters of the training cells in the network's space, and the distance beyond which a cell is novel.

    Attributes
    ----------
    whitening_DD, centres_KD
        float32. `states_CD @ whitening_DD` has a spread of one within clusters in every direction; the centres of the
        clusters are points of that space.
    query
        The phenotype whose query has these states (see `inference.predict_labels`), no label being given.
    threshold
        The distance beyond which a cell is novel.
    false_alarms
        Share of known cells beyond the threshold, a mean over donors.
    donors, cells
        How many set the threshold; 0 donors where donors have no names, and all cells weigh the same.
    """

    whitening_DD: np.ndarray = field(repr=False)
    centres_KD: np.ndarray = field(repr=False)
    query: str
    threshold: float = 1.0
    false_alarms: float = FALSE_ALARMS
    donors: int = 0
    cells: int = 0

    @classmethod
    def learn(
        cls, train_CD: np.ndarray, held_out_CD: np.ndarray, donors_C: np.ndarray | None, *, query: str, seed: int = 0
    ) -> Self:
        """Learn the clusters from training cells, and the threshold from cells of other donors.

        Parameters
        ----------
        donors_C
            Donor of each held-out cell; None where they have no names.
        """
        from sklearn.cluster import KMeans  # takes a second to import, and a checkpoint is read without it
        from sklearn.covariance import ledoit_wolf

        known_CD = train_CD.astype(float)
        scale_D = np.maximum(known_CD.std(axis=0), 1e-6)
        clusters = KMeans(min(CLUSTERS, 1 + len(known_CD) // 10), n_init=3, random_state=seed).fit(known_CD / scale_D)
        residuals_CD = known_CD / scale_D - clusters.cluster_centers_[clusters.labels_]
        variances_D, axes_DD = np.linalg.eigh(ledoit_wolf(residuals_CD, assume_centered=True)[0])
        # A direction in which training cells hardly vary must not decide alone, so the floor is 0.001 of the widest.
        whitening_DD = axes_DD / np.sqrt(np.maximum(variances_D, 1e-3 * variances_D.max() + 1e-12))
        detector = cls(
            whitening_DD=(whitening_DD / scale_D[:, None]).astype(np.float32),
            centres_KD=(clusters.cluster_centers_ @ whitening_DD).astype(np.float32),
            query=query,
        )
        threshold = quantile_of_donors(detector.score(held_out_CD), donors_C, 1 - FALSE_ALARMS)
        n_donors = 0 if donors_C is None else len(set(donors_C))
        return replace(detector, threshold=threshold, donors=n_donors, cells=len(held_out_CD))

    def score(self, states_CD: np.ndarray) -> np.ndarray:
        """Distance of cells to the nearest cluster in units of the threshold, float32 (C,): above 1 a cell is novel."""
        white_CD = states_CD.astype(float) @ self.whitening_DD
        squared_KC = [np.square(white_CD - centre_D).sum(axis=1) for centre_D in self.centres_KD]
        return (np.sqrt(np.min(squared_KC, axis=0)) / self.threshold).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write one file: arrays as safetensors, numbers in its header."""
        numbers = {name: value for name, value in asdict(self).items() if not isinstance(value, np.ndarray)}
        arrays = {"whitening": self.whitening_DD, "centres": self.centres_KD}
        save_file(arrays, path, metadata={"novelty": json.dumps(numbers)})

    @classmethod
    def load(cls, path: Path, width: int) -> Self:
        """Read what `save` wrote, for a network of this width.

        Raises
        ------
        CheckpointError
            The file is broken.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                numbers = json.loads(file.metadata()["novelty"])
                arrays = {name: file.get_tensor(name) for name in ("whitening", "centres")}
            if arrays["whitening"].shape != (width, width) or arrays["centres"].shape[1:] != (width,):
                msg = f"it is of another network than one of width {width}"
                raise ValueError(msg)
            if not 0 < numbers["threshold"] < np.inf or not all(np.isfinite(x).all() for x in arrays.values()):
                msg = "its numbers are no distances"
                raise ValueError(msg)
            return cls(whitening_DD=arrays["whitening"], centres_KD=arrays["centres"], **numbers)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            msg = f"{path} is broken ({type(error).__name__}: {error}): copy it again from where it was made."
            raise CheckpointError(msg) from error


def quantile_of_donors(values_C: np.ndarray, donors_C: np.ndarray | None, q: float) -> float:
    """Give the value that a share q of the cells stays at or below; each donor weighs the same."""
    if donors_C is None:
        return float(np.quantile(values_C, q, method="inverted_cdf"))
    _, donor_C, n_donor = np.unique(donors_C.astype(str), return_inverse=True, return_counts=True)
    return float(np.quantile(values_C, q, method="inverted_cdf", weights=1 / n_donor[donor_C]))
