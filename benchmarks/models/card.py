"""The cards of the shipped models: card.md filled in.

    python -m benchmarks.models.card --corpora DIR

DIR was made by benchmarks.models.corpus. What the cards say of studies never seen is kept by
`python -m benchmarks.models.never_seen`, so run that for both models first; donors held out are scored here.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from benchmarks.models.corpus import read_sources
from benchmarks.models.external import by_ontology
from benchmarks.shared import command, files
from benchmarks.shared.markdown import TextTable, markdown
from polygene import __version__
from polygene.corpus.arrow import SPLITS
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import THINNED
from polygene.evaluation.test_cells import CellBlocks, model_predictions
from polygene.model.calibration import Calibration
from polygene.model.checkpoint import PolyGene
from polygene.model.shipped import MODELS, NAMES
from recipes import tables

TEMPLATE = Path(__file__).with_name("card.md")
PBMC, HEART = "pbmc3k_10x", "heart_san_kanemaru"
MOST_NAMED = 12
"""Labels that a card names; of more it says how to list them."""


def knows_table(model: PolyGene, name: str) -> TextTable:
    """Count the labels and name them, where they are few; of ages, which years."""
    schema = model.tokenizer.schema
    rows = [["phenotype", "labels", "which"]]
    for phenotype, labels in zip(schema.phenotypes, schema.labels, strict=True):
        which = ", ".join(labels)
        if phenotype.ordinal == "age" and labels:
            which = f"from {labels[0]} to {labels[-1]}"
        elif len(labels) > MOST_NAMED:
            which = f"`polygene info {name}` lists them"
        rows.append([phenotype.name.replace("_", " "), str(len(labels)), which])
    return rows


def tissue_table(corpus: Corpus) -> TextTable:
    """Count the training cells of each tissue, real ones without their thinned copies, and those sampled."""
    schema, train = corpus.tokenizer.schema, corpus.split("train")
    p = schema.index("tissue")
    sampled_S = np.array([bool(one.get("synthetic")) for one in corpus.info["sources"]], dtype=bool)
    sampled_C = sampled_S[train.sources_C]
    copy_C = np.array([name.endswith(THINNED) for name in train.names_C])
    rows = [["tissue", "real cells", "cells sampled from profiles"]]
    for label, name in enumerate(schema.labels[p]):
        own_C = train.labels_CP[:, p] == label
        rows.append([name, f"{(own_C & ~sampled_C & ~copy_C).sum():,}", f"{(own_C & sampled_C).sum():,}"])
    return rows


def study_table(data: TextTable) -> TextTable:
    """Keep of the table of the data what must be said with a model: study, part, licence and terms."""
    keep = [data[0].index(column) for column in ("study", "its part", "licence of the repository")]
    terms = data[0].index("terms of the data")
    return [[*(row[column] for column in keep), row[terms]] for row in data]


def data_table(corpus: Corpus) -> TextTable:
    """Lay out each study: its part in the model, cells and donors, terms of the data and what is unclear."""
    found = [
        [
            "file",
            "study",
            "its part",
            "cells (donors) that train, validate, test",
            "licence of the repository",
            "terms of the data",
            "what is unclear",
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
        said = (" ".join(text.split()) for text in (facts["terms"], source.unclear))
        found.append([name, study, part, cells, licence, *said])
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
        "culture. For an age between them it predicts its neighbours."
    )


def known_table(model: PolyGene, corpus: Corpus) -> TextTable:
    """Score the cell types of the test donors of each source."""
    schema, test = corpus.tokenizer.schema, corpus.split("test")
    p = schema.index("cell_type")
    predicted_CV = model_predictions(model, CellBlocks(corpus, test))[0][p]
    label_C = test.labels_CP[:, p]
    rows = [["source", "cells", "accuracy / macro-F1"]]
    for number, source in enumerate(corpus.sources):
        here_C = (test.sources_C == number) & (label_C >= 0)
        if here_C.any():
            truth = [schema.labels[p][label] for label in label_C[here_C]]
            score = by_ontology(predicted_CV[here_C], schema.labels[p], truth)
            rows.append([source, f"{here_C.sum():,}", f"{score['accuracy']:.3f} / {score['macro_f1']:.3f}"])
    return rows


def card(name: str, model: PolyGene, corpus: Corpus, results: Mapping[str, Any]) -> str:
    """Write the card of a model, a page: what it knows, what it is for, how good it is, what it learned from.

    `results` are those of benchmarks.models.never_seen.
    """
    train = corpus.split("train")
    n_copies = sum(one.endswith(THINNED) for one in train.names_C)
    config, rows = model.network.config, [row for row in results["rows"] if row["model"] == name]
    share = {(row["study"], row["score"]): f"{row['accuracy']:.0%}".replace("%", " %") for row in rows}
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=name,
        n_genes=f"{len(model.tokenizer.panel):,}",
        n_weights=f"{sum(weights.numel() for weights in model.network.parameters()):,}",
        shape=f"{config.num_hidden_layers} layers × {config.hidden_size}",
        train_cells=f"{len(train) - n_copies:,}",
        copies=f", of which {n_copies:,} real ones twice: as they are, and thinned" if n_copies else "",
        n_sources=len(corpus.sources),
        knows=markdown(knows_table(model, name)),
        tissues=markdown(tissue_table(corpus)),
        ages=ages_line(model),
        shift=shift(model.calibration),
        size=name.rpartition("-")[2],
        never_seen=tables.card(name),
        known=markdown(known_table(model, corpus)),
        sex_blood=share[PBMC, "sex"],
        sex_heart=share[HEART, "sex"],
        heart=share[HEART, "tissue"],
        data=markdown(study_table(data_table(corpus))),
        date=results["date"],
        version=__version__,
        machine=results["hardware"]["processor"],
    )


def shift(calibration: Calibration) -> str:
    """Say for which shift sets and errors hold."""
    donors = "new donors of the studies that trained the model"
    if not calibration.studies:
        return f"Sets of labels hold for {donors}. Of a new study they hold the true label less often."
    one = calibration.studies["cell_type"]
    return (
        "Sets of cell types, `polygene_cell_type_error` and `polygene_unknown` are for cells of a study never seen. "
        f"They were learned from {one.cells:,} cells of {one.units} groups of studies ({', '.join(one.studies)}) that "
        f"were left out of shorter networks. By the threshold of the others, sets at 0.9 hold {one.held:.2f} of each "
        f"on average, with {one.size:.1f} labels; the error tells its wrong labels with an AUROC of {one.auroc:.2f} "
        f"(1 − probability: {one.auroc_unsure:.2f}). Sets of the other phenotypes hold for {donors}."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the cards into the folders of the models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that benchmarks.models.corpus made")
    corpora = parser.parse_args(argv).corpora
    results = json.loads((command.RESULTS / "never_seen.json").read_text(encoding="utf-8"))
    for name in NAMES:
        model, corpus = PolyGene.from_pretrained(name), Corpus(corpora / name.replace("polygene", "corpus"))
        (MODELS / name / "README.md").write_text(card(name, model, corpus, results), encoding="utf-8")


if __name__ == "__main__":
    main()
