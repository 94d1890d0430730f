"""The report: what `evaluate` found, as one page that needs nothing else, no network and no script.

Legend: C cells, D width, U cells on the map.
"""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import scanpy as sc
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes

from polygene import pl
from polygene._version import __version__
from polygene.corpus.corpus import Corpus
from polygene.evaluation._risk_coverage import risk_coverage
from polygene.evaluation._svg import svg
from polygene.evaluation.evaluate import POOLED, YEARS
from polygene.evaluation.tables import HELD_OUT, MOST_ROWS, SHOWN, ends, nested
from polygene.evaluation.test_cells import MODEL, REFERENCE, YEARS_REFERENCE
from polygene.evaluation.verdicts import (
    DEPENDABLE,
    DEPENDABLE_YEARS,
    number,
    percent,
    points,
    signed,
    signed_years,
    verdicts,
    words,
    years,
)
from polygene.model.checkpoint import SUMS, PolyGene
from polygene.model.inference import cell_states
from polygene.runtime.subsample import spread

TEMPLATE = "report.html.jinja"
PACKAGES = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "anndata", "scanpy", "umap-learn", "matplotlib")
MOST_MAP_CELLS = 3_000
"""Cells on the map, spread evenly over the test cells."""
FEWEST_MAP_CELLS, MOST_COLOURS = 10, 19
GREY = "#8c8c8c"
"""Seen on light and on dark paper alike."""
AGES = mpl.colormaps["plasma"]
COLUMNS = ("phenotype", "predictor", "score", "value", "low", "high", "gain", "gain_low", "gain_high")
Colouring = tuple[list[str], list[tuple[str, str, int | None]]]
"""The colour of every cell; and the legend: what, colour, how many cells."""


def write_report(
    file: str | Path, results: Mapping[str, Any], model: PolyGene, corpus: Corpus, *, command: str = ""
) -> None:
    """Write the report of an evaluation as one HTML file.

    Parameters
    ----------
    file
        Where it goes.
    results
        What `evaluate` returned for this model and corpus; a part that is missing is named on the page as not computed.
    command
        What to type to get the same page again.
    """
    Path(file).write_text(report(results, model, corpus, command=command), encoding="utf-8")


