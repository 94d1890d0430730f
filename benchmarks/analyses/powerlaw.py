"""Are the networks scale-free, and do they differ from rewired ones? By definition and context, with random weights."""

from typing import Any

import numpy as np
import pandas as pd

from benchmarks.analyses.networks import _print, available
from benchmarks.analyses.scene import Scene
from benchmarks.shared import effort
from polygene.tl import gene_network, network_statistics

FILES = ("pbmc3k_10x", "velmeshev_asd_pfc_glia")
CASES: dict[str, dict[str, Any]] = {
    "contextual": {},
    "static": {"by": "static"},
    "attention": {"by": "attention"},
    "correlation": {"by": "correlation"},
    "contextual, random weights": {"null": "weights"},
}
MOST_CONTEXTS, CELLS = 3, 300
WIDE = "polygene-2432"
"""With four times the genes, so that tails have nodes enough; two definitions only, in the first file."""


def powerlaw(scene: Scene) -> dict[str, Any]:
    """Test every context at three thresholds."""
    laws, measures = [], []
    for file, adata in available(scene, FILES):
        contexts = list(adata.obs["cell_type"].value_counts().index[: effort.at_most(MOST_CONTEXTS, 1)])
        runs = [(name, model, case) for name, model in scene.load().items() for case in effort.few(CASES)]
        if file == FILES[0] and WIDE not in scene.models:
            runs += [(WIDE, WIDE, case) for case in effort.few(("contextual", "correlation"), 0)]
        for name, model, case in runs:
            n_cells = effort.at_most(CELLS, 60)
            network = gene_network(adata, model, contexts=contexts, n_cells=n_cells, seed=scene.seed, **CASES[case])
            few = {"n_rewired": effort.at_most(3, 1), "n_bootstrap": effort.at_most(40, 2)}
            found = network_statistics(network, seed=scene.seed, **few)
            label = {"file": file, "model": name, "network": case}
            laws.append(found.power_law.assign(**label).merge(found.verdicts, on="context", suffixes=("", "_together")))
            measures.append(found.measures.assign(**label))
    every, measured = pd.concat(laws, ignore_index=True), pd.concat(measures, ignore_index=True)
    every["said"] = every["verdict"].str.partition(":")[0]
    counted = every.groupby(["model", "network"], sort=False)["said"].value_counts().unstack(fill_value=0)
    rows = [
        {"model": model, "network": network, **{said: int(n) for said, n in row.items()}}
        for (model, network), row in counted.iterrows()
    ]
    _print("verdicts on a power law, a context and threshold each", rows)
    topology = _topology(measured)
    _print("clustering, modularity and assortativity beside rewired networks (density 0.02)", topology)
    each = every.drop_duplicates(["file", "model", "network", "context"])
    verdicts = each[["file", "model", "network", "context", "verdict_together"]].to_dict("records")
    tails = every[every["n_tail"] >= 50]
    return {
        "powerlaw": verdicts,
        "verdicts": rows,
        "exponents": {
            "n": len(tails),
            "low": tails["exponent"].quantile(0.025),
            "high": tails["exponent"].quantile(0.975),
        },
        "topology": topology,
    }


def _topology(measures: pd.DataFrame) -> list[dict[str, Any]]:
    """Means over contexts at the middle threshold, and of how many contexts the value is above all rewired ones."""
    rows = []
    for (model, network), part in measures[measures["density"] == 0.02].groupby(["model", "network"], sort=False):
        row: dict[str, Any] = {"model": model, "network": network, "contexts": len(part)}
        for name in ("clustering", "modularity", "assortativity"):
            row |= {name: float(part[name].mean()), f"{name}_rewired": float(part[f"{name}_rewired"].mean())}
            row[f"{name}_above"] = int((part[name] > part[f"{name}_high"]).sum())
        row["degree_by_expression"] = float(np.nanmean(part["degree_by_expression"]))
        rows.append(row)
    return rows
