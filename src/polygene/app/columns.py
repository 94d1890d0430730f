"""Columns of `obs` as the page reads them: a header in JSON, then one number a cell.

Legend: C cells.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from polygene.app.incoming import column_file
from polygene.io.read import CellSource
from polygene.vocab.columns import by_code, factorize

MOST_LABELS = 300
"""Labels that the page names and colours; of more the most frequent, and the others as one."""
MOST_LETTERS = 200  # of a label
NOT_SHOWN = re.compile(r"polygene_(.*_(set|years_low|years_high|term_id)|no_panel_genes)")
"""Columns that say more than a colour can; sets are long texts, of which half a million take memory."""
OTHERS = "all other labels"


def packed(column: pd.Series) -> tuple[dict[str, Any], np.ndarray]:
    """Return what a column is, and its numbers: codes of labels (-1: no label), or float32."""
    if is_number(column):
        return packed_numbers(column.to_numpy(np.float32, na_value=np.nan))
    if pd.api.types.is_bool_dtype(column):
        column = column.map({True: "yes", False: "no"}).astype("category")
    codes_C, labels, counts = factorize(column)
    order = np.argsort(-np.asarray(counts, dtype=np.int64), kind="stable")
    named, others = order[:MOST_LABELS], order[MOST_LABELS:]
    place = np.full(len(labels), -1, dtype=np.int16)
    place[named] = np.arange(len(named))
    texts, n_cells = [labels[i][:MOST_LETTERS] for i in named], [int(counts[i]) for i in named]
    if len(others):
        place[others] = len(named)
        texts.append(f"{OTHERS} ({len(others):,})")
        n_cells.append(int(sum(counts[i] for i in others)))
    return {"kind": "labels", "labels": texts, "counts": n_cells, "n": len(codes_C)}, by_code(place, codes_C, -1)


def is_number(column: pd.Series) -> bool:
    """Tell numbers from labels; yes and no are labels."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def packed_numbers(values_C: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Return the range of numbers, the middle 98 % where they are many, and the numbers."""
    known = values_C[np.isfinite(values_C)]
    low, high = np.quantile(known, (0.01, 0.99)) if len(known) else (0.0, 1.0)
    if low == high and len(known):
        low, high = known.min(), known.max()
    facts = {"kind": "numbers", "low": float(low), "high": float(high), "n": len(values_C)}
    return facts, values_C.astype(np.float32)


def write(path: Path, facts: dict[str, Any], numbers_C: np.ndarray) -> None:
    """Write a column: the length of the header (uint32), the header, padded to four bytes, and the numbers."""
    header = json.dumps(facts).encode()
    header += b" " * (-len(header) % 4)
    partial = path.with_suffix(".new")
    partial.write_bytes(np.uint32(len(header)).tobytes() + header + numbers_C.tobytes())
    partial.replace(path)


def write_all(cells: CellSource, folder: Path) -> list[dict[str, Any]]:
    """Write the columns of `obs` that can be shown, one after the other; return what each is."""
    folder.mkdir(exist_ok=True)
    described = []
    for name in (one for one in cells.columns if not NOT_SHOWN.fullmatch(one)):
        facts, numbers_C = packed(cells.frame([name])[name])
        write(column_file(folder, name), facts, numbers_C)
        n_labels = len(facts.get("labels", ()))
        described.append({"name": name, "kind": facts["kind"], "n_labels": n_labels})
    return described
