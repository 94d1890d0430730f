"""What a corpus or a checkpoint holds, as tables; needs no torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from polygene.corpus.arrow import SPLITS
from polygene.corpus.corpus import Corpus
from polygene.errors import CheckpointError, DataError
from polygene.model.calibration import Calibration
from polygene.model.folder import AGAIN, CALIBRATION, CONFIG, METRICS, SUMS, WEIGHTS, tensors, verify
from polygene.model.metrics import Metrics
from polygene.model.shipped import MODELS, NAMES, folder_of
from polygene.runtime.files import loading, read_json
from polygene.vocab.tokenizer import CellTokenizer

NAMED = 8
"""Genes and labels that are named before the others are counted."""
HELD_OUT = {"donor": "donors", "study": "studies", "random": "cells, not donors"}


def describe(folder: str | Path, *, brief: bool = False) -> list[Table]:
    """Describe a folder made by `polygene prepare` or `polygene train`, or a shipped model; `brief`: on a screen."""
    folder = folder_of(folder)
    if (folder / "corpus.json").is_file():
        return _describe_corpus(Corpus(folder), brief)
    if (folder / "config.json").is_file():
        verify(folder)
        with loading(folder, CheckpointError, AGAIN):
            return _describe_checkpoint(folder, brief)
    if (folder / "part.json").is_file():
        msg = f"{folder} is a part of a corpus: polygene join makes a corpus of all parts, which info then describes."
        raise DataError(msg)
    msg = (
        f"{folder} is neither a corpus (no corpus.json) nor a checkpoint (no config.json)."
        if folder.is_dir()
        else f"There is no folder {str(folder)!r}, and no model of this name ships: {', '.join(NAMES)} do."
    )
    raise DataError(msg)


def describe_shipped() -> Table:
    """Describe the models that ship side by side; `describe` names all labels of one, its card has its scores."""
    of_model = []
    for name in NAMES:
        folder, tokenizer = MODELS / name, CellTokenizer.load(MODELS / name)
        labels = dict(zip(tokenizer.schema.names, tokenizer.schema.labels, strict=True))
        hashes = {file: digest for digest, file in map(str.split, (folder / SUMS).read_text().splitlines())}
        facts = _checkpoint_facts(folder, tokenizer) | {"SHA-256": f"{hashes[WEIGHTS][:12]} (weights)"}
        facts |= {key.replace("_", " "): f"{len(some)}: {_some(some)}" for key, some in labels.items()}
        of_model.append(facts | {"model card": str(folder / "README.md")})
    keys = dict.fromkeys(key for facts in of_model for key in facts)
    rows = [(key, *(facts.get(key, "") for facts in of_model)) for key in keys]
    return _table("models that ship with PolyGene", ("", *NAMES), rows)


def _describe_corpus(corpus: Corpus, brief: bool) -> list[Table]:
    sources = corpus.info["sources"]
    cells = {name: sum(source["cells"].get(name, 0) for source in sources) for name in SPLITS}
    facts = {
        "cells": ", ".join(f"{n:,} {name}" for name, n in cells.items()),
        "held out": HELD_OUT[corpus.split_word],
        **_tokenizer_facts(corpus.tokenizer),
        "made with": f"polygene {corpus.info['polygene']}",
    }
    rows = [
        (
            *(source[key] for key in ("name", "scale")),
            *(source["cells"].get(name, 0) for name in SPLITS),
            *(source[key] for key in ("donors_in_all", "genes", "panel_genes")),
        )
        for source in sources
    ]
    columns = ("source", "values", *SPLITS, "donors", "genes", "of the panel")
    made = _facts(f"corpus {corpus.folder}", facts)
    return [made, _table("sources", columns, rows), _phenotypes(corpus.tokenizer, brief)]


def _describe_checkpoint(folder: Path, brief: bool) -> list[Table]:
    tokenizer, metrics = CellTokenizer.load(folder), Metrics.load(folder / METRICS)
    sizes = {name: len(labels) for name, labels in zip(tokenizer.schema.names, tokenizer.schema.labels, strict=True)}
    calibrated = Calibration.load(folder / CALIBRATION, sizes).labels
    facts = _checkpoint_facts(folder, tokenizer) | {"calibration": ", ".join(calibrated) or "none"}
    tables = [_facts(f"checkpoint {folder}", facts), _phenotypes(tokenizer, brief)]
    if calibrated:
        columns = ("phenotype", "temperature", "calibrated on cells", "of", "log loss", "before")
        rows = [
            (name, one.temperature, one.cells, f"{one.units:,} {one.unit}s", one.log_loss, one.log_loss_before)
            for name, one in calibrated.items()
        ]
        tables.append(_table("calibration", columns, rows))
    if tuned := metrics.finetuned:
        facts = {
            "from": tuned["from"],
            "labels": f"{len(tuned['labels'])} of obs[{tuned['label']!r}]: {_some(tuned['labels'])}",
            "reads": f"the network, and {tuned['genes']:,} genes of the cells",
            "learned from": (
                f"{tuned['cells']:,} of {tuned['labelled']:,} labelled cells, of {tuned['donors']:,} donors"
            ),
        }
        if "macro_f1" in tuned:
            score, n = tuned["macro_f1"], tuned.get("scored", "its")
            few = f"– (no score: fewer than two labels are in two {tuned['held_out']} or more)"
            of = f"{score or 0:.3f} of {n} labels, on {tuned['held_out']} held out in turn"
            facts["macro-F1"] = few if score is None else of
        tables.append(_facts("fine-tuned", facts))
    for kind, scores in {"validation": metrics.validation, "test": metrics.test}.items():
        numbers: dict[str, Any] = {name: value for name, value in scores.items() if isinstance(value, float)}
        endings = ("loss", "macro_f1") if brief else ("",)
        # what ends in _genes or _labels is a count and no score
        numbers |= {
            n: f"{numbers[n]:.3f} of {numbers[of]:.0f} labels"
            for n in numbers
            if n.endswith("macro_f1") and (of := n.replace("macro_f1", "labels")) in numbers
        }
        if numbers := {
            n: x for n, x in numbers.items() if n.endswith(endings) and not n.endswith(("_genes", "_labels"))
        }:
            tables.append(_facts(f"{kind} scores", numbers))
    return tables


def _checkpoint_facts(folder: Path, tokenizer: CellTokenizer) -> dict[str, str]:
    network, weights = read_json(folder / CONFIG), folder / WEIGHTS
    header = tensors(weights).values()
    n_weights, kinds = sum(math.prod(one["shape"]) for one in header), {one["dtype"] for one in header}
    facts = {
        "network": f"{network['num_hidden_layers']} layers x {network['hidden_size']} wide",
        "weights": f"{n_weights:,} ({', '.join(sorted(kinds))}, {weights.stat().st_size / 1e6:.1f} MB)",
        **_tokenizer_facts(tokenizer),
    }
    sources = Metrics.load(folder / METRICS).corpus.get("sources", {}).values()
    for split in SPLITS:
        there = [source for source in sources if source["cells"].get(split)]
        cells, donors = (sum(source[kind].get(split, 0) for source in there) for kind in ("cells", "donors"))
        nameless = sum(not source["donors"].get(split) for source in there)
        without = f", {nameless} of them without donors" if nameless else ""
        if there:
            facts[f"{split} cells"] = f"{cells:,} of {donors:,} donors, {len(there)} sources{without}"
    return facts


def _tokenizer_facts(tokenizer: CellTokenizer) -> dict[str, str]:
    edges = ", ".join(f"{edge:.2g}" for edge in tokenizer.binner.edges)
    return {
        "panel": f"{len(tokenizer.panel):,} genes: {_some(tokenizer.panel.symbols)}",
        "bins": f"{tokenizer.binner.n_bins}, {tokenizer.binner.kind}" + (f", from {edges}" if edges else ""),
        "tokens": f"{tokenizer.n_tokens:,}, fingerprint {tokenizer.fingerprint()[:12]}",
    }


def _phenotypes(tokenizer: CellTokenizer, brief: bool) -> Table:
    known = zip(tokenizer.schema.phenotypes, tokenizer.schema.labels, strict=True)
    # there are commas in names of cell types
    rows = [(one.name, one.column, len(labels), _some(labels) if brief else "; ".join(labels)) for one, labels in known]
    return _table("phenotypes", ("phenotype", "column of obs", "labels", ""), rows)


def _facts(title: str, facts: Mapping[str, Any]) -> Table:
    table = _table(title, ("", ""), facts.items())
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
    more = f"; … {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more
