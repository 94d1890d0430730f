"""Which labels are scored: those that enough donors have, in sources where the phenotype varies.

Legend: C cells, V labels of a phenotype, S sources.
"""

import numpy as np

from polygene.evaluation.metrics import donor_codes

MIN_TRAIN_DONORS, MIN_TEST_DONORS = 2, 1
"""How many donors must have a label before it is scored; cells count instead where donors are not known."""


def scorable(
    train_labels_C: np.ndarray,
    test_labels_C: np.ndarray,
    n_labels: int,
    *,
    train_donors_C: np.ndarray | None = None,
    test_donors_C: np.ndarray | None = None,
    test_sources_C: np.ndarray | None = None,
) -> np.ndarray:
    """Decide which labels are scored in which source of the test cells: scorable_SV, for each source in them.

    A label is scorable in a source if at least two training donors, of any source, and one test donor of that source
    have it. A source with fewer than two such labels is not scored: the phenotype does not vary there, so naming the
    source would be enough. Without `test_sources_C` all test cells are one source, which gives the pooled number.
    Labels are -1 where they are not given; without donors, cells are counted.
    """
    sources_C = np.zeros(len(test_labels_C), dtype=int) if test_sources_C is None else test_sources_C
    seen_V = _count_donors(train_labels_C, train_donors_C, n_labels) >= MIN_TRAIN_DONORS
    scorable_SV = np.zeros((int(sources_C.max(initial=0)) + 1, n_labels), dtype=bool)
    for source in np.unique(sources_C):
        here = sources_C == source
        donors = None if test_donors_C is None else np.asarray(test_donors_C, dtype=object)[here]
        labels_V = seen_V & (_count_donors(test_labels_C[here], donors, n_labels) >= MIN_TEST_DONORS)
        scorable_SV[source] = labels_V & (labels_V.sum() >= 2)
    return scorable_SV


def _count_donors(labels_C: np.ndarray, donors_C: np.ndarray | None, n_labels: int) -> np.ndarray:
    """Count the donors that show each label; cells where donors are not known."""
    codes_C, donors = donor_codes(donors_C, len(labels_C))
    n_donors, given_C = len(donors), labels_C >= 0
    pairs = np.unique(labels_C[given_C].astype(int) * n_donors + codes_C[given_C])
    return np.bincount(pairs // n_donors, minlength=n_labels)
