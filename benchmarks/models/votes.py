"""How cells of a cluster should vote on their type, on studies that were left out whole.

    python -m benchmarks.models.votes --corpora DIR --folds a=RUN b=RUN c=RUN

DIR/a is what `python -m benchmarks.models.corpus --data DATA --out DIR/a --fold a` made, RUN a network trained on its
corpus. Each predicts at most 1,000 cells of the studies of DIR/a/left_out, whose clusters are those of `vote`, at
several resolutions. Compared are the cells' own labels, the most frequent label of a cluster, and the mean of log
probabilities, whether a cluster of whose cells too few agree gets a broader label on which they do (`at` a share), and
each cell's own label within such a label (`within`).

right    share of the cells whose label is the true one or finer
broader  whose label is a true but broader one
wrong    all others
mixed    in clusters of which less than half of the cells agree with the label; `vote` calls them heterogeneous

The external files choose nothing. The last line is one JSON object.

Legend: C cells, G clusters, V labels.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.models import corpus as making
from benchmarks.models.calibrate import fold_of, holding, table_of
from benchmarks.shared import command, effort
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.model.pooling import pooled
from polygene.model.shipped import MODELS
from polygene.tl import _vote as voting
from polygene.tl._reader import CellReader
from polygene.vocab.ontology import ontology_of, reported_labels

MOST = 1_000
RESOLUTIONS, SHARES = (1.0, 2.0, 6.0), (0.0, 0.33, 0.5)
WITHIN = (0.5, 0.8, 0.9)
OWN = "each cell by itself"


def rows_of(cells: ad.AnnData, model: PolyGene) -> Iterator[dict[str, Any]]:
    """Score every way to vote on one study."""
    known = np.flatnonzero(cells.obs["cell_type"].notna().to_numpy())
    cells = cells[np.sort(np.random.default_rng(0).permutation(known)[: effort.at_most(MOST, 60)])].copy()
    labels = model.tokenizer.schema.labels[model.tokenizer.schema.index("cell_type")]
    table_VV, reader = table_of(labels), CellReader(cells, model.tokenizer)
    p_CV = np.concatenate([label_probabilities(model, one, predict=["cell_type"])[0] for _, one in reader.chunks()])
    points_CD = voting.principal_components(reader, len(model.tokenizer.panel))
    types, type_C = np.unique(cells.obs["cell_type"].astype(str), return_inverse=True)
    holds_NV = np.array([holding(labels, table_VV, one) for one in types])
    compare = ontology_of("cell_type").compare
    above_NV = np.array([[compare(label, one) == "broader" for label in labels] for one in types]) & ~holds_NV
    own_C = reported_labels(p_CV, table_VV)

    def shares(label_C: np.ndarray) -> dict[str, float]:
        right, broad = (float(table_NV[type_C, label_C].mean()) for table_NV in (holds_NV, above_NV))
        return {"right": right, "broader": broad, "wrong": 1 - right - broad}

    yield {"resolution": 0.0, "vote": OWN, "clusters": len(own_C), **shares(own_C), "mixed": 0.0}
    for resolution in effort.few(RESOLUTIONS):
        group_C = pd.factorize(voting.leiden(points_CD, resolution))[0]
        count_GV = np.zeros((group_C.max() + 1, len(labels)))
        np.add.at(count_GV, (group_C, own_C), 1)
        agree_GV = count_GV @ table_VV.T / count_GV.sum(axis=1, keepdims=True)
        ways = {"most frequent": count_GV.argmax(axis=1)}
        ways["mean of logs"] = reported_labels(pooled(p_CV, group_C, 1.0), table_VV)
        for way, first_G in ways.items():
            for share in SHARES:
                label_G = voting.agreed(first_G, agree_GV, table_VV, share)
                mixed_G = agree_GV[np.arange(len(label_G)), label_G] < voting.SHARE
                name = way if not share else f"{way}, broader at {share:g}"
                found = {**shares(label_G[group_C]), "mixed": float(mixed_G[group_C].mean())}
                yield {"resolution": resolution, "vote": name, "clusters": len(label_G), **found}
        for share in WITHIN:
            label_C, _ = voting.within(
                p_CV, voting.agreed(ways["mean of logs"], agree_GV, table_VV, share)[group_C], table_VV
            )
            name = f"each cell within what {share:g} agree on"
            yield {"resolution": resolution, "vote": name, "clusters": len(label_G), **shares(label_C), "mixed": 0.0}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Score every way to vote on the studies that each fold left out, and print and return means over studies."""
    with tempfile.TemporaryDirectory() as scratch:
        folds, corpora = dict(options.folds), options.corpora
        if options.smoke:  # a shipped model stands for the network
            folds, corpora = {"a": MODELS / "polygene-512"}, Path(scratch)
            making.write(options.data, corpora / "a", making.sources_of(options.data), without=making.left_out([], "a"))
        rows = []
        for fold, run in folds.items():
            model = PolyGene.from_pretrained(run, device="cpu")
            for path in sorted((corpora / fold / "left_out").glob("*.h5ad")):
                cells = ad.read_h5ad(path)
                if "cell_type" in cells.obs and cells.obs["cell_type"].notna().any():
                    rows += [{"fold": fold, "study": path.stem, **row} for row in rows_of(cells, model)]
                    print(f"{fold}, {path.stem}", flush=True)
    means = pd.DataFrame(rows).groupby(["resolution", "vote"], sort=False).mean(numeric_only=True).reset_index()
    table = Table(*means.columns, title="votes on studies left out, means over studies")
    for row in means.to_numpy().tolist():
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else value for value in row))
    Console(width=140).print(table)
    return {"folds": list(folds), "means": means.to_dict("records"), "rows": rows}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folds", nargs="+", type=fold_of, default=[], metavar="FOLD=RUN", help="networks by fold")
    parser.add_argument("--corpora", type=Path, metavar="DIR", help="folder with a folder for each fold")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("votes", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
