"""What a corpus or a checkpoint holds, as tables for the eye; needs no torch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from polygene.corpus import Corpus
from polygene.errors import CheckpointError, DataError
from polygene.shards import SPLITS
from polygene.tokenizer import CellTokenizer

SHOWN = 8
"""Genes and labels named before the others are counted."""


def describe(folder: str | Path) -> list[Table]:
    """Describe a folder made by `polygene prepare` or `polygene train`.

    Raises
    ------
    DataError
        It is neither.
    CorpusError, CheckpointError
        It is incomplete or damaged; names the file.
    """
    folder = Path(folder)
    if (folder / "corpus.json").is_file():
        return describe_corpus(Corpus(folder))
    if (folder / "config.json").is_file():
        return describe_checkpoint(folder)
    msg = (
        f"{folder} is neither a corpus (no corpus.json) nor a checkpoint (no config.json)."
        if folder.is_dir()
        else f"There is no folder {str(folder)!r}."
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
    """Describe the network, the panel, bins and labels, and the scores that were written down."""
    tokenizer = CellTokenizer.load(folder)
    network = _json(folder / "config.json")
    weights = folder / "model.safetensors"
    try:
        with safe_open(weights, framework="numpy") as tensors:
            sizes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        msg = f"{weights} cannot be read ({error}); copy the checkpoint again, whole."
        raise CheckpointError(msg) from error
    n_weights = sum(map(math.prod, sizes))
    facts = {
        "network": f"{network['num_hidden_layers']} layers x {network['hidden_size']} wide, {n_weights:,} weights",
        "size": f"{weights.stat().st_size / 1e6:.1f} MB",
        **_tokenizer_facts(tokenizer),
    }
    tables = [_facts(f"checkpoint {folder}", facts), _phenotypes(tokenizer)]
    if (folder / "metrics.json").is_file():
        for kind, scores in _json(folder / "metrics.json").items():
            numbers = {name: f"{value:.3f}" for name, value in scores.items() if isinstance(value, float)}
            if numbers:
                tables.append(_facts(f"{kind} scores", numbers))
    return tables


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
