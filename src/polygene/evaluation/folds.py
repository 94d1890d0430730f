"""Cross-validation by donor: folds that share no donor, with the labels as even as donors allow.

Legend: C cells.
"""

import warnings

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold


def donor_folds(
    labels_C: np.ndarray, donors_C: np.ndarray | None, n_folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split cells into (training, held-out) rows, at most `n_folds` times and fewer for fewer donors or cells.

    `donors_C` numbers the donors. None: cells are held out.
    """
    largest = int(np.bincount(labels_C).max())
    with warnings.catch_warnings():  # a label with few donors or cells is no reason to stop
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        if donors_C is None:
            by_cell = StratifiedKFold(min(n_folds, largest), shuffle=True, random_state=seed)
            return list(by_cell.split(labels_C, labels_C))
        n_folds = min(n_folds, len(np.unique(donors_C)), largest)
        by_donor = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        return list(by_donor.split(labels_C, labels_C, donors_C))