def report(results: Mapping[str, Any], model: PolyGene, corpus: Corpus, *, command: str = "") -> str:
    """Return the page as text; see `write_report`."""
    rows = spread(len(corpus.split("test")), MOST_MAP_CELLS)
    scores = pd.DataFrame(results["scores"], columns=COLUMNS)
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    said = {each.__name__: each for each in (number, percent, points, signed, signed_years, words, years)}
    page.filters |= said | {"span": _span}
    page.globals |= said | {"MODEL": MODEL, "MOST_ROWS": MOST_ROWS, "SURE": DEPENDABLE, "SURE_YEARS": DEPENDABLE_YEARS}
    return page.get_template(TEMPLATE).render(
        results=results,
        held_out=HELD_OUT[results["split"]],
        command=command,
        model=_about_model(model),
        corpus=corpus,
        sources=_about_sources(corpus, rows),
        verdicts=verdicts(results, scores),
        tables=[_score_table(name, of_name) for name, of_name in scores.groupby("phenotype", sort=False)],
        classes=[_class_table(name, results) for name in results.get("classes", ()) if not _is_age(corpus, name)],
        sure=[_sure(one["phenotype"], results) for one in results.get("calibration", ())],
        ages=results.get("ages", {}),
        maps=_maps(model, corpus, rows),
        n_mapped=len(rows),
        hashes=_hashes(model, corpus),
        versions={"polygene": __version__, "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
    )


# --- tables and pictures ---


def _span(row: Mapping[str, Any], name: str = "value", say: Callable[[float | None], str] = number) -> Markup:
    """A value, and below it its interval where it has one."""
    value, low, high = (None if pd.isna(each) else each for each in ends(row, name))
    if value is None:
        return Markup("–")
    ranged = Markup(" <small>{} to {}</small>").format(say(low), say(high)) if low is not None else ""
    return Markup("<b>{}</b>{}").format(say(value), ranged)


def _score_table(name: str, of_name: pd.DataFrame) -> dict[str, Any]:
    shown = [score for score in SHOWN if score in set(of_name.score)]
    main = "mae_years_by_donor" if "mae_years_by_donor" in shown else shown[0]
    by_score = {score: of_name[of_name.score == score].set_index("predictor") for score in shown}
    return {
        "phenotype": name,
        "scores": shown,
        "main": main,
        "rows": [
            {"predictor": who, "cells": [by_score[score].loc[who] for score in shown], "gain": by_score[main].loc[who]}
            for who in by_score[main].index
        ],
        "reference": YEARS_REFERENCE if name.endswith(YEARS) else REFERENCE,
        "pooled": name.endswith(POOLED),
        "figure": svg(
            partial(pl.forest, by_score[main], label=words(main)),
            title=f"{words(name)}: {words(main)} of PolyGene and of each baseline, with 95 % intervals",
            size=(3.6, 0.5 + 0.36 * len(by_score[main])),
        ),
    }


def _class_table(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    of_model, of_reference = results["classes"][name][MODEL], results["classes"][name][REFERENCE]
    labels, counts = results["confusion"][name]["labels"], np.array(results["confusion"][name]["counts"])
    wrong = counts - np.diag(np.diag(counts))
    theirs = {row["label"]: row["f1"] for row in of_reference}
    for row in (rows := [dict(row) for row in of_model]):
        at = labels.index(row["label"])
        most = int(wrong[at].argmax())
        row["reference"] = theirs[row["label"]]
        n_most = int(wrong[at, most])
        row["taken_for"] = (labels[most], n_most, n_most / row["cells"]) if n_most else None
    side = 1.3 + 0.3 * len(labels)
    return {
        "phenotype": name,
        "rows": rows,
        "n_labels": len(labels),
        "figure": svg(
            partial(pl.confusion, labels, counts),
            title=f"{words(name)}: percent of the cells of each true label (rows) that got each answer (columns)",
            size=(side + 1.9, side),
        ),
    }


def _sure(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of how sure the answers to a phenotype are."""
    (calibration,) = (one for one in results["calibration"] if one["phenotype"] == name)
    sets = next((one for one in results.get("sets", ()) if one["phenotype"] == name), None)
    figures = {"accuracy against confidence": (pl.reliability, 3.8)}
    if sets:
        figures["share of errors against share of cells answered, most sure first"] = (risk_coverage, 3.4)
    return {
        "phenotype": name,
        "calibration": calibration,
        "scores": nested(calibration["scores"], "predictor", "score"),
        "sets": sets,
        "figures": [
            svg(partial(draw, results, name), title=f"{words(name)}: {what}", size=(3.8, height))
            for what, (draw, height) in figures.items()
        ],
    }


def _maps(model: PolyGene, corpus: Corpus, rows: np.ndarray) -> list[dict[str, Any]]:
    """Lay test cells out on a plane by their states, and colour them by each phenotype that varies among them."""
    if len(rows) < FEWEST_MAP_CELLS:
        return []
    test, schema = corpus.split("test"), corpus.tokenizer.schema
    cells = ad.AnnData(cell_states(model, test.cells(rows)))
    with warnings.catch_warnings():  # umap speaks to its developers
        warnings.simplefilter("ignore")
        sc.pp.neighbors(cells, use_rep="X")
        sc.tl.umap(cells)
    colourings = [
        (name, test.labels_CP[rows, p], schema.labels[p], schema.years(name) if _is_age(corpus, name) else None)
        for p, name in enumerate(schema.names)
    ]
    found = []
    for name, codes_U, labels, years_V in [*colourings, ("source", test.sources_C[rows], corpus.sources, None)]:
        if len(np.unique(codes_U[codes_U >= 0])) < 2:
            continue
        if years_V is not None and np.isfinite(years_V[codes_U[codes_U >= 0]]).all():
            colours_U, legend = _by_years(years_V, codes_U)
        else:
            colours_U, legend = _by_label(labels, codes_U)
        title = f"UMAP of {len(rows):,} test cells in the model's space, coloured by {words(name)}"
        picture = svg(partial(_scatter, cells.obsm["X_umap"], colours_U), title=title, size=(3.4, 3.3))
        found.append({"name": name, "figure": picture, "legend": legend})
    return found


def _scatter(xy_U2: np.ndarray, colours_U: Sequence[str], *, ax: Axes) -> None:
    size = max(2.0, min(20.0, 6_000 / len(xy_U2)))
    ax.scatter(xy_U2[:, 0], xy_U2[:, 1], s=size, c=colours_U, linewidths=0, alpha=0.8, rasterized=True)
    ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    ax.set_box_aspect(1)


def _by_years(years_V: np.ndarray, codes_U: np.ndarray) -> Colouring:
    """Colour by age, from the youngest to the oldest."""
    years_U = np.where(codes_U >= 0, years_V[codes_U], np.nan)
    low, high = np.nanmin(years_U), np.nanmax(years_U)
    colour = [mpl.colors.to_hex(rgba) for rgba in AGES(np.nan_to_num((years_U - low) / (high - low or 1)))]
    steps = [
        (f"{low + (high - low) * at:.0f} years", mpl.colors.to_hex(AGES(at)), None)
        for at in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    n_unknown = int((codes_U < 0).sum())
    unknown = [("not given", GREY, n_unknown)] if n_unknown else []
    return [GREY if code < 0 else one for code, one in zip(codes_U, colour, strict=True)], [*steps, *unknown]


def _by_label(labels: Sequence[str], codes_U: np.ndarray) -> Colouring:
    """Colour the most common labels; all others are grey together."""
    counts_V = np.bincount(codes_U[codes_U >= 0], minlength=len(labels))
    order = [v for v in np.argsort(-counts_V, kind="stable") if counts_V[v]]
    palette = mpl.colormaps["tab10" if len(order) <= 10 else "tab20"]
    colour_of = {v: mpl.colors.to_hex(palette(i % palette.N)) for i, v in enumerate(order[:MOST_COLOURS])}
    legend: list[tuple[str, str, int | None]] = [
        (labels[v], colour, int(counts_V[v])) for v, colour in colour_of.items()
    ]
    if rest := order[MOST_COLOURS:]:
        legend.append((f"{len(rest):,} other labels", GREY, int(counts_V[rest].sum())))
    if n_unknown := int((codes_U < 0).sum()):
        legend.append(("not given", GREY, n_unknown))
    return [colour_of.get(v, GREY) for v in codes_U], legend


# --- what was run ---


def _about_model(model: PolyGene) -> dict[str, Any]:
    network = model.network.config
    return {
        "name": model.network.name_or_path or "not saved",
        "layers": network.num_hidden_layers,
        "width": network.hidden_size,
        "weights": sum(weights.numel() for weights in model.network.parameters()),
        "epochs": model.recipe.training.epochs if model.recipe else None,
        "recipe": model.recipe.to_toml() if model.recipe else "",
        "binning": f"{model.tokenizer.binner.n_bins} bins, {model.tokenizer.binner.kind}",
    }


def _about_sources(corpus: Corpus, rows: np.ndarray) -> list[dict[str, Any]]:
    """Give what corpus.json says of each source, and how many panel genes its test cells express."""
    test = corpus.split("test")
    expressed_U, of_U = np.diff(test.cells(rows).offsets_C1), test.sources_C[rows]
    return [
        {**source, "expressed": np.percentile(expressed_U[of_U == i], (25, 50, 75)) if (of_U == i).any() else None}
        for i, source in enumerate(corpus.info["sources"])
    ]


def _hashes(model: PolyGene, corpus: Corpus) -> dict[str, str]:
    """SHA-256 of what decides the page: the checkpoint's files, and corpus.json, which names all of the corpus."""
    sums = Path(model.network.name_or_path) / SUMS
    lines = sums.read_text(encoding="utf-8").splitlines() if model.network.name_or_path and sums.is_file() else []
    found = {f"model/{name}": digest for digest, _, name in (line.partition("  ") for line in lines)}
    return found | {"corpus/corpus.json": hashlib.sha256((corpus.folder / "corpus.json").read_bytes()).hexdigest()}


def _is_age(corpus: Corpus, name: str) -> bool:
    schema = corpus.tokenizer.schema
    return schema.phenotypes[schema.index(name)].ordinal == "age"
