"""What the user takes away: tables, the report, and the lines of Python that give the same."""

import base64
import io
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from polygene import pl
from polygene._version import __version__
from polygene.app.python import python_of
from polygene.io.read import open_cells
from polygene.io.write import write_table
from polygene.runtime.subsample import spread

MOST_DRAWN = 20_000  # cells on the map of the report
SHOWN = 25  # labels that the report lists


def take(*, what: str, state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write one of the files that the user may download, beside the annotated cells."""
    out = folder / f"take.{what}"
    cells = open_cells(folder / "annotated.h5ad")
    if what == "html":  # reads no sets, whose texts are most of a large file's columns
        names = [f"polygene_{name}{end}" for name in state["run"]["predict"] for end in ("", "_probability")]
        table = cells.frame([*names, "polygene_unknown"])
        out.write_text(_report(table, state, folder), encoding="utf-8")
    else:
        table = cells.frame([name for name in cells.columns if name.startswith("polygene_")])
        table.insert(0, "cell", np.concatenate(list(cells.names())))
        write_table(out, table)
    return {"file": out.name}


def _report(table: pd.DataFrame, state: dict[str, Any], folder: Path) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    tables, predicted = {}, sorted(state["run"]["predict"], key=lambda name: name != "cell_type")
    for name in predicted:
        column, sure = table[f"polygene_{name}"], table[f"polygene_{name}_probability"]
        by_label = sure.groupby(column, observed=True).agg(["size", "mean"]).sort_values("size", ascending=False)
        tables[name] = [(str(label), int(n), float(p)) for label, n, p in by_label.head(SHOWN).itertuples()]
    unknown = int(table["polygene_unknown"].sum()) if "polygene_unknown" in table else None
    return page.get_template("report.html.jinja").render(
        state, tables=tables, unknown=unknown, picture=_picture(table, predicted[0], folder),
        code=python_of(state | {"asked": []}), version=__version__,
    )  # fmt: skip


def _picture(table: pd.DataFrame, phenotype: str, folder: Path) -> str | None:
    """Draw the map coloured by one phenotype, as PNG in base64."""
    if not (folder / "map.bin").exists():
        return None
    xy_C2 = np.fromfile(folder / "map.bin", np.float32).reshape(-1, 2)
    rows = spread(len(xy_C2), MOST_DRAWN)
    name, labels = phenotype.replace("_", " "), table[f"polygene_{phenotype}"].iloc[rows].astype(str)
    adata = ad.AnnData(obs=pd.DataFrame({name: labels.to_numpy()}, index=rows.astype(str)))
    adata.obsm["X_umap"] = xy_C2[rows]
    drawn = io.BytesIO()
    pl.umap(adata, color=name).savefig(drawn, format="png", dpi=110)
    return base64.b64encode(drawn.getvalue()).decode()
