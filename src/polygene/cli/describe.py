"""What a corpus or a checkpoint holds, as tables for the eye; needs no torch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from polygene.corpus.arrow import SPLITS
from polygene.corpus.corpus import Corpus
from polygene.errors import CheckpointError, DataError
from polygene.model.calibration import Calibration
from polygene.model.shipped import MODELS, NAMES, folder_of
from polygene.vocab.phenotypes import PhenotypeSchema
from polygene.vocab.tokenizer import CellTokenizer

SHOWN = 8
"""Genes and labels named before the others are counted."""


def describe(folder: str | Path) -> list[Table]:
    """Describe a folder made by `polygene prepare` or `polygene train`, or a model that ships, by its name.

    Raises
    ------
    DataError
        It is neither.
    CorpusError, CheckpointError
        It is incomplete or damaged; names the file.
    """
    folder = folder_of(folder)
    if (folder / "corpus.json").is_file():
        return describe_corpus(Corpus(folder))
    if (folder / "config.json").is_file():
        return describe_checkpoint(folder)
    msg = (
        f"{folder} is neither a corpus (no corpus.json) nor a checkpoint (no config.json)."
        if folder.is_dir()
        else f"There is no folder {str(folder)!r}, and no model of this name ships: {', '.join(NAMES)} do."
    )
    raise DataError(msg)


def describe_corpus(corpus: Corpus) -> list[Table]:
    """Describe how it was split, its sources, its panel, bins and labels."""
    n_cells = {name: sum(source["cells"].get(name, 0) for source in corpus.info["sources"]) for name in SPLITS}
    facts = {
        "cells": ", ".join(f"{n:,} {name}" for name, n in n_cells.items()),
        "held out": {"donor": "donors", "study": "studies", "random": "cells, not donors"}[corpus.split_word],
        **_tokenizer_facts(corpus.tokenizer),
        "made with": f"polygene {corpus.info['polygene']}",
    }
    sources = _table("sources", "source", "values", *SPLITS, "donors", "genes", "of the panel")
    for source in corpus.info["sources"]:
        sources.add_row(
            source["name"],
            source["scale"],
            *(f"{source['cells'].get(name, 0):,}" for name in SPLITS),
            f"{source['donors_in_all']:,}",
            f"{source['genes']:,}",
            f"{source['panel_genes']:,}",
        )
    return [_facts(f"corpus {corpus.folder}", facts), sources, _phenotypes(corpus.tokenizer)]


def describe_checkpoint(folder: Path) -> list[Table]:
    """Describe the network, the panel, bins and labels, what it learned from, its calibration, and its scores."""
    tokenizer = CellTokenizer.load(folder)
    calibration = _calibration(folder, tokenizer.schema)
    facts = {
        **_network_facts(folder),
        **_tokenizer_facts(tokenizer),
        "calibration": f"of {', '.join(calibration.labels)}" if calibration.labels else "none",
    }
    tables = [_facts(f"checkpoint {folder}", facts), _phenotypes(tokenizer)]
    if calibration.labels:
        table = _table("calibration", "phenotype", "temperature", "learned from cells", "of", "log loss", "was")
        for name, one in calibration.labels.items():
            of = f"{one.units:,} {one.unit}s"
            losses = f"{one.log_loss:.3f}", f"{one.log_loss_before:.3f}"
            table.add_row(name, f"{one.temperature:.2f}", f"{one.cells:,}", of, *losses)
        tables.append(table)
    metrics = _metrics(folder)
    if "corpus" in metrics:
        tables.append(_learned_from(metrics["corpus"]))
    if "finetuned" in metrics:
        tables.append(_finetuned(metrics.pop("finetuned")))
    for kind, scores in metrics.items():
        numbers = {name: f"{value:.3f}" for name, value in scores.items() if isinstance(value, float)}
        if numbers:
            tables.append(_facts(f"{kind} scores", numbers))
    return tables


def _finetuned(said: Mapping[str, Any]) -> Table:
    """Say what a model was taught, and how well that went (see `tl.finetune`)."""
    facts = {
        "from": said["from"],
        "labels": f"{len(said['labels'])} of obs[{said['label']!r}]: {_some(said['labels'])}",
        "how": said["how"],
        "learned from": f"{said['cells']:,} of {said['labelled']:,} labelled cells, of {said['donors']:,} donors",
    }
    if "macro_f1" in said:
        facts["macro-F1"] = f"{said['macro_f1']:.3f} on {said['held_out']} held out in turn"
    return _facts("fine-tuned", facts)


def describe_shipped() -> list[Table]:
    """Describe the models that ship side by side: what they are, what they know, and their marks."""
    folders = {name: MODELS / name for name in NAMES}
    facts = [_shipped_facts(folder) for folder in folders.values()]
    table = _table("models that ship with PolyGene", "", *folders)
    for key in facts[0]:
        if any(fact[key] for fact in facts):
            table.add_row(key, *(Text(fact[key]) for fact in facts))
    marks = [_metrics(folder).get("marks", {}) for folder in folders.values()]
    rows = dict.fromkeys(
        (source, phenotype)
        for mark in marks
        for source, of_source in mark.items()
        for phenotype, scores in of_source.items()
        if "macro_f1" in scores  # other marks stand in the card
    )
    if not rows:
        return [table]
    table_of_marks = _table("macro-F1 on donors held out (of logistic regression)", "source", "phenotype", *folders)
    for source, phenotype in rows:
        table_of_marks.add_row(source, phenotype, *(_mark(mark.get(source, {}).get(phenotype)) for mark in marks))
    return [table, table_of_marks]


def _shipped_facts(folder: Path) -> dict[str, str]:
    """Say of one shipped model what is told side by side."""
    tokenizer = CellTokenizer.load(folder)
    schema = tokenizer.schema
    corpus = _metrics(folder).get("corpus", {"sources": {}})
    n_bytes = sum(file.stat().st_size for file in folder.iterdir())
    hashes = {name: digest for digest, name in map(str.split, (folder / "SHA256SUMS").read_text().splitlines())}
    labels = dict(zip(schema.names, schema.labels, strict=True))
    return {
        "genes": f"{len(tokenizer.panel):,}",
        **_network_facts(folder),
        "on disk": f"{n_bytes / 1e6:.1f} MB",
        "SHA-256": f"{hashes['model.safetensors'][:12]} (weights)",
        **{f"{split} cells": _cells_of(corpus, split) for split in SPLITS},
        "tissues": _all(labels["tissue"]),
        "cell types": _all(labels["cell_type"]),
        "ages": _from_to(labels["age"], schema.years("age")),
        "diseases": _all(labels["disease"]),
        "model card": str(folder / "README.md"),
    }


def _network_facts(folder: Path) -> dict[str, str]:
    network = _json(folder / "config.json")
    weights = folder / "model.safetensors"
    try:
        with safe_open(weights, framework="numpy") as tensors:
            slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118
            n_weights, kinds = sum(math.prod(one.get_shape()) for one in slices), {one.get_dtype() for one in slices}
    except (OSError, SafetensorError) as error:
        msg = f"{weights} cannot be read ({error}); copy the checkpoint again, whole."
        raise CheckpointError(msg) from error
    return {
        "network": f"{network['num_hidden_layers']} layers x {network['hidden_size']} wide",
        "weights": f"{n_weights:,} ({', '.join(sorted(kinds))}, {weights.stat().st_size / 1e6:.1f} MB)",
    }


def _calibration(folder: Path, schema: PhenotypeSchema) -> Calibration:
    sizes = {name: len(labels) for name, labels in zip(schema.names, schema.labels, strict=True)}
    file = folder / "calibration.json"
    return Calibration.load(file, sizes) if file.is_file() else Calibration()


def _metrics(folder: Path) -> dict[str, Any]:
    return _json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}


def _learned_from(corpus: Mapping[str, Any]) -> Table:
    """Lay out what `Corpus.summary` says."""
    title = f"corpus it learned from: cells (donors), split by {corpus['split']}"
    table = _table(title, "source", *SPLITS, "of the panel")
    for name, source in corpus["sources"].items():
        counts = [
            f"{source['cells'].get(split, 0):,}" + (f" ({n:,})" if (n := source["donors"].get(split)) else "")
            for split in SPLITS
        ]
        table.add_row(name, *counts, f"{source['panel_genes']:,}")
    return table


def _cells_of(corpus: Mapping[str, Any], split: str) -> str:
    """Count the cells, donors and sources of a split in what `Corpus.summary` says."""
    sources = [source for source in corpus["sources"].values() if source["cells"].get(split)]
    cells, donors = (sum(source[kind].get(split, 0) for source in sources) for kind in ("cells", "donors"))
    nameless = sum(not source["donors"].get(split) for source in sources)
    without = f", {nameless} of them without donors" if nameless else ""
    return f"{cells:,} of {donors:,} donors, {len(sources)} sources{without}" if sources else ""


def _mark(mark: Mapping[str, float] | None) -> str:
    if not mark:
        return ""
    beside = mark.get("logistic regression")
    return f"{mark['macro_f1']:.3f}" + ("" if beside is None else f" ({beside:.3f})")


def _all(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {'; '.join(names)}"  # there are commas in names of cell types


def _from_to(ages: tuple[str, ...], years_V: np.ndarray) -> str:
    """Name the youngest and the oldest age, and those that are no number of years."""
    read_V = np.isfinite(years_V)
    if not read_V.any():
        return _all(ages)
    others = [age for age, read in zip(ages, read_V, strict=True) if not read]
    ends = f"{ages[np.nanargmin(years_V)]} to {ages[np.nanargmax(years_V)]}"
    return f"{len(ages)}: {'; '.join([ends, *others])}"


def _tokenizer_facts(tokenizer: CellTokenizer) -> dict[str, str]:
    binner = tokenizer.binner
    edges = ", ".join(f"{edge:.2g}" for edge in binner.edges)
    return {
        "panel": f"{len(tokenizer.panel):,} genes: {_some(tokenizer.panel.symbols)}",
        "bins": f"{binner.n_bins}, {binner.kind}" + (f", from {edges}" if edges else ""),
        "tokens": f"{tokenizer.n_tokens:,}, fingerprint {tokenizer.fingerprint()[:12]}",
    }


def _phenotypes(tokenizer: CellTokenizer) -> Table:
    table = _table("phenotypes", "phenotype", "column of obs", "labels", "")
    for phenotype, labels in zip(tokenizer.schema.phenotypes, tokenizer.schema.labels, strict=True):
        table.add_row(phenotype.name, phenotype.column, f"{len(labels):,}", Text(_some(labels)))
    return table


def _facts(title: str, facts: Mapping[str, str]) -> Table:
    table = _table(title, "", "")
    table.show_header = False
    for name, fact in facts.items():
        table.add_row(name, Text(fact))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _some(names: tuple[str, ...]) -> str:
    more = f", … {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is damaged ({error}); copy the checkpoint again, whole."
        raise CheckpointError(msg) from error
