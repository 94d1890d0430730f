"""What the analyses share: states of genes in chosen cells, groups of cells, several models.

Legend: C cells that are read, N genes that they express.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from polygene.errors import DataError
from polygene.io.read import CellSource
from polygene.io.results import check_writable
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import KeyStates, key_states
from polygene.runtime.ranks import one_process
from polygene.runtime.seeds import check_count, check_seed
from polygene.tl._reader import CellReader, donors_of, load_model
from polygene.vocab.cells import EncodedCells

Models = PolyGene | str | Path | Sequence[PolyGene | str | Path]
"""One model, or several whose findings are compared."""


def check_call(verb: str, adata: object, seed: int, **counts: int) -> None:
    """Refuse, before any cell is read, what cannot be done, drawn or written."""
    one_process(verb)
    check_writable(adata)
    check_seed(seed)
    for name, value in counts.items():
        check_count(name, value, 1_000_000)


def states_of(reader: CellReader, model: PolyGene, rows: np.ndarray) -> Iterator[tuple[slice, KeyStates]]:
    """Compute the states of the keys of the cells `rows` (ascending), batch by batch.

    Yields which cells they are (a slice of `rows`) and their states before the last layer (`inference.key_states`).
    """
    for first, cells in encoded(reader, rows):
        for states in key_states(model, cells):
            yield slice(first + states.rows.start, first + states.rows.stop), states


def encoded(reader: CellReader, rows: np.ndarray) -> Iterator[tuple[int, EncodedCells]]:
    """Read cells as tokens, chunk by chunk, and how many cells came before."""
    first = 0
    for names_C, cells in reader.chunks(rows):
        yield first, cells
        first += len(names_C)


def donors_or_one(cells: CellSource, donor: str) -> np.ndarray:
    """Read the donor of each cell, -1 = not given; one donor of all where none is given."""
    donors_C = donors_of(cells, donor)[0]
    return np.zeros_like(donors_C) if donors_C.max(initial=-1) < 0 else donors_C


def balanced(groups: Iterable[np.ndarray], most: int, *, seed: int) -> np.ndarray:
    """Choose at most so many cells, as many of each combination of groups as can be; rows, ascending.

    Cells that lack a group (-1) are never chosen. What is drawn depends on the cells and the seed alone.
    """
    codes_CK = np.stack(list(groups), axis=1)
    rows = np.flatnonzero((codes_CK >= 0).all(axis=1))
    drawn = np.random.default_rng(seed).permutation(rows)
    rank = pd.DataFrame(codes_CK[drawn]).groupby(list(range(codes_CK.shape[1]))).cumcount().to_numpy()
    return np.sort(drawn[np.argsort(rank, kind="stable")[:most]])


def one_panel(models: dict[str, PolyGene]) -> None:
    """Refuse models that cannot read the same tokens."""
    if len({(one.tokenizer.panel.symbols, one.tokenizer.panel.ensembl_ids) for one in models.values()}) > 1:
        msg = "The models have different gene panels; networks can be compared only on one panel."
        raise DataError(msg)
    if len({one.tokenizer.binner for one in models.values()}) > 1:
        msg = "The models have different bins, so that they read different tokens; give each of them by itself."
        raise DataError(msg)


def named_models(models: Models) -> dict[str, PolyGene]:
    """Load one model or several, by name; two of one name are numbered."""
    several = list(models) if isinstance(models, Iterable) and not isinstance(models, str) else [models]
    if not several:
        msg = "No model is given: pass a PolyGene, a folder, a name such as 'polygene-512', or a list of these."
        raise DataError(msg)
    found: dict[str, PolyGene] = {}
    for one in several:
        model = load_model(one)
        name = Path(model.network.name_or_path).name or "not saved"
        if name in found:
            name = f"{name} ({sum(other.startswith(name) for other in found) + 1})"
        found[name] = model
    return found
