"""Put a trained model into the package, where `PolyGene.from_pretrained(NAME)` finds it.

    python -m benchmarks.models.ship runs/polygene-512 polygene-512 --corpus corpus-512
    python -m benchmarks.models.ship --fixture

The first writes src/polygene/models/NAME: weights in half precision, a recipe that names no folder of this machine, and
of metrics.json what training wrote. With `--corpus` it says how far its answers for the test cells then are from those
in full precision. A model card (`python -m benchmarks.models.card`) and scores belong to weights: where the weights
are the ones that are there already, both stay; else they are to be made again, and until then README.md says only what
the model is. The second writes tests/shipped.json, what the shipped models answer for one cell; run it after the first,
and look at what has changed.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse

from polygene.cli.describe import describe
from polygene.corpus.corpus import Corpus
from polygene.errors import CheckpointError
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.model.metrics import Metrics
from polygene.model.shipped import MODELS, MOST_BYTES, NAMES
from polygene.tl._annotate import annotate

FIXTURE = Path(__file__).parents[2] / "tests" / "shipped.json"
EXPRESSED = 60


def ship(run: Path, name: str, models: Path = MODELS) -> Path:
    """Write the folder of a shipped model from that of a trained one, and return it."""
    folder = models / name
    model = PolyGene.from_pretrained(run, device="cpu")
    recipe = replace(model.recipe, corpus=name.replace("polygene", "corpus"), out=f"runs/{name}")
    metrics = Metrics(corpus=model.metrics.corpus, validation=model.metrics.validation)
    with tempfile.TemporaryDirectory() as beside:
        new = Path(beside) / name
        replace(model, recipe=recipe, metrics=metrics).save_pretrained(new, half=True)
        for file in new.iterdir():
            if (n_bytes := file.stat().st_size) > MOST_BYTES:
                msg = f"{file.name} is too large to ship: {n_bytes:,} bytes, {MOST_BYTES:,} at most."
                raise CheckpointError(msg)
        if folder.is_dir():
            weights = "model.safetensors"
            if (new / weights).read_bytes() == (folder / weights).read_bytes():
                for file_name in ("README.md", "metrics.json"):
                    shutil.copy(folder / file_name, new)
            shutil.rmtree(folder)
        shutil.copytree(new, folder)
    return folder


def rounding(run: Path, folder: Path, corpus: Path) -> Table:
    """Lay out how far answers for the test cells of a corpus are from those of the weights in full precision."""
    cells = Corpus(corpus).split("test").cells(slice(None))
    models = [PolyGene.from_pretrained(one, device="cpu") for one in (run, folder)]
    names = models[0].tokenizer.schema.names
    table = Table("phenotype", "largest difference of a probability", "other answers", title=f"{len(cells):,} cells")
    answers_2 = [label_probabilities(model, cells, predict=names) for model in models]
    for name, full_CV, half_CV in zip(names, *answers_2, strict=True):
        others = np.mean(full_CV.argmax(1) != half_CV.argmax(1))
        table.add_row(name, f"{np.abs(full_CV - half_CV).max():.1e}", f"{others:.2%}")
    return table


def one_cell(model: PolyGene) -> ad.AnnData:
    """Give a cell with counts from 1 to 11 of 60 genes that stand evenly in the panel, and none of the others."""
    panel = model.tokenizer.panel
    counts_G = np.zeros(len(panel), dtype=np.float32)
    counts_G[np.arange(EXPRESSED) * len(panel) // EXPRESSED] = 1 + np.arange(EXPRESSED) * 7 % 11
    cell = ad.AnnData(sparse.csr_matrix(counts_G[None]))
    cell.var_names, cell.obs_names = list(panel.symbols), ["cell"]
    return cell


def answers(name: str) -> dict[str, dict[str, float]]:
    """Give the probability of every label of every phenotype for this cell."""
    model = PolyGene.from_pretrained(name, device="cpu")
    cell = one_cell(model)
    annotate(cell, model)
    schema = model.tokenizer.schema
    return {
        phenotype: dict(zip(labels, cell.obsm[f"polygene_{phenotype}"][0].tolist(), strict=True))
        for phenotype, labels in zip(schema.names, schema.labels, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a trained model into the package.")
    parser.add_argument("run", type=Path, nargs="?", help="folder that `polygene train` wrote")
    parser.add_argument("name", choices=NAMES, nargs="?", help="name under which it ships")
    parser.add_argument("--corpus", type=Path, help="corpus whose test cells tell what half precision changes")
    parser.add_argument("--fixture", action="store_true", help="write tests/shipped.json from the shipped models")
    said = parser.parse_args()
    if not said.name and not said.fixture:
        parser.error("give RUN and NAME, or --fixture")
    console = Console(highlight=False)
    if said.name:
        folder = ship(said.run, said.name)
        for table in describe(folder) + ([rounding(said.run, folder, said.corpus)] if said.corpus else []):
            console.print(table)
    if said.fixture:
        told = {
            name: {phenotype: {label: round(p, 7) for label, p in labels.items()} for phenotype, labels in one.items()}
            for name, one in ((name, answers(name)) for name in NAMES)
        }
        FIXTURE.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        console.print(f"written to {FIXTURE}")


if __name__ == "__main__":
    main()
