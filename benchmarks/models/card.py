"""The card of a shipped model, model_card.md filled in, and docs/models.md."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.models import tables as tables
from benchmarks.models.corpus import read_sources
from benchmarks.models.tables import TextTable, markdown
from benchmarks.shared import files
from polygene import __version__
from polygene.corpus.arrow import SPLITS
from polygene.corpus.corpus import Corpus
from polygene.model.checkpoint import PolyGene

TEMPLATE = Path(__file__).with_name("card.md")
RECIPES = Path(__file__).parents[2] / "recipes"
DOCS = Path(__file__).parents[2] / "docs" / "models.md"


def knows_table(model: PolyGene) -> TextTable:
    """Name every label; of ages, which years."""
    schema = model.tokenizer.schema
    found = [["phenotype", "labels", "which"]]
    for phenotype, labels in zip(schema.phenotypes, schema.labels, strict=True):
        which = f"from {labels[0]} to {labels[-1]}" if phenotype.ordinal == "age" and labels else ", ".join(labels)
        found.append([phenotype.name.replace("_", " "), str(len(labels)), which])
    return found


def data_table(corpus: Corpus) -> TextTable:
    """Lay out each study: its part in the model, cells and donors, terms of the data and what is unclear."""
    found = [
        [
            "file",
            "study",
            "its part",
            "cells (donors) that train, validate, test",
            "licence of the repository",
            "terms of the data; what is unclear",
        ]
    ]
    # The cells sampled from one file of profiles are a source a study, NAME-STUDY.
    parts: dict[str, list[dict[str, Any]]] = {}
    for one in corpus.info["sources"]:
        parts.setdefault(one["name"].partition("-")[0], []).append(one)
    for name, source in read_sources().items():
        if source.role == "left out":
            continue
        facts = files.catalogue()[source.of_file].facts
        study = facts["study"] + (f", [doi](https://doi.org/{facts['doi']})" if facts.get("doi") else "")
        cells = "all of it tests"
        if name in parts:
            n_cells, n_donors = (
                [sum(one[key][p] for one in parts[name]) for p in SPLITS[:3]] for key in ("cells", "donors")
            )
            cells = ", ".join(f"{cells:,} ({donors or '–'})" for cells, donors in zip(n_cells, n_donors, strict=True))
            if source.measured:
                cells += ", sampled from profiles"
        part = {"split": "trains, donors held out", "train": "trains", "external": "never seen"}[source.role]
        licence = f"{facts['licence']} ({facts['licence_seen']})"
        found.append([name, study, part, cells, licence, " ".join(f"{facts['terms']} {source.unclear}".split())])
    return found


def ages_line(model: PolyGene) -> str:
    """Say which ages it has seen."""
    schema = model.tokenizer.schema
    years = {
        name: schema.years(name) for name in schema.names if schema.phenotypes[schema.index(name)].ordinal == "age"
    }
    (years_V,) = years.values()
    children = sum((years_V >= 0) & (years_V < 18))
    return (
        f"{(years_V >= 18).sum()} years of age of adults, {children} of children, and before birth one donor in "
        "culture. An age that is not among the labels is answered by its neighbours."
    )


def few_line(rows: Iterable[Mapping[str, Any]]) -> str:
    """Name the sources whose test donors are too few to resample."""
    few = {row["source"]: row["donors"] for row in rows if row["unit"] == "cell"}
    named = ", ".join(f"{source} ({donors})" for source, donors in few.items())
    return (
        f"Fewer than three donors test {named}: little can be said of the next donor." if few else "None tests alone."
    )


def recipe_head(path: Path) -> str:
    """Give what the first comment of a recipe says: wall time and hardware among it."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in head)


