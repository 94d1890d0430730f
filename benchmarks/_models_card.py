"""The card of a shipped model: model_card.md filled in, and the tables that the terminal shows too.

A table is a list of rows of text, the head first.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

import _data
from _models_baselines import CELLTYPIST
from _models_scores import CREDITED, SCORES, YEARS_SCORE, of
from _models_speed import MOST_SECONDS
from corpus import read_sources
from polygene import __version__
from polygene.checkpoint import PolyGene
from polygene.corpus import Corpus
from polygene.held_out import MODEL, REFERENCE, YEARS_REFERENCE
from polygene.reliability import MARGINAL
from polygene.shards import SPLITS

TEMPLATE = Path(__file__).with_name("model_card.md")
DOCS = Path(__file__).parent.parent / "docs" / "models.md"
REPOSITORY = Path(__file__).parent.parent
WORDS = {
    "majority": "majority label",
    "source majority": "source only",
    "measured genes + library size": "measured genes + library size only",
    "k-nearest neighbours": "k-NN",
    REFERENCE: "logistic regression, tuned",
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    YEARS_SCORE: "years off, by donor",
}
TextTable = list[list[str]]


def number(value: float | None, sign: str = "") -> str:
    """Write a number, or a dash where there is none."""
    return "–" if value is None or pd.isna(value) else f"{value:{sign}.3f}"


def interval(one: Mapping[str, Any], name: str = "") -> str:
    """Write a value and its interval; `name` is "" or "gain"."""
    sign, prefix = ("+", "gain_") if name else ("", "")
    value = number(one[name or "value"], sign)
    if pd.isna(one[f"{prefix}low"]):
        return value
    return f"{value} [{number(one[f'{prefix}low'], sign)}, {number(one[f'{prefix}high'], sign)}]"


def markdown(rows: TextTable) -> str:
    """Lay out a table for Markdown."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def support(row: Mapping[str, Any]) -> str:
    """Say on what a score rests."""
    text = f"{row['cells']:,} cells of {row['donors']} donor{'s' * (row['donors'] != 1)}"
    if labels := row.get("labels"):
        text += f", {labels} label{'s' * (labels != 1)}"
    if row.get("not_scored"):
        text += f"; {row['not_scored']:,} cells of labels not scored"
    return text + ("; intervals over cells" if row["unit"] == "cell" else "")


def score_table(row: Mapping[str, Any]) -> TextTable:
    """Lay out every score of every predictor in one source, by the ontology too where cell types are asked."""
    columns = [(score, "scores") for score in ((YEARS_SCORE,) if in_years(row) else SCORES)]
    columns += [(score, "by_ontology") for score in CREDITED if "by_ontology" in row]
    main, reference = columns[0][0], YEARS_REFERENCE if in_years(row) else REFERENCE
    words = [WORDS[score] + (" by ontology" if table == "by_ontology" else "") for score, table in columns]
    found = [["", *words, f"gain over {reference} ({WORDS[main]})"]]
    for who in dict.fromkeys(one["predictor"] for one in row["scores"]):
        cells = [interval(of(row, who, score, table)) for score, table in columns]
        gain = "–" if who == reference else interval(of(row, who, main), "gain")
        found.append([WORDS.get(who, who), *cells, gain])
    return found


def in_years(row: Mapping[str, Any]) -> bool:
    """Say whether a row scores ages in years."""
    return row["phenotype"].endswith(" in years")


def zero_shot_table(rows: Iterable[Mapping[str, Any]]) -> TextTable:
    """Lay out the cell types of studies never seen, exact and by the ontology."""
    shown = (MODEL, REFERENCE, "k-nearest neighbours", CELLTYPIST, "majority")
    found = [["study never seen", "score", *(WORDS.get(who, who) for who in shown), "gain over CellTypist"]]
    for row in rows:
        if not row["external"] or "by_ontology" not in row:
            continue
        scores = [("macro_f1", "scores"), ("macro_f1", "by_ontology")] * (row["labels"] > 1)
        for score, table in [*scores, ("accuracy", "by_ontology")]:
            credited = table == "by_ontology"
            over = of(row, MODEL, score, "over_celltypist_by_ontology" if credited else "over_celltypist")
            values = [number(of(row, who, score, table)["value"]) for who in shown]
            words = WORDS[score] + " by ontology" * credited
            found.append([f"{row['source']}: {support(row)}", words, *values, interval(over, "gain")])
    return found


