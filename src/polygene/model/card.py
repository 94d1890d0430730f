"""The model card of a checkpoint: what it is, what it knows, which data taught it, what it scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polygene.model.checkpoint import PolyGene
    from polygene.model.metrics import Metrics

MOST_SOURCES = 30  # listed one by one


def model_card(model: PolyGene) -> str:
    """Write what a reader of the folder should know, as the Hub's model card."""
    tokenizer = model.tokenizer
    knows = "\n".join(
        f"| {phenotype.name} | {len(labels)} | {', '.join(labels[:8])}{' …' if len(labels) > 8 else ''} |"
        for phenotype, labels in zip(tokenizer.schema.phenotypes, tokenizer.schema.labels, strict=True)
    )
    n_weights = sum(weights.numel() for weights in model.network.parameters())
    return f"""---
library_name: polygene
tags: [single-cell, transcriptomics, anndata]
---
# PolyGene checkpoint

A masked language model over single cells: {len(tokenizer.panel):,} genes, {tokenizer.binner.n_bins} expression bins
({tokenizer.binner.kind}), {n_weights:,} weights.

| phenotype | labels | known labels |
|---|---|---|
{knows}

It knows the labels above and no others, and predicts well for data like its training data (`recipe.toml`).
{data_of(model.metrics)}
## Use

```python
import polygene as pg

model = pg.PolyGene.from_pretrained("this folder")
pg.tl.annotate(adata, model)
```
"""


def data_of(metrics: Metrics) -> str:
    """Say which cells taught the model, how they were chosen, and what it scored on donors that did not train."""
    if not metrics.corpus:
        return ""
    sources = metrics.corpus["sources"]
    of_split = {
        name: sum(one["cells"].get(name, 0) for one in sources.values()) for name in ("train", "validation", "test")
    }
    counts = ", ".join(f"{n:,} {name}" for name, n in of_split.items())
    lines = ["", "## Data", "", f"Cells of {len(sources):,} sources, split by {metrics.corpus['split']}: {counts}."]
    if where := metrics.corpus.get("where"):
        lines += ["", f"Filter: `{where}`."]
    lines += ["", "| source | training cells | training donors | genes of the panel |", "|---|---|---|---|"]
    order = sorted(sources, key=lambda name: -sources[name]["cells"].get("train", 0))
    for name in order[:MOST_SOURCES]:
        one = sources[name]
        train, donors = (one[kind].get("train", 0) for kind in ("cells", "donors"))
        lines.append(f"| {name} | {train:,} | {donors:,} | {one['panel_genes']:,} |")
    if rest := order[MOST_SOURCES:]:
        n_cells = sum(sources[name]["cells"].get("train", 0) for name in rest)
        lines.append(f"| {len(rest):,} others | {n_cells:,} | | |")
    scores = {name: score for name, score in metrics.validation.items() if name == "loss" or name.endswith("macro_f1")}
    if scores:
        lines += ["", "## Scores", "", "On cells of validation donors, which chose among saved states:", ""]
        lines += ["| score | |", "|---|---|", *(f"| {name} | {score:.3f} |" for name, score in scores.items())]
        lines += ["", f"`metrics.json` holds all{', those on test donors too' if metrics.test else ''}."]
    return "\n".join([*lines, ""])