def reproduce(name: str, results: Mapping[str, Any]) -> str:
    """Give the commands, and what the recipe says of time and hardware."""
    said = recipe_head(RECIPES / f"{name}.toml")
    return f"""```bash
python -m benchmarks.models.corpus --data DIR --out corpora     # the data: benchmarks/data.toml
ln -s corpora/{name.replace("polygene", "corpus")} .
polygene train recipes/{name}.toml
python -m benchmarks.models --corpora corpora --write    # this card
```

The recipe says:

```text
{said}
```

The scores of this card: {results["machine"]}, seed {results["seed"]}."""


def card(name: str, model: PolyGene, corpus: Corpus, results: Mapping[str, Any]) -> str:
    """Write the card of a model."""
    schema, config = model.tokenizer.schema, model.network.config
    sources = read_sources()
    tissues = schema.labels[schema.index("tissue")]
    met = [one["met"] for one in results["targets"]]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=name,
        n_genes=f"{len(model.tokenizer.panel):,}",
        n_weights=f"{sum(weights.numel() for weights in model.network.parameters()):,}",
        shape=f"{config.num_hidden_layers} layers × {config.hidden_size}",
        train_cells=f"{len(corpus.split('train')):,}",
        n_sources=len(corpus.sources),
        knows=markdown(knows_table(model)),
        tissues=", ".join(tissues),
        ages=ages_line(model),
        few=few_line(results["rows"]),
        met=f"{sum(met)} of {len(met)} are met",
        targets=markdown(tables.target_table(results["targets"])),
        summary=markdown(tables.summary_table(results["rows"])),
        zero_shot=markdown(tables.zero_shot_table(results["rows"])),
        tree=markdown(tables.tree_table(results["rows"])),
        scores=all_scores(results["rows"]),
        calibration=markdown(tables.calibration_table(results["calibration"])),
        unknown=flagged(results["unknown"]),
        speed=f"It {tables.speed_line(results['speed'])}.",
        data=markdown(data_table(corpus)),
        left_out="; ".join(
            f"{one.name} ({one.reason.rstrip('.')})" for one in sources.values() if one.role == "left out"
        ),
        reproduce=reproduce(name, results),
        date=results["date"],
        version=__version__,
        seed=results["seed"],
    )


def flagged(unknown: Mapping[str, Any] | None) -> str:
    """Say how many cells are flagged as unknown."""
    if unknown is None:
        return "It cannot flag any."
    known = f"{100 * unknown['stated']:.0f} % of the cells of validation donors"
    table = markdown(tables.unknown_table(unknown))
    return (
        f"A cell is flagged where it lies further from all training cells than all but {known}. Flagged are:\n\n{table}"
    )


def all_scores(rows: Iterable[Mapping[str, Any]], level: str = "####") -> str:
    """Write every table of scores under its own head."""
    return "\n\n".join(
        f"{level} {row['phenotype'].replace('_', ' ')}, {row['source']}{' (never seen)' * row['external']}: "
        f"{tables.support(row)}"
        f"\n\n{markdown(tables.score_table(row))}"
        for row in rows
    )


def docs(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write docs/models.md: the tables of the cards of all models."""
    parts = [
        "# What the shipped models score",
        "Made by `python -m benchmarks.models --data DIR --write`; the cards, in `src/polygene/models/*/README.md`, "
        "say what the rows mean, what the data are, and where the limits lie.",
    ]
    for name, found in results.items():
        met = [one["met"] for one in found["targets"]]
        parts += [
            f"## {name}",
            f"{sum(met)} of {len(met)} targets are met ({found['date']}, seed {found['seed']}). It "
            f"{tables.speed_line(found['speed'])}.",
            markdown(tables.summary_table(found["rows"])),
            markdown(tables.zero_shot_table(found["rows"])),
            markdown(tables.tree_table(found["rows"])),
            markdown(tables.target_table(found["targets"])),
            markdown(tables.calibration_table(found["calibration"])),
            all_scores(found["rows"], "###"),
        ]
    return "\n\n".join(parts) + "\n"


def write_docs(results: Mapping[str, Mapping[str, Any]], path: Path = DOCS) -> None:
    """Write docs/models.md."""
    path.write_text(docs(results), encoding="utf-8")
