"""What a corpus or a checkpoint holds, as tables; needs no torch."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
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
from polygene.model.metrics import Metrics
from polygene.model.shipped import MODELS, NAMES, folder_of
from polygene.vocab.phenotypes import PhenotypeSchema
from polygene.vocab.tokenizer import CellTokenizer

NAMED = 8
"""Genes and labels that are named before the others are counted."""
HELD_OUT = {"donor": "donors", "study": "studies", "random": "cells, not donors"}


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
        return _describe_corpus(Corpus(folder))
    if (folder / "config.json").is_file():
        return _describe_checkpoint(folder)
    msg = (
        f"{folder} is neither a corpus (no corpus.json) nor a checkpoint (no config.json)."
        if folder.is_dir()
        else f"There is no folder {str(folder)!r}, and no model of this name ships: {', '.join(NAMES)} do."
    )
    raise DataError(msg)


def _describe_corpus(corpus: Corpus) -> list[Table]:
    counted = corpus.info["sources"]
    n_cells = {name: sum(source["cells"].get(name, 0) for source in counted) for name in SPLITS}
    facts = {
        "cells": ", ".join(f"{n:,} {name}" for name, n in n_cells.items()),
        "held out": HELD_OUT[corpus.split_word],
        **_tokenizer_facts(corpus.tokenizer),
        "made with": f"polygene {corpus.info['polygene']}",
    }
    sources = [
        (
            source["name"],
            source["scale"],
            *(source["cells"].get(name, 0) for name in SPLITS),
            *(source[key] for key in ("donors_in_all", "genes", "panel_genes")),
        )
        for source in counted
    ]
    columns = ("source", "values", *SPLITS, "donors", "genes", "of the panel")
    return [
        _facts(f"corpus {corpus.folder}", facts), _table("sources", columns, sources), _phenotypes(corpus.tokenizer)
    ]  # fmt: skip


def _describe_checkpoint(folder: Path) -> list[Table]:
    tokenizer, metrics = CellTokenizer.load(folder), Metrics.load(folder / "metrics.json")
    labels = _calibration(folder, tokenizer.schema).labels
    facts = {
        **_network_facts(folder),
        **_tokenizer_facts(tokenizer),
        "calibration": f"of {', '.join(labels)}" if labels else "none",
    }
    tables = [_facts(f"checkpoint {folder}", facts), _phenotypes(tokenizer)]
    if labels:
        columns = ("phenotype", "temperature", "calibrated on cells", "of", "log loss", "before")
        rows = [
            (name, one.temperature, one.cells, f"{one.units:,} {one.unit}s", one.log_loss, one.log_loss_before)
            for name, one in labels.items()
        ]
        tables.append(_table("calibration", columns, rows))
    if metrics.corpus:
        tables.append(_training_cells(metrics.corpus))
    if metrics.finetuned:
        tables.append(_facts("fine-tuned", _finetuning_facts(metrics.finetuned)))
    for kind, scores in {"validation": metrics.validation, "test": metrics.test}.items():
        if numbers := {name: value for name, value in scores.items() if isinstance(value, float)}:
            tables.append(_facts(f"{kind} scores", numbers))
    return tables


def _finetuning_facts(facts: Mapping[str, Any]) -> dict[str, str]:
    rows = {
        "from": facts["from"],
        "labels": f"{len(facts['labels'])} of obs[{facts['label']!r}]: {_some(facts['labels'])}",
        "how": facts["how"],
        "learned from": f"{facts['cells']:,} of {facts['labelled']:,} labelled cells, of {facts['donors']:,} donors",
    }
    if "macro_f1" in facts:
        rows["macro-F1"] = f"{facts['macro_f1']:.3f} on {facts['held_out']} held out in turn"
    return rows


def describe_shipped() -> list[Table]:
    """Describe the models that ship side by side: what they are, what they know, and how well they do."""
    facts = {name: _shipped_facts(MODELS / name) for name in NAMES}
    keys = [key for key in facts[NAMES[0]] if any(fact[key] for fact in facts.values())]
    rows = [(key, *(fact[key] for fact in facts.values())) for key in keys]
    tables = [_table("models that ship with PolyGene", ("", *NAMES), rows)]
    marks = [Metrics.load(MODELS / name / "metrics.json").marks for name in NAMES]
    tasks = dict.fromkeys(
        (source, phenotype)
        for mark in marks
        for source, of_source in mark.items()
        for phenotype, scores in of_source.items()
        if "macro_f1" in scores  # other marks are in the card
    )
    if tasks:
        title = "macro-F1 on held-out donors (of logistic regression)"
        scores = [(*task, *(_mark(mark.get(task[0], {}).get(task[1])) for mark in marks)) for task in tasks]
        tables.append(_table(title, ("source", "phenotype", *NAMES), scores))
    return tables


def _shipped_facts(folder: Path) -> dict[str, str]:
    tokenizer, corpus = CellTokenizer.load(folder), Metrics.load(folder / "metrics.json").corpus
    schema = tokenizer.schema
    labels = dict(zip(schema.names, schema.labels, strict=True))
    hashes = {name: digest for digest, name in map(str.split, (folder / "SHA256SUMS").read_text().splitlines())}
    return {
        "genes": f"{len(tokenizer.panel):,}",
        **_network_facts(folder),
        "on disk": f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB",
        "SHA-256": f"{hashes['model.safetensors'][:12]} (weights)",
        **{f"{split} cells": _count_cells(corpus.get("sources", {}).values(), split) for split in SPLITS},
        "tissues": _all(labels["tissue"]),
        "cell types": _all(labels["cell_type"]),
        "ages": _range(labels["age"], schema.years("age")),
        "diseases": _all(labels["disease"]),
        "model card": str(folder / "README.md"),
    }


def _network_facts(folder: Path) -> dict[str, str]:
    network, weights = _json(folder / "config.json"), folder / "model.safetensors"
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


def _training_cells(corpus: Mapping[str, Any]) -> Table:
    rows = []
    for name, source in corpus["sources"].items():
        cells, donors = (source[kind] for kind in ("cells", "donors"))
        counts = [
            f"{cells.get(split, 0):,}" + (f" ({donors[split]:,})" if donors.get(split) else "") for split in SPLITS
        ]
        rows.append((name, *counts, source["panel_genes"]))
    return _table(f"corpus: cells (donors), split by {corpus['split']}", ("source", *SPLITS, "of the panel"), rows)


def _count_cells(sources: Iterable[Mapping[str, Any]], split: str) -> str:
    there = [source for source in sources if source["cells"].get(split)]
    cells, donors = (sum(source[kind].get(split, 0) for source in there) for kind in ("cells", "donors"))
    nameless = sum(not source["donors"].get(split) for source in there)
    without = f", {nameless} of them without donors" if nameless else ""
    return f"{cells:,} of {donors:,} donors, {len(there)} sources{without}" if there else ""


def _mark(mark: Mapping[str, float] | None) -> str:
    if not mark:
        return ""
    beside = mark.get("logistic regression")
    return f"{mark['macro_f1']:.3f}" + ("" if beside is None else f" ({beside:.3f})")


def _all(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {'; '.join(names)}"  # there are commas in names of cell types


def _range(ages: tuple[str, ...], years_V: np.ndarray) -> str:
    """Name the youngest and the oldest age, and those that are no number of years."""
    if not (read_V := np.isfinite(years_V)).any():
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
    schema = tokenizer.schema
    known = zip(schema.phenotypes, schema.labels, strict=True)
    rows = [(one.name, one.column, len(labels), _some(labels)) for one, labels in known]
    return _table("phenotypes", ("phenotype", "column of obs", "labels", ""), rows)


def _facts(title: str, facts: Mapping[str, Any]) -> Table:
    table = _table(title, ("", ""), list(facts.items()))
    table.show_header = False
    return table


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row))
    return table


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _some(names: Sequence[str]) -> str:
    more = f", … {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is damaged ({error}); copy the checkpoint again, whole."
        raise CheckpointError(msg) from error
