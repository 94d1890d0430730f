"""The targets of the models that ship, each beside what is measured.

    python -m benchmarks.models --data DIR [--corpora DIR]

Runs `never_seen`, `external`, `known`, `embedding` (of the external studies) and `benchmarks.control`'s generation in
turn, three quarters of an hour on a busy computer, and keeps the numbers of each as it does itself. --corpora is what
benchmarks.models.corpus made with both panels, else it is made. `wanted` are the targets: at least so much, of
generated cells at most or within so much. Baselines are nearest profile, logistic regression on the panel and on all
genes, CellTypist and scANVI, learned from the same cells: of means the best counts, in each study the best of
them. A study's accuracy over its best baseline is met where the 95 % interval of the gain reaches 0: donors are drawn
with their cells, or cells where fewer than five donors are known. `sex without its genes` is how far the mean
probability of "male" is from the share of men among the training cells where PBMC 3k has neither XIST nor genes of Y.
The last line is one JSON object.
"""

import argparse
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

import polygene as pg
from benchmarks.control import generation
from benchmarks.models import corpus as making
from benchmarks.models import embedding, external, known, never_seen
from benchmarks.models.card import HEART, PBMC
from benchmarks.models.never_seen import SAME, TYPES
from benchmarks.shared import bits, command, effort
from polygene.corpus.corpus import Corpus
from polygene.evaluation.bootstrap import TAILS, resampled
from polygene.model.shipped import NAMES
from polygene.vocab.gene_names import XIST, Y_GENES

Row = dict[str, Any]
FEWEST_DONORS = 5


def row(
    target: str, now: float, least: float | None = None, most: float | None = None, ends: Sequence[float] = ()
) -> Row:
    """Compare a number, or where there is one the upper end of its interval, with what is wanted of it."""
    met = (least is None or max([now, *ends]) >= least) and (most is None or now <= most)
    return {
        "target": target,
        "now": float(now),
        "at_least": least,
        "at_most": most,
        "ends": list(ends),
        "met": bool(met),
    }


def interval(own: str, other: str, donor_C: np.ndarray, seed: int = 0) -> list[float]:
    """Resample how much more often one of two is right on the same cells. Legend: C cells, R resamples."""
    right_C, other_C = (bits.read(one).astype(float) for one in (own, other))
    unit_C = donor_C if len(set(donor_C)) >= FEWEST_DONORS else np.arange(len(right_C))
    sums_R2 = resampled(np.stack([right_C - other_C, np.ones(len(right_C))], axis=1), unit_C, seed)
    return [float(end) for end in np.quantile(sums_R2[:, 0] / sums_R2[:, 1], TAILS)]


def of_model(results: Mapping[str, Any], name: str, donors: Mapping[str, np.ndarray]) -> list[Row]:
    """Compare what `annotate` writes on studies never seen, and on donors of known ones, with targets and baselines.

    `donors` names the donor of each cell with a type, by study.
    """
    scores = pd.DataFrame(results["never_seen"]["rows"]).query("model == @name").set_index(["study", "score"])
    wanted = [
        (PBMC, "eight types", "accuracy", 0.93), (PBMC, "eight types", "macro_f1", 0.92),
        (PBMC, "six types", "accuracy", 0.99), (PBMC, "tissue", "accuracy", 0.98), (HEART, TYPES, "accuracy", 0.85),
    ]  # fmt: skip
    rows = [
        row(f"{study}: {score}, {what}", scores.loc[(study, score), what], least)
        for study, score, what, least in wanted
        if (study, score) in scores.index
    ]
    own = scores.xs(TYPES, level="score")
    others = pd.DataFrame(results["external"]["rows"])
    best = others.loc[others.groupby("study")["accuracy"].idxmax()].set_index("study")
    for study in own.index:
        ends = interval(own.loc[study, "right"], best.loc[study, "right"], donors[study])
        gain = own.loc[study, "accuracy"] - best.loc[study, "accuracy"]
        rows.append(row(f"{study}: accuracy over the best baseline", gain, 0.0, ends=ends))
    for what in ("accuracy", "macro_f1"):
        mean = others.groupby("method")[what].mean().max()
        rows.append(row(f"mean of studies: {what} over the best baseline", own[what].mean() - mean, 0.1))
    rows.append(row(f"mean of studies: {SAME}", scores.xs(SAME, level="score")["accuracy"].mean(), 0.95))
    donors = pd.DataFrame(results["known"]["rows"]).pivot(index="source", columns="method", values="accuracy")
    rows += [
        row(f"{source}, new donors: accuracy over regression", of[name] - of[known.REGRESSION], 0.0)
        for source, of in donors.iterrows()
        if name in of
    ]
    return rows


