"""The report: the results of `evaluate` as one page that needs nothing else, no network and no script.

Legend: U cells on the map.
"""

from __future__ import annotations

import platform
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from polygene import pl
from polygene._version import __version__
from polygene.corpus.corpus import Corpus
from polygene.evaluation._svg import svg
from polygene.evaluation.assessment import DEPENDABLE, DEPENDABLE_YEARS, LEVELS
from polygene.evaluation.results import Evaluation
from polygene.evaluation.tables import SPLITS, main_score, of_labels, of_phenotype, of_score, percent, words
from polygene.evaluation.test_cells import MODEL
from polygene.model.checkpoint import PolyGene
from polygene.model.folder import SUMS
from polygene.model.inference import cell_states
from polygene.pl._umap import MISSING, distinct_colours, embedding
from polygene.runtime.files import read_text, sha256
from polygene.runtime.subsample import spread

TEMPLATE = "report.html.jinja"
PACKAGES = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "anndata", "scanpy", "umap-learn", "matplotlib")
MOST_MAP_CELLS, FEWEST_MAP_CELLS = 3_000, 10
"""Cells on the map, spread evenly over the test cells; with fewer there is none."""


def write_report(file: str | Path, results: Evaluation, model: PolyGene, corpus: Corpus, *, command: str = "") -> None:
    """Write the report of an evaluation as one HTML file.

    Parameters
    ----------
    file
        Where it goes.
    results
        What `evaluate` returned for this model and corpus; an empty part is named on the page as not computed.
    command
        What to type to get the same page again.
    """
    Path(file).write_text(report(results, model, corpus, command=command), encoding="utf-8")


def report(results: Evaluation, model: PolyGene, corpus: Corpus, *, command: str = "") -> str:
    """Return the page as text; see `write_report`."""
    rows = spread(len(corpus.split("test")), MOST_MAP_CELLS)
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page.filters |= {"percent": percent, "words": words}
    page.globals |= {"MODEL": MODEL, "DEPENDABLE": DEPENDABLE, "DEPENDABLE_YEARS": DEPENDABLE_YEARS, "LEVELS": LEVELS}
    return page.get_template(TEMPLATE).render(
        results=results,
        split=SPLITS[results.split],
        command=command,
        model=_about_model(model),
        corpus=corpus,
        sources=_about_sources(corpus, rows),
        tables=results.tables(),
        figure=partial(_figure, results),
        calibrated=list(results.calibration.get("phenotype", ())),
        maps=_maps(model, corpus, rows),
        n_mapped=len(rows),
        hashes=_hashes(model, corpus),
        versions={"polygene": __version__, "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
    )


def _figure(results: Evaluation, kind: str, phenotype: str) -> Markup:
    """Draw the picture of a phenotype that stands beside a table."""
    name = words(phenotype)
    if kind == "scores":
        scores = of_phenotype(results.scores, phenotype)
        main = main_score(scores)
        table = of_score(scores, main)
        title = f"{name}: {words(main)} of PolyGene and of each baseline, with 95 % intervals"
        drawn = partial(pl.forest, table, label=of_labels(main, scores))
        return svg(drawn, title=title, size=(3.6, 0.5 + 0.36 * len(table)))
    if kind == "classes":
        counts = results.confusion[phenotype]
        title = f"{name}: percent of the cells of each true label (rows) by predicted label (columns)"
        side = 1.3 + 0.3 * len(counts)
        return svg(partial(pl.confusion, list(counts), counts.to_numpy()), title=title, size=(side + 1.9, side))
    return svg(partial(pl.reliability, results, phenotype), title=f"{name}: accuracy by confidence", size=(3.8, 3.8))


def _maps(model: PolyGene, corpus: Corpus, rows: np.ndarray) -> dict[str, tuple[Markup, dict[str, str]]]:
    """Lay test cells out by their states, coloured by each phenotype that varies among them; and name the colours."""
    if len(rows) < FEWEST_MAP_CELLS:
        return {}
    test, schema = corpus.split("test"), corpus.tokenizer.schema
    cells = ad.AnnData(cell_states(model, test.cells(rows)))
    with warnings.catch_warnings():  # umap speaks to its developers
        warnings.simplefilter("ignore")
        sc.pp.neighbors(cells, use_rep="X")
        sc.tl.umap(cells)
    codes = {name: (test.labels_CP[rows, p], schema.labels[p]) for p, name in enumerate(schema.names)}
    maps = {}
    for name, (codes_U, labels) in (codes | {"source": (test.sources_C[rows], corpus.sources)}).items():
        known = np.unique(codes_U[codes_U >= 0])
        if len(known) < 2:
            continue
        years_V = schema.years(name) if name in schema.names and schema.phenotypes[schema.index(name)].ordinal else None
        if years_V is not None and np.isfinite(years_V[known]).all():
            cells.obs[name] = np.where(codes_U >= 0, years_V[codes_U], np.nan)
        else:
            counted = [f"{label} ({(codes_U == v).sum():,})" for v, label in enumerate(labels)]
            cells.obs[name] = pd.Categorical.from_codes(codes_U, counted).remove_unused_categories()
        title = f"UMAP of {len(rows):,} test cells in the model's space, coloured by {words(name)}"
        colours = distinct_colours(list(cells.obs[name].cat.categories)) if cells.obs[name].dtype == "category" else {}
        colours |= {"not given": MISSING} if (codes_U < 0).any() else {}
        maps[name] = svg(partial(embedding, cells, name), title=title, size=(3.4, 3.4)), colours
    return maps


def _about_model(model: PolyGene) -> dict[str, Any]:
    network = model.network.config
    return {
        "name": model.network.name_or_path or "not saved",
        "layers": network.num_hidden_layers,
        "width": network.hidden_size,
        "weights": sum(weights.numel() for weights in model.network.parameters()),
        "epochs": model.recipe.training.epochs if model.recipe else None,
        "tuned": model.metrics.finetuned,
        "recipe": model.recipe.to_toml() if model.recipe else "",
        "binning": f"{model.tokenizer.binner.n_bins} bins, {model.tokenizer.binner.kind}",
    }


def _about_sources(corpus: Corpus, rows: np.ndarray) -> list[dict[str, Any]]:
    """Give what corpus.json holds of each source, and how many panel genes its test cells express."""
    test = corpus.split("test")
    expressed_U, of_U = np.diff(test.cells(rows).offsets_C1), test.sources_C[rows]
    return [
        {**source, "expressed": np.percentile(expressed_U[of_U == i], (25, 50, 75)) if (of_U == i).any() else None}
        for i, source in enumerate(corpus.info["sources"])
    ]


def _hashes(model: PolyGene, corpus: Corpus) -> dict[str, str]:
    """SHA-256 of what decides the page: the checkpoint's files, and corpus.json, which names all of the corpus."""
    sums = Path(model.network.name_or_path) / SUMS
    lines = read_text(sums).splitlines() if model.network.name_or_path and sums.is_file() else []
    hashes = {f"model/{name}": digest for digest, _, name in (line.partition("  ") for line in lines)}
    return hashes | {"corpus/corpus.json": sha256(corpus.folder / "corpus.json")}