def summary_table(rows: Iterable[Mapping[str, Any]]) -> TextTable:
    """Lay out the main score of the main predictors, a row for each source and phenotype."""
    found = [
        ["what is asked of which source", "PolyGene", "logistic regression", "gain", "k-NN", CELLTYPIST, "source only"]
    ]
    for row in rows:
        values = {one["predictor"]: one for one in row["scores"] if one["score"] in ("macro_f1", YEARS_SCORE)}
        reference = YEARS_REFERENCE if in_years(row) else REFERENCE
        others = [
            number(values[who]["value"]) if who in values else ""
            for who in ("k-nearest neighbours", CELLTYPIST, "source majority")
        ]
        never = ", never seen" if row["external"] else ""
        asked = f"{row['phenotype'].replace('_', ' ')}: {row['source']}{never}"
        model = values[MODEL]
        found.append([asked, interval(model), number(values[reference]["value"]), interval(model, "gain"), *others])
    return found


def target_table(targets: Iterable[Mapping[str, Any]]) -> TextTable:
    """Lay out the targets."""
    found = [["target", "score", "gain of PolyGene", "PolyGene is", ""]]
    for one in targets:
        asked = f"{one['phenotype'].replace('_', ' ')} in {one['source']}: not below {one['reference']}"
        score = one["score"].replace("macro_f1", "macro-F1").replace(YEARS_SCORE, WORDS[YEARS_SCORE])
        over = f"{interval(one, 'gain')} over {'donors' if one['unit'] == 'donor' else 'cells, too few donors'}"
        found.append([asked, score, over, one["found"], "met" if one["met"] else "missed"])
    return found


def calibration_table(calibration: Iterable[Mapping[str, Any]]) -> TextTable:
    """Lay out ECE and log loss beside the marginal's."""
    found = [["phenotype", "ECE", "log loss", "log loss of the marginal", "worth something", "temperature (donors)"]]
    for one in calibration:
        scores = {(row["predictor"], row["score"]): row for row in one["scores"]}
        temperature = "–" if one["temperature"] is None else f"{one['temperature']:.2f} ({one['calibration_donors']})"
        found.append(
            [
                one["phenotype"].replace("_", " "),
                interval(scores[MODEL, "ece"]),
                interval(scores[MODEL, "log_loss"]),
                interval(scores[MARGINAL, "log_loss"]),
                "yes" if one["counts"] else "no",
                temperature,
            ]
        )
    return found


def unknown_table(unknown: Mapping[str, Any]) -> TextTable:
    """Lay out which share of cells is flagged."""
    found = [["cells", "flagged as unknown"]]
    for kind in ("test donors", "studies never seen"):
        found += [[f"{kind}: {source}", f"{share:.1%}"] for source, share in unknown[kind].items()]
    return found


def speed_line(speed: Mapping[str, Any]) -> str:
    """Say how fast it is."""
    return (
        f"annotates {speed['cells']:,} cells in {speed['annotate_s']:.1f} s on {speed['threads']} threads "
        f"({speed['cells_per_s']:,.0f} cells/s), {speed['peak_mb']:,.0f} MB at the peak, loaded in {speed['load_s']:.2f} s "
        f"after {speed['import_s']:.1f} s of imports; load of the machine before: {speed['load_average']} on "
        f"{speed['cores']} cores"
    ) + (
        ""
        if speed["met"] is None
        else f"; at most {MOST_SECONDS:.0f} s were wanted: {'met' if speed['met'] else 'missed'}"
    )


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
    parts = {one["name"]: one for one in corpus.info["sources"]}
    for name, source in read_sources().items():
        if source.role == "left out":
            continue
        facts = _data.catalogue()[name].facts
        study = facts["study"] + (f", [doi](https://doi.org/{facts['doi']})" if facts.get("doi") else "")
        cells = "all of it tests"
        if name in parts:
            counts = parts[name]["cells"], parts[name]["donors"]
            cells = ", ".join(f"{counts[0][part]:,} ({counts[1][part] or '–'})" for part in SPLITS[:3])
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
        f"{(years_V >= 18).sum()} years of age of adults, {children} of children, and before birth one donor in culture. An "
        "age that is not among the labels is answered by its neighbours."
    )