def donors_of(path: Path) -> np.ndarray:
    """Name the donor of each cell that has a type."""
    obs = ad.read_h5ad(path, backed="r").obs
    known = obs["cell_type"].notna()
    return obs.get("donor_id", pd.Series("", obs.index))[known].astype(str).to_numpy(dtype=object)


def of_embedding(results: Mapping[str, Any]) -> list[Row]:
    """Compare the embedding with principal components of the same genes."""
    mean = results["embedding"]["mean"]
    return [
        row(f"embedding: {score} over PCA", mean["joined"][score] - mean["PCA, panel"][score], 0.0)
        for score in ("knn_accuracy", "ari", "nmi")
    ]


def of_generation(results: Mapping[str, Any]) -> list[Row]:
    """Compare generated cells with what real cells of other donors reach."""
    of = results["generation"]
    return [
        row("generated cells: AUC above the ceiling", of["generate_auc"] - of["ceiling_auc"], None, 0.05),
        row("generated cells: share of the ceiling's correlations", of["generate_corr"] / of["ceiling_corr"], 0.8, 1.2),
    ]


def of_labels(name: str, corpora: Path) -> list[Row]:
    """Count types and tissues, and look at the sex of cells whose file has no gene that tells it."""
    model = pg.PolyGene.from_pretrained(name)
    schema = model.tokenizer.schema
    sizes = dict(zip(schema.names, map(len, schema.labels), strict=True))
    rows = [row("types", sizes["cell_type"], 200), row("tissues", sizes["tissue"], 30)]
    file, folder = corpora / "external" / f"{PBMC}.h5ad", corpora / f"corpus-{len(model.tokenizer.panel)}"
    if file.exists() and folder.exists():
        cells, corpus = ad.read_h5ad(file), Corpus(folder)
        cells = cells[:, ~cells.var_names.isin([XIST, *Y_GENES])].copy()
        pg.tl.annotate(cells, model, predict="sex")
        p, male = schema.index("sex"), schema.labels[schema.index("sex")].index("male")
        sex_C = corpus.split("train").labels_CP[:, p]
        off = abs(cells.obsm["polygene_sex"][:, male].mean() - (sex_C[sex_C >= 0] == male).mean())
        rows.append(row("sex without its genes: off the share of men", off, None, 0.1))
    return rows


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all parts, compare their numbers with the targets, and print the table."""
    names = effort.few(NAMES)
    with tempfile.TemporaryDirectory() as scratch:
        corpora = Path(scratch) / "corpora"  # where the part of generated cells looks for them
        if options.corpora:
            corpora.symlink_to(options.corpora.resolve(), target_is_directory=True)
        else:
            making.make(options.data, corpora, [512] if options.smoke else [512, 2432])
        part = Namespace(**vars(options) | {"corpora": corpora, "folder": "external", "most": None, "methods": []})
        results: dict[str, Mapping[str, Any]] = {}
        for title, made, model in (
            ("never_seen", never_seen.measure, names),
            ("external", external.measure, []),
            ("known", known.measure, None),
            ("embedding", embedding.measure, names[0]),
            ("generation", lambda _: generation.run(options.data, options.seed, Path(scratch)), None),
        ):
            results[title] = made(Namespace(**vars(part) | {"model": model}))
            if not options.smoke:
                command.keep(title, command.record(options, results[title]))
        donors = {path.stem: donors_of(path) for path in (corpora / "external").glob("*.h5ad")}
        rows = {name: of_model(results, name, donors) + of_labels(name, corpora) for name in names}
    rows[names[0]] += of_embedding(results) + of_generation(results)
    for name, of_name in rows.items():
        show(name, of_name)
    return {"targets": rows}


def show(name: str, rows: Sequence[Row]) -> None:
    """Print targets, numbers and whether they are met."""
    table = Table("target", "now", "wanted", "", title=name, title_justify="left")
    for one in rows:
        ends = [f"{sign} {one[key]:g}" for sign, key in (("≥", "at_least"), ("≤", "at_most")) if one[key] is not None]
        now = f"{one['now']:.3f}" + (" ({:.3f} to {:.3f})".format(*one["ends"]) if one["ends"] else "")
        table.add_row(one["target"], now, " and ".join(ends), "met" if one["met"] else "missed")
    Console(width=120).print(table)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpora", type=Path, help="folder that benchmarks.models.corpus made; else it is made")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("models", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