def few_line(rows: Iterable[Mapping[str, Any]]) -> str:
    """Name the sources whose test donors are too few to resample."""
    few = {row["source"]: row["donors"] for row in rows if row["unit"] == "cell"}
    named = ", ".join(f"{source} ({donors})" for source, donors in few.items())
    return (
        f"Fewer than three donors test {named}: little can be said of the next donor." if few else "None tests alone."
    )


def reproduce(name: str, model: PolyGene, results: Mapping[str, Any]) -> str:
    """Give the commands, and time and hardware as far as the checkpoint says."""
    said = model.metrics.get("training", {})
    wall, hardware = said.get("wall_time", "not recorded"), said.get("hardware", "not recorded")
    return f"""```bash
python benchmarks/corpus.py --data DIR --out corpora     # the data: benchmarks/data.toml
polygene train recipes/{name}.toml
python benchmarks/models.py --corpora corpora --write    # this card
```

Training: wall time {wall}; hardware {hardware}. This card: {results["machine"]}, seed {results["seed"]}."""


def card(name: str, model: PolyGene, corpus: Corpus, results: Mapping[str, Any]) -> str:
    """Write the card of a model."""
    schema, config = model.tokenizer.schema, model.network.config
    sources = read_sources()
    tissues = schema.labels[schema.index("tissue")]
    met = [one["met"] for one in results["targets"]]
    unknown = results["unknown"]
    filled = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
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
        targets=markdown(target_table(results["targets"])),
        summary=markdown(summary_table(results["rows"])),
        zero_shot=markdown(zero_shot_table(results["rows"])),
        scores=all_scores(results["rows"]),
        calibration=markdown(calibration_table(results["calibration"])),
        unknown=(
            f"A cell is flagged where it lies further from all training cells than all but {100 * unknown['stated']:.0f} % of the cells "
            f"of validation donors. Flagged are:\n\n{markdown(unknown_table(unknown))}"
            if unknown
            else "It cannot flag any."
        ),
        speed=speed_line(results["speed"]) + ".",
        data=markdown(data_table(corpus)),
        left_out="; ".join(
            f"{one.name} ({one.reason.rstrip('.')})" for one in sources.values() if one.role == "left out"
        ),
        reproduce=reproduce(name, model, results),
        date=results["date"],
        version=__version__,
        seed=results["seed"],
    )
    return filled


def all_scores(rows: Iterable[Mapping[str, Any]], level: str = "####") -> str:
    """Write every table of scores under its own head."""
    return "\n\n".join(
        f"{level} {row['phenotype'].replace('_', ' ')}, {row['source']}{' (never seen)' * row['external']}: {support(row)}"
        f"\n\n{markdown(score_table(row))}"
        for row in rows
    )


def docs(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write docs/models.md: the tables of the cards of all models."""
    parts = [
        "# What the shipped models score",
        "Made by `python benchmarks/models.py --data DIR --write`; the cards, in `src/polygene/models/*/README.md`, say what "
        "the rows mean, what the data are, and where the limits lie.",
    ]
    for name, found in results.items():
        met = [one["met"] for one in found["targets"]]
        parts += [
            f"## {name}",
            f"{sum(met)} of {len(met)} targets are met ({found['date']}, seed {found['seed']}). {speed_line(found['speed'])}.",
            markdown(summary_table(found["rows"])),
            markdown(zero_shot_table(found["rows"])),
            markdown(target_table(found["targets"])),
            markdown(calibration_table(found["calibration"])),
            all_scores(found["rows"], "###"),
        ]
    return "\n\n".join(parts) + "\n"


def write_docs(results: Mapping[str, Mapping[str, Any]], path: Path = DOCS) -> None:
    """Write docs/models.md."""
    path.write_text(docs(results), encoding="utf-8")
